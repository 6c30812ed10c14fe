//! SPIFFE IDs and trust domains, parsed once (SPIFFE-ID, sections 2.1 to 2.4).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const SCHEME: &str = "spiffe://";
const MAX_ID: usize = 2048;
const MAX_TRUST_DOMAIN: usize = 255;

/// Why a text is not a SPIFFE ID or trust domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    #[error("`{0}` does not begin with `spiffe://`")]
    Scheme(String),
    #[error("trust domain `{0}` is not 1 to 255 of the characters a-z, 0-9, `.`, `-`, `_`")]
    TrustDomain(String),
    #[error(
        "path of `{0}` is not made of non-empty segments of a-z, A-Z, 0-9, `.`, `-`, `_`, none of them `.` or `..`"
    )]
    Path(String),
    #[error("a SPIFFE ID has at most {MAX_ID} bytes, this one has {0}")]
    TooLong(usize),
}

/// The name of a trust domain, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(String);

impl TrustDomain {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;

    /// Takes a bare name or `spiffe://name`; letters of either case, as they compare without it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = strip_scheme(text).unwrap_or(text).to_ascii_lowercase();
        let allowed = |c: u8| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
        if name.is_empty() || name.len() > MAX_TRUST_DOMAIN || !name.bytes().all(allowed) {
            return Err(SpiffeIdError::TrustDomain(clip(text)));
        }
        Ok(Self(name))
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = SpiffeIdError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TrustDomain> for String {
    fn from(domain: TrustDomain) -> Self {
        domain.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A SPIFFE ID: scheme and trust domain in lower case, the path as given.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    /// The whole ID; its path begins after scheme and trust domain.
    text: String,
}

impl SpiffeId {
    /// `spiffe://<td>/ns/<namespace>/sa/<service-account>`
    ///
    /// # Errors
    /// When a name is not a path segment.
    pub fn workload(td: &TrustDomain, ns: &str, sa: &str) -> Result<Self, SpiffeIdError> {
        Self::from_segments(td, &["ns", ns, "sa", sa])
    }

    /// `spiffe://<td>/ns/<namespace>/proxy/<service-account>`
    ///
    /// # Errors
    /// When a name is not a path segment.
    pub fn proxy(td: &TrustDomain, ns: &str, sa: &str) -> Result<Self, SpiffeIdError> {
        Self::from_segments(td, &["ns", ns, "proxy", sa])
    }

    /// `spiffe://<td>/signet/<name>`
    ///
    /// # Errors
    /// When the name is not a path segment.
    pub fn component(td: &TrustDomain, name: &str) -> Result<Self, SpiffeIdError> {
        Self::from_segments(td, &["signet", name])
    }

    /// An ID of the trust domain with these path segments; with none it is the trust domain's own ID.
    ///
    /// # Errors
    /// When a segment is empty, `.`, `..` or has characters that a path may not have.
    pub fn from_segments(td: &TrustDomain, segments: &[&str]) -> Result<Self, SpiffeIdError> {
        let mut text = format!("{SCHEME}{td}");
        for segment in segments {
            text.push('/');
            text.push_str(segment);
            if !valid_segment(segment) {
                return Err(SpiffeIdError::Path(clip(&text)));
            }
        }
        if text.len() > MAX_ID {
            return Err(SpiffeIdError::TooLong(text.len()));
        }
        Ok(Self { trust_domain: td.clone(), text })
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path with its leading slash; empty for the ID of a trust domain.
    pub fn path(&self) -> &str {
        self.text.get(SCHEME.len() + self.trust_domain.0.len()..).unwrap_or_default()
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Namespace and service account of a workload's ID.
    pub fn as_workload(&self) -> Option<(&str, &str)> {
        self.in_namespace("sa")
    }

    /// Namespace and service account of a sidecar's own ID.
    pub fn as_proxy(&self) -> Option<(&str, &str)> {
        self.in_namespace("proxy")
    }

    /// The name of a component of Signet.
    pub fn as_component(&self) -> Option<&str> {
        let name = self.path().strip_prefix("/signet/")?;
        (!name.contains('/')).then_some(name)
    }

    fn in_namespace(&self, kind: &str) -> Option<(&str, &str)> {
        let mut parts = self.path().strip_prefix("/ns/")?.split('/');
        let (ns, found, sa) = (parts.next()?, parts.next()?, parts.next()?);
        (found == kind && parts.next().is_none()).then_some((ns, sa))
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_ID {
            return Err(SpiffeIdError::TooLong(text.len()));
        }
        let rest = strip_scheme(text).ok_or_else(|| SpiffeIdError::Scheme(clip(text)))?;
        let (domain, path) = rest.split_once('/').map_or((rest, None), |(domain, path)| (domain, Some(path)));
        let domain: TrustDomain = domain.parse()?;
        let segments: Vec<&str> = path.map(|path| path.split('/').collect()).unwrap_or_default();
        Self::from_segments(&domain, &segments)
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = SpiffeIdError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.text
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn strip_scheme(text: &str) -> Option<&str> {
    let (scheme, rest) = text.split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then_some(rest)
}

fn valid_segment(segment: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
    !matches!(segment, "" | "." | "..") && segment.bytes().all(allowed)
}

/// Strangers' texts go into logs; they are cut there.
fn clip(text: &str) -> String {
    text.chars().take(128).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn reads_what_the_specification_allows() {
        for (text, domain, path) in [
            ("spiffe://east.bank.example/ns/bank/sa/web", "east.bank.example", "/ns/bank/sa/web"),
            ("SPIFFE://East.Bank.Example/ns/Bank", "east.bank.example", "/ns/Bank"),
            ("spiffe://a_b-1", "a_b-1", ""),
        ] {
            let id: SpiffeId = text.parse().unwrap();
            assert_eq!((id.trust_domain().as_str(), id.path()), (domain, path));
            assert_eq!(id.as_str().parse::<SpiffeId>().unwrap(), id);
        }
    }

    #[test]
    fn refuses_what_the_specification_forbids() {
        let long = format!("spiffe://td/{}", "a".repeat(2048));
        let domain = format!("spiffe://{}/x", "a".repeat(256));
        for text in [
            "",
            "spiffe:/",
            "http://td/x",
            "spiffe://",
            "spiffe:///x",
            "spiffe://td/",
            "spiffe://td//x",
            "spiffe://td/x/",
            "spiffe://td/./x",
            "spiffe://td/../x",
            "spiffe://td/x?y",
            "spiffe://td/x#y",
            "spiffe://td:1/x",
            "spiffe://u@td/x",
            "spiffe://td/%41",
            "spiffe://t d/x",
            "spiffe://tä/x",
            &long,
            &domain,
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "`{text}` was taken");
        }
    }

    #[test]
    fn tells_workloads_sidecars_and_components_apart() {
        let td: TrustDomain = "td".parse().unwrap();
        let workload = SpiffeId::workload(&td, "bank", "web").unwrap();
        assert_eq!((workload.as_workload(), workload.as_proxy()), (Some(("bank", "web")), None));
        let proxy = SpiffeId::proxy(&td, "bank", "web").unwrap();
        assert_eq!((proxy.as_workload(), proxy.as_proxy()), (None, Some(("bank", "web"))));
        assert_eq!(SpiffeId::component(&td, "audit").unwrap().as_component(), Some("audit"));
        assert!(SpiffeId::workload(&td, "bank/../x", "web").is_err());
        assert_eq!("spiffe://td/ns/a/sa/b/c".parse::<SpiffeId>().unwrap().as_workload(), None);
    }
}
