//! Which context attributes a policy can read, found by walking its conditions once, when the bundle is compiled.
//!
//! Deciding builds only these attributes, and a decision whose policies read none is cached. INVARIANT: a use of the
//! context that this module does not understand counts as reading all of it.

use std::ops::BitOr;

use cedar_policy_core::ast::{Expr, ExprKind, Literal, Var};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reads(u16);

impl Reads {
    pub(crate) const NONE: Reads = Reads(0);
    pub(crate) const SRC_IP: Reads = Reads(1);
    pub(crate) const SRC_CLUSTER: Reads = Reads(1 << 1);
    pub(crate) const DST_CLUSTER: Reads = Reads(1 << 2);
    pub(crate) const DST_PORT: Reads = Reads(1 << 3);
    pub(crate) const NOW: Reads = Reads(1 << 4);
    pub(crate) const MINUTE_OF_DAY: Reads = Reads(1 << 5);
    pub(crate) const WEEKDAY: Reads = Reads(1 << 6);
    pub(crate) const METHOD: Reads = Reads(1 << 7);
    pub(crate) const PATH: Reads = Reads(1 << 8);
    pub(crate) const HOST: Reads = Reads(1 << 9);
    pub(crate) const SERVICE: Reads = Reads(1 << 10);
    pub(crate) const SNI: Reads = Reads(1 << 11);
    pub(crate) const JWT: Reads = Reads(1 << 12);
    pub(crate) const BREAK_GLASS: Reads = Reads(1 << 13);
    pub(crate) const NET: Reads = Reads(0b1111);
    pub(crate) const CLOCK: Reads = Reads(0b111 << 4);
    pub(crate) const ALL: Reads = Reads(u16::MAX);

    pub(crate) fn has(self, other: Reads) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) fn is_none(self) -> bool {
        self.0 == 0
    }

    /// What `expr` can read.
    pub(crate) fn of(expr: &Expr) -> Reads {
        match expr.expr_kind() {
            ExprKind::Var(Var::Context) => Reads::ALL,
            ExprKind::GetAttr { expr: inner, attr } => {
                context_path(inner).map_or_else(|| Reads::of(inner), |path| named(&path, &[attr.as_str()]))
            }
            ExprKind::HasAttr { expr: inner, attr } => {
                context_path(inner).map_or_else(|| Reads::of(inner), |path| named(&path, &[attr.as_str()]))
            }
            ExprKind::ExtHasAttr { expr: inner, attrs } => {
                let attrs: Vec<&str> = attrs.iter().map(|a| a.as_str()).collect();
                context_path(inner).map_or_else(|| Reads::of(inner), |path| named(&path, &attrs))
            }
            ExprKind::Lit(_) | ExprKind::Var(_) | ExprKind::Slot(_) | ExprKind::Unknown(_) => Reads::NONE,
            ExprKind::If { test_expr, then_expr, else_expr } => {
                Reads::of(test_expr) | Reads::of(then_expr) | Reads::of(else_expr)
            }
            ExprKind::And { left, right } | ExprKind::Or { left, right } => Reads::of(left) | Reads::of(right),
            ExprKind::UnaryApp { arg, .. } => Reads::of(arg),
            ExprKind::BinaryApp { arg1, arg2, .. } => Reads::of(arg1) | Reads::of(arg2),
            ExprKind::ExtensionFunctionApp { args, .. } => args.iter().map(Reads::of).fold(Reads::NONE, BitOr::bitor),
            ExprKind::Like { expr, .. } | ExprKind::Is { expr, .. } => Reads::of(expr),
            ExprKind::Set(items) => items.iter().map(Reads::of).fold(Reads::NONE, BitOr::bitor),
            ExprKind::Record(fields) => fields.values().map(Reads::of).fold(Reads::NONE, BitOr::bitor),
            #[allow(unreachable_patterns, reason = "a dependency's feature adds a variant for broken syntax")]
            _ => Reads::ALL,
        }
    }
}

impl BitOr for Reads {
    type Output = Reads;
    fn bitor(self, other: Reads) -> Reads {
        Reads(self.0 | other.0)
    }
}

/// Whether evaluating the expression can look at an entity.
pub(crate) fn reads_entities(expr: &Expr) -> bool {
    expr.subexpressions().any(|part| match part.expr_kind() {
        ExprKind::Var(var) => *var != Var::Context,
        ExprKind::Lit(literal) => matches!(literal, Literal::EntityUID(_)),
        ExprKind::Slot(_) | ExprKind::Unknown(_) => true,
        _ => false,
    })
}

/// `["net"]` for `context.net`, empty for `context`, nothing for what does not hang on the context.
pub fn context_path(expr: &Expr) -> Option<Vec<&str>> {
    match expr.expr_kind() {
        ExprKind::Var(Var::Context) => Some(Vec::new()),
        ExprKind::GetAttr { expr, attr } => {
            let mut path = context_path(expr)?;
            path.push(attr);
            Some(path)
        }
        _ => None,
    }
}

fn named(path: &[&str], more: &[&str]) -> Reads {
    let mut names = path.iter().chain(more).copied();
    match (names.next(), names.next()) {
        (Some("net"), Some("src_ip")) => Reads::SRC_IP,
        (Some("net"), Some("src_cluster")) => Reads::SRC_CLUSTER,
        (Some("net"), Some("dst_cluster")) => Reads::DST_CLUSTER,
        (Some("net"), Some("dst_port")) => Reads::DST_PORT,
        (Some("net"), _) => Reads::NET,
        (Some("clock"), Some("now")) => Reads::NOW,
        (Some("clock"), Some("minute_of_day")) => Reads::MINUTE_OF_DAY,
        (Some("clock"), Some("weekday")) => Reads::WEEKDAY,
        (Some("clock"), _) => Reads::CLOCK,
        (Some("method"), _) => Reads::METHOD,
        (Some("path"), _) => Reads::PATH,
        (Some("host"), _) => Reads::HOST,
        (Some("service"), _) => Reads::SERVICE,
        (Some("sni"), _) => Reads::SNI,
        (Some("jwt"), _) => Reads::JWT,
        (Some("break_glass"), _) => Reads::BREAK_GLASS,
        _ => Reads::ALL,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use cedar_policy::Expression;

    #[test]
    fn finds_exactly_what_is_read() {
        let table = [
            ("principal.env == resource.env", Reads::NONE),
            ("context.path like \"/a*\"", Reads::PATH),
            ("context.net.dst_port == 443 || context.host == \"a\"", Reads::DST_PORT | Reads::HOST),
            ("context.net.src_ip.isInRange(ip(\"10.0.0.0/8\"))", Reads::SRC_IP),
            ("context.net == {dst_port: 1}", Reads::NET),
            ("context has sni && context.sni == \"x\"", Reads::SNI),
            ("context has net.src_cluster", Reads::SRC_CLUSTER),
            (
                "if context.clock.weekday > 5 then true else context.clock.minute_of_day < 9",
                Reads::WEEKDAY | Reads::MINUTE_OF_DAY,
            ),
            ("context.clock.now < datetime(\"2027-01-01\")", Reads::NOW),
            ("[context.method].contains(\"GET\")", Reads::METHOD),
            ("{a: context.service}.a == \"x\"", Reads::SERVICE),
            ("context has jwt", Reads::JWT),
            ("context has break_glass.ticket && context has jwt", Reads::JWT | Reads::BREAK_GLASS),
            ("context == {}", Reads::ALL),
            ("(if true then context else context).path == \"/\"", Reads::ALL),
            ("resource.hasTag(context.host)", Reads::HOST),
        ];
        for (text, want) in table {
            let expr: Expression = text.parse().unwrap();
            assert_eq!(Reads::of(expr.as_ref()), want, "{text}");
        }
    }

    #[test]
    fn a_use_of_an_entity_is_found_wherever_it_stands() {
        let table = [
            ("context.path like \"/a*\" && context.net.dst_port == 443", false),
            ("principal.env == resource.env", true),
            (
                "context.net.dst_port == 1 || (if context has jwt then action in Mesh::Action::\"read\" else false)",
                true,
            ),
            ("[resource].contains(resource)", true),
            ("{a: principal}.a has env", true),
            ("Mesh::Namespace::\"a\" in Mesh::Cluster::\"b\"", true),
        ];
        for (text, want) in table {
            let expr: Expression = text.parse().unwrap();
            assert_eq!(reads_entities(expr.as_ref()), want, "{text}");
        }
    }
}
