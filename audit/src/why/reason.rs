//! Plain words for what no policy decided.

use signet_policy::Reason;
use signet_spool::{Kind, Record};

/// Reasons that only the policy engine gives.
const OF_POLICY: [Reason; 6] = [
    Reason::Permitted,
    Reason::Forbidden,
    Reason::NoPermit,
    Reason::PolicyError,
    Reason::UnknownRoute,
    Reason::InvalidRequest,
];

/// Whether a policy bundle decided the record.
pub(super) fn is_of_policy(record: &Record) -> bool {
    let reason = record.reason.as_str();
    !record.bundle_digest.is_empty()
        && (OF_POLICY.iter().any(|known| known.as_str() == reason)
            || (record.action == "egress:connect" && reason == Reason::UnknownService.as_str()))
}

/// What the record's reason means, in sentences.
pub(super) fn explain(record: &Record) -> String {
    let what = match record.kind {
        Kind::Decision if record.allow => format!("Allowed: {}", record.action),
        Kind::Decision => format!("Denied: {}", record.action),
        Kind::Refusal => format!("Refused {} time(s) within a second: {}", record.count, record.action),
        Kind::Event => format!("Event: {}", record.action),
        Kind::Gap => format!("{} record(s) are missing", record.count),
    };
    let mut text = format!("{what}, because {}.", meaning(&record.reason));
    if let Some(detail) = &record.detail {
        text.push_str("\nDetail: ");
        text.push_str(detail);
    }
    text
}

fn meaning(reason: &str) -> String {
    let known = match reason {
        "permitted" => "a policy permits it",
        "forbidden" => "a policy forbids it",
        "no_permit" => "no policy permits it",
        "policy_error" => "a policy that forbids could not be evaluated",
        "unknown_route" => "the service declares its routes and none matches",
        "unknown_service" => {
            "the caller's sidecar knows no such service: it does not exist, or is not exported to this cluster"
        }
        "rate_limited" => "the client asked more often than a TrafficPolicy of the service allows it to",
        "invalid_request" => "an identifier or the path of the request is malformed",
        "no_bundle" => {
            "there was no policy bundle to decide with; look at the control plane and `signet policy status`"
        }
        "not_tls" => "the client did not speak TLS on a port that takes only mesh mTLS",
        "tls12" => "the client offered no TLS 1.3",
        "no_certificate" => "the client presented no certificate",
        "unknown_trust_domain" => "the certificate names a trust domain that this cluster is not linked with",
        "wrong_trust_domain_root" => "the certificate was not signed under the roots of the trust domain that it names",
        "expired" => "the certificate had expired",
        "not_yet_valid" => "the certificate was not valid yet; compare the clocks",
        "not_one_uri" => "the certificate has not exactly one SPIFFE ID",
        "ca_leaf" => "the certificate is one of a CA, not of a workload",
        "bad_spiffe_id" => "the certificate's SPIFFE ID is malformed",
        "not_allowed" => "the peer's SPIFFE ID may not use this listener",
        "alpn" => "the client offered no protocol of the mesh",
        "timeout" => "the handshake took too long",
        "protocol" => "what came was not the protocol of the port",
        "token_ambiguous" => "the request had more than one `Authorization` header",
        "token_oversized" => "the end user's token, or a claim of it, is longer than a record can keep",
        "token_malformed" => {
            "the end user's token is not a signed JWT in compact form with `iss`, `sub`, `aud` and `exp`"
        }
        "token_unknown_issuer" => "`signet.yaml` declares no such issuer of end users' tokens for the service",
        "token_unknown_key" => "the token's `kid` names none of the keys that its issuer has in the policy repository",
        "token_algorithm" => "the token's `alg` is not the algorithm of the key that it names",
        "token_signature" => "the signature of the end user's token is wrong",
        "token_expired" => "the end user's token had expired",
        "token_not_yet_valid" => "the end user's token was not valid yet; compare the clocks",
        "token_audience" => "the end user's token is for another audience than its issuer has in `signet.yaml`",
        "sequence_gap" => "their producer's sequence jumped",
        "conflicting_duplicate" => "a record came again with other bytes under the same sequence",
        "spool_full" => "the audit spool was full, and no call goes on without its record",
        "" => "no reason was recorded",
        _ => return format!("`{reason}`"),
    };
    known.to_owned()
}
