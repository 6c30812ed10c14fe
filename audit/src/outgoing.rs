//! TLS connections and HTTPS calls to systems outside of the mesh: webhooks, SIEMs. Not the mesh's TLS: they have no SPIFFE ID, but a name that
//! authorities in a PEM file vouch for. No redirect is followed.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderName, HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A whole call, connecting included.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);
/// What is read of an answer's body.
const MAX_ANSWER: usize = 64 * 1024;

/// Why a configured address cannot be called.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadTarget {
    /// It is no URL, or not https.
    #[error("`{0}` is not https://HOST[:PORT][/PATH]")]
    Url(String),
    /// The authorities cannot be read.
    #[error("authorities `{path}`: {why}; name a PEM file with the certificates of who vouches for the host")]
    Authorities {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Why a call had no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    #[error("the connection broke")]
    Http(#[from] hyper::Error),
    #[error("the answer is too long or broke off")]
    Answer,
    #[error("no answer within {} s", DEADLINE.as_secs())]
    Timeout,
}

/// A host that is connected to over TLS.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    tls: Arc<ClientConfig>,
    name: ServerName<'static>,
    /// `host:port`.
    address: String,
}

impl Host {
    /// The host that `authority` (`host:port`) names.
    ///
    /// # Errors
    /// When it is none, or no authority can be read.
    pub(crate) fn new(authority: &Authority, default_port: u16, authorities: &Path) -> Result<Self, BadTarget> {
        let bad = || BadTarget::Url(authority.to_string());
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if authority.as_str().contains('@') {
            return Err(bad());
        }
        Ok(Self {
            tls: client_config(authorities)?,
            name: ServerName::try_from(host.to_owned()).map_err(|_| bad())?,
            address: format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(default_port)),
        })
    }

    /// # Errors
    /// When there is no connection, or it is with another host.
    pub(crate) async fn connect(&self) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(&self.address).await?;
        TlsConnector::from(Arc::clone(&self.tls)).connect(self.name.clone(), stream).await
    }
}

/// An address that is called over TLS.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    at: Host,
    host: HeaderValue,
    path: PathAndQuery,
}

impl Target {
    /// # Errors
    /// When `url` is not https, or no authority can be read.
    pub(crate) fn https(url: &str, authorities: &Path) -> Result<Self, BadTarget> {
        let bad = || BadTarget::Url(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let authority = uri.authority().ok_or_else(bad)?;
        if uri.scheme_str() != Some("https") || authority.as_str().contains('@') {
            return Err(bad());
        }
        Ok(Self {
            at: Host::new(authority, 443, authorities)?,
            host: HeaderValue::from_str(authority.as_str()).map_err(|_| bad())?,
            path: uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")),
        })
    }

    /// The same host with another last part of the path.
    pub(crate) fn sibling(&self, name: &str) -> Option<Self> {
        let (parent, _) = self.path.path().rsplit_once('/')?;
        Some(Self { path: format!("{parent}/{name}").parse().ok()?, ..self.clone() })
    }

    /// Posts a body of `content_type` with these headers too; gives the answer's status and the start of its body.
    ///
    /// # Errors
    /// When there is no whole answer in time.
    pub(crate) async fn post(
        &self,
        content_type: &'static str,
        headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), CallError> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = Uri::from(self.path.clone());
        request.headers_mut().insert(HOST, self.host.clone());
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        request.headers_mut().extend(headers);
        tokio::time::timeout(DEADLINE, self.call(request)).await.unwrap_or(Err(CallError::Timeout))
    }

    async fn call(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), CallError> {
        let stream = self.at.connect().await.map_err(CallError::Connect)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let answer = async {
            let (head, body) = sender.send_request(request).await?.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|_| CallError::Answer)?;
            Ok::<_, CallError>((head.status, body.to_bytes()))
        };
        tokio::pin!(answer);
        tokio::select! {
            answered = &mut answer => answered,
            ended = connection => { ended?; answer.await }
        }
    }
}

/// Verifies servers by the authorities in a PEM file.
fn client_config(authorities: &Path) -> Result<Arc<ClientConfig>, BadTarget> {
    let bad = |why: String| BadTarget::Authorities { path: authorities.display().to_string(), why };
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(authorities).map_err(|error| bad(error.to_string()))?;
    roots.add_parsable_certificates(certificates.filter_map(Result::ok));
    if roots.is_empty() {
        return Err(bad("it holds no certificate".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn only_https_with_readable_authorities_is_called() {
        let directory = tempfile::tempdir().unwrap();
        let empty = directory.path().join("empty.pem");
        std::fs::write(&empty, "").unwrap();
        for url in ["http://x.example/", "https://", "x.example", "https://user:word@x.example/", "ftp://x"] {
            assert!(matches!(Target::https(url, &empty), Err(BadTarget::Url(_))), "{url}");
        }
        let absent = directory.path().join("absent.pem");
        for file in [&empty, &absent] {
            assert!(matches!(Target::https("https://x.example/", file), Err(BadTarget::Authorities { .. })));
        }
    }
}
