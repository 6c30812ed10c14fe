//! Loopback listeners of this machine for loopback listeners of a workload's namespace, so that people and scripts find a
//! workload's explicit outbound listener, its app and its sidecar's admin listener where a demo without namespaces has them.
//!
//! A thread for each workload moves into its namespace and carries bytes. The listeners were bound before it moved and stay
//! where they are.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Space;
use crate::failure::{Failure, ResultExt};

/// Connections of one listener under way; more wait in the kernel's queue.
const CONNECTIONS: usize = 256;
const NEXT: &str = "see whether this machine allows network namespaces, or leave --netns out";

/// From an address here to a loopback port there.
pub(crate) struct Relay {
    pub(crate) here: SocketAddr,
    pub(crate) there: u16,
}

/// All relays of a demo; they end when dropped.
pub(crate) struct Relays {
    cancel: CancellationToken,
    threads: Vec<JoinHandle<()>>,
}

impl Relays {
    pub(crate) fn new() -> Self {
        Self { cancel: CancellationToken::new(), threads: Vec::new() }
    }

    /// Starts those of one namespace.
    pub(crate) fn start(&mut self, space: &Space, relays: &[Relay]) -> Result<(), Failure> {
        let mut listeners = Vec::new();
        for relay in relays {
            let listener = TcpListener::bind(relay.here)
                .failed(format!("cannot listen on `{}`", relay.here), "start the demo again")?;
            listener.set_nonblocking(true).failed("cannot prepare a listener", NEXT)?;
            listeners.push((listener, relay.there));
        }
        let (space, cancel) = (space.clone(), self.cancel.clone());
        let (sender, entered) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("relay".to_owned()).spawn(move || {
            let runtime =
                enter(&space).and_then(|()| tokio::runtime::Builder::new_current_thread().enable_all().build());
            match runtime {
                Ok(runtime) => {
                    let _ = sender.send(Ok(()));
                    runtime.block_on(serve(listeners, cancel));
                }
                Err(error) => drop(sender.send(Err(error))),
            }
        });
        self.threads.push(thread.failed("cannot start a thread", NEXT)?);
        match entered.recv() {
            Ok(entered) => entered.failed("cannot enter a network namespace", NEXT),
            Err(error) => Err(Failure::failed(error).next("report this as a bug")),
        }
    }
}

impl Drop for Relays {
    fn drop(&mut self) {
        self.cancel.cancel();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

async fn serve(listeners: Vec<(TcpListener, u16)>, cancel: CancellationToken) {
    let mut tasks = JoinSet::new();
    for (listener, there) in listeners {
        let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { continue };
        tasks.spawn(accept(listener, there));
    }
    cancel.cancelled().await;
    tasks.shutdown().await;
}

async fn accept(listener: tokio::net::TcpListener, there: u16) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let Ok((mut here, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        connections.spawn(async move {
            let _permit = permit;
            // Made by this thread, so in the namespace.
            let Ok(mut there) = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, there)).await else { return };
            let _ = (here.set_nodelay(true), there.set_nodelay(true));
            let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
        });
    }
}

/// Moves the calling thread, for good: only for threads that end with their work.
fn enter(space: &Space) -> std::io::Result<()> {
    let namespace = File::open(space.path())?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(())
}

/// Whether something accepts connections on loopback there.
pub(crate) async fn is_listening(space: &Space, port: u16) -> bool {
    let space = space.clone();
    let look = move || {
        let thread =
            std::thread::spawn(move || enter(&space).and_then(|()| TcpStream::connect((Ipv4Addr::LOCALHOST, port))));
        thread.join().is_ok_and(|connected| connected.is_ok())
    };
    tokio::task::spawn_blocking(look).await.unwrap_or(false)
}
