//! Names in policies that `signet.yaml` does not know, so that what is said about them is true of nothing.

use cedar_policy_core::ast::{self, BinaryOp, EntityUID, Expr, ExprKind, Literal};
use signet_policy::{Bundle, PolicyInfo, Problem, Settings, split_id, split_spiffe_id};

use super::Files;

pub(super) fn lint(files: &Files<'_>, bundle: &Bundle, policy: &PolicyInfo<'_>) -> Vec<Problem> {
    let settings = bundle.settings();
    let core: &ast::Policy = policy.cedar().as_ref();
    let condition = core.condition();
    let mut found: Vec<Problem> = Vec::new();
    let mut warn = |code: &str, offset: Option<usize>, message: String, help: String| {
        let problem = Problem::warning(code, &files.place(policy, offset), message).help(help);
        if !found.contains(&problem) {
            found.push(problem);
        }
    };
    for part in condition.subexpressions() {
        match part.expr_kind() {
            ExprKind::Lit(Literal::EntityUID(uid)) => {
                if let Some((code, message, help)) = name(settings, uid) {
                    let offset = uid.loc().or_else(|| part.source_loc()).map(cedar_policy_core::parser::Loc::start);
                    warn(code, offset, message, help);
                }
            }
            ExprKind::BinaryApp { op: BinaryOp::HasTag, arg2, .. } => {
                let Some(key) = text(arg2).filter(|key| !has_tag(settings, key)) else { continue };
                let offset = arg2.source_loc().map(cedar_policy_core::parser::Loc::start);
                let message = format!("nothing in signet.yaml has a tag `{key}`");
                warn("unknown_tag", offset, message, "write the tag as signet.yaml has it, or add it there".to_owned());
            }
            _ => {}
        }
    }
    if let Some(uid) = equals(core)
        && kind(uid) == "Service"
        && settings.services.get::<str>(uid.eid().as_ref()).is_some_and(|facts| !facts.routes.is_empty())
        && routed_actions_only(core)
    {
        let id: &str = uid.eid().as_ref();
        let message =
            format!("`{}` never matches: `{id}` declares routes, and then the resource is a route", policy.id());
        let help = format!("write `resource in Mesh::Service::\"{id}\"`");
        warn("never_matches", uid.loc().map(cedar_policy_core::parser::Loc::start), message, help);
    }
    found
}

/// What is wrong with a name: code, message, help.
fn name(settings: &Settings, uid: &EntityUID) -> Option<(&'static str, String, String)> {
    let id: &str = uid.eid().as_ref();
    let bad = |form: &str| Some(("bad_name", format!("`{uid}` is nothing's name"), format!("write it as {form}")));
    let undeclared = |what: &str| {
        let message = format!("signet.yaml declares no {what} `{id}`");
        Some(("undeclared", message, format!("declare it, or write the {what} that is meant")))
    };
    match kind(uid).as_str() {
        "Team" if !settings.teams.contains_key(id) => undeclared("team"),
        "ExternalService" if !settings.external_services.contains_key(id) => undeclared("external service"),
        "Route" => {
            let Some((service, route)) = id.split_once('#') else {
                return bad("`<trust domain>/<namespace>/<service>#<METHOD> <path>`");
            };
            let declared = settings.services.get(service).is_some_and(|facts| facts.routes.iter().any(|r| r == route));
            if declared { None } else { undeclared("route") }
        }
        "Workload" if split_spiffe_id(id).is_none() => {
            bad("a SPIFFE ID, `spiffe://<trust domain>/ns/<namespace>/sa/<account>`")
        }
        "Service" | "ServiceAccount" if split_id(id).is_none() => bad("`<trust domain>/<namespace>/<name>`"),
        "Namespace" if id.split_once('/').is_none_or(|(td, ns)| split_id(&format!("{td}/{ns}/x")).is_none()) => {
            bad("`<trust domain>/<namespace>`")
        }
        "Cluster" | "TrustDomain" if split_spiffe_id(&format!("spiffe://{id}")).is_none() => {
            bad("a trust domain's name")
        }
        _ => None,
    }
}

fn has_tag(settings: &Settings, key: &str) -> bool {
    settings.services.values().any(|facts| facts.tags.contains_key(key))
        || settings.workloads.values().any(|facts| facts.tags.contains_key(key))
}

/// `Team` of `Mesh::Team::"core"`.
pub(super) fn kind(uid: &EntityUID) -> String {
    uid.entity_type().name().basename().to_string()
}

fn text(expr: &Expr) -> Option<&str> {
    match expr.expr_kind() {
        ExprKind::Lit(Literal::String(text)) => Some(text),
        _ => None,
    }
}

/// The entity of `resource == ..`.
fn equals(policy: &ast::Policy) -> Option<&EntityUID> {
    match policy.template().resource_constraint().as_inner() {
        ast::PrincipalOrResourceConstraint::Eq(ast::EntityReference::EUID(uid)) => Some(uid),
        _ => None,
    }
}

/// Whether the policy is about actions alone whose resource is a route where routes are declared.
fn routed_actions_only(policy: &ast::Policy) -> bool {
    let routed = |uid: &EntityUID| {
        let id: &str = uid.eid().as_ref();
        id.starts_with("http:") || matches!(id, "read" | "write" | "grpc:call")
    };
    match policy.template().action_constraint() {
        ast::ActionConstraint::Eq(uid) => routed(uid),
        ast::ActionConstraint::In(uids) => uids.iter().all(|uid| routed(uid)),
        _ => false,
    }
}
