//! Why a decision is what it is, and for a default deny what came nearest to permitting.
//!
//! Cedar names the policies that determined a decision and nothing when none did. For a default deny each permit is
//! taken apart into clauses (the three scopes, and every conjunct of its conditions) and each clause is evaluated by
//! itself; the permits with the fewest failed clauses are the nearest. Off the hot path on purpose.

use std::sync::Arc;

use cedar_policy::{Entities, EvalResult, Expression, eval_expression};
use cedar_policy_core::ast::{BinaryOp, Expr, ExprKind, UnaryOp, Var};
use serde::Serialize;

use crate::bundle::Bundle;
use crate::compile::CompiledPolicy;
use crate::decide::{Candidates, Target};
use crate::index::{Scope, Scopes};
use crate::problem::Place;
use crate::reads::Reads;
use crate::request::{Decision, Reason, Request};
use crate::route::Route;

/// How many policies an explanation offers as nearest.
const NEAREST: usize = 3;
/// How many policies have their conditions evaluated, at most: those with the fewest failed scopes.
const EVALUATED: usize = 64;

/// A policy with its source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyRef {
    pub id: Arc<str>,
    pub path: String,
    pub line: u32,
    pub text: String,
}

/// A clause that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Clause {
    /// As in the policy: `action in [Mesh::Action::"read"]`, `context.host == "a"`.
    pub text: String,
    pub line: u32,
    /// What the request had instead: `Mesh::Action::"http:POST"`, `context.host = "b"`.
    pub actual: String,
}

/// A permit that did not hold, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Nearest {
    pub policy: PolicyRef,
    pub failed: Vec<Clause>,
}

/// A decision with its grounds. `Display` is the text of `signet why` and `signet can`.
#[derive(Clone, Debug)]
pub struct Explanation {
    pub commit: String,
    pub bundle_digest: String,
    /// Principal, action and resource as Cedar saw them; empty where an identifier was malformed.
    pub principal: String,
    pub action: String,
    pub resource: String,
    pub decision: Decision,
    /// The policies that determined the decision.
    pub determining: Vec<PolicyRef>,
    /// The policies that would determine it were shadow policies enforced; empty when that changes nothing.
    pub shadow: Vec<PolicyRef>,
    /// For a default deny: the permits that failed by the fewest clauses, nearest first.
    pub nearest: Vec<Nearest>,
    /// What else a person has to know, in sentences.
    pub notes: Vec<String>,
}

impl Bundle {
    /// Decides and says why.
    pub fn explain(&self, request: &Request<'_>) -> Explanation {
        let decision = self.decide(request);
        let refs = |ids: &[Arc<str>]| ids.iter().filter_map(|id| self.policy(id)).map(policy_ref).collect();
        let mut explanation = Explanation {
            commit: self.commit().to_owned(),
            bundle_digest: self.digest().to_owned(),
            principal: String::new(),
            action: request.action.cedar_id().to_owned(),
            resource: String::new(),
            determining: refs(&decision.policies),
            shadow: decision.shadow.as_ref().map(|s| refs(&s.policies)).unwrap_or_default(),
            decision,
            nearest: Vec::new(),
            notes: Vec::new(),
        };
        let route = match self.target(request) {
            Target::Whole => None,
            Target::Route(_, route) => Some(route),
            Target::Unknown => {
                let declared = self.settings.services.get(request.service).map(|s| s.routes.join("`, `"));
                explanation.notes.push(format!(
                    "`{}` declares its routes in signet.yaml and none matches this request; declared are `{}`",
                    request.service,
                    declared.unwrap_or_default()
                ));
                None
            }
        };
        let Ok(slice) = self.candidates(request, route) else { return explanation };
        explanation.principal = slice.principal.uid.to_string();
        explanation.action = slice.action.uid.to_string();
        explanation.resource = slice.resource.uid.to_string();
        if explanation.decision.reason == Reason::NoPermit {
            explanation.nearest = self.nearest(request, route, &slice);
            if explanation.nearest.is_empty() {
                explanation.notes.push("the bundle has no enforced permit at all".to_owned());
            }
        }
        explanation
    }

    fn nearest(&self, request: &Request<'_>, route: Option<&Route>, slice: &Candidates) -> Vec<Nearest> {
        let query = slice.cedar_request(request, Reads::ALL);
        let entities = self.entities(request, route, &slice.principal, &slice.action, &slice.resource);
        let Some((query, entities)) = query.zip(entities) else { return Vec::new() };
        let entities = Entities::from(entities);
        let query = cedar_policy::Request::from(query);
        let policies = self.policies.iter().map(|policy| &**policy).enumerate();
        let permits = policies.filter(|(_, policy)| !policy.is_forbid() && !policy.shadow);
        let mut candidates: Vec<(usize, &CompiledPolicy, Vec<Clause>, u32)> = permits
            .filter_map(|(position, policy)| {
                let (failed, weight) = failed_scopes(policy, self.index.scopes(position)?, slice);
                Some((position, policy, failed, weight))
            })
            .collect();
        candidates.sort_by_key(|(position, _, failed, weight)| (failed.len(), *weight, *position));
        candidates.truncate(EVALUATED);
        for (_, policy, failed, _) in &mut candidates {
            failed.extend(failed_conditions(policy, &query, &entities));
        }
        candidates.sort_by_key(|(position, _, failed, weight)| (failed.len(), *weight, *position));
        candidates
            .into_iter()
            .take(NEAREST)
            .map(|(_, policy, failed, _)| Nearest { policy: policy_ref(policy), failed })
            .collect()
    }
}

fn policy_ref(policy: &CompiledPolicy) -> PolicyRef {
    PolicyRef { id: Arc::clone(&policy.id), path: policy.path.clone(), line: policy.line, text: policy.text.clone() }
}

/// The failed scopes and how grave they are: another action is nearer than another resource, and that is nearer than
/// another principal.
fn failed_scopes(policy: &CompiledPolicy, scopes: &Scopes, slice: &Candidates) -> (Vec<Clause>, u32) {
    let mut failed = Vec::new();
    let mut weight = 0;
    let mut fail = |word: &str, text: String, actual: String, grave: u32| {
        failed.push(Clause { text, line: scope_line(policy, word), actual });
        weight += grave;
    };
    if !scopes.principal.holds(&slice.principal) {
        fail("principal", scope_text("principal", &scopes.principal), slice.principal.uid.to_string(), 4);
    }
    if !scopes.action_holds(&slice.action) {
        let listed: Vec<String> = scopes.actions.iter().map(ToString::to_string).collect();
        let text = match scopes.exact_action {
            true => format!("action == {}", listed.join(", ")),
            false => format!("action in [{}]", listed.join(", ")),
        };
        fail("action", text, slice.action.uid.to_string(), 1);
    }
    if !scopes.resource.holds(&slice.resource) {
        fail("resource", scope_text("resource", &scopes.resource), slice.resource.uid.to_string(), 2);
    }
    (failed, weight)
}

fn scope_text(word: &str, scope: &Scope) -> String {
    match scope {
        Scope::Any => word.to_owned(),
        Scope::Is(kind) => format!("{word} is {kind}"),
        Scope::Eq(uid) => format!("{word} == {uid}"),
        Scope::In(uid) => format!("{word} in {uid}"),
        Scope::IsIn(kind, uid) => format!("{word} is {kind} in {uid}"),
    }
}

/// The line of a scope: the first of its word after the effect's. Annotations come before and may hold any word.
fn scope_line(policy: &CompiledPolicy, word: &str) -> u32 {
    let effect = policy.text.rfind("permit").into_iter().chain(policy.text.find("permit(")).min().unwrap_or(0);
    let rest = policy.text.get(effect..).unwrap_or("");
    let offset = effect + rest.find(word).unwrap_or(0);
    policy.line + Place::offset("", &policy.text, offset).line - 1
}

/// One conjunct, and the text that a person wrote for it.
struct Conjunct<'p> {
    expr: &'p Expr,
    /// The value that lets the policy hold.
    wanted: bool,
    text: String,
    line: u32,
}

/// Takes conditions apart: `a && b`, and under a negation (`unless`) also `a || b`.
fn conjuncts<'p>(policy: &CompiledPolicy, expr: &'p Expr, wanted: bool, out: &mut Vec<Conjunct<'p>>) {
    match (expr.expr_kind(), wanted) {
        (ExprKind::And { left, right }, true) | (ExprKind::Or { left, right }, false) => {
            conjuncts(policy, left, wanted, out);
            conjuncts(policy, right, wanted, out);
        }
        (ExprKind::UnaryApp { op: UnaryOp::Not, arg }, true) if matches!(arg.expr_kind(), ExprKind::Or { .. }) => {
            conjuncts(policy, arg, false, out);
        }
        (ExprKind::Lit(_), true) if expr.to_string() == "true" => {}
        _ => {
            let snippet = snippet(expr);
            let text = if wanted { snippet } else { format!("unless {snippet}") };
            out.push(Conjunct { expr, wanted, text, line: line_of(policy, expr) });
        }
    }
}

/// The line of the policy's file on which `expr`, a part of it, begins.
pub(crate) fn line_of(policy: &CompiledPolicy, expr: &Expr) -> u32 {
    expr.source_loc().map_or(policy.line, |loc| {
        let within = loc.start().saturating_sub(policy.offset);
        policy.line + Place::offset("", &policy.text, within).line - 1
    })
}

fn failed_conditions(policy: &CompiledPolicy, query: &cedar_policy::Request, entities: &Entities) -> Vec<Clause> {
    let mut all = Vec::new();
    if let Some(condition) = policy.policy.as_ref().non_scope_constraints() {
        conjuncts(policy, condition, true, &mut all);
    }
    let mut failed: Vec<Clause> = Vec::new();
    for conjunct in all {
        match eval_expression(query, entities, &Expression::from(conjunct.expr.clone())) {
            Ok(EvalResult::Bool(value)) if value == conjunct.wanted => {}
            Ok(_) => {
                let mut values = Vec::new();
                values_in(conjunct.expr, query, entities, &mut values);
                failed.push(Clause { text: conjunct.text, line: conjunct.line, actual: values.join(", ") });
            }
            // After a failed guard (`context has jwt`) the rest is never reached, so its error is no news.
            Err(_) if !failed.is_empty() => {}
            Err(error) => {
                failed.push(Clause { text: conjunct.text, line: conjunct.line, actual: format!("error: {error}") });
            }
        }
    }
    failed
}

/// What the request had for each fact that an expression reads.
fn values_in(expr: &Expr, query: &cedar_policy::Request, entities: &Entities, out: &mut Vec<String>) {
    let is_fact = match expr.expr_kind() {
        ExprKind::Var(var) => *var != Var::Context,
        ExprKind::GetAttr { .. } | ExprKind::HasAttr { .. } | ExprKind::ExtHasAttr { .. } => true,
        ExprKind::BinaryApp { op: BinaryOp::GetTag | BinaryOp::HasTag, .. } => true,
        _ => false,
    };
    if is_fact {
        let value = match eval_expression(query, entities, &Expression::from(expr.clone())) {
            Ok(value) => value.to_string(),
            Err(_) => "absent".to_owned(),
        };
        let text = format!("{} = {value}", snippet(expr));
        if !out.contains(&text) {
            out.push(text);
        }
        return;
    }
    for child in children(expr) {
        values_in(child, query, entities, out);
    }
}

fn children(expr: &Expr) -> Vec<&Expr> {
    match expr.expr_kind() {
        ExprKind::If { test_expr, then_expr, else_expr } => vec![test_expr, then_expr, else_expr],
        ExprKind::And { left, right } | ExprKind::Or { left, right } => vec![left, right],
        ExprKind::UnaryApp { arg, .. } => vec![arg],
        ExprKind::BinaryApp { arg1, arg2, .. } => vec![arg1, arg2],
        ExprKind::ExtensionFunctionApp { args, .. } => args.iter().collect(),
        ExprKind::Like { expr, .. } | ExprKind::Is { expr, .. } => vec![expr],
        ExprKind::Set(items) => items.iter().collect(),
        ExprKind::Record(fields) => fields.values().collect(),
        _ => Vec::new(),
    }
}

/// The source of an expression on one line, or its normal form where the parser kept no place.
pub(crate) fn snippet(expr: &Expr) -> String {
    let source = expr.source_loc().and_then(|loc| loc.snippet()).filter(|text| !text.trim().is_empty());
    match source {
        Some(text) => text.split_whitespace().collect::<Vec<_>>().join(" "),
        None => expr.to_string(),
    }
}

#[cfg(test)]
mod tests;
