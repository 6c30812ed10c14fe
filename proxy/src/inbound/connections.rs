//! Which connections are open to a port and who has opened them, for the admin listener.
//!
//! INVARIANT: a connection makes a [`Peer`] of its own and keeps it to its end. So a connection is open for as long as its
//! peer is held, and telling so costs an idle connection nothing that it would have to carry.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};
use signet_mtls::SpiffeId;

use crate::decide::Peer;
use crate::flow::UNAUTHENTICATED;

/// Peers that are shown of one port; the others are summed up.
const PEERS: usize = 100;

/// The connections of one port, those that ended since the last sweep among them.
#[derive(Default)]
pub(super) struct Connections(Mutex<Vec<Connection>>);

struct Connection {
    peer: Weak<Peer>,
    /// The ALPN protocol, or `plaintext`.
    protocol: &'static str,
    since: Instant,
}

impl Connections {
    pub(super) fn add(&self, peer: &Arc<Peer>, protocol: &'static str, now: Instant) {
        self.0.lock().push(Connection { peer: Arc::downgrade(peer), protocol, since: now });
    }

    /// Forgets what ended; to be called every now and then.
    pub(super) fn sweep(&self) {
        let mut connections = self.0.lock();
        connections.retain(|connection| connection.peer.strong_count() > 0);
        let room = connections.len() * 2;
        connections.shrink_to(room);
    }

    /// How many there are of each peer, those with the most first.
    pub(super) fn view(&self, now: Instant) -> Value {
        let mut peers: BTreeMap<(String, &'static str), (usize, Duration)> = BTreeMap::new();
        for connection in self.0.lock().iter() {
            let Some(peer) = connection.peer.upgrade() else { continue };
            let id = peer.id.as_ref().map_or(UNAUTHENTICATED, SpiffeId::as_str).to_owned();
            let (count, oldest) = peers.entry((id, connection.protocol)).or_default();
            *count += 1;
            *oldest = now.saturating_duration_since(connection.since).max(*oldest);
        }
        let mut peers: Vec<_> = peers.into_iter().collect();
        peers.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
        let sum = |from: usize| peers.iter().skip(from).map(|(_, (count, _))| count).sum::<usize>();
        let shown = peers.iter().take(PEERS).map(|((peer, protocol), (count, oldest))| {
            json!({
                "peer": peer, "protocol": protocol, "connections": count, "oldest_ms": oldest.as_millis(),
            })
        });
        json!({ "connections": sum(0), "peers": shown.collect::<Vec<_>>(), "of_other_peers": sum(PEERS) })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn peer(name: Option<&str>) -> Arc<Peer> {
        Arc::new(Peer {
            id: name.map(|name| format!("spiffe://east.example/ns/bank/sa/{name}").parse().unwrap()),
            address: None,
            tls: Arc::from("none"),
            not_after: None,
            chain: Vec::new(),
        })
    }

    #[test]
    fn peers_are_counted_while_their_connections_are_open_and_no_more_are_shown_than_a_page_takes() {
        let (connections, start) = (Connections::default(), Instant::now());
        let open = |name: Option<&str>, protocol, at| {
            let peer = peer(name);
            connections.add(&peer, protocol, at);
            peer
        };
        let first = open(Some("web"), "signet/h2", start);
        let second = open(Some("web"), "signet/h2", start + Duration::from_secs(1));
        let _plain = open(None, "plaintext", start);
        let view = connections.view(start + Duration::from_secs(2));
        let shown = json!({
            "connections": 3,
            "peers": [
                { "peer": "spiffe://east.example/ns/bank/sa/web", "protocol": "signet/h2", "connections": 2, "oldest_ms": 2000 },
                { "peer": "unauthenticated", "protocol": "plaintext", "connections": 1, "oldest_ms": 2000 },
            ],
            "of_other_peers": 0,
        });
        assert_eq!(view, shown);
        drop((first, second));
        let _many: Vec<_> = (0..PEERS + 5).map(|n| open(Some(&format!("client-{n}")), "signet/http1", start)).collect();
        let view = connections.view(start);
        assert_eq!((&view["connections"], &view["of_other_peers"]), (&json!(PEERS + 6), &json!(6)));
        connections.sweep();
        assert_eq!(connections.0.lock().len(), PEERS + 6, "what ended is not held");
    }
}
