//! Looks after endpoints and gateways of services that fail over, so that what is dead is known within three seconds without
//! a call, and so is what is back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::{self, StreamExt as _};
use tokio::time::MissedTickBehavior;

use super::Outbound;
use super::table::Table;
use crate::upstream::{GatewayPool, Shared};

const TICK: Duration = Duration::from_millis(250);
/// Probes at a time; more wait.
const AT_ONCE: usize = 64;

impl Outbound {
    /// Until drained.
    pub async fn watch(self: Arc<Self>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let changed = self.watching.notified();
            let next = async {
                if self.table.load().watched().is_empty() {
                    changed.await;
                }
                tick.tick().await
            };
            tokio::select! {
                () = self.stop.drain.cancelled() => return,
                _ = next => {}
            }
            let due = due(&self.table.load(), Instant::now());
            let looks = stream::iter(due).for_each_concurrent(AT_ONCE, |look| look);
            tokio::select! {
                () = self.stop.drain.cancelled() => return,
                () = looks => {}
            }
        }
    }
}

fn due(table: &Table, now: Instant) -> Vec<BoxFuture<'static, ()>> {
    let mut due: Vec<BoxFuture<'static, ()>> = Vec::new();
    let mut gateways: HashMap<*const GatewayPool, (Arc<GatewayPool>, Shared)> = HashMap::new();
    for upstream in table.watched() {
        if let Some(gateway) = upstream.gateway() {
            let entry = || (Arc::clone(gateway), upstream.shared().clone());
            gateways.entry(Arc::as_ptr(gateway)).or_insert_with(entry);
            // Nothing behind it can be looked at before it is back itself, and what is open behind it may hang by then.
            if gateway.reach().is_down() {
                upstream.drop_idle();
                continue;
            }
        }
        if upstream.needs_look(now) {
            let upstream = Arc::clone(upstream);
            due.push(Box::pin(async move { upstream.look().await }));
        }
    }
    for (gateway, shared) in gateways.into_values().filter(|(gateway, _)| gateway.reach().is_due(now)) {
        due.push(Box::pin(async move { gateway.look(&shared).await }));
    }
    due
}
