//! Which clauses of the policies some requests reach, and with which outcome: what a repository's own tests leave untried.
//!
//! A clause is an operand of `&&`, `||`, `!` and `if`, whole conditions included. It is evaluated as Cedar does it, so that
//! what stands behind an operand that settles the matter is not reached. Off the hot path on purpose.

use std::collections::HashMap;
use std::sync::Arc;

use cedar_policy_core::ast::{BinaryOp, Expr, ExprKind, Literal, UnaryOp, Value, ValueKind};
use cedar_policy_core::evaluator::Evaluator;
use cedar_policy_core::extensions::Extensions;
use serde::Serialize;

use crate::bundle::Bundle;
use crate::compile::CompiledPolicy;
use crate::decide::Target;
use crate::explain::{line_of, snippet};
use crate::reads::Reads;
use crate::request::Request;

/// A clause and how often requests gave it which outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClauseCoverage {
    /// As in the policy, on one line.
    pub text: String,
    pub line: u32,
    #[serde(rename = "true")]
    pub holds: u64,
    #[serde(rename = "false")]
    pub fails: u64,
    pub errors: u64,
}

/// An enforced policy and how far requests tried it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyCoverage {
    pub id: Arc<str>,
    pub path: String,
    pub line: u32,
    /// Requests that its scope matches.
    pub reached: u64,
    /// Requests that it determined.
    pub determined: u64,
    pub clauses: Vec<ClauseCoverage>,
}

impl PolicyCoverage {
    /// Outcomes that there were and that there can be: to be decisive, and each clause true and false.
    pub fn outcomes(&self) -> (u64, u64) {
        let had = |seen: bool| u64::from(seen);
        let of_clauses: u64 = self.clauses.iter().map(|c| had(c.holds > 0) + had(c.fails > 0)).sum();
        (had(self.determined > 0) + of_clauses, 1 + 2 * self.clauses.len() as u64)
    }
}

/// What requests reached of a bundle's enforced policies, in order of path and position.
#[derive(Debug)]
pub struct Coverage<'b> {
    bundle: &'b Bundle,
    policies: Vec<PolicyCoverage>,
    /// The tree of each of `policies`' conditions; nothing for one without conditions.
    trees: Vec<Option<Tree<'b>>>,
    places: HashMap<Arc<str>, usize>,
}

impl<'b> Coverage<'b> {
    /// Of no request yet.
    pub fn new(bundle: &'b Bundle) -> Self {
        let mut coverage = Self { bundle, policies: Vec::new(), trees: Vec::new(), places: HashMap::new() };
        for policy in bundle.policies.iter().filter(|policy| !policy.shadow) {
            let mut clauses = Vec::new();
            let condition = policy.policy.as_ref().non_scope_constraints();
            coverage.trees.push(condition.map(|condition| Tree::new(policy, condition, &mut clauses)));
            coverage.places.insert(Arc::clone(&policy.id), coverage.policies.len());
            coverage.policies.push(PolicyCoverage {
                id: Arc::clone(&policy.id),
                path: policy.path.clone(),
                line: policy.line,
                reached: 0,
                determined: 0,
                clauses,
            });
        }
        coverage
    }

    /// Counts what one request reaches. One that is denied before any policy is asked reaches nothing.
    pub fn add(&mut self, request: &Request<'_>) {
        for id in &self.bundle.decide(request).policies {
            if let Some(policy) = self.places.get(id).and_then(|place| self.policies.get_mut(*place)) {
                policy.determined += 1;
            }
        }
        let route = match self.bundle.target(request) {
            Target::Whole => None,
            Target::Route(_, route) => Some(route),
            Target::Unknown => return,
        };
        let Ok(slice) = self.bundle.candidates(request, route) else { return };
        let query = slice.cedar_request(request, Reads::ALL);
        let entities = self.bundle.entities(request, route, &slice.principal, &slice.action, &slice.resource);
        let Some((query, entities)) = query.zip(entities) else { return };
        let evaluator = Evaluator::new(query, &entities, Extensions::all_available());
        for id in slice.ids() {
            let Some(place) = self.places.get(id) else { continue };
            let Some((policy, tree)) = self.policies.get_mut(*place).zip(self.trees.get(*place)) else { continue };
            policy.reached += 1;
            if let Some(tree) = tree {
                tree.evaluate(&evaluator, &mut policy.clauses);
            }
        }
    }

    pub fn finish(self) -> Vec<PolicyCoverage> {
        self.policies
    }
}

/// A condition, down to its clauses.
#[derive(Debug)]
enum Tree<'p> {
    And(Box<[Tree<'p>; 2]>),
    Or(Box<[Tree<'p>; 2]>),
    Not(Box<Tree<'p>>),
    If(Box<[Tree<'p>; 3]>),
    /// Its position in the list of clauses.
    Clause(usize, &'p Expr),
    /// What no request can change.
    Fixed(bool),
}

impl<'p> Tree<'p> {
    fn new(policy: &CompiledPolicy, expr: &'p Expr, clauses: &mut Vec<ClauseCoverage>) -> Self {
        let mut part = |expr: &'p Expr| Tree::new(policy, expr, clauses);
        match expr.expr_kind() {
            ExprKind::And { left, right } => Self::And(Box::new([part(left), part(right)])),
            ExprKind::Or { left, right } => Self::Or(Box::new([part(left), part(right)])),
            ExprKind::UnaryApp { op: UnaryOp::Not, arg } if !is_negated_comparison(arg) => {
                Self::Not(Box::new(part(arg)))
            }
            ExprKind::If { test_expr, then_expr, else_expr } => {
                Self::If(Box::new([part(test_expr), part(then_expr), part(else_expr)]))
            }
            ExprKind::Lit(Literal::Bool(value)) => Self::Fixed(*value),
            _ => {
                let line = line_of(policy, expr);
                clauses.push(ClauseCoverage { text: snippet(expr), line, holds: 0, fails: 0, errors: 0 });
                Self::Clause(clauses.len() - 1, expr)
            }
        }
    }

    /// The outcome, `None` for an error; each clause on the way counts its own.
    fn evaluate(&self, evaluator: &Evaluator<'_>, clauses: &mut [ClauseCoverage]) -> Option<bool> {
        match self {
            Self::And(both) => {
                let [left, right] = &**both;
                if left.evaluate(evaluator, clauses)? { right.evaluate(evaluator, clauses) } else { Some(false) }
            }
            Self::Or(both) => {
                let [left, right] = &**both;
                if left.evaluate(evaluator, clauses)? { Some(true) } else { right.evaluate(evaluator, clauses) }
            }
            Self::Not(arg) => arg.evaluate(evaluator, clauses).map(|value| !value),
            Self::If(parts) => {
                let [test, then, otherwise] = &**parts;
                let taken = if test.evaluate(evaluator, clauses)? { then } else { otherwise };
                taken.evaluate(evaluator, clauses)
            }
            Self::Clause(place, expr) => {
                let value = match evaluator.interpret(expr, &HashMap::new()) {
                    Ok(Value { value: ValueKind::Lit(Literal::Bool(value)), .. }) => Some(value),
                    _ => None,
                };
                if let Some(clause) = clauses.get_mut(*place) {
                    *match value {
                        Some(true) => &mut clause.holds,
                        Some(false) => &mut clause.fails,
                        None => &mut clause.errors,
                    } += 1;
                }
                value
            }
            Self::Fixed(value) => Some(*value),
        }
    }
}

/// Whether a negated comparison was written as one operator: the parser reads `a > b` as `!(a <= b)`, `a != b` as `!(a == b)`.
fn is_negated_comparison(expr: &Expr) -> bool {
    let ExprKind::BinaryApp { op: BinaryOp::Eq | BinaryOp::Less | BinaryOp::LessEq, arg1, arg2 } = expr.expr_kind()
    else {
        return false;
    };
    let Some((left, right)) = arg1.source_loc().zip(arg2.source_loc()) else { return false };
    let between = left.src.get(left.end()..right.start()).unwrap_or_default();
    let code = between.lines().map(|line| line.split("//").next().unwrap_or_default());
    code.into_iter().any(|code| code.contains("!=") || code.contains('>'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::can::Question;
    use crate::source::BundleSource;

    fn bundle(policies: &str) -> Bundle {
        let files = [("signet.yaml", "version: 1\n"), ("policies/p.cedar", policies)];
        let files = files.into_iter().map(|(path, text)| (path.to_owned(), text.to_owned())).collect();
        Bundle::compile(&BundleSource { files, ..BundleSource::default() }).unwrap_or_else(|p| panic!("{p:?}"))
    }

    /// A clause, and how often it was true, false and in error.
    type Counts = (String, u64, u64, u64);

    /// What calls on these ports reach, and the counts of each clause.
    fn reached(policies: &str, ports: &[u16]) -> (Vec<PolicyCoverage>, Vec<Counts>) {
        let bundle = bundle(policies);
        let mut coverage = Coverage::new(&bundle);
        for port in ports {
            let mut question = Question::new("a.b/n/w", "tcp:connect", "a.b/n/s", None, 0).unwrap();
            question.dst_port = *port;
            coverage.add(&question.request());
        }
        let policies = coverage.finish();
        let clauses = policies.iter().flat_map(|p| p.clauses.clone());
        let clauses = clauses.map(|c| (c.text, c.holds, c.fails, c.errors)).collect();
        (policies, clauses)
    }

    #[test]
    fn an_operand_behind_a_settled_one_is_not_reached() {
        let text = "@id(\"p\") permit(principal, action == Mesh::Action::\"tcp:connect\", resource)\n\
                    when { context.net.dst_port > 10 && context.net.dst_port < 20 }\n\
                    unless { context.net.dst_port == 15 || context.net.src_cluster != \"a.b\" };";
        let (policies, clauses) = reached(text, &[5, 12, 15]);
        let want = [
            ("context.net.dst_port > 10", 2, 1, 0),
            ("context.net.dst_port < 20", 2, 0, 0),
            ("context.net.dst_port == 15", 1, 1, 0),
            ("context.net.src_cluster != \"a.b\"", 0, 1, 0),
        ];
        assert_eq!(clauses, want.map(|(text, t, f, e)| (text.to_owned(), t, f, e)));
        assert_eq!((policies[0].reached, policies[0].determined, policies[0].outcomes()), (3, 1, (7, 9)));
        assert_eq!(policies[0].clauses.iter().map(|c| c.line).collect::<Vec<_>>(), [2, 2, 3, 3]);
    }

    #[test]
    fn conditions_branches_and_errors_count_and_a_policy_out_of_scope_does_not() {
        let text = "@id(\"a\") permit(principal, action == Mesh::Action::\"tcp:connect\", resource)\n\
                    when { if context.net.dst_port == 1 then !(context has sni) else true };\n\
                    @id(\"b\") forbid(principal, action == Mesh::Action::\"gateway:forward\", resource);\n\
                    @id(\"c\") permit(principal, action == Mesh::Action::\"tcp:connect\", resource)\n\
                    when { context.net.dst_port + 9223372036854775807 > 0 };\n\
                    @id(\"d\") @mode(\"shadow\") permit(principal, action, resource);";
        let (policies, clauses) = reached(text, &[1, 2]);
        let want = [
            ("context.net.dst_port == 1", 1, 1, 0),
            ("context has sni", 0, 1, 0),
            ("context.net.dst_port + 9223372036854775807 > 0", 0, 0, 2),
        ];
        assert_eq!(clauses, want.map(|(text, t, f, e)| (text.to_owned(), t, f, e)));
        let rows: Vec<_> = policies.iter().map(|p| (&*p.id, p.reached, p.determined, p.outcomes())).collect();
        assert_eq!(rows, [("a", 2, 2, (4, 5)), ("b", 0, 0, (0, 1)), ("c", 2, 0, (0, 3))]);
    }
}
