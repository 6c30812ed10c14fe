//! What a decided call is counted in, and who is shown it.

use std::sync::Arc;

use super::{Call, Enforcer, Verdict};
use crate::flow::{Flow, Seen};
use crate::metrics::Direction;
use crate::tap::{Tapped, Taps};

impl Enforcer {
    /// The series of calls like this one.
    #[must_use]
    pub fn flow(&self, call: &Call<'_>, direction: Direction) -> Arc<Flow> {
        let in_force = self.in_force.load();
        let route = in_force.as_ref().and_then(|now| now.bundle.template_of(call.service, &call.action));
        self.metrics.flows.get(call.flow_key(direction, route))
    }

    /// Whoever watches the calls that are decided here.
    #[must_use]
    pub fn taps(&self) -> Arc<Taps> {
        Arc::clone(&self.taps)
    }

    /// `call`, counted in `flow` and shown to whoever watches, once it is answered.
    #[must_use]
    pub fn seen(&self, call: &Call<'_>, flow: Arc<Flow>, verdict: &Verdict) -> Seen {
        let tapped = self.tapped(call, flow.key().route, verdict);
        Seen::new(flow, verdict.allow).tapped(tapped)
    }

    /// What whoever watches is shown of `call`. `None` while nobody does.
    fn tapped(&self, call: &Call<'_>, route: &str, verdict: &Verdict) -> Option<Box<Tapped>> {
        if !self.taps.is_on() {
            return None;
        }
        let in_force = self.in_force.load();
        let shows_paths = in_force.as_ref().is_some_and(|now| !now.bundle.settings().personal.paths);
        self.taps.take(call.shown(route, verdict.decision_id, shows_paths), verdict.allow)
    }
}
