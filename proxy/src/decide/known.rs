//! What a connection keeps of one service from call to call.

use std::sync::Arc;

use signet_policy::{Bundle, Decision, Request, Slice};

use super::Call;
use crate::flow::{Flow, Flows};
use crate::metrics::Direction;

/// A peer's part of the bundle at one service, and the series of its flows there.
#[derive(Debug)]
pub struct Known {
    slice: Slice,
    /// By route, those of calls without one first; filled as calls come.
    flows: Vec<Option<Arc<Flow>>>,
    /// Where the last call's are.
    last: usize,
}

impl Known {
    pub(super) fn of(bundle: &Arc<Bundle>, call: &Call<'_>) -> Self {
        Self { slice: bundle.slice(call.principal(), call.service), flows: Vec::new(), last: 0 }
    }

    pub(super) fn is_of(&self, bundle: &Arc<Bundle>) -> bool {
        Arc::ptr_eq(self.slice.bundle(), bundle)
    }

    pub(super) fn decide(&mut self, request: &Request<'_>) -> Arc<Decision> {
        let (decision, route) = self.slice.decide_on_route(request);
        self.last = route.map_or(0, |position| position + 1);
        decision
    }

    /// The series of the call that was decided last, which is `call`.
    pub(crate) fn flow(&mut self, flows: &Flows, call: &Call<'_>) -> Arc<Flow> {
        if let Some(Some(flow)) = self.flows.get(self.last) {
            return Arc::clone(flow);
        }
        let route = self.last.checked_sub(1).and_then(|position| self.slice.template(position));
        let flow = flows.get(call.flow_key(Direction::Inbound, route));
        if self.flows.len() <= self.last {
            self.flows.resize(self.last + 1, None);
        }
        if let Some(slot) = self.flows.get_mut(self.last) {
            *slot = Some(Arc::clone(&flow));
        }
        flow
    }
}
