//! What a verified token says about the end user on whose behalf a workload calls: `context.jwt`.
//!
//! The engine takes claims as they are; verifying the token that they stand in is the data plane's.

use std::collections::BTreeSet;

use cedar_policy_core::ast::Value;

/// The claims of a verified end-user JWT that policies can read (`Mesh::Jwt` of the schema).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// `iss`: which of the issuers that `signet.yaml` declares.
    pub issuer: String,
    /// `sub`.
    pub subject: String,
    /// `aud`.
    pub audiences: BTreeSet<String>,
    /// `scope` (RFC 8693 section 4.2, by spaces) or `scp`.
    pub scopes: BTreeSet<String>,
    /// The groups claim that the issuer's declaration names.
    pub groups: BTreeSet<String>,
    /// `acr`: how the user was authenticated.
    pub acr: Option<String>,
}

/// The names under which records keep claims, in the order of [`Claims::pairs`].
const NAMES: [&str; 6] = ["jwt.iss", "jwt.sub", "jwt.aud", "jwt.scopes", "jwt.groups", "jwt.acr"];

impl Claims {
    /// As records keep them: sets are JSON arrays in ascending order. All of these are personal values there.
    #[must_use]
    pub fn pairs(&self) -> Vec<(&'static str, String)> {
        let set = |set: &BTreeSet<String>| serde_json::to_string(set).unwrap_or_default();
        let [iss, sub, aud, scopes, groups, acr] = NAMES;
        let mut pairs = vec![
            (iss, self.issuer.clone()),
            (sub, self.subject.clone()),
            (aud, set(&self.audiences)),
            (scopes, set(&self.scopes)),
            (groups, set(&self.groups)),
        ];
        pairs.extend(self.acr.clone().map(|value| (acr, value)));
        pairs
    }

    /// The opposite of [`Claims::pairs`]. `Ok(None)` when no pair is a claim's.
    ///
    /// # Errors
    /// When a claim is missing or unreadable, as when it was erased on request: the name of the first.
    pub fn from_pairs<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Option<Self>, &'static str> {
        let mut found: [Option<&str>; 6] = [None; 6];
        for (name, value) in pairs {
            let place = NAMES.iter().position(|known| *known == name).and_then(|i| found.get_mut(i));
            if let Some(place) = place {
                *place = Some(value);
            }
        }
        if found.iter().all(Option::is_none) {
            return Ok(None);
        }
        let [iss, sub, aud, scopes, groups, acr] = found;
        let [iss_name, sub_name, aud_name, scopes_name, groups_name, _] = NAMES;
        let text = |value: Option<&str>, name| value.filter(|v| !v.is_empty()).map(str::to_owned).ok_or(name);
        let set = |value: Option<&str>, name| value.and_then(|v| serde_json::from_str(v).ok()).ok_or(name);
        Ok(Some(Self {
            issuer: text(iss, iss_name)?,
            subject: text(sub, sub_name)?,
            audiences: set(aud, aud_name)?,
            scopes: set(scopes, scopes_name)?,
            groups: set(groups, groups_name)?,
            acr: acr.map(str::to_owned),
        }))
    }

    pub(crate) fn value(&self) -> Value {
        let set = |set: &BTreeSet<String>| Value::set(set.iter().map(|item| Value::from(item.as_str())), None);
        let mut fields = vec![
            ("iss", Value::from(self.issuer.as_str())),
            ("sub", Value::from(self.subject.as_str())),
            ("aud", set(&self.audiences)),
            ("scopes", set(&self.scopes)),
            ("groups", set(&self.groups)),
        ];
        fields.extend(self.acr.as_deref().map(|acr| ("acr", Value::from(acr))));
        Value::record(fields, None)
    }

    /// Writes all claims, so that equal bytes mean equal claims.
    pub(crate) fn write_key(&self, mut text: impl FnMut(&str)) {
        for part in [&self.issuer, &self.subject] {
            text(part);
        }
        for set in [&self.audiences, &self.scopes, &self.groups] {
            text(&set.len().to_string());
            set.iter().for_each(|item| text(item));
        }
        text(if self.acr.is_some() { "some" } else { "none" });
        text(self.acr.as_deref().unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn claims() -> Claims {
        let set = |items: &[&str]| items.iter().map(|i| (*i).to_owned()).collect();
        Claims {
            issuer: "https://login.bank.example".to_owned(),
            subject: "alice".to_owned(),
            audiences: set(&["ledger", "a \"b\", c"]),
            scopes: set(&["read", "write"]),
            groups: set(&[]),
            acr: Some("mfa".to_owned()),
        }
    }

    #[test]
    fn what_a_record_keeps_gives_the_claims_again() {
        for acr in [None, Some(String::new()), Some("mfa".to_owned())] {
            let claims = Claims { acr, ..claims() };
            let pairs = claims.pairs();
            let again = Claims::from_pairs(pairs.iter().map(|(name, value)| (*name, value.as_str())));
            assert_eq!(again, Ok(Some(claims)));
        }
        assert_eq!(Claims::from_pairs([("method", "GET")].into_iter()), Ok(None));
    }

    #[test]
    fn erased_claims_are_named_rather_than_read_as_absent() {
        let pairs = claims().pairs();
        let erased = pairs.iter().map(|(name, value)| (*name, if *name == "jwt.sub" { "" } else { value }));
        assert_eq!(Claims::from_pairs(erased), Err("jwt.sub"));
        let cut = pairs.iter().filter(|(name, _)| *name != "jwt.groups").map(|(n, v)| (*n, v.as_str()));
        assert_eq!(Claims::from_pairs(cut), Err("jwt.groups"));
    }

    #[test]
    fn keys_tell_claims_apart() {
        let key = |claims: &Claims| {
            let mut key = Vec::new();
            claims.write_key(|text| {
                key.extend_from_slice(&text.len().to_le_bytes());
                key.extend_from_slice(text.as_bytes());
            });
            key
        };
        let base = claims();
        let moved = Claims { audiences: base.scopes.clone(), scopes: base.audiences.clone(), ..base.clone() };
        let fewer = Claims { acr: None, ..base.clone() };
        let empty = Claims { acr: Some(String::new()), ..base.clone() };
        let keys = [&base, &moved, &fewer, &empty].map(key);
        for (i, one) in keys.iter().enumerate() {
            assert!(keys.iter().skip(i + 1).all(|other| other != one));
        }
    }
}
