//! `end_users` of `signet.yaml`: who vouches for end users, and towards which services.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Keys of issuers stand in files of this folder, so that they are signed and part of the digest as policies are.
pub(crate) const KEYS: &str = "keys/";

/// Issuers of JWTs for end users.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EndUsers {
    pub issuers: Vec<Issuer>,
}

/// One issuer. Where it is declared for a service, a bearer token that no declared issuer of that service vouches for is
/// denied there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// `iss`, to the letter.
    pub issuer: String,
    /// One of these has to be in `aud`.
    pub audiences: BTreeSet<String>,
    /// A JWK set (RFC 7517) in the repository: `keys/<name>.json`. Which keys count is signed as policies are.
    pub keys_file: String,
    /// `<trust domain>/<namespace>/<name>` of the services that take its tokens; all where it is left out.
    #[serde(default)]
    pub services: BTreeSet<String>,
    /// The claim that names the user's groups.
    #[serde(default = "groups")]
    pub groups_claim: String,
}

fn groups() -> String {
    "groups".to_owned()
}

impl Issuer {
    /// Whether `service` takes this issuer's tokens.
    #[must_use]
    pub fn serves(&self, service: &str) -> bool {
        self.services.is_empty() || self.services.contains(service)
    }
}

impl EndUsers {
    /// What is wrong, as (what to point at, message, what to do instead).
    pub(crate) fn check(&self, files: &BTreeMap<String, String>) -> Vec<(String, String, &'static str)> {
        let mut wrong = Vec::new();
        let mut seen = BTreeSet::new();
        for issuer in &self.issuers {
            let name = &issuer.issuer;
            let mut refuse = |what: String, help| wrong.push((name.clone(), format!("issuer `{name}` {what}"), help));
            if name.is_empty() {
                refuse("has no name".to_owned(), "write the `iss` of its tokens");
            }
            if !seen.insert(name) {
                refuse("is declared twice".to_owned(), "declare it once, with all its services");
            }
            if issuer.audiences.is_empty() || issuer.audiences.contains("") {
                refuse("has no audience".to_owned(), "name the `aud` that its tokens for your services carry");
            }
            let path = &issuer.keys_file;
            let keys = files.get(path).map(|text| count_keys(text).unwrap_or(0));
            if !path.starts_with(KEYS) || !path.ends_with(".json") {
                refuse(format!("has its keys in `{path}`"), "files of keys are `keys/<name>.json`");
            } else if keys.is_none() {
                refuse(
                    format!("has its keys in `{path}`, which is not there"),
                    "put its JWK set into the repository as `keys/<name>.json`",
                );
            } else if keys == Some(0) {
                refuse(
                    format!("has its keys in `{path}`, which is no JWK set"),
                    "write what the issuer serves at its `jwks_uri`: {\"keys\": [..]}",
                );
            }
            if let Some(service) = issuer.services.iter().find(|id| crate::settings::split_id(id).is_none()) {
                refuse(format!("names `{service}`"), "services are `<trust domain>/<namespace>/<name>`");
            }
        }
        wrong
    }
}

fn count_keys(text: &str) -> Option<usize> {
    let set: serde_json::Value = serde_json::from_str(text).ok()?;
    Some(set.get("keys")?.as_array()?.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use std::collections::BTreeMap;

    use crate::{Bundle, BundleSource};

    fn compile(end_users: &str, keys: Option<&str>) -> Result<Bundle, String> {
        let settings = format!("version: 1\nend_users:\n  issuers:\n    - issuer: https://a\n{end_users}");
        let mut files = BTreeMap::from([("signet.yaml".to_owned(), settings)]);
        files.extend(keys.map(|text| ("keys/a.json".to_owned(), text.to_owned())));
        let source = BundleSource { commit: "c".to_owned(), signer: "s".to_owned(), files };
        Bundle::compile(&source).map_err(|problems| problems[0].to_string())
    }

    #[test]
    fn declarations_are_read_and_wrong_ones_named() {
        let good =
            compile("      audiences: [ledger]\n      keys_file: keys/a.json\n", Some("{\"keys\":[{}]}")).unwrap();
        let issuer = &good.settings().end_users.issuers[0];
        assert!(issuer.serves("a.b/c/d") && issuer.groups_claim == "groups");
        let table = [
            ("      audiences: []\n      keys_file: keys/a.json\n", "has no audience"),
            ("      audiences: [x]\n", "keys_file"),
            ("      audiences: [x]\n      keys_url: https://a/jwks\n", "keys_url"),
            ("      audiences: [x]\n      keys_file: keys/a.json\n", "is not there"),
            ("      audiences: [x]\n      keys_file: a.json\n", "a.json"),
            ("      audiences: [x]\n      keys_file: keys/a.json\n      services: [ledger]\n", "`ledger`"),
            (
                "      audiences: [x]\n      keys_file: keys/a.json\n    - issuer: https://a\n      audiences: [x]\n      keys_file: keys/a.json\n",
                "twice",
            ),
        ];
        for (text, word) in table {
            let keys = (!word.contains("not there")).then_some("{\"keys\":[{}]}");
            let problem = compile(text, keys).err().unwrap();
            assert!(problem.contains(word) && problem.contains("signet.yaml:"), "{text}: {problem}");
        }
        let empty = compile("      audiences: [x]\n      keys_file: keys/a.json\n", Some("{\"keys\":[]}"));
        assert!(empty.err().unwrap().contains("no JWK set"));
    }

    #[test]
    fn a_slice_for_one_proxy_keeps_the_keys() {
        let keys = "{\"keys\":[{}]}";
        let settings = "version: 1\nend_users:\n  issuers:\n    - issuer: https://a\n      audiences: [x]\n      keys_file: keys/a.json\n";
        let files = [("signet.yaml", settings), ("keys/a.json", keys)];
        let files = files.into_iter().map(|(path, text)| (path.to_owned(), text.to_owned())).collect();
        let source = BundleSource { commit: "c".to_owned(), signer: "s".to_owned(), files };
        let whole = Bundle::compile(&source).unwrap();
        let slice = Bundle::compile_slice(&whole.cut(&source, &crate::Needs::default()), whole.digest()).unwrap();
        assert_eq!(slice.keys_of(&slice.settings().end_users.issuers[0]), Some(keys));
    }
}
