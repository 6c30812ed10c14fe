//! The agent's sockets: the main one, and one for each name that an entry selects, made and taken away as entries come
//! and go. Any user may connect; the selectors decide who gets what.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use signet_api::workload::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    attestor::{Scope, Workload},
    workload_api::WorkloadApi,
};
use crate::{selector::SocketName, unix};

const MAIN_CONNECTIONS: usize = 1024;
const NAMED_CONNECTIONS: usize = 64;
const MAX_STREAMS: u32 = 32;
const MAX_MESSAGE: usize = 64 << 10;
const DRAIN: Duration = Duration::from_secs(1);
/// A socket that could not be bound is tried again this often.
const RETRY: Duration = Duration::from_secs(2);

/// Serves the Workload API at `path` until `cancel`; the socket is bound when this returns.
///
/// # Errors
/// When it cannot be bound.
pub(crate) fn serve(
    path: &Path,
    scope: Scope,
    api: &WorkloadApi,
    cancel: CancellationToken,
    tasks: &mut JoinSet<()>,
) -> std::io::Result<()> {
    let socket = unix::bind(path, 0o666)?;
    let max = if scope == Scope::Main { MAIN_CONNECTIONS } else { NAMED_CONNECTIONS };
    let facts = move |credentials| Some(Arc::new(Workload::connected(scope.clone(), credentials)));
    let connections = unix::incoming(socket, max, facts, cancel.clone());
    let api = WorkloadApi { stopping: cancel.clone(), ..api.clone() };
    let server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_header_list_size(16 * 1024)
        .add_service(SpiffeWorkloadApiServer::new(api).max_decoding_message_size(MAX_MESSAGE));
    let path = path.to_owned();
    tasks.spawn(async move {
        let serving = server.serve_with_incoming_shutdown(connections, cancel.clone().cancelled_owned());
        tokio::select! {
            ended = serving => if let Err(error) = ended {
                tracing::error!(error = signet_observe::error_chain(&error), socket = %path.display(), "a Workload API socket ended");
            },
            () = async { cancel.cancelled().await; tokio::time::sleep(DRAIN).await } => {}
        }
    });
    Ok(())
}

/// Keeps the named sockets in `dir` equal to those that the entries select, until `cancel`.
pub(crate) async fn follow(dir: PathBuf, api: WorkloadApi, cancel: CancellationToken) {
    let mut state = api.state.clone();
    let mut open: BTreeMap<SocketName, CancellationToken> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    loop {
        let wanted: BTreeSet<SocketName> =
            state.borrow_and_update().served.iter().filter_map(|served| served.entry.socket().cloned()).collect();
        open.retain(|name, cancel| {
            let keep = wanted.contains(name);
            if !keep {
                cancel.cancel();
                // The name must be free at once for an entry that returns.
                let _ = std::fs::remove_file(dir.join(name.file_name()));
            }
            keep
        });
        let mut failed = false;
        for name in wanted {
            if open.contains_key(&name) {
                continue;
            }
            let token = cancel.child_token();
            let path = dir.join(name.file_name());
            match serve(&path, Scope::Named(name.clone()), &api, token.clone(), &mut tasks) {
                Ok(()) => {
                    open.insert(name, token);
                }
                Err(error) => {
                    failed = true;
                    tracing::error!(%error, "a workload's socket could not be made; trying again");
                }
            }
        }
        tokio::select! {
            () = cancel.cancelled() => break,
            changed = state.changed() => if changed.is_err() { break },
            Some(_) = tasks.join_next() => {}
            () = tokio::time::sleep(RETRY), if failed => {}
        }
    }
    while tasks.join_next().await.is_some() {}
}
