//! Which policies can match a request by their scope.
//!
//! Policies lie in buckets by the entity that their principal scope names and then by the one that their resource scope
//! names (`None` where the scope names none). A request looks into the buckets of its principal and of every ancestor
//! of it, and likewise for the resource, and then tests each candidate's whole scope. INVARIANT: exactly the policies
//! whose scope holds come out, so Cedar's answer over them is its answer over all.

use std::collections::HashMap;

use cedar_policy::{ActionConstraint, EntityTypeName, EntityUid, Policy, PrincipalConstraint, ResourceConstraint};

use crate::entities::Subject;

/// A principal or resource scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Any,
    Is(EntityTypeName),
    Eq(EntityUid),
    In(EntityUid),
    IsIn(EntityTypeName, EntityUid),
}

/// The scopes of a policy.
#[derive(Clone, Debug)]
pub(crate) struct Scopes {
    pub(crate) principal: Scope,
    pub(crate) resource: Scope,
    /// Empty for any action; an action matches when it or an ancestor of it is listed.
    pub(crate) actions: Vec<EntityUid>,
    pub(crate) any_action: bool,
    pub(crate) exact_action: bool,
}

impl Scope {
    fn bucket(&self) -> Option<&EntityUid> {
        match self {
            Scope::Any | Scope::Is(_) => None,
            Scope::Eq(uid) | Scope::In(uid) | Scope::IsIn(_, uid) => Some(uid),
        }
    }

    pub(crate) fn holds(&self, subject: &Subject) -> bool {
        let same = |uid: &EntityUid| seen(Comparison::Same, *uid == subject.uid);
        let above = |uid: &EntityUid| seen(Comparison::Above, subject.ancestors.contains(uid));
        let is = |kind: &EntityTypeName| seen(Comparison::Kind, subject.uid.type_name() == kind);
        match self {
            Scope::Any => true,
            Scope::Is(kind) => is(kind),
            Scope::Eq(uid) => same(uid),
            Scope::In(uid) => same(uid) || above(uid),
            Scope::IsIn(kind, uid) => is(kind) && (same(uid) || above(uid)),
        }
    }
}

impl Scopes {
    pub(crate) fn of(policy: &Policy) -> Self {
        let principal = match policy.principal_constraint() {
            PrincipalConstraint::Any => Scope::Any,
            PrincipalConstraint::In(uid) => Scope::In(uid),
            PrincipalConstraint::Eq(uid) => Scope::Eq(uid),
            PrincipalConstraint::Is(kind) => Scope::Is(kind),
            PrincipalConstraint::IsIn(kind, uid) => Scope::IsIn(kind, uid),
        };
        let resource = match policy.resource_constraint() {
            ResourceConstraint::Any => Scope::Any,
            ResourceConstraint::In(uid) => Scope::In(uid),
            ResourceConstraint::Eq(uid) => Scope::Eq(uid),
            ResourceConstraint::Is(kind) => Scope::Is(kind),
            ResourceConstraint::IsIn(kind, uid) => Scope::IsIn(kind, uid),
        };
        let (actions, any_action, exact_action) = match policy.action_constraint() {
            ActionConstraint::Any => (Vec::new(), true, false),
            ActionConstraint::Eq(uid) => (vec![uid], false, true),
            ActionConstraint::In(uids) => (uids, false, false),
        };
        Self { principal, resource, actions, any_action, exact_action }
    }

    pub(crate) fn action_holds(&self, action: &ActionNode) -> bool {
        let same = |uid: &EntityUid| seen(Comparison::SameAction, *uid == action.uid);
        let above = |uid: &EntityUid| seen(Comparison::ActionAbove, action.ancestors.contains(uid));
        let groups = seen(Comparison::ExactAction, !self.exact_action);
        self.any_action || self.actions.iter().any(|uid| same(uid) || (groups && above(uid)))
    }
}

/// The comparisons that scopes are tested by. Tests turn each of them round, one at a time, and demand that the
/// comparison with Cedar notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Same,
    Above,
    Kind,
    SameAction,
    ActionAbove,
    ExactAction,
    Unscoped,
    Ancestors,
}

/// What a comparison said; outside of this module's own tests nothing else.
#[cfg(not(test))]
#[inline(always)]
fn seen(_: Comparison, said: bool) -> bool {
    said
}

#[cfg(test)]
use tests::seen;

/// An action with the groups that it is in.
#[derive(Clone, Debug)]
pub(crate) struct ActionNode {
    pub(crate) uid: EntityUid,
    pub(crate) ancestors: Vec<EntityUid>,
}

type Bucket = HashMap<Option<EntityUid>, Vec<u32>>;

#[derive(Debug, Default)]
pub(crate) struct Index {
    scopes: Vec<Scopes>,
    buckets: HashMap<Option<EntityUid>, Bucket>,
}

impl Index {
    /// Indexes policies; a position in `policies` is the name under which [`Index::matching`] gives one back.
    pub(crate) fn new<'p>(policies: impl IntoIterator<Item = &'p Policy>) -> Self {
        let mut index = Index::default();
        for (position, policy) in (0u32..).zip(policies) {
            let scopes = Scopes::of(policy);
            let bucket = index.buckets.entry(scopes.principal.bucket().cloned()).or_default();
            bucket.entry(scopes.resource.bucket().cloned()).or_default().push(position);
            index.scopes.push(scopes);
        }
        index
    }

    pub(crate) fn scopes(&self, position: usize) -> Option<&Scopes> {
        self.scopes.get(position)
    }

    /// Positions, ascending, of all policies whose scope holds.
    pub(crate) fn matching(&self, principal: &Subject, action: &ActionNode, resource: &Subject) -> Vec<usize> {
        let resource_keys = keys(resource);
        let mut found = Vec::new();
        for bucket in keys(principal).iter().filter_map(|key| self.buckets.get(key)) {
            for positions in resource_keys.iter().filter_map(|key| bucket.get(key)) {
                found.extend(positions.iter().map(|p| *p as usize).filter(|p| {
                    self.scopes.get(*p).is_some_and(|s| {
                        s.action_holds(action) && s.principal.holds(principal) && s.resource.holds(resource)
                    })
                }));
            }
        }
        found.sort_unstable();
        found
    }
}

fn keys(subject: &Subject) -> Vec<Option<EntityUid>> {
    let unscoped = seen(Comparison::Unscoped, true).then_some(None);
    let ancestors = subject.ancestors.iter().filter(|_| seen(Comparison::Ancestors, true));
    unscoped.into_iter().chain([Some(subject.uid.clone())]).chain(ancestors.cloned().map(Some)).collect()
}

#[cfg(test)]
mod tests;
