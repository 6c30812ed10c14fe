//! The URL of a bundle endpoint: `https`, a host, no credentials, no query.

use std::{fmt, str::FromStr};

use http::Uri;

/// A bundle endpoint's URL, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointUrl {
    host: String,
    port: u16,
    path: String,
}

/// Why a URL is not one of a bundle endpoint.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EndpointUrlError {
    /// Not a URL at all.
    #[error("is not a URL")]
    Malformed,
    /// Plain HTTP or something else.
    #[error("must start with https://")]
    Scheme,
    /// Credentials or a query.
    #[error("must have a host, and no user, query or fragment")]
    Parts,
}

impl EndpointUrl {
    /// Host name or address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Port, 443 when the URL has none.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Path, at least `/`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// `host:port` as the `Host` header has it.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for EndpointUrl {
    type Err = EndpointUrlError;

    fn from_str(text: &str) -> Result<Self, EndpointUrlError> {
        if text.len() > 2048 {
            return Err(EndpointUrlError::Malformed);
        }
        let uri: Uri = text.parse().map_err(|_| EndpointUrlError::Malformed)?;
        if uri.scheme_str() != Some("https") {
            return Err(EndpointUrlError::Scheme);
        }
        let authority = uri.authority().ok_or(EndpointUrlError::Parts)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() || authority.as_str().contains('@') || uri.query().is_some() || text.contains('#') {
            return Err(EndpointUrlError::Parts);
        }
        let port = authority.port_u16().unwrap_or(443);
        let path = if uri.path().is_empty() { "/".to_owned() } else { uri.path().to_owned() };
        Ok(Self { host, port, path })
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}{}", self.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_bundle_endpoint_may_have() {
        let url: EndpointUrl = "https://127.0.0.1:8443/bundle".parse().unwrap();
        assert_eq!((url.host(), url.port(), url.path()), ("127.0.0.1", 8443, "/bundle"));
        let url: EndpointUrl = "https://[::1]:1/".parse().unwrap();
        assert_eq!((url.host(), url.to_string().as_str()), ("::1", "https://[::1]:1/"));
        assert_eq!("https://bank.example".parse::<EndpointUrl>().unwrap().to_string(), "https://bank.example:443/");
    }

    #[test]
    fn refuses_other_urls() {
        for text in ["http://a/", "https://u:p@a/", "https://a/?x=1", "https:///x", "a", "", "https://a/#b"] {
            assert!(text.parse::<EndpointUrl>().is_err(), "{text}");
        }
    }
}
