//! What decisions are made with, and a call as the engine is asked about it.

use std::sync::Arc;

use signet_policy::{Bundle, Decision, Reason, Request};

use super::Call;
use super::lost::Before;
use crate::snapshot::break_glass::Grant;
use crate::token::{EndUser, Tokens};

/// Bundle, and what belongs to it: replaced as a whole.
pub(super) struct InForce {
    pub(super) bundle: Arc<Bundle>,
    pub(super) tokens: Option<Arc<Tokens>>,
    pub(super) before: Option<Before>,
    /// The one that counts first.
    pub(super) grants: Vec<Arc<Grant>>,
}

impl InForce {
    pub(super) fn vouches(&self, user: &EndUser, service: &str, now_us: i64) -> bool {
        self.tokens.as_ref().is_some_and(|tokens| tokens.vouch(user, service, now_us))
    }

    fn grant(&self, call: &Call<'_>, now_us: i64) -> Option<&Grant> {
        // Nearly always there is none at all.
        let principal = call.peer.id.as_ref().filter(|_| !self.grants.is_empty())?;
        self.grants.iter().find(|grant| grant.covers(principal, call.service, now_us)).map(Arc::as_ref)
    }
}

/// A call at one moment, with the grant that covers it then.
#[derive(Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) call: &'a Call<'a>,
    pub(super) grant: Option<&'a Grant>,
    /// UTC microseconds.
    pub(super) now_us: i64,
}

impl<'a> Question<'a> {
    pub(super) fn of(call: &'a Call<'a>, in_force: Option<&'a InForce>, now_us: i64) -> Self {
        Self { call, grant: in_force.and_then(|now| now.grant(call, now_us)), now_us }
    }

    /// The answer of a bundle; without one, deny.
    pub(super) fn ask(&self, bundle: Option<&Bundle>) -> Decision {
        bundle.map_or_else(|| Decision::deny(Reason::NoBundle), |bundle| bundle.decide(&self.request()))
    }

    /// What to say in the record of `decision` where the grant made the difference.
    pub(super) fn broken(&self, bundle: Option<&Bundle>, decision: &Decision) -> Option<String> {
        let grant = self.grant?;
        let alone = Self { grant: None, ..*self }.ask(bundle);
        let (effect, reason) = (alone.effect, alone.reason);
        (effect != decision.effect).then(|| {
            let facts = grant.facts();
            let approvers = facts.approvers.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            format!(
                "decided by the break-glass grant {} for {}, approved by {approvers}; without it: {effect} ({reason})",
                grant.id, facts.ticket
            )
        })
    }

    pub(super) fn request(&self) -> Request<'a> {
        let call = self.call;
        Request {
            principal: call.principal(),
            service: call.service,
            action: call.action,
            net: call.net(),
            end_user: call.end_user.map(EndUser::claims),
            break_glass: self.grant.map(Grant::facts),
            time_us: self.now_us,
        }
    }
}
