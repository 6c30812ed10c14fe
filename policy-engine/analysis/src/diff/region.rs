//! One region of a request type: what either side permits that the other does not.

use std::cmp::Ordering;

use cedar_policy::Effect;
use cedar_policy_core::ast::Expr;
use signet_policy::{Bundle, PolicyInfo};

use super::Finding;
use super::regions::{Declared, Region, RequestType};
use crate::example::{Example, Wanted, example};
use crate::solver::{Prover, Undecided};
use crate::symbolic::{Compiled, Facts, Paths, Question, RouteRule, Target, Translator, overlapping, reads, world};
use crate::template::{Template, for_action};

/// One side of a comparison.
pub(crate) struct Side<'b> {
    pub(crate) bundle: &'b Bundle,
    pub(crate) facts: Facts<'b>,
    /// Without shadow policies.
    pub(crate) enforced: Vec<PolicyInfo<'b>>,
}

impl<'b> Side<'b> {
    pub(crate) fn new(bundle: &'b Bundle) -> Self {
        let enforced = bundle.policies().filter(|p| !p.is_shadow()).collect();
        Self { bundle, facts: Facts::new(bundle.settings()), enforced }
    }

    pub(crate) fn translator<'t>(&'t self, request: &'t RequestType, target: &Target) -> Translator<'t> {
        Translator {
            facts: &self.facts,
            caller: request.caller_kind(),
            action: &request.action,
            groups: &request.groups,
            target: target.clone(),
        }
    }

    /// The enforced policies as statements about requests of this type; without those that cannot matter for them.
    pub(crate) fn policies(&self, request: &RequestType, target: &Target) -> Result<Vec<Compiled>, Undecided> {
        if *target == Target::Denied {
            return Ok(Vec::new());
        }
        let translator = self.translator(request, target);
        let mut found = Vec::new();
        for policy in &self.enforced {
            let place = || format!("policy `{}` ({}:{}):", policy.id(), policy.path(), policy.line());
            let translated = translator.policy(policy.cedar());
            found.extend(translated.map_err(|e| Undecided::Untranslatable { policy: place(), why: e.to_string() })?);
        }
        found.sort_by(order);
        found.dedup_by(|a, b| order(a, b) == Ordering::Equal);
        Ok(found)
    }

    /// The routes that `target` leaves to requests, in the order in which they are tried.
    fn templates(&self, action: &str, target: &Target, service: &str) -> Vec<Template> {
        let declared = self.bundle.settings().services.get(service).map(|f| f.routes.as_slice()).unwrap_or_default();
        let mut tried = for_action(declared, action);
        if let Target::Fixed { template: Some(taken), .. } = target
            && let Some(position) = tried.iter().position(|t| t.text == *taken)
        {
            tried.truncate(position + 1);
        }
        tried
    }
}

fn order(a: &Compiled, b: &Compiled) -> Ordering {
    let rank = |p: &Compiled| p.effect == Effect::Forbid;
    rank(a).cmp(&rank(b)).then_with(|| a.condition.cmp_shape(&b.condition))
}

/// What is in sorted `a` and not in sorted `b`.
fn without(a: &[Compiled], b: &[Compiled]) -> Vec<Compiled> {
    a.iter().filter(|p| b.binary_search_by(|other| order(other, p)).is_err()).cloned().collect()
}

fn of(policies: &[Compiled], effect: Effect) -> Vec<Compiled> {
    policies.iter().filter(|p| p.effect == effect).cloned().collect()
}

/// Everything that the questions about one region have in common.
pub(crate) struct Asking<'a> {
    pub(crate) base: &'a Side<'a>,
    pub(crate) head: &'a Side<'a>,
    pub(crate) request: &'a RequestType,
    pub(crate) declared: &'a Declared,
    /// Names that examples may use.
    pub(crate) workloads: &'a [String],
    pub(crate) services: &'a [String],
}

/// What came of a region: newly permitted, newly denied.
pub(crate) type Found = [Result<Option<Finding>, Undecided>; 2];

impl Asking<'_> {
    pub(crate) fn compare(&self, prover: &mut Prover, region: &Region) -> Found {
        let sides = self
            .base
            .policies(self.request, &region.base)
            .and_then(|base| Ok((base, self.head.policies(self.request, &region.head)?)));
        let (base, head) = match sides {
            Ok(sides) => sides,
            Err(why) => return [Err(why.clone()), Err(why)],
        };
        // A token that one side verifies and the other does not is another request on each.
        let settings = [self.base, self.head].map(|side| &side.bundle.settings().end_users);
        if settings[0] != settings[1] && base.iter().chain(&head).any(|policy| reads(&policy.condition, "jwt")) {
            return [Err(Undecided::EndUsers), Err(Undecided::EndUsers)];
        }
        [self.direction(prover, region, &head, &base, true), self.direction(prover, region, &base, &head, false)]
    }

    /// Looks for a request that `left` permits and `right` does not.
    fn direction(
        &self,
        prover: &mut Prover,
        region: &Region,
        left: &[Compiled],
        right: &[Compiled],
        newly_permitted: bool,
    ) -> Result<Option<Finding>, Undecided> {
        let holds = |e: &Example| {
            let request = e.request();
            let (base, head) = (self.base.bundle.decide(&request), self.head.bundle.decide(&request));
            base.is_allowed() != head.is_allowed() && head.is_allowed() == newly_permitted
        };
        let found = match self.want_of_permit(prover, region, left, right, &holds) {
            Ok(None) => self.further_forbid(prover, region, left, right, &holds),
            Ok(found) => Ok(found),
            // Found is found, whatever else is not decided.
            Err(why) => match self.further_forbid(prover, region, left, right, &holds) {
                Ok(Some(found)) => Ok(Some(found)),
                _ => Err(why),
            },
        };
        Ok(found?.map(|example| Finding::new(example, self.base.bundle, self.head.bundle)))
    }

    /// Looks for a request that `left` permits and no permit of `right` does. What both sides permit is none, so that only
    /// `left`'s own permits count, and of all others those that can hold together with one of them.
    fn want_of_permit(
        &self,
        prover: &mut Prover,
        region: &Region,
        left: &[Compiled],
        right: &[Compiled],
        holds: &dyn Fn(&Example) -> bool,
    ) -> Result<Option<Example>, Undecided> {
        let mut own = without(&of(left, Effect::Permit), right);
        if own.is_empty() {
            return Ok(None);
        }
        let others = overlapping(of(right, Effect::Permit), &own);
        let forbids = overlapping(of(left, Effect::Forbid), &own);
        own.extend(forbids);
        self.ask(prover, region, own, &others, holds)
    }

    /// Looks for a request that `left` permits and a forbid of `right` denies. A forbid of both denies on the left as well,
    /// so that only `right`'s own forbids count, and of all others those that can hold together with one of them.
    fn further_forbid(
        &self,
        prover: &mut Prover,
        region: &Region,
        left: &[Compiled],
        right: &[Compiled],
        holds: &dyn Fn(&Example) -> bool,
    ) -> Result<Option<Example>, Undecided> {
        let own = without(&of(right, Effect::Forbid), left);
        let permits = overlapping(of(left, Effect::Permit), &own);
        if permits.is_empty() {
            return Ok(None);
        }
        self.permitted_though(prover, region, permits, of(left, Effect::Forbid), own, holds)
    }

    /// A request that `permits` and `forbids` allow together, and that one of `against` forbids.
    pub(crate) fn permitted_though(
        &self,
        prover: &mut Prover,
        region: &Region,
        permits: Vec<Compiled>,
        forbids: Vec<Compiled>,
        against: Vec<Compiled>,
        holds: &dyn Fn(&Example) -> bool,
    ) -> Result<Option<Example>, Undecided> {
        let mut left = overlapping(permits, &against);
        left.extend(overlapping(forbids, &against));
        let mut right = vec![Compiled { effect: Effect::Permit, condition: Expr::val(true) }];
        right.extend(against);
        self.ask(prover, region, left, &right, holds)
    }

    /// A request of the region that `left` allows and `right` does not, for which `holds` is true in the engine's eyes.
    pub(crate) fn ask(
        &self,
        prover: &mut Prover,
        region: &Region,
        mut left: Vec<Compiled>,
        right: &[Compiled],
        holds: &dyn Fn(&Example) -> bool,
    ) -> Result<Option<Example>, Undecided> {
        let target = if region.head == Target::Denied { &region.base } else { &region.head };
        left.extend(
            self.world(region, target, &[&left, right])
                .into_iter()
                .map(|holds| Compiled { effect: Effect::Forbid, condition: Expr::not(holds) }),
        );
        let Some(model) = prover.allowed_by_first_only(&left, right)? else { return Ok(None) };
        let wanted = Wanted {
            caller: self.request.caller_kind(),
            action: &self.request.action,
            target,
            call: region.call.as_ref(),
            call_for: &|service, template| self.declared.calls.get(&(service.to_owned(), template.to_owned())).cloned(),
            workloads: self.workloads,
            services: self.services,
            issuers: &self.head.bundle.settings().end_users.issuers,
        };
        example(&model, &wanted, holds).map(Some).ok_or(Undecided::Spurious)
    }

    fn world(&self, region: &Region, target: &Target, policies: &[&[Compiled]]) -> Vec<Expr> {
        let rules: Vec<RouteRule<'_>> = match target {
            Target::Route => {
                let all = self.declared.unchanged.iter();
                all.flat_map(|(service, templates)| {
                    (1..=templates.len()).filter_map(move |n| Some((service, templates.get(..n)?)))
                })
                .filter(|(service, tried)| {
                    let key = |t: &Template| ((*service).clone(), t.text.clone());
                    tried.last().is_some_and(|t| self.declared.calls.contains_key(&key(t)))
                })
                .map(|(service, tried)| RouteRule { service, tried })
                .collect()
            }
            _ => Vec::new(),
        };
        let except: Vec<&str> = self.declared.routed.iter().map(String::as_str).collect();
        let [external, ..] = &self.declared.external;
        let external: Vec<&str> = external.iter().map(String::as_str).collect();
        let lists: Vec<(&Target, Vec<Template>)> = match target {
            Target::Fixed { service, .. } => [(self.base, &region.base), (self.head, &region.head)]
                .into_iter()
                .map(|(side, target)| (target, side.templates(&self.request.action, target, service)))
                .collect(),
            _ => Vec::new(),
        };
        let paths: Vec<Paths<'_>> = lists
            .iter()
            .map(|(target, tried)| match target {
                Target::Fixed { template: Some(_), .. } => Paths::Last(tried),
                Target::Denied => Paths::None(tried),
                _ => Paths::Free,
            })
            .collect();
        let question = Question {
            caller: self.request.caller_kind(),
            action: &self.request.action,
            target,
            except: &except,
            routes: &rules,
            external: &external,
            paths: &paths,
            issuers: &self.head.bundle.settings().end_users.issuers,
        };
        world(&question, policies)
    }
}
