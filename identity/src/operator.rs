//! A client of the service `Operator`, over the server's own socket.

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use signet_api::identity::operator_client::OperatorClient;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// Why the operator's socket cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot reach the identity server at `{path}`; is it running, and does the socket belong to this user?")]
pub struct ConnectError {
    path: PathBuf,
    source: tonic::transport::Error,
}

/// Connects to the socket that the server's `operator_socket` names.
///
/// # Errors
/// When nobody listens there, or the socket is another user's.
pub async fn connect(path: &Path) -> Result<OperatorClient<Channel>, ConnectError> {
    let socket = path.to_owned();
    let connector = tower::service_fn(move |_: http::Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://operator")
        .connect_with_connector(connector)
        .await
        .map_err(|source| ConnectError { path: path.to_owned(), source })?;
    Ok(OperatorClient::new(channel))
}
