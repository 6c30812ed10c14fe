//! What a connection keeps of a bundle: one principal at one service, so that deciding again needs no search.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;

use crate::bundle::Bundle;
use crate::decide::{Candidates, Target};
use crate::request::{ACTIONS, Decision, Principal, Reason, Request};
use crate::route::{self, Route, RouteTable};

/// The candidates of one action, or the reason why each such request is denied.
type Known = Result<Arc<Candidates>, Reason>;

/// The part of a bundle that one principal needs at one service. Made once for a connection, asked for each of its
/// requests, from any thread; it keeps its bundle alive, so make a new one when the bundle changes.
pub struct Slice {
    bundle: Arc<Bundle>,
    /// `None` for an unauthenticated principal.
    principal: Option<Box<str>>,
    service: Box<str>,
    table: Option<Arc<RouteTable>>,
    /// By action, for requests that are about the service itself.
    whole: [OnceLock<Known>; ACTIONS.len()],
    /// By action and position of the route; bounded by the routes that the bundle declares.
    routes: RwLock<HashMap<(usize, usize), Known>>,
}

impl Bundle {
    /// What `principal` needs of this bundle at `service`. Cheap: nothing is looked up before the first request.
    pub fn slice(self: &Arc<Self>, principal: Principal<'_>, service: &str) -> Slice {
        Slice {
            bundle: Arc::clone(self),
            principal: match principal {
                Principal::Workload(id) => Some(id.into()),
                Principal::Unauthenticated => None,
            },
            service: service.into(),
            table: self.routes.get(service).cloned(),
            whole: [const { OnceLock::new() }; ACTIONS.len()],
            routes: RwLock::default(),
        }
    }
}

impl Slice {
    pub fn bundle(&self) -> &Arc<Bundle> {
        &self.bundle
    }

    /// Decides as [`Bundle::decide`]. A request of another principal or about another service is decided all the same,
    /// only without the slice's help.
    pub fn decide(&self, request: &Request<'_>) -> Arc<Decision> {
        self.decide_on_route(request).0
    }

    /// As [`Slice::decide`], with the declared route that the request falls on: its position for [`Slice::template`].
    pub fn decide_on_route(&self, request: &Request<'_>) -> (Arc<Decision>, Option<usize>) {
        match self.candidates(request) {
            Some((Ok(candidates), route)) => (candidates.decide(request), route),
            Some((Err(reason), route)) => (Arc::new(Decision::deny(reason)), route),
            None => (Arc::new(self.bundle.decide(request)), None),
        }
    }

    /// A declared route as `signet.yaml` has it: `GET /accounts/{id}`.
    pub fn template(&self, position: usize) -> Option<&str> {
        self.table.as_ref()?.all().nth(position).map(|route| route.template.as_str())
    }

    /// Decides with the candidates that are known, but evaluates them anew even where the answer is remembered.
    pub fn decide_anew(&self, request: &Request<'_>) -> Decision {
        match self.candidates(request).map(|(known, _)| known) {
            Some(Ok(candidates)) => candidates.evaluate(request),
            Some(Err(reason)) => Decision::deny(reason),
            None => self.bundle.decide_afresh(request),
        }
    }

    /// What is known of requests like this one, and the position of their route; `None` when it is not this slice's.
    fn candidates(&self, request: &Request<'_>) -> Option<(Known, Option<usize>)> {
        let mine = match (request.principal, &self.principal) {
            (Principal::Workload(id), Some(own)) => *id == **own,
            (Principal::Unauthenticated, None) => true,
            _ => false,
        };
        if !mine || *request.service != *self.service {
            return None;
        }
        let target = self.table.as_ref().map_or(Target::Whole, |table| route::target(table, &request.action));
        let action = request.action.index();
        match target {
            Target::Unknown => Some((Err(Reason::UnknownRoute), None)),
            Target::Whole => {
                let known = self.whole.get(action)?.get_or_init(|| self.bundle.known_candidates(request, None));
                Some((known.clone(), None))
            }
            Target::Route(position, route) => Some((self.on_route((action, position), route, request), Some(position))),
        }
    }

    fn on_route(&self, key: (usize, usize), route: &Route, request: &Request<'_>) -> Known {
        if let Some(known) = self.routes.read().get(&key) {
            return known.clone();
        }
        let known = self.bundle.known_candidates(request, Some((key.1, route)));
        self.routes.write().insert(key, known.clone());
        known
    }
}

impl fmt::Debug for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slice")
            .field("principal", &self.principal)
            .field("service", &self.service)
            .field("bundle", &self.bundle)
            .finish_non_exhaustive()
    }
}
