//! The network between producers and audit services: it can be cut, and it sends each connection to either service.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::plan::SERVICES;

/// Where the services are; none while one is down.
pub type Targets = Arc<Mutex<[Option<SocketAddr>; SERVICES]>>;

/// Carries connections until the runtime ends. `up` false cuts those that there are and refuses others.
pub async fn run(listener: TcpListener, targets: Targets, up: watch::Receiver<bool>) {
    let mut turn = 0usize;
    loop {
        let Ok((mut from, _)) = listener.accept().await else { continue };
        turn += 1;
        let now = *targets.lock();
        let target = (0..SERVICES).find_map(|index| now[(index + turn) % SERVICES]);
        let (Some(target), true) = (target, *up.borrow()) else { continue };
        let mut up = up.clone();
        tokio::spawn(async move {
            let Ok(mut to) = TcpStream::connect(target).await else { return };
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut from, &mut to) => {}
                _ = up.wait_for(|up| !up) => {}
            }
        });
    }
}
