//! Brings every policy bundle that was in force to the audit service, which keeps it as long as records that name it.
//!
//! A reconciler over a directory: a bundle is written there before it is activated and deleted once audit has it, so
//! that neither a restart nor an audit service that is away loses one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use signet_api::audit::ingest_client::IngestClient;
use signet_api::audit::{BundleFile, PutBundleRequest};
use signet_policy::BundleSource;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::metrics::Metrics;
use crate::persist::{self, PersistError};

const TIMEOUT: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(2);

/// Bundles that the audit service does not have yet.
#[derive(Clone, Debug)]
pub(crate) struct BundleStore {
    directory: PathBuf,
    added: Arc<Notify>,
    metrics: Metrics,
}

impl BundleStore {
    /// Keeps bundles in `directory`.
    pub(crate) fn new(directory: PathBuf, metrics: Metrics) -> Self {
        Self { directory, added: Arc::default(), metrics }
    }

    /// Keeps a bundle until audit has it. Blocks on the disk.
    ///
    /// # Errors
    /// When it could not be written: the bundle must not be activated.
    pub(crate) fn put(&self, source: &BundleSource, digest: &str) -> Result<(), PersistError> {
        let name = digest.trim_start_matches("sha256:");
        persist::save(&self.directory.join(format!("{name}.json")), source)?;
        self.added.notify_one();
        Ok(())
    }

    /// Sends what waits to the audit service until `cancel`.
    pub(crate) async fn run(self, audit: Channel, cancel: CancellationToken) {
        let mut api = IngestClient::new(audit);
        let mut told = String::new();
        loop {
            let outcome = tokio::select! {
                () = cancel.cancelled() => return,
                outcome = self.send_all(&mut api) => outcome,
            };
            match outcome {
                Ok(()) => told.clear(),
                Err(error) if error != told => {
                    tracing::warn!(error, "the audit service does not take policy bundles; they wait on disk");
                    told = error;
                }
                Err(_) => {}
            }
            let pause = if told.is_empty() { Duration::from_secs(30) } else { RETRY };
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.added.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn send_all(&self, api: &mut IngestClient<Channel>) -> Result<(), String> {
        let directory = self.directory.clone();
        let waiting = tokio::task::spawn_blocking(move || list(&directory)).await;
        let waiting = waiting.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        self.metrics.bundles_waiting.set(i64::try_from(waiting.len()).unwrap_or(i64::MAX));
        let mut stuck = None;
        for path in waiting {
            match send(api, path).await {
                Ok(()) => drop(self.metrics.bundles_waiting.dec()),
                // The others may pass.
                Err(Stuck::Bundle(error)) => stuck = Some(error),
                Err(Stuck::Audit(error)) => return Err(error),
            }
        }
        stuck.map_or(Ok(()), Err)
    }
}

/// What stands in the way of a bundle.
enum Stuck {
    /// This bundle alone.
    Bundle(String),
    /// The audit service is away.
    Audit(String),
}

async fn send(api: &mut IngestClient<Channel>, path: PathBuf) -> Result<(), Stuck> {
    let read = {
        let path = path.clone();
        tokio::task::spawn_blocking(move || persist::load::<BundleSource>(&path)).await
    };
    let source = match read {
        Ok(Ok(Some(source))) => source,
        Ok(Ok(None)) => return Ok(()),
        Ok(Err(error)) => return Err(Stuck::Bundle(signet_observe::error_chain(&error))),
        Err(error) => return Err(Stuck::Bundle(error.to_string())),
    };
    let request = PutBundleRequest {
        commit: source.commit.clone(),
        digest: source.digest(),
        signer: source.signer.clone(),
        files: source.files.into_iter().map(|(path, content)| BundleFile { path, content }).collect(),
    };
    match tokio::time::timeout(TIMEOUT, api.put_bundle(request)).await {
        Ok(Ok(_)) => {}
        Ok(Err(status)) if status.code() == tonic::Code::InvalidArgument => {
            return Err(Stuck::Bundle(status.message().to_owned()));
        }
        Ok(Err(status)) => return Err(Stuck::Audit(status.message().to_owned())),
        Err(_) => return Err(Stuck::Audit("no answer".to_owned())),
    }
    match tokio::task::spawn_blocking(move || fs::remove_file(path)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Stuck::Bundle(error.to_string())),
        Err(error) => Err(Stuck::Bundle(error.to_string())),
    }
}

fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            files.push(path);
        }
    }
    Ok(files)
}
