//! Rewriting a policy for one request type and one side.

use cedar_policy::{Effect, Policy, PolicyId};
use cedar_policy_core::ast::{self, BinaryOp, EntityUID, Expr, ExprKind, Literal, PolicyID, UnaryOp, Var};
use signet_policy::context_path;

use super::Unsupported;
use super::fold::{and, any, bool_of, eq, errs, ite, like, not, or, text, variable};
use super::subject::{Caller, Facts, Target, kind};

/// Rewrites policies for one request type and one side.
pub(crate) struct Translator<'s> {
    pub(crate) facts: &'s Facts<'s>,
    pub(crate) caller: Caller,
    /// A Cedar action id: `http:GET`.
    pub(crate) action: &'s str,
    /// The action's groups: `read`.
    pub(crate) groups: &'s [String],
    pub(crate) target: Target,
}

/// A policy of one request type, rewritten.
#[derive(Clone, Debug)]
pub(crate) struct Compiled {
    pub(crate) effect: Effect,
    pub(crate) condition: Expr,
}

impl Compiled {
    pub(crate) fn policy(&self, number: usize) -> Policy {
        let id = PolicyId::new(format!("p{number}"));
        let id: &PolicyID = id.as_ref();
        ast::Policy::from_when_clause(self.effect, self.condition.clone(), id.clone(), None).into()
    }
}

/// An entity that an expression names, as far as that is known without evaluating it.
enum Named<'e> {
    Principal,
    Resource,
    Action,
    Literal(&'e EntityUID),
}

type Translated = Result<Expr, Unsupported>;

impl Translator<'_> {
    /// The policy for this request type: nothing when it cannot matter here; a forbid that may fail to evaluate comes
    /// with a second one that holds exactly where it does, because the engine denies there.
    pub(crate) fn policy(&self, policy: &Policy) -> Result<Vec<Compiled>, Unsupported> {
        let core: &ast::Policy = policy.as_ref();
        let scope = core.action_constraint();
        let speaks = match scope {
            ast::ActionConstraint::Any => true,
            ast::ActionConstraint::In(uids) => uids.iter().any(|uid| self.action_in(uid)),
            ast::ActionConstraint::Eq(uid) => self.is_action(uid),
            #[allow(unreachable_patterns, reason = "a dependency's feature adds a variant for broken syntax")]
            _ => true,
        };
        if !speaks {
            return Ok(Vec::new());
        }
        let condition = self.expr(&core.condition())?;
        let effect = policy.effect();
        let mut found = Vec::new();
        if effect == Effect::Forbid {
            let fails = errs(&condition).ok_or_else(|| Unsupported("when this forbid fails to evaluate".to_owned()))?;
            if bool_of(&fails) != Some(false) {
                found.push(Compiled { effect, condition: fails });
            }
        }
        if bool_of(&condition) != Some(false) {
            found.push(Compiled { effect, condition });
        }
        Ok(found)
    }

    fn is_action(&self, uid: &EntityUID) -> bool {
        let id: &str = uid.eid().as_ref();
        kind(uid) == "Action" && id == self.action
    }

    fn action_in(&self, uid: &EntityUID) -> bool {
        let id: &str = uid.eid().as_ref();
        kind(uid) == "Action" && (id == self.action || self.groups.iter().any(|g| g == id))
    }

    pub(crate) fn expr(&self, expr: &Expr) -> Translated {
        match expr.expr_kind() {
            ExprKind::Lit(Literal::EntityUID(uid)) => match kind(uid).as_str() {
                // Enumerated entities are no more than their name.
                "Env" | "DataClass" => Ok(text(uid.eid().as_ref())),
                _ => Err(Unsupported(format!("the entity `{uid}` as a value"))),
            },
            ExprKind::Lit(literal) => Ok(Expr::val(literal.clone())),
            ExprKind::Var(var) => Err(Unsupported(format!("`{var}` as a value"))),
            ExprKind::Slot(slot) => Err(Unsupported(format!("the slot `{slot}`"))),
            ExprKind::Unknown(_) => Err(Unsupported("an unknown".to_owned())),
            ExprKind::If { test_expr, then_expr, else_expr } => {
                let test = self.expr(test_expr)?;
                match bool_of(&test) {
                    Some(true) => self.expr(then_expr),
                    Some(false) => self.expr(else_expr),
                    None => Ok(ite(test, self.expr(then_expr)?, self.expr(else_expr)?)),
                }
            }
            // What Cedar does not evaluate need not be translatable: `principal is Workload && principal.env == ..`.
            ExprKind::And { left, right } => {
                let left = self.expr(left)?;
                if bool_of(&left) == Some(false) { Ok(left) } else { Ok(and(left, self.expr(right)?)) }
            }
            ExprKind::Or { left, right } => {
                let left = self.expr(left)?;
                if bool_of(&left) == Some(true) { Ok(left) } else { Ok(or(left, self.expr(right)?)) }
            }
            ExprKind::UnaryApp { op: UnaryOp::Not, arg } => Ok(not(self.expr(arg)?)),
            ExprKind::UnaryApp { op, arg } => Ok(Expr::unary_app(*op, self.expr(arg)?)),
            ExprKind::BinaryApp { op, arg1, arg2 } => self.binary(*op, arg1, arg2),
            ExprKind::ExtensionFunctionApp { fn_name, args } => {
                let args = args.iter().map(|arg| self.expr(arg)).collect::<Result<_, _>>()?;
                Ok(Expr::call_extension_fn(fn_name.clone(), args))
            }
            ExprKind::GetAttr { expr, attr } => self.attribute(expr, attr),
            ExprKind::HasAttr { expr, attr } => self.has(expr, &[attr.as_str()]),
            ExprKind::ExtHasAttr { expr, attrs } => {
                let attrs: Vec<&str> = attrs.iter().map(|a| a.as_str()).collect();
                self.has(expr, &attrs)
            }
            ExprKind::Like { expr, pattern } => Ok(like(self.expr(expr)?, pattern.clone())),
            ExprKind::Is { expr, entity_type } => {
                let wanted = entity_type.to_string();
                let is = |kind: &str| Ok(Expr::val(wanted == format!("Mesh::{kind}")));
                match self.named(expr) {
                    Some(Named::Principal) => is(match self.caller {
                        Caller::Workload => "Workload",
                        Caller::Unauthenticated => "Unauthenticated",
                    }),
                    Some(Named::Resource) => is(self.target.kind()),
                    Some(Named::Action) => is("Action"),
                    Some(Named::Literal(uid)) => is(&kind(uid)),
                    None => Err(Unsupported(format!("`{expr} is ..`"))),
                }
            }
            ExprKind::Set(items) => {
                Ok(Expr::set(items.iter().map(|item| self.expr(item)).collect::<Result<Vec<_>, _>>()?))
            }
            ExprKind::Record(fields) => {
                let fields = fields.iter().map(|(name, value)| Ok((name.clone(), self.expr(value)?)));
                let fields = fields.collect::<Result<Vec<_>, Unsupported>>()?;
                Expr::record(fields).map_err(|e| Unsupported(format!("a record ({e})")))
            }
            #[allow(unreachable_patterns, reason = "a dependency's feature adds a variant for broken syntax")]
            _ => Err(Unsupported("broken syntax".to_owned())),
        }
    }

    fn named<'e>(&self, expr: &'e Expr) -> Option<Named<'e>> {
        match expr.expr_kind() {
            ExprKind::Var(Var::Principal) => Some(Named::Principal),
            ExprKind::Var(Var::Resource) => Some(Named::Resource),
            ExprKind::Var(Var::Action) => Some(Named::Action),
            ExprKind::Lit(Literal::EntityUID(uid)) if !matches!(kind(uid).as_str(), "Env" | "DataClass") => {
                Some(Named::Literal(uid))
            }
            _ => None,
        }
    }

    fn binary(&self, op: BinaryOp, left: &Expr, right: &Expr) -> Translated {
        match op {
            BinaryOp::Eq => match (self.named(left), self.named(right)) {
                (None, None) => Ok(eq(self.expr(left)?, self.expr(right)?)),
                (Some(a), Some(b)) => self.same(&a, &b),
                _ => Err(Unsupported(format!("`{left} == {right}`"))),
            },
            BinaryOp::In => {
                let subject = self.named(left).ok_or_else(|| Unsupported(format!("`{left} in ..`")))?;
                match right.expr_kind() {
                    ExprKind::Set(items) => {
                        items.iter().map(|item| self.within(&subject, item)).collect::<Result<Vec<_>, _>>().map(any)
                    }
                    _ => self.within(&subject, right),
                }
            }
            BinaryOp::Contains => match (left.expr_kind(), self.named(right)) {
                (ExprKind::Set(items), Some(element)) => {
                    let same = |item: &Expr| match self.named(item) {
                        Some(item) => self.same(&item, &element),
                        None => Err(Unsupported(format!("`{left}.contains({right})`"))),
                    };
                    items.iter().map(same).collect::<Result<Vec<_>, _>>().map(any)
                }
                _ => Ok(Expr::contains(self.expr(left)?, self.expr(right)?)),
            },
            BinaryOp::HasTag => {
                let key = self.expr(right)?;
                let holders = self.tags(left)?.into_iter().map(|(who, name, _)| and(eq(key.clone(), text(name)), who));
                Ok(any(holders.collect()))
            }
            // Strict validation lets a tag be read only behind `hasTag`, so the last value is nobody's.
            BinaryOp::GetTag => {
                let key = self.expr(right)?;
                let tags = self.tags(left)?.into_iter();
                Ok(tags.fold(text(""), |otherwise, (who, name, value)| {
                    ite(and(eq(key.clone(), text(name)), who), text(value), otherwise)
                }))
            }
            _ => Ok(Expr::binary_app(op, self.expr(left)?, self.expr(right)?)),
        }
    }

    fn tags(&self, of: &Expr) -> Result<Vec<(Expr, &str, &str)>, Unsupported> {
        match (self.named(of), self.caller) {
            (Some(Named::Principal), Caller::Workload) => Ok(self.facts.workload_tags()),
            (Some(Named::Resource), _) => Ok(self.facts.resource_tags(&self.target)),
            _ => Err(Unsupported(format!("tags of `{of}`"))),
        }
    }

    /// `a == b`.
    fn same(&self, a: &Named<'_>, b: &Named<'_>) -> Translated {
        Ok(match (a, b) {
            (Named::Literal(a), Named::Literal(b)) => Expr::val(a == b),
            (Named::Principal, Named::Literal(uid)) | (Named::Literal(uid), Named::Principal) => self.is_principal(uid),
            (Named::Resource, Named::Literal(uid)) | (Named::Literal(uid), Named::Resource) => {
                self.facts.is_resource(&self.target, uid)
            }
            (Named::Action, Named::Literal(uid)) | (Named::Literal(uid), Named::Action) => {
                Expr::val(self.is_action(uid))
            }
            (Named::Principal, Named::Principal)
            | (Named::Resource, Named::Resource)
            | (Named::Action, Named::Action) => Expr::val(true),
            // Of different types.
            _ => Expr::val(false),
        })
    }

    fn is_principal(&self, uid: &EntityUID) -> Expr {
        match (self.caller, kind(uid).as_str()) {
            (Caller::Workload, "Workload") => self.facts.is_workload(uid.eid().as_ref()),
            (Caller::Unauthenticated, "Unauthenticated") => {
                let id: &str = uid.eid().as_ref();
                Expr::val(id == "plaintext")
            }
            _ => Expr::val(false),
        }
    }

    /// `subject in ancestor`.
    fn within(&self, subject: &Named<'_>, ancestor: &Expr) -> Translated {
        let ancestor_name = self.named(ancestor).ok_or_else(|| Unsupported(format!("`.. in {ancestor}`")))?;
        Ok(match (subject, &ancestor_name) {
            (Named::Principal, Named::Literal(uid)) => match self.caller {
                Caller::Workload => self.facts.workload_in(uid),
                Caller::Unauthenticated => self.is_principal(uid),
            },
            (Named::Resource, Named::Literal(uid)) => self.facts.resource_in(&self.target, uid),
            (Named::Action, Named::Literal(uid)) => Expr::val(self.action_in(uid)),
            (Named::Literal(a), Named::Literal(b)) if a == b => Expr::val(true),
            (Named::Principal, Named::Principal) | (Named::Resource, Named::Resource) => Expr::val(true),
            _ => return Err(Unsupported(format!("`.. in {ancestor}`"))),
        })
    }

    fn attribute(&self, of: &Expr, name: &str) -> Translated {
        let unsupported = || Unsupported(format!("`{of}.{name}`"));
        match self.named(of) {
            Some(Named::Principal) if self.caller == Caller::Workload => {
                self.facts.workload_attribute(name).ok_or_else(unsupported)
            }
            Some(Named::Resource) => self.facts.resource_attribute(&self.target, name).ok_or_else(unsupported),
            Some(_) => Err(unsupported()),
            None => match context_path(of) {
                Some(path) => self.context(&path, name).ok_or_else(unsupported),
                None => Ok(Expr::get_attr(self.expr(of)?, name.into())),
            },
        }
    }

    /// `context.net.src_ip` and its like. Both clusters are what the identities say, as in the sidecar.
    fn context(&self, path: &[&str], name: &str) -> Option<Expr> {
        Some(match (path, name) {
            (["net"], "src_cluster") => match self.caller {
                Caller::Workload => variable("p_td"),
                Caller::Unauthenticated => text(""),
            },
            (["net"], "dst_cluster") => match &self.target {
                Target::Service | Target::Route => variable("r_td"),
                Target::Fixed { service, .. } => text(service.split('/').next()?),
                // What lies outside of the mesh is in no cluster.
                Target::External | Target::FixedExternal(_) | Target::Denied => text(""),
            },
            (["net"], "src_ip" | "dst_port") | (["clock"], "now" | "minute_of_day" | "weekday") => variable(name),
            ([], "method") => match self.action.strip_prefix("http:") {
                Some("OTHER") | None => variable("method"),
                Some(method) => text(method),
            },
            ([], "path" | "host" | "service" | "sni") => variable(name),
            ([], "jwt") if self.knows_end_users() => variable("jwt"),
            (["jwt"], "iss" | "sub" | "aud" | "scopes" | "groups" | "acr") if self.knows_end_users() => {
                Expr::get_attr(variable("jwt"), name.into())
            }
            ([], "break_glass") if self.knows_grants() => variable("break_glass"),
            (["break_glass"], "ticket" | "approvers" | "until") if self.knows_grants() => {
                Expr::get_attr(variable("break_glass"), name.into())
            }
            _ => return None,
        })
    }

    /// Whether requests of this type may carry an end user's token.
    fn knows_end_users(&self) -> bool {
        self.action.starts_with("http:") || self.action == "grpc:call"
    }

    /// Whether a grant may cover requests of this type: it names its callers.
    fn knows_grants(&self) -> bool {
        self.caller == Caller::Workload
    }

    fn has(&self, of: &Expr, names: &[&str]) -> Translated {
        let first = names.first().copied().unwrap_or_default();
        let unsupported = || Unsupported(format!("`{of} has {}`", names.join(".")));
        if let Some(named) = self.named(of) {
            let known = match named {
                Named::Principal => self.caller == Caller::Workload && self.facts.workload_attribute(first).is_some(),
                Named::Resource => self.facts.resource_attribute(&self.target, first).is_some(),
                _ => return Err(unsupported()),
            };
            return if names.len() == 1 { Ok(Expr::val(known)) } else { Err(unsupported()) };
        }
        let mut path = context_path(of).ok_or_else(unsupported)?;
        path.extend(names.iter().copied());
        Ok(match path.as_slice() {
            ["jwt", ..] if !self.knows_end_users() => Expr::val(false),
            ["jwt"] => Expr::has_attr(Expr::var(Var::Context), "jwt".into()),
            // `context.jwt has acr` stands behind a guard of its own; `context has jwt.acr` is one.
            ["jwt", claim] => {
                let has = Expr::has_attr(variable("jwt"), (*claim).into());
                if context_path(of).is_some_and(|path| path.is_empty()) {
                    and(Expr::has_attr(Expr::var(Var::Context), "jwt".into()), has)
                } else {
                    has
                }
            }
            ["break_glass", ..] if !self.knows_grants() => Expr::val(false),
            // `context.break_glass has ticket` stands behind a guard of its own, and a grant has all of its attributes.
            ["break_glass", "ticket" | "approvers" | "until"] if !context_path(of).is_some_and(|p| p.is_empty()) => {
                Expr::val(true)
            }
            ["break_glass"] | ["break_glass", "ticket" | "approvers" | "until"] => {
                Expr::has_attr(Expr::var(Var::Context), "break_glass".into())
            }
            ["sni"] if self.action.ends_with(":connect") || self.action == "gateway:forward" => {
                Expr::has_attr(Expr::var(Var::Context), "sni".into())
            }
            ["net"] | ["clock"] => Expr::val(true),
            ["net", "src_ip" | "src_cluster" | "dst_cluster" | "dst_port"]
            | ["clock", "now" | "minute_of_day" | "weekday"] => Expr::val(true),
            ["method"] => Expr::val(self.action.starts_with("http:") || self.action == "grpc:call"),
            ["path" | "host"] => Expr::val(self.action.starts_with("http:")),
            ["service"] => Expr::val(self.action == "grpc:call"),
            ["sni"] => Expr::val(false),
            _ => return Err(unsupported()),
        })
    }
}
