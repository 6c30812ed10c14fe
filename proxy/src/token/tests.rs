//! A signer of each kind, and what is refused of what they sign.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]
use std::collections::BTreeMap;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair, RsaSignatureEncoding,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prometheus_client::registry::Registry;
use proptest::prelude::*;
use serde_json::{Value, json};
use signet_policy::BundleSource;

use super::*;

const LEDGER: &str = "a.b/bank/ledger";
const PAYMENTS: &str = "a.b/bank/payments";
const ISSUER: &str = "https://login.bank.example";
const NOW: i64 = 1_800_000_000;

enum Signer {
    Rsa(RsaKeyPair, &'static RsaSignatureEncoding),
    Ec(EcdsaKeyPair, usize),
    Ed(Ed25519KeyPair),
}

impl Signer {
    fn ec(algorithm: &'static EcdsaSigningAlgorithm, size: usize) -> Self {
        Self::Ec(EcdsaKeyPair::generate(algorithm).unwrap(), size)
    }

    fn ed() -> Self {
        Self::Ed(Ed25519KeyPair::generate().unwrap())
    }

    fn jwk(&self, kid: &str) -> Value {
        match self {
            Self::Rsa(pair, _) => {
                // RSAPublicKey of 2048 bits in DER: nine bytes of headers, the modulus, and 65537.
                let der = pair.public_key().as_ref();
                json!({ "kty": "RSA", "kid": kid, "use": "sig", "n": b64(&der[9..265]), "e": "AQAB" })
            }
            Self::Ec(pair, size) => {
                let point = pair.public_key().as_ref();
                let curve = if *size == 32 { "P-256" } else { "P-384" };
                json!({ "kty": "EC", "kid": kid, "crv": curve, "x": b64(&point[1..=*size]), "y": b64(&point[1 + size..]) })
            }
            Self::Ed(pair) => {
                json!({ "kty": "OKP", "kid": kid, "crv": "Ed25519", "x": b64(pair.public_key().as_ref()) })
            }
        }
    }

    fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &random, bytes, &mut signature).unwrap();
                signature
            }
            Self::Ec(pair, _) => pair.sign(&random, bytes).unwrap().as_ref().to_vec(),
            Self::Ed(pair) => pair.sign(bytes).as_ref().to_vec(),
        }
    }

    fn token(&self, header: &Value, payload: &Value) -> String {
        let signed = format!("{}.{}", b64(header.to_string().as_bytes()), b64(payload.to_string().as_bytes()));
        let signature = self.sign(signed.as_bytes());
        format!("{signed}.{}", b64(&signature))
    }
}

fn b64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn payload() -> Value {
    json!({ "iss": ISSUER, "sub": "alice", "aud": ["ledger", "other"], "exp": NOW + 300, "nbf": NOW - 5,
            "scope": "read write", "groups": ["tellers"], "acr": "mfa" })
}

fn with(change: Value) -> Value {
    let mut payload = payload();
    for (name, value) in change.as_object().unwrap() {
        match value {
            Value::Null => drop(payload.as_object_mut().unwrap().remove(name)),
            value => payload[name] = value.clone(),
        }
    }
    payload
}

/// One issuer for `ledger` alone, and one for all services.
fn tokens(keys: &[Value]) -> Tokens {
    let settings = format!(
        "version: 1\nend_users:\n  issuers:\n    - {{issuer: '{ISSUER}', audiences: [ledger], keys_file: keys/a.json, services: [{LEDGER}]}}\n    \
         - {{issuer: 'https://other', audiences: [ledger], keys_file: keys/b.json, groups_claim: roles}}\n"
    );
    let files = BTreeMap::from([
        ("signet.yaml".to_owned(), settings),
        ("keys/a.json".to_owned(), json!({ "keys": keys }).to_string()),
        ("keys/b.json".to_owned(), json!({ "keys": keys }).to_string()),
    ]);
    let source = BundleSource { commit: "c".to_owned(), signer: "s".to_owned(), files };
    let bundle = Bundle::compile(&source).unwrap_or_else(|problems| panic!("{problems:?}"));
    Tokens::of(&bundle, &Metrics::register(&mut Registry::default())).unwrap()
}

fn ask(tokens: &Tokens, token: &str) -> Result<Arc<EndUser>, TokenError> {
    tokens.end_user(LEDGER, Presented::Bearer(token.as_bytes()), NOW * 1_000_000).map(Option::unwrap)
}

#[test]
fn a_key_of_each_kind_verifies_what_it_signed_and_its_algorithm_counts() {
    let rsa = || RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let mut ps = Signer::Rsa(rsa(), &RSA_PSS_SHA256).jwk("-");
    ps["alg"] = json!("PS256");
    let pss = Signer::Rsa(rsa(), &RSA_PSS_SHA256);
    let mut pss_key = pss.jwk("ps");
    pss_key["alg"] = json!("PS256");
    let signers = [
        ("rs", "RS256", Signer::Rsa(rsa(), &RSA_PKCS1_SHA256)),
        ("ps", "PS256", pss),
        ("es256", "ES256", Signer::ec(&ECDSA_P256_SHA256_FIXED_SIGNING, 32)),
        ("es384", "ES384", Signer::ec(&ECDSA_P384_SHA384_FIXED_SIGNING, 48)),
        ("ed", "EdDSA", Signer::ed()),
    ];
    let mut keys: Vec<Value> =
        signers.iter().map(|(kid, _, s)| if *kid == "ps" { pss_key.clone() } else { s.jwk(kid) }).collect();
    // Unusable ones beside them do no harm.
    keys.extend([
        ps.clone(),
        json!({ "kty": "oct", "kid": "oct", "k": "c2VjcmV0" }),
        json!({ "kty": "RSA", "kid": "short", "n": b64(&[1; 128]), "e": "AQAB" }),
        json!({ "kty": "EC", "kid": "off", "crv": "P-256", "x": b64(&[1; 32]), "y": b64(&[1; 32]) }),
        json!(7),
    ]);
    let tokens = tokens(&keys);
    for (kid, algorithm, signer) in &signers {
        let user = ask(&tokens, &signer.token(&json!({ "alg": algorithm, "kid": kid }), &payload())).unwrap();
        assert_eq!((user.claims().subject.as_str(), user.claims().scopes.len()), ("alice", 2), "{algorithm}");
        for other in ["none", "None", "HS256", "RS256", "RS384", "PS256", "ES256", "ES384", "EdDSA", ""] {
            if other != *algorithm {
                let refused = ask(&tokens, &signer.token(&json!({ "alg": other, "kid": kid }), &payload()));
                assert_eq!(refused, Err(TokenError::Algorithm), "{algorithm} as {other}");
            }
        }
    }
    for kid in ["oct", "short", "off"] {
        let token = signers[4].2.token(&json!({ "alg": "EdDSA", "kid": kid }), &payload());
        assert_eq!(ask(&tokens, &token), Err(TokenError::UnknownKey), "{kid}");
    }
}

#[test]
fn each_attack_is_refused_for_its_own_reason() {
    use TokenError::{Algorithm, Audience, Expired, Malformed, NotYetValid, Oversized, Signature, UnknownIssuer};
    let (signer, stranger) = (Signer::ed(), Signer::ed());
    let tokens = tokens(&[signer.jwk("k"), Signer::ed().jwk("k2")]);
    let good = json!({ "alg": "EdDSA", "kid": "k", "typ": "JWT" });
    let own = |header: &Value, payload: &Value| signer.token(header, payload);
    let valid = own(&good, &payload());
    assert!(ask(&tokens, &valid).is_ok());
    let parts: Vec<&str> = valid.split('.').collect();
    // The oldest: what is public as the secret of an HMAC, and no signature at all.
    let hmac_of_public = {
        let signed = format!("{}.{}", b64(br#"{"alg":"HS256","kid":"k"}"#), parts[1]);
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, signer.jwk("k").to_string().as_bytes());
        format!("{signed}.{}", b64(aws_lc_rs::hmac::sign(&key, signed.as_bytes()).as_ref()))
    };
    let twice = |json: &str| {
        let signed = format!("{}.{}", parts[0], b64(json.as_bytes()));
        format!("{signed}.{}", b64(&signer.sign(signed.as_bytes())))
    };
    let table = [
        ("alg none", format!("{}.{}.", b64(br#"{"alg":"none","kid":"k"}"#), parts[1]), Algorithm),
        ("HMAC with the public key", hmac_of_public, Algorithm),
        ("no signature", format!("{}.{}.", parts[0], parts[1]), Signature),
        ("another's signature", stranger.token(&good, &payload()), Signature),
        (
            "a key that it brings",
            stranger.token(&json!({"alg": "EdDSA", "kid": "k", "jwk": stranger.jwk("k")}), &payload()),
            Signature,
        ),
        (
            "other claims under the signature",
            format!("{}.{}.{}", parts[0], b64(with(json!({"sub": "root"})).to_string().as_bytes()), parts[2]),
            Signature,
        ),
        ("unknown kid", own(&json!({"alg": "EdDSA", "kid": "x"}), &payload()), TokenError::UnknownKey),
        ("no kid and two keys", own(&json!({"alg": "EdDSA"}), &payload()), TokenError::UnknownKey),
        ("kid of another type", own(&json!({"alg": "EdDSA", "kid": 1}), &payload()), Malformed),
        ("no alg", own(&json!({"kid": "k"}), &payload()), Malformed),
        (
            "critical extension",
            own(&json!({"alg": "EdDSA", "kid": "k", "crit": ["b64"], "b64": false}), &payload()),
            Malformed,
        ),
        (
            "token of another kind",
            own(&json!({"alg": "EdDSA", "kid": "k", "typ": "logout+jwt"}), &payload()),
            Malformed,
        ),
        ("wrong iss", own(&good, &with(json!({"iss": "https://login.bank.example/"}))), UnknownIssuer),
        ("no iss", own(&good, &with(json!({"iss": null}))), Malformed),
        ("wrong aud", own(&good, &with(json!({"aud": "payments"}))), Audience),
        ("no aud", own(&good, &with(json!({"aud": null}))), Audience),
        ("aud of another type", own(&good, &with(json!({"aud": {"ledger": 1}}))), Malformed),
        ("expired", own(&good, &with(json!({"exp": NOW}))), Expired),
        ("expired as a fraction", own(&good, &with(json!({"exp": 1.5}))), Expired),
        ("no exp", own(&good, &with(json!({"exp": null}))), Malformed),
        ("exp as text", own(&good, &with(json!({"exp": "4000000000"}))), Malformed),
        ("exp that is no time", own(&good, &with(json!({"exp": 1e300}))), Malformed),
        ("not valid yet", own(&good, &with(json!({"nbf": NOW + 31}))), NotYetValid),
        ("no sub", own(&good, &with(json!({"sub": ""}))), Malformed),
        ("group that is no text", own(&good, &with(json!({"groups": ["a", 1]}))), Malformed),
        ("oversized", own(&good, &with(json!({"x": "x".repeat(MAX_TOKEN)}))), Oversized),
        ("oversized claim", own(&good, &with(json!({"acr": "x".repeat(MAX_CLAIM + 1)}))), Oversized),
        (
            "a claim twice",
            twice(&format!(r#"{{"iss":"{ISSUER}","sub":"alice","sub":"root","aud":"ledger","exp":{}}}"#, NOW + 9)),
            Malformed,
        ),
        ("five parts", format!("{valid}.a.b"), Malformed),
        ("two parts", format!("{}.{}", parts[0], parts[1]), Malformed),
        ("padding", format!("{valid}="), Malformed),
        ("trailing", format!("{valid} x"), Malformed),
        ("nothing", String::new(), Malformed),
        (
            "deep",
            own(&good, &with(json!({"iss": ISSUER}))).replacen(
                '.',
                &format!(".{}", b64("[".repeat(9000).as_bytes())),
                1,
            ),
            Malformed,
        ),
    ];
    for (what, token, expected) in table {
        // Twice: nothing that was refused is remembered as good.
        assert_eq!(ask(&tokens, &token).err(), Some(expected), "{what}");
        assert_eq!(ask(&tokens, &token).err(), Some(expected), "{what}, again");
    }
    assert!(ask(&tokens, &valid).is_ok());
}

#[test]
fn an_issuer_counts_only_for_its_services_and_a_remembered_token_still_ends() {
    let signer = Signer::ed();
    let tokens = tokens(&[signer.jwk("k")]);
    let at = |service: &str, token: &str, now: i64| {
        tokens.end_user(service, Presented::Bearer(token.as_bytes()), now * 1_000_000).map(Option::unwrap)
    };
    // No kid is needed where there is one key.
    let header = json!({ "alg": "Ed25519", "typ": "application/at+jwt" });
    let token = signer.token(&header, &payload());
    let user = at(LEDGER, &token, NOW).unwrap();
    assert!(Arc::ptr_eq(&user, &at(LEDGER, &token, NOW + 299).unwrap()), "remembered");
    assert_eq!(at(PAYMENTS, &token, NOW), Err(TokenError::UnknownIssuer), "remembered for another service");
    assert_eq!(at(LEDGER, &token, NOW + 300), Err(TokenError::Expired), "remembered and over");
    assert!(tokens.vouch(&user, LEDGER, NOW * 1_000_000) && !tokens.vouch(&user, PAYMENTS, NOW * 1_000_000));
    assert!(!tokens.vouch(&user, LEDGER, (NOW + 300) * 1_000_000));
    // The other issuer has the same key; each token speaks for the one that it names, with that one's groups.
    let other = signer.token(&header, &with(json!({"iss": "https://other", "roles": "auditors", "scp": ["a", "b c"]})));
    let user = at(PAYMENTS, &other, NOW).unwrap();
    assert_eq!(user.claims().groups, ["auditors".to_owned()].into());
    assert_eq!(user.claims().scopes.len(), 5);
    assert_eq!(user.pairs(), user.claims().pairs());
    let counted = |counter: &prometheus_client::metrics::counter::Counter| counter.get();
    assert_eq!((counted(&tokens.metrics.tokens_known), counted(&tokens.metrics.tokens_verified)), (3, 3));
    assert_eq!(counted(&tokens.metrics.tokens_refused), 2);
}

#[test]
fn a_key_that_is_gone_vouches_for_nobody() {
    let (old, new) = (Signer::ed(), Signer::ed());
    let before = tokens(&[old.jwk("k")]);
    let user = ask(&before, &old.token(&json!({ "alg": "EdDSA", "kid": "k" }), &payload())).unwrap();
    assert!(tokens(&[new.jwk("k2"), old.jwk("renamed")]).vouch(&user, LEDGER, NOW * 1_000_000));
    // The same name is not the same key.
    assert!(!tokens(&[new.jwk("k")]).vouch(&user, LEDGER, NOW * 1_000_000));
}

#[test]
fn credentials_are_taken_as_rfc_9110_says() {
    let of = |values: &[&str]| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, value.parse().unwrap());
        }
        match Presented::of(&headers) {
            Presented::Nothing => "nothing".to_owned(),
            Presented::Several => "several".to_owned(),
            Presented::Bearer(token) => String::from_utf8(token.to_vec()).unwrap(),
        }
    };
    assert_eq!(of(&[]), "nothing");
    assert_eq!(of(&["Basic YTpi"]), "nothing");
    assert_eq!(of(&["Bearer a.b.c"]), "a.b.c");
    assert_eq!(of(&["bEARER   a.b.c "]), "a.b.c");
    assert_eq!(of(&["Bearer\ta"]), "a");
    assert_eq!(of(&["Bearer"]), "");
    assert_eq!(of(&["Bearer a", "Basic YTpi"]), "several");
    assert_eq!(of(&["Bearer a", "Bearer a"]), "several");
    assert_eq!(of(&["Bearer a, Bearer b"]), "a, Bearer b");
    assert_eq!(of(&["Bearerx a"]), "nothing");
}

proptest! {
    #[test]
    fn no_bytes_pass_for_a_token(bytes in proptest::collection::vec(any::<u8>(), 0..400), parts in proptest::collection::vec("[A-Za-z0-9_-]{0,40}", 0..6)) {
        let tokens = tokens(&[Signer::ed().jwk("k")]);
        prop_assert!(tokens.verify(LEDGER, &bytes, NOW).is_err());
        prop_assert!(tokens.verify(LEDGER, parts.join(".").as_bytes(), NOW).is_err());
    }

    #[test]
    fn a_changed_token_is_refused(at in any::<proptest::sample::Index>(), with in any::<u8>()) {
        let signer = Signer::ed();
        let tokens = tokens(&[signer.jwk("k")]);
        let mut token = signer.token(&json!({ "alg": "EdDSA", "kid": "k" }), &payload()).into_bytes();
        let at = at.index(token.len());
        prop_assume!(token[at] != with);
        token[at] = with;
        prop_assert!(tokens.verify(LEDGER, &token, NOW * 1_000_000).is_err());
    }
}
