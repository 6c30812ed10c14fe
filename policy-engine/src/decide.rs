//! Deciding: which policies can match, what they read, and what they answer.
//!
//! Each candidate's conditions are evaluated once with Cedar's own evaluator; its scope was tested by the index. The
//! answers are then combined as Cedar's `Authorizer` combines them, except that an erring forbid denies.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use cedar_policy::EntityUid;
use cedar_policy_core::ast::{Context, EntityUIDEntry, Literal, Request as CedarRequest, Value, ValueKind};
use cedar_policy_core::entities::{Entities, NoEntitiesSchema, TCComputation};
use cedar_policy_core::evaluator::Evaluator;
use cedar_policy_core::extensions::Extensions;
use parking_lot::RwLock;

use crate::bundle::Bundle;
use crate::cache::{FastHasher, KeyRef};
use crate::compile::CompiledPolicy;
use crate::context::{break_glass, build, is_memorable, next_minute_us, write_key};
use crate::entities::{self, Subject};
use crate::index::ActionNode;
use crate::reads::Reads;
use crate::request::{Action, Decision, Effect, Principal, Reason, Request, ShadowDecision};
use crate::route::Route;

/// Decisions that one set of candidates remembers; when it is full it forgets them all.
const REMEMBERED: usize = 256;
/// Longer values of a context are not worth keeping.
const KEY_BYTES: usize = 1024;

/// All that the requests of one principal, action and resource have in common.
pub(crate) struct Candidates {
    pub(crate) principal: Subject,
    pub(crate) action: Arc<ActionNode>,
    pub(crate) resource: Subject,
    /// Empty where no condition can ask about an entity.
    entities: Entities,
    /// Policies whose scope holds, in order of position.
    policies: Vec<Arc<CompiledPolicy>>,
    shadows: bool,
    reads: Reads,
    entries: [EntityUIDEntry; 3],
    /// The decision itself, where no policy reads the context.
    fixed: Option<Arc<Decision>>,
    /// Decisions by the values that the policies can read ([`write_key`]), without the time at which they expire.
    remembered: RwLock<HashMap<Box<[u8]>, Arc<Decision>, FastHasher>>,
}

/// What a request is asked about, once its route is known.
pub(crate) enum Target<'b> {
    Whole,
    Route(usize, &'b Route),
    Unknown,
}

/// What came of one condition.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Holds,
    Fails,
    Errs,
}

/// The policies that count towards an answer.
#[derive(Default)]
struct Tally {
    permits: Vec<Arc<str>>,
    forbids: Vec<Arc<str>>,
    erring_forbids: Vec<Arc<str>>,
    erring_permits: Vec<Arc<str>>,
}

/// Effect, determining policies, reason and what erred.
struct Verdict {
    effect: Effect,
    policies: Vec<Arc<str>>,
    reason: Reason,
    errors: Vec<Arc<str>>,
}

impl Bundle {
    /// Decides one request. Never panics and never allows without a permit that holds.
    pub fn decide(&self, request: &Request<'_>) -> Decision {
        let route = match self.target(request) {
            Target::Whole => None,
            Target::Route(position, route) => Some((position, route)),
            Target::Unknown => return Decision::deny(Reason::UnknownRoute),
        };
        match self.known_candidates(request, route) {
            Ok(candidates) => Arc::unwrap_or_clone(candidates.decide(request)),
            Err(reason) => Decision::deny(reason),
        }
    }

    /// Decides without memory: finds the policies, builds the entities and evaluates, as the first request of its kind.
    pub fn decide_afresh(&self, request: &Request<'_>) -> Decision {
        let route = match self.target(request) {
            Target::Whole => None,
            Target::Route(_, route) => Some(route),
            Target::Unknown => return Decision::deny(Reason::UnknownRoute),
        };
        match self.candidates(request, route) {
            Ok(candidates) => candidates.evaluate(request),
            Err(reason) => Decision::deny(reason),
        }
    }

    /// The candidates of requests like this one, from memory where they are known.
    pub(crate) fn known_candidates(
        &self,
        request: &Request<'_>,
        route: Option<(usize, &Route)>,
    ) -> Result<Arc<Candidates>, Reason> {
        let key = KeyRef {
            principal: match request.principal {
                Principal::Workload(id) => id,
                Principal::Unauthenticated => "",
            },
            service: request.service,
            action: request.action.index(),
            route: route.map(|(position, _)| position),
        };
        if let Some(known) = self.known.get(&key) {
            return Ok(known);
        }
        let mut candidates = self.candidates(request, route.map(|(_, route)| route))?;
        if candidates.reads.is_none() {
            candidates.fixed = Some(Arc::new(candidates.evaluate(request)));
        }
        let candidates = Arc::new(candidates);
        self.known.insert(&key, Arc::clone(&candidates));
        Ok(candidates)
    }

    pub(crate) fn target(&self, request: &Request<'_>) -> Target<'_> {
        match self.routes.get(request.service) {
            Some(table) => crate::route::target(table, &request.action),
            None => Target::Whole,
        }
    }

    /// Entities and policies for requests like this one.
    pub(crate) fn candidates(&self, request: &Request<'_>, route: Option<&Route>) -> Result<Candidates, Reason> {
        if matches!(request.principal, Principal::Workload("")) {
            return Err(Reason::InvalidRequest);
        }
        let principal = entities::principal(&self.teams, request.principal).ok_or(Reason::InvalidRequest)?;
        let resource = match request.action {
            Action::EgressConnect { .. } => {
                entities::external(&self.settings, request.service).ok_or(Reason::UnknownService)?
            }
            _ => entities::service(&self.settings, request.service, route.map(|route| route.id.as_str()))
                .ok_or(Reason::InvalidRequest)?,
        };
        let action = self.actions.get(request.action.index()).cloned().ok_or(Reason::InvalidRequest)?;
        let positions = self.index.matching(&principal, &action, &resource);
        let policies: Vec<Arc<CompiledPolicy>> =
            positions.into_iter().filter_map(|position| self.policies.get(position).cloned()).collect();
        let entities = match policies.iter().any(|policy| policy.reads_entities) {
            true => self.entities(request, route, &principal, &action, &resource).ok_or(Reason::InvalidRequest)?,
            false => Entities::new(),
        };
        let entry = |uid: &EntityUid| EntityUIDEntry::known(uid.as_ref().clone(), None);
        Ok(Candidates {
            entries: [entry(&principal.uid), entry(&action.uid), entry(&resource.uid)],
            principal,
            action,
            resource,
            entities,
            shadows: policies.iter().any(|policy| policy.shadow),
            reads: policies.iter().fold(Reads::NONE, |reads, policy| reads | policy.reads),
            policies,
            fixed: None,
            remembered: RwLock::default(),
        })
    }

    /// All that conditions can ask about: the three entities of a request and their ancestors.
    pub(crate) fn entities(
        &self,
        request: &Request<'_>,
        route: Option<&Route>,
        principal: &Subject,
        action: &ActionNode,
        resource: &Subject,
    ) -> Option<Entities> {
        let mut all = entities::principal_entities(&self.settings, request.principal, principal)?;
        all.extend(match request.action {
            Action::EgressConnect { .. } => entities::external_entities(&self.settings, request.service, resource)?,
            _ => {
                let template = route.map(|route| route.template.as_str());
                entities::service_entities(&self.settings, request.service, template, resource)?
            }
        });
        all.extend(entities::action(&action.uid, &action.ancestors));
        // INVARIANT: every entity comes with all its ancestors, and none lies in itself.
        let closed = TCComputation::AssumeAlreadyComputed;
        Entities::from_entities(all, None::<&NoEntitiesSchema>, closed, Extensions::none()).ok()
    }
}

thread_local! {
    static KEY: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Candidates {
    pub(crate) fn decide(&self, request: &Request<'_>) -> Arc<Decision> {
        if let Some(fixed) = &self.fixed {
            return Arc::clone(fixed);
        }
        if !is_memorable(self.reads) {
            return Arc::new(self.evaluate(request));
        }
        // The buffer is taken out for the time of use, so that nothing can find it borrowed.
        let mut key = KEY.take();
        key.clear();
        write_key(request, self.reads, &mut key);
        let known = self.remembered.read().get(key.as_slice()).cloned();
        let decision = match known {
            Some(decision) if self.reads.has(Reads::CLOCK) => {
                Arc::new(Decision { expires_at_us: self.expiry(request), ..(*decision).clone() })
            }
            Some(decision) => decision,
            None => {
                let decision = Arc::new(self.evaluate(request));
                if key.len() <= KEY_BYTES {
                    let mut remembered = self.remembered.write();
                    if remembered.len() >= REMEMBERED {
                        remembered.clear();
                    }
                    remembered.insert(key.as_slice().into(), Arc::clone(&decision));
                }
                decision
            }
        };
        KEY.set(key);
        decision
    }

    fn expiry(&self, request: &Request<'_>) -> Option<i64> {
        let minute = self.reads.has(Reads::CLOCK).then(|| next_minute_us(request.time_us));
        let grant = break_glass(request).filter(|_| self.reads.has(Reads::BREAK_GLASS)).map(|grant| grant.until_us);
        minute.into_iter().chain(grant).min()
    }

    /// The `@id`s of the policies whose scope holds.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &Arc<str>> {
        self.policies.iter().map(|policy| &policy.id)
    }

    /// The request as Cedar takes it, with the context attributes that `reads` asks for.
    pub(crate) fn cedar_request(&self, request: &Request<'_>, reads: Reads) -> Option<CedarRequest> {
        Some(self.with_context(build(request, reads)?))
    }

    fn with_context(&self, context: Context) -> CedarRequest {
        let [principal, action, resource] = self.entries.clone();
        CedarRequest::new_unchecked(principal, action, resource, Some(context))
    }

    /// Decides anew.
    pub(crate) fn evaluate(&self, request: &Request<'_>) -> Decision {
        let Some(query) = self.cedar_request(request, self.reads) else {
            return Decision::deny(Reason::InvalidRequest);
        };
        let evaluator = Evaluator::new(query, &self.entities, Extensions::all_available());
        let (mut enforced, mut with_shadow) = (Tally::default(), Tally::default());
        for policy in &self.policies {
            let outcome = outcome(policy, &evaluator);
            if self.shadows {
                with_shadow.count(policy, outcome);
            }
            if !policy.shadow {
                enforced.count(policy, outcome);
            }
        }
        let enforced = enforced.verdict();
        let shadow = self.shadows.then(|| with_shadow.verdict());
        let shadow = shadow
            .filter(|s| s.effect != enforced.effect || s.policies != enforced.policies)
            .map(|s| ShadowDecision { effect: s.effect, policies: s.policies, reason: s.reason });
        Decision {
            effect: enforced.effect,
            policies: enforced.policies,
            reason: enforced.reason,
            errors: enforced.errors,
            shadow,
            reads_context: !self.reads.is_none(),
            expires_at_us: self.expiry(request),
        }
    }
}

fn outcome(policy: &CompiledPolicy, evaluator: &Evaluator<'_>) -> Outcome {
    let policy = policy.policy.as_ref();
    let Some(condition) = policy.non_scope_constraints() else { return Outcome::Holds };
    match evaluator.interpret(condition, policy.env()) {
        Ok(Value { value: ValueKind::Lit(Literal::Bool(true)), .. }) => Outcome::Holds,
        Ok(Value { value: ValueKind::Lit(Literal::Bool(false)), .. }) => Outcome::Fails,
        _ => Outcome::Errs,
    }
}

impl Tally {
    fn count(&mut self, policy: &CompiledPolicy, outcome: Outcome) {
        let list = match (outcome, policy.is_forbid()) {
            (Outcome::Holds, false) => &mut self.permits,
            (Outcome::Holds, true) => &mut self.forbids,
            (Outcome::Errs, true) => &mut self.erring_forbids,
            (Outcome::Errs, false) => &mut self.erring_permits,
            (Outcome::Fails, _) => return,
        };
        list.push(Arc::clone(&policy.id));
    }

    fn verdict(self) -> Verdict {
        let mut errors = self.erring_permits;
        errors.extend(self.erring_forbids.iter().cloned());
        errors.sort_unstable();
        let (effect, mut policies, reason) = if !self.forbids.is_empty() {
            (Effect::Deny, self.forbids, Reason::Forbidden)
        } else if !self.erring_forbids.is_empty() {
            (Effect::Deny, self.erring_forbids, Reason::PolicyError)
        } else if !self.permits.is_empty() {
            (Effect::Allow, self.permits, Reason::Permitted)
        } else {
            (Effect::Deny, Vec::new(), Reason::NoPermit)
        };
        policies.sort_unstable();
        Verdict { effect, policies, reason, errors }
    }
}
