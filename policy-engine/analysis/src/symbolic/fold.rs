//! Boolean expressions that fold what is already known, so that the solver never sees it.
//!
//! INVARIANT: folding drops an operand only where Cedar would not have evaluated it, or where it is a literal: what can
//! fail to evaluate stays.

use cedar_policy_core::ast::{BinaryOp, Expr, ExprKind, Literal, Pattern, PatternElem, UnaryOp, Var};

/// The name of a variable of the model: an attribute of the context of the one request that is asked about.
pub(super) fn variable(name: &str) -> Expr {
    Expr::get_attr(Expr::var(Var::Context), name.into())
}

pub(super) fn text(value: &str) -> Expr {
    Expr::val(value)
}

pub(super) fn bool_of(expr: &Expr) -> Option<bool> {
    match expr.expr_kind() {
        ExprKind::Lit(Literal::Bool(value)) => Some(*value),
        _ => None,
    }
}

pub(super) fn and(left: Expr, right: Expr) -> Expr {
    match (bool_of(&left), bool_of(&right)) {
        (Some(false), _) => left,
        (Some(true), _) => right,
        (None, Some(true)) => left,
        _ => Expr::and(left, right),
    }
}

pub(super) fn or(left: Expr, right: Expr) -> Expr {
    match (bool_of(&left), bool_of(&right)) {
        (Some(true), _) => left,
        (Some(false), _) => right,
        (None, Some(false)) => left,
        _ => Expr::or(left, right),
    }
}

pub(super) fn not(expr: Expr) -> Expr {
    match bool_of(&expr) {
        Some(value) => Expr::val(!value),
        None => Expr::not(expr),
    }
}

pub(super) fn ite(test: Expr, then: Expr, other: Expr) -> Expr {
    match bool_of(&test) {
        Some(true) => then,
        Some(false) => other,
        None => Expr::ite(test, then, other),
    }
}

pub(super) fn eq(left: Expr, right: Expr) -> Expr {
    match (left.expr_kind(), right.expr_kind()) {
        (ExprKind::Lit(a), ExprKind::Lit(b)) => Expr::val(a == b),
        _ => Expr::is_eq(left, right),
    }
}

/// All of them; a balanced tree, because a chain of thousands would need as deep a stack.
pub(super) fn all(mut parts: Vec<Expr>) -> Expr {
    balanced(&mut parts, true)
}

/// Any of them; balanced as [`all`].
pub(super) fn any(mut parts: Vec<Expr>) -> Expr {
    balanced(&mut parts, false)
}

fn balanced(parts: &mut Vec<Expr>, conjunction: bool) -> Expr {
    match parts.len() {
        0 => Expr::val(conjunction),
        1 => parts.pop().unwrap_or_else(|| Expr::val(conjunction)),
        n => {
            let mut right = parts.split_off(n / 2);
            let (left, right) = (balanced(parts, conjunction), balanced(&mut right, conjunction));
            if conjunction { and(left, right) } else { or(left, right) }
        }
    }
}

/// Whether a string is one of `values`.
pub(super) fn one_of(expr: Expr, values: &[&str]) -> Expr {
    match (values, expr.expr_kind()) {
        ([], _) => Expr::val(false),
        ([one], _) => eq(expr, text(one)),
        (_, ExprKind::Lit(Literal::String(known))) => Expr::val(values.contains(&known.as_str())),
        _ => Expr::contains(Expr::set(values.iter().map(|v| text(v))), expr),
    }
}

/// `like`, with the outcome where the text is known.
pub(super) fn like(expr: Expr, pattern: Pattern) -> Expr {
    match expr.expr_kind() {
        ExprKind::Lit(Literal::String(known)) => Expr::val(pattern.wildcard_match(known)),
        _ => Expr::like(expr, pattern),
    }
}

/// A pattern from literal text in which `None` is the wildcard.
pub(super) fn pattern<'a>(parts: impl IntoIterator<Item = Option<&'a str>>) -> Pattern {
    parts
        .into_iter()
        .flat_map(|part| match part {
            Some(text) => text.chars().map(PatternElem::Char).collect::<Vec<_>>(),
            None => vec![PatternElem::Wildcard],
        })
        .collect()
}

/// Whether `expr` reads the variable `name` of the model.
pub(crate) fn reads(expr: &Expr, name: &str) -> bool {
    expr.subexpressions().any(|part| match part.expr_kind() {
        ExprKind::GetAttr { expr, attr } | ExprKind::HasAttr { expr, attr } => {
            attr == name && matches!(expr.expr_kind(), ExprKind::Var(Var::Context))
        }
        _ => false,
    })
}

/// When an expression without unknown entities cannot be evaluated; `None` where that cannot be said.
///
/// After strict validation only arithmetic is left: an addition, subtraction, multiplication or negation beyond 64 bits
/// (Cedar has no wrapping), and a `datetime` moved out of its range. The result itself never fails to evaluate.
pub(super) fn errs(expr: &Expr) -> Option<Expr> {
    let never = || Some(Expr::val(false));
    match expr.expr_kind() {
        ExprKind::Lit(_) | ExprKind::Var(_) => never(),
        ExprKind::Slot(_) | ExprKind::Unknown(_) => None,
        ExprKind::And { left, right } => Some(or(errs(left)?, and((**left).clone(), errs(right)?))),
        ExprKind::Or { left, right } => {
            let later = errs(right)?;
            // `right` is evaluated where `left` is false.
            Some(or(
                errs(left)?,
                if bool_of(&later) == Some(false) { later } else { and(not((**left).clone()), later) },
            ))
        }
        ExprKind::If { test_expr, then_expr, else_expr } => {
            let (then, other) = (errs(then_expr)?, errs(else_expr)?);
            let later = match (bool_of(&then), bool_of(&other)) {
                (Some(a), Some(b)) if a == b => then,
                _ => ite((**test_expr).clone(), then, other),
            };
            Some(or(errs(test_expr)?, later))
        }
        ExprKind::UnaryApp { op: UnaryOp::Neg, arg } => {
            Some(or(errs(arg)?, Expr::is_eq((**arg).clone(), Expr::val(i64::MIN))))
        }
        ExprKind::UnaryApp { arg, .. } => errs(arg),
        ExprKind::BinaryApp { op, arg1, arg2 } => {
            let before = or(errs(arg1)?, errs(arg2)?);
            let own = match op {
                BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul => overflows(*op, arg1, arg2)?,
                BinaryOp::GetTag => return None,
                _ => Expr::val(false),
            };
            Some(or(before, own))
        }
        ExprKind::ExtensionFunctionApp { fn_name, args } => {
            let name = fn_name.to_string();
            let literal = |e: &Expr| matches!(e.expr_kind(), ExprKind::Lit(_));
            match name.as_str() {
                // A constructor: strict validation has parsed its literal.
                "ip" | "decimal" | "datetime" | "duration" if args.iter().all(literal) => never(),
                "offset" if !args.get(1).is_some_and(is_modest_duration) => None,
                "ip" | "decimal" | "datetime" | "duration" => None,
                _ => args.iter().map(errs).try_fold(Expr::val(false), |sum, e| Some(or(sum, e?))),
            }
        }
        ExprKind::GetAttr { expr, .. }
        | ExprKind::HasAttr { expr, .. }
        | ExprKind::ExtHasAttr { expr, .. }
        | ExprKind::Like { expr, .. }
        | ExprKind::Is { expr, .. } => errs(expr),
        ExprKind::Set(items) => items.iter().map(errs).try_fold(Expr::val(false), |sum, e| Some(or(sum, e?))),
        ExprKind::Record(fields) => fields.values().map(errs).try_fold(Expr::val(false), |sum, e| Some(or(sum, e?))),
        #[allow(unreachable_patterns, reason = "a dependency's feature adds a variant for broken syntax")]
        _ => None,
    }
}

/// A duration of at most 15 digits moves no time of the years 0 to 9999 beyond 64 bits of milliseconds.
fn is_modest_duration(expr: &Expr) -> bool {
    let ExprKind::ExtensionFunctionApp { fn_name, args } = expr.expr_kind() else { return false };
    let [argument] = args.as_slice() else { return false };
    match argument.expr_kind() {
        ExprKind::Lit(Literal::String(text)) => {
            fn_name.to_string() == "duration" && text.chars().filter(char::is_ascii_digit).count() <= 9
        }
        _ => false,
    }
}

/// When `a op b` is beyond 64 bits, said without an operation that could be.
fn overflows(op: BinaryOp, a: &Expr, b: &Expr) -> Option<Expr> {
    let long = |e: &Expr| match e.expr_kind() {
        ExprKind::Lit(Literal::Long(value)) => Some(*value),
        _ => None,
    };
    let (zero, most, least) = (|| Expr::val(0_i64), || Expr::val(i64::MAX), || Expr::val(i64::MIN));
    let (left, right) = (|| a.clone(), || b.clone());
    match (op, long(a), long(b)) {
        (BinaryOp::Add, Some(x), Some(y)) => Some(Expr::val(x.checked_add(y).is_none())),
        (BinaryOp::Sub, Some(x), Some(y)) => Some(Expr::val(x.checked_sub(y).is_none())),
        (BinaryOp::Mul, Some(x), Some(y)) => Some(Expr::val(x.checked_mul(y).is_none())),
        (BinaryOp::Add, ..) => Some(Expr::ite(
            Expr::greater(right(), zero()),
            Expr::greater(left(), Expr::sub(most(), right())),
            Expr::less(left(), Expr::sub(least(), right())),
        )),
        (BinaryOp::Sub, ..) => Some(Expr::ite(
            Expr::less(right(), zero()),
            Expr::greater(left(), Expr::add(most(), right())),
            Expr::less(left(), Expr::add(least(), right())),
        )),
        (BinaryOp::Mul, Some(by), None) => Some(beyond_quotient(b, by)),
        (BinaryOp::Mul, None, Some(by)) => Some(beyond_quotient(a, by)),
        _ => None,
    }
}

fn beyond_quotient(of: &Expr, by: i64) -> Expr {
    let bounds = match by {
        0 | 1 => return Expr::val(false),
        -1 => return Expr::is_eq(of.clone(), Expr::val(i64::MIN)),
        _ if by > 0 => (i64::MIN / by, i64::MAX / by),
        _ => (i64::MAX / by, i64::MIN / by),
    };
    Expr::or(Expr::less(of.clone(), Expr::val(bounds.0)), Expr::greater(of.clone(), Expr::val(bounds.1)))
}
