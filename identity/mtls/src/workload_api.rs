//! Watching the SPIFFE Workload API.
//!
//! Each message is the full state: what is absent has been withdrawn. A stream that ends is opened again for ever, with
//! backoff and jitter, so that an agent may restart at any time.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use rustls::pki_types::CertificateDer;
use spiffe::transport::Endpoint;
use spiffe::{WorkloadApiClient, X509Context};
use tokio_util::sync::CancellationToken;

use crate::source::State;
use crate::{IdentityError, IdentityMaterial, Svid};

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// The specification has the first message come at once.
const FIRST_MESSAGE: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
enum WatchError {
    #[error("the Workload API could not be read")]
    Api(#[from] spiffe::WorkloadApiError),
    #[error("the Workload API gave unusable material")]
    Material(#[from] IdentityError),
    #[error("the Workload API sent nothing for {} s", FIRST_MESSAGE.as_secs())]
    Silent,
    #[error("the Workload API ended the stream")]
    Ended,
}

pub(crate) async fn watch(endpoint: Endpoint, state: Arc<State>, cancel: CancellationToken) {
    let mut backoff = BACKOFF_MIN;
    loop {
        let before = state.current().generation;
        let error = tokio::select! {
            () = cancel.cancelled() => return,
            error = follow(&endpoint, &state) => error,
        };
        if state.current().generation != before {
            backoff = BACKOFF_MIN;
        }
        tracing::warn!(
            endpoint = ?endpoint,
            error = signet_observe::error_chain(&error),
            retry_ms = u64::try_from(backoff.as_millis()).unwrap_or(u64::MAX),
            "lost the Workload API; is the agent running and is there a registration entry? trying again"
        );
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(backoff.mul_f64(0.75 + 0.5 * fastrand::f64())) => {}
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// Publishes until the stream ends, which it never does well.
async fn follow(endpoint: &Endpoint, state: &State) -> WatchError {
    let opened = tokio::time::timeout(FIRST_MESSAGE, async {
        let client = WorkloadApiClient::connect(endpoint.clone()).await?;
        let mut stream = client.stream_x509_contexts().await?;
        let first = stream.next().await;
        Ok::<_, spiffe::WorkloadApiError>((client, stream, first))
    });
    // The client is kept: dropping it may close the channel under the stream.
    let (_client, mut stream, mut next) = match opened.await {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => return error.into(),
        Err(_) => return WatchError::Silent,
    };
    loop {
        match next {
            Some(Ok(context)) => match material(&context) {
                Ok(material) => {
                    tracing::info!(
                        svids = material.svids.len(),
                        bundles = material.bundles.len(),
                        not_after = material.svids.iter().map(|svid| svid.not_after).min(),
                        "identity updated"
                    );
                    state.publish(material);
                }
                // What we have stays: a bad message is not a withdrawal.
                Err(error) => return error.into(),
            },
            Some(Err(error)) => return error.into(),
            None => return WatchError::Ended,
        }
        next = stream.next().await;
    }
}

fn material(context: &X509Context) -> Result<IdentityMaterial, IdentityError> {
    let certificates = |certs: &[spiffe::cert::Certificate]| -> Vec<CertificateDer<'static>> {
        certs.iter().map(|cert| CertificateDer::from(cert.as_bytes().to_vec())).collect()
    };
    let svids: Vec<Svid> = context
        .svids()
        .iter()
        .map(|svid| {
            Svid::new(
                certificates(svid.cert_chain()),
                svid.private_key().as_bytes().to_vec(),
                svid.hint().unwrap_or_default(),
            )
        })
        .collect::<Result<_, _>>()?;
    if svids.is_empty() {
        return Err(IdentityError::NoSvid);
    }
    let bundles = context
        .bundle_set()
        .iter()
        .map(|(domain, bundle)| Ok((domain.as_str().parse()?, certificates(bundle.authorities()))))
        .collect::<Result<_, IdentityError>>()?;
    Ok(IdentityMaterial { svids, bundles })
}
