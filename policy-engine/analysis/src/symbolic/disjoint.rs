//! Which policies can never hold of the same request, seen without asking the solver.
//!
//! A condition that begins `p_ns == "a" && ..` never holds together with one that begins `p_ns == "b" && ..`. Of a thousand
//! policies nearly all differ from a given one in such a way, and a solver that never sees them answers that much sooner.
//!
//! INVARIANT: policies that are called apart have no request in common; of others nothing is said.

use std::collections::BTreeMap;

use cedar_policy_core::ast::{BinaryOp, Expr, ExprKind, Literal, UnaryOp, Var};

use super::Compiled;

/// What some variables have to be for a condition to hold: one of these values each.
pub(crate) struct Needs<'p>(BTreeMap<&'p str, Vec<&'p Literal>>);

impl<'p> Needs<'p> {
    pub(crate) fn of(policy: &'p Compiled) -> Self {
        let mut needs = Self(BTreeMap::new());
        needs.collect(&policy.condition);
        needs
    }

    /// Whether no request fulfils both.
    pub(crate) fn is_apart_from(&self, other: &Needs<'_>) -> bool {
        self.0.iter().any(|(name, values)| {
            other.0.get(name).is_some_and(|others| !values.iter().any(|value| others.contains(value)))
        })
    }

    /// A conjunction holds only where each of its parts does.
    fn collect(&mut self, expr: &'p Expr) {
        static YES: Literal = Literal::Bool(true);
        static NO: Literal = Literal::Bool(false);
        match expr.expr_kind() {
            ExprKind::And { left, right } => {
                self.collect(left);
                self.collect(right);
            }
            ExprKind::BinaryApp { op: BinaryOp::Eq, arg1, arg2 } => {
                for (name, value) in [(arg1, arg2), (arg2, arg1)] {
                    if let (Some(name), ExprKind::Lit(value)) = (variable(name), value.expr_kind()) {
                        self.add(name, vec![value]);
                    }
                }
            }
            ExprKind::BinaryApp { op: BinaryOp::Contains, arg1, arg2 } => {
                if let (Some(name), ExprKind::Set(items)) = (variable(arg2), arg1.expr_kind()) {
                    let literal = |item: &'p Expr| match item.expr_kind() {
                        ExprKind::Lit(value) => Some(value),
                        _ => None,
                    };
                    if let Some(values) = items.iter().map(literal).collect::<Option<Vec<_>>>() {
                        self.add(name, values);
                    }
                }
            }
            ExprKind::UnaryApp { op: UnaryOp::Not, arg } => {
                if let Some(name) = variable(arg) {
                    self.add(name, vec![&NO]);
                }
            }
            _ => {
                if let Some(name) = variable(expr) {
                    self.add(name, vec![&YES]);
                }
            }
        }
    }

    fn add(&mut self, name: &'p str, values: Vec<&'p Literal>) {
        match self.0.get_mut(name) {
            Some(known) => known.retain(|value| values.contains(value)),
            None => drop(self.0.insert(name, values)),
        }
    }
}

/// The name of a variable of the model.
fn variable(expr: &Expr) -> Option<&str> {
    match expr.expr_kind() {
        ExprKind::GetAttr { expr, attr } if matches!(expr.expr_kind(), ExprKind::Var(Var::Context)) => Some(attr),
        _ => None,
    }
}

/// The policies that can hold together with one of `with`.
pub(crate) fn overlapping(policies: Vec<Compiled>, with: &[Compiled]) -> Vec<Compiled> {
    let with: Vec<Needs<'_>> = with.iter().map(Needs::of).collect();
    let meets = |policy: &Compiled| {
        let needs = Needs::of(policy);
        with.iter().any(|other| !needs.is_apart_from(other))
    };
    policies.into_iter().filter(meets).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use cedar_policy::{Effect, Expression};

    use super::*;

    fn policy(condition: &str) -> Compiled {
        let condition: Expression = condition.parse().unwrap();
        let condition: &Expr = condition.as_ref();
        Compiled { effect: Effect::Permit, condition: condition.clone() }
    }

    #[test]
    fn only_what_cannot_hold_together_is_apart() {
        let table = [
            ("context.p_ns == \"a\" && context.path like \"/x\"", "\"b\" == context.p_ns", true),
            ("context.p_ns == \"a\"", "context.p_sa == \"b\"", false),
            ("context.p_ns == \"a\"", "context.p_ns == \"a\" && context.dst_port > 3", false),
            ("context.p_ns == \"a\" || context.dst_port == 1", "context.p_ns == \"b\"", false),
            ("!(context.p_ns == \"a\")", "context.p_ns == \"a\"", false),
            ("[\"a\", \"c\"].contains(context.r_name)", "context.r_name == \"b\"", true),
            ("[\"a\", \"b\"].contains(context.r_name)", "context.r_name == \"b\"", false),
            ("[\"a\", context.p_ns].contains(context.r_name)", "context.r_name == \"b\"", false),
            ("context.p_account", "!context.p_account", true),
            ("context.dst_port == 80", "context.dst_port == 443", true),
            ("context.jwt.sub == \"a\"", "context.jwt.sub == \"b\"", false),
            ("if context.p_account then context.p_ns == \"a\" else false", "context.p_ns == \"b\"", false),
        ];
        for (one, other, want) in table {
            let (a, b) = (policy(one), policy(other));
            assert_eq!(Needs::of(&a).is_apart_from(&Needs::of(&b)), want, "{one} | {other}");
            assert_eq!(Needs::of(&b).is_apart_from(&Needs::of(&a)), want, "{other} | {one}");
            assert_eq!(overlapping(vec![a], &[b]).is_empty(), want, "{one} | {other}");
        }
    }
}
