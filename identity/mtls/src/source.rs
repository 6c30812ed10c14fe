//! The live identity of this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{Identity, IdentityError, IdentityMaterial};

/// Holds the current [`Identity`] and tells of each new one. Clones share it.
///
/// A source that was connected keeps what it has while the agent is away: SVIDs end by themselves.
#[derive(Clone)]
pub struct IdentitySource {
    pub(crate) state: Arc<State>,
    /// Dropping the last clone ends the watch of the Workload API.
    _watcher: Option<Arc<JoinSet<()>>>,
}

pub(crate) struct State {
    sender: watch::Sender<Arc<Identity>>,
    generation: AtomicU64,
}

impl State {
    pub(crate) fn publish(&self, material: IdentityMaterial) {
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        self.sender.send_replace(Arc::new(Identity::new(material, generation)));
    }

    pub(crate) fn current(&self) -> Arc<Identity> {
        Arc::clone(&self.sender.borrow())
    }
}

impl IdentitySource {
    /// Watches the Workload API at `socket` (`unix:/path`) and returns with the first SVID. It retries, and says so in the
    /// log, until there is one; afterwards it reconnects for as long as the source lives.
    ///
    /// # Errors
    /// When `socket` is no Workload API address, or `cancel` fires before the first SVID.
    pub async fn connect(socket: &str, cancel: CancellationToken) -> Result<Self, IdentityError> {
        let endpoint =
            spiffe::transport::Endpoint::parse(socket).map_err(|_| IdentityError::Endpoint(socket.to_owned()))?;
        let state = Arc::new(State::new(IdentityMaterial::default()));
        let mut first = state.sender.subscribe();
        let mut watcher = JoinSet::new();
        watcher.spawn(crate::workload_api::watch(endpoint, Arc::clone(&state), cancel.clone()));
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(IdentityError::Cancelled(socket.to_owned())),
            arrived = first.wait_for(|identity| !identity.svids.is_empty()) => match arrived {
                Ok(_) => Ok(Self { state, _watcher: Some(Arc::new(watcher)) }),
                Err(_) => Err(IdentityError::Cancelled(socket.to_owned())),
            },
        }
    }

    /// A source without a Workload API behind it: the identity server's own, and tests'.
    pub fn fixed(material: IdentityMaterial) -> Self {
        Self { state: Arc::new(State::new(material)), _watcher: None }
    }

    /// Publishes new material, as a rotation does.
    pub fn replace(&self, material: IdentityMaterial) {
        self.state.publish(material);
    }

    pub fn current(&self) -> Arc<Identity> {
        self.state.current()
    }

    /// Tells of each new identity.
    pub fn watch(&self) -> watch::Receiver<Arc<Identity>> {
        self.state.sender.subscribe()
    }
}

impl State {
    fn new(material: IdentityMaterial) -> Self {
        Self { sender: watch::Sender::new(Arc::new(Identity::new(material, 0))), generation: AtomicU64::new(0) }
    }
}
