//! Unix sockets of the server and the agent: bound without a moment in which they are missing or open to others, and
//! connections that carry who connected (`SO_PEERCRED`).

use std::{
    io,
    os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

/// A bound socket; its file goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: Arc<UnixListener>,
    _file: SocketFile,
}

#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Binds `path` with `mode`, replacing a socket that a dead process left. Missing directories are made 0755.
///
/// # Errors
/// When the path is taken by something that is no socket, or cannot be bound.
pub(crate) fn bind(path: &Path, mode: u32) -> io::Result<Socket> {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    if let Ok(metadata) = std::fs::symlink_metadata(path)
        && !metadata.file_type().is_socket()
    {
        let why = format!("`{}` exists and is not a socket; move it away", path.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
    }
    // Bound under another name and renamed, so that nobody meets it with the wrong mode.
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let temporary = path.with_file_name(format!(".{:x}.{number:x}", std::process::id()));
    let _ = std::fs::remove_file(&temporary);
    let bound = UnixListener::bind(&temporary).and_then(|listener| {
        std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(mode))?;
        std::fs::rename(&temporary, path)?;
        Ok(listener)
    });
    match bound {
        Ok(listener) => Ok(Socket { listener: Arc::new(listener), _file: SocketFile(path.to_owned()) }),
        Err(error) => {
            let _ = std::fs::remove_file(&temporary);
            Err(io::Error::new(error.kind(), format!("cannot bind the socket `{}`: {error}", path.display())))
        }
    }
}

/// Who connected, as the kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PeerCredentials {
    /// Effective user at the time of connecting.
    pub uid: u32,
    /// Effective group at the time of connecting.
    pub gid: u32,
    /// Process, where the kernel knows one.
    pub pid: Option<i32>,
}

/// A connection with what `facts` made of its credentials.
pub(crate) struct Connection<F> {
    stream: UnixStream,
    facts: F,
    _permit: OwnedSemaphorePermit,
}

impl<F: Clone + Send + Sync + 'static> Connected for Connection<F> {
    type ConnectInfo = F;

    fn connect_info(&self) -> F {
        self.facts.clone()
    }
}

impl<F: Unpin> AsyncRead for Connection<F> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<F: Unpin> AsyncWrite for Connection<F> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Connections of `socket`, at most `max` at a time, until `cancel`; more wait in the kernel's accept queue.
pub(crate) fn incoming<F: Send + 'static>(
    socket: Socket,
    max: usize,
    facts: impl Fn(PeerCredentials) -> Option<F> + Send + Sync + 'static,
    cancel: CancellationToken,
) -> impl Stream<Item = io::Result<Connection<F>>> + Send {
    let state = Accepting { socket, permits: Arc::new(Semaphore::new(max)), facts, cancel };
    futures::stream::unfold(state, |state| async move {
        let connection = state.next().await?;
        Some((Ok(connection), state))
    })
}

struct Accepting<A> {
    socket: Socket,
    permits: Arc<Semaphore>,
    facts: A,
    cancel: CancellationToken,
}

impl<A> Accepting<A> {
    async fn next<F>(&self) -> Option<Connection<F>>
    where
        A: Fn(PeerCredentials) -> Option<F>,
    {
        loop {
            let accept = async {
                let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(io::Error::other)?;
                let (stream, _) = self.socket.listener.accept().await?;
                let peer = stream.peer_cred()?;
                Ok::<_, io::Error>((stream, peer, permit))
            };
            let accepted = tokio::select! {
                () = self.cancel.cancelled() => return None,
                accepted = accept => accepted,
            };
            match accepted {
                Ok((stream, peer, permit)) => {
                    let peer = PeerCredentials { uid: peer.uid(), gid: peer.gid(), pid: peer.pid() };
                    // A caller that `facts` refuses is hung up on.
                    if let Some(facts) = (self.facts)(peer) {
                        return Some(Connection { stream, facts, _permit: permit });
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "could not accept on a Unix socket");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn binds_over_a_dead_socket_but_not_over_a_file_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/x.sock");
        let first = bind(&path, 0o600).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::mem::forget(first._file);
        let second = bind(&path, 0o666).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
        UnixStream::connect(&path).await.unwrap();
        drop(second);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(bind(&path, 0o666).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }
}
