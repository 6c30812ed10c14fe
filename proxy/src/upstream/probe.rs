//! Whether an endpoint of a service that fails over can be reached, found out without a call.
//!
//! Calls tell it of what they go to. Probes tell it of what gets none: of endpoints that are down, of those whose calls are
//! not answered, and of gateways all the time. A probe is a handshake and nothing more: it decides and reads nothing. That
//! of a remote endpoint needs a tunnel, which is the remote gateway's decision and record; so does that of any call.

use std::time::{Duration, Instant};

use http::HeaderMap;
use tracing::debug;

use super::{Target, Upstream, UpstreamError, dial};
use crate::limits;
use crate::tls::Wire;

/// Calls and no answer for this long are a reason to look.
const SILENT: Duration = Duration::from_millis(500);
/// From a look at an endpoint that is well, however silent, to the next.
const WELL: Duration = Duration::from_secs(1);

impl Upstream {
    /// An answer of any kind came from it.
    pub(super) fn reached(&self) {
        if let Some(member) = &self.member {
            member.reached();
        }
    }

    /// No connection to it could be made. What is idle in pools may lead nowhere too.
    pub(super) fn unreached(&self, now: Instant) {
        let Some(member) = &self.member else { return };
        member.unreached(now);
        if member.is_down() {
            self.drop_idle();
        }
    }

    /// Whether a look is due.
    pub(crate) fn needs_look(&self, now: Instant) -> bool {
        let Some(member) = &self.member else { return false };
        let reach = member.reach();
        (reach.is_down() || self.load.silent_for(now) >= SILENT) && reach.is_due(now)
    }

    /// Looks, and has calls avoid it or come back.
    pub(crate) async fn look(&self) {
        let Some(member) = &self.member else { return };
        let probed = match tokio::time::timeout(limits::PROBE, self.probe()).await {
            Ok(probed) => probed,
            Err(_) => Err(UpstreamError::Timeout { address: self.address() }),
        };
        let now = Instant::now();
        match probed {
            Ok(()) => {
                // What is just back may go again at once.
                let wait = if member.reach().is_down() { Duration::ZERO } else { WELL };
                member.reached();
                self.load.heard(now);
                member.reach().look_again(wait, now);
            }
            // That it may not be asked is an answer.
            Err(error) if error.denial().is_some() => member.reached(),
            Err(error) => {
                debug!(endpoint = member.name(), error = %signet_observe::error_chain(&error), "a probe failed");
                member.still_down(now);
                self.drop_idle();
            }
        }
    }

    async fn probe(&self) -> Result<(), UpstreamError> {
        match &self.target {
            // A connection with the service's own protocol would be a call already: its app sees it.
            Target::App(address) | Target::Sidecar { address, .. } if self.wire == Wire::Tcp => {
                dial::tcp(*address).await.map(drop)
            }
            Target::Remote { gateway, .. } if self.wire == Wire::Tcp => gateway.ping(&self.shared).await,
            _ => self.connect(&HeaderMap::new()).await.map(drop),
        }
    }

    /// Leaves no pooled connection for calls to come.
    pub(crate) fn drop_idle(&self) {
        // No connection is of this generation.
        let none = u64::MAX;
        self.h1.sweep(none);
        self.h2.sweep(none);
        self.wired.sweep(none);
    }

    /// The gateway that leads to it.
    pub(crate) fn gateway(&self) -> Option<&std::sync::Arc<super::GatewayPool>> {
        match &self.target {
            Target::Remote { gateway, .. } => Some(gateway),
            Target::App(_) | Target::Sidecar { .. } => None,
        }
    }

    pub(crate) fn shared(&self) -> &super::Shared {
        &self.shared
    }
}
