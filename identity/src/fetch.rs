//! Polls partners' bundle endpoints (SPIFFE Federation, section 5.2, profile `https_spiffe`).
//!
//! The endpoint must prove to be exactly the SPIFFE ID of the relationship, with that trust domain's current bundle; no
//! client certificate is asked for. One task per relationship, all owned by [`follow`]. A failure waits for the next
//! interval.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use signet_mtls::{HandshakeError, IdentityMaterial, IdentitySource, PeerRule, Select, TrustDomain};
use tokio::{net::TcpStream, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    bundle::{BundleError, TrustBundle},
    clock,
    federation::{Federation, Relationship},
};

const MAX_DOCUMENT: usize = 1 << 20;
const WHOLE_FETCH: Duration = Duration::from_secs(15);
const HANDSHAKE: Duration = Duration::from_secs(5);
const LONGEST_INTERVAL: Duration = Duration::from_secs(86_400);

/// Why a bundle could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No answer in time.
    #[error("no answer within {} s", WHOLE_FETCH.as_secs())]
    Timeout,
    /// Nobody there.
    #[error("cannot connect to `{0}`")]
    Connect(String, #[source] std::io::Error),
    /// Not the endpoint that the relationship names.
    #[error("the endpoint did not prove to be `{expected}`")]
    Handshake {
        /// Whom it should be.
        expected: String,
        /// Why not.
        source: HandshakeError,
    },
    /// Broken HTTP.
    #[error("the endpoint's HTTP answer is broken")]
    Http(#[source] hyper::Error),
    /// Another status than 200; redirects are not followed.
    #[error("the endpoint answered {0}, expected 200")]
    Status(http::StatusCode),
    /// Too long or cut short.
    #[error("the bundle document is longer than {MAX_DOCUMENT} bytes or was cut short")]
    Body,
    /// Not a request that can be made.
    #[error("the endpoint's URL cannot be asked for")]
    Url,
    /// A document that was refused.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

/// Fetches a relationship's bundle once.
///
/// # Errors
/// With what went wrong; the caller keeps what it had.
pub async fn fetch(relationship: &Relationship) -> Result<TrustBundle, FetchError> {
    tokio::time::timeout(WHOLE_FETCH, fetch_unbounded(relationship)).await.map_err(|_| FetchError::Timeout)?
}

async fn fetch_unbounded(relationship: &Relationship) -> Result<TrustBundle, FetchError> {
    let url = &relationship.bundle_endpoint_url;
    let trust_domain = &relationship.bundle.trust_domain;
    let bundles = BTreeMap::from([(trust_domain.clone(), relationship.bundle.authorities.clone())]);
    let source = IdentitySource::fixed(IdentityMaterial { svids: Vec::new(), bundles });
    let rule = PeerRule::AnyOf(vec![relationship.bundle_endpoint_spiffe_id.clone()]);
    let tls = signet_mtls::client_config(&source, Select::Component, rule, &[b"http/1.1"]);
    let stream = TcpStream::connect((url.host(), url.port()))
        .await
        .map_err(|error| FetchError::Connect(url.authority(), error))?;
    let accepted = signet_mtls::connect(tls, stream, HANDSHAKE).await.map_err(|source| FetchError::Handshake {
        expected: relationship.bundle_endpoint_spiffe_id.to_string(),
        source,
    })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(accepted.stream)).await.map_err(FetchError::Http)?;
    let request = http::Request::get(url.path())
        .header(http::header::HOST, url.authority())
        .header(http::header::ACCEPT, "application/json")
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|_| FetchError::Url)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(FetchError::Http)?;
        if response.status() != http::StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_DOCUMENT);
        let body = body.collect().await.map_err(|_| FetchError::Body)?.to_bytes();
        Ok(TrustBundle::from_document(trust_domain, &body)?)
    };
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        done = &mut exchange => done,
        ended = connection => match ended {
            // The connection may end as soon as the answer has been read off it.
            Ok(()) => exchange.await,
            Err(error) => Err(FetchError::Http(error)),
        },
    }
}

/// Told of each poll: the trust domain and what went wrong, if anything.
pub type OnRefresh = Arc<dyn Fn(&TrustDomain, Result<u64, &str>) + Send + Sync>;

/// Polls every relationship of `federation` until `cancel`: at once after it was accepted or read from disk, then by its
/// document's refresh hint, never more often than `floor`.
pub async fn follow(federation: Arc<Federation>, floor: Duration, on_refresh: OnRefresh, cancel: CancellationToken) {
    let mut changes = federation.watch();
    let mut polled = BTreeSet::new();
    let mut tasks = JoinSet::new();
    loop {
        let known: Vec<TrustDomain> = changes.borrow_and_update().keys().cloned().collect();
        for trust_domain in known {
            if polled.insert(trust_domain.clone()) {
                tasks.spawn(poll(
                    Arc::clone(&federation),
                    trust_domain,
                    floor,
                    Arc::clone(&on_refresh),
                    cancel.child_token(),
                ));
            }
        }
        tokio::select! {
            () = cancel.cancelled() => break,
            changed = changes.changed() => if changed.is_err() { break },
            Some(ended) = tasks.join_next() => if let Ok(trust_domain) = ended { polled.remove(&trust_domain); },
        }
    }
    while tasks.join_next().await.is_some() {}
}

async fn poll(
    federation: Arc<Federation>,
    trust_domain: TrustDomain,
    floor: Duration,
    on_refresh: OnRefresh,
    cancel: CancellationToken,
) -> TrustDomain {
    let mut changes = federation.watch();
    loop {
        let Some(relationship) = changes.borrow_and_update().get(&trust_domain).cloned() else { return trust_domain };
        let fetched = tokio::select! {
            () = cancel.cancelled() => return trust_domain,
            fetched = fetch(&relationship) => fetched,
        };
        // An invite accepted meanwhile may have named another endpoint or other keys.
        if federation.current().get(&trust_domain).map(|now| &now.fingerprint) != Some(&relationship.fingerprint) {
            continue;
        }
        let fetched = fetched.map_err(|error| signet_observe::error_chain(&error));
        match federation.refreshed(&trust_domain, fetched, clock::now()) {
            Ok(()) => {
                let sequence = federation.current().get(&trust_domain).map_or(0, |now| now.bundle.sequence);
                on_refresh(&trust_domain, Ok(sequence));
            }
            Err(error) => {
                tracing::warn!(%trust_domain, url = %relationship.bundle_endpoint_url, error,
                    "could not refresh a partner's bundle; what we have stays in force");
                on_refresh(&trust_domain, Err(&error));
            }
        }
        let hint = federation.current().get(&trust_domain).map_or(0, |now| now.bundle.refresh_hint);
        let interval = Duration::from_secs(hint.into()).clamp(floor, LONGEST_INTERVAL.max(floor));
        let accepted = (relationship.accepted_at, relationship.fingerprint);
        let again = changes.wait_for(|all| {
            all.get(&trust_domain).is_none_or(|now| (now.accepted_at, now.fingerprint.clone()) != accepted)
        });
        tokio::select! {
            () = cancel.cancelled() => return trust_domain,
            () = tokio::time::sleep(interval) => {}
            // Removed or accepted anew: look again at once.
            _ = again => {}
        }
    }
}
