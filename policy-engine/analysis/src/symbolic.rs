//! Policies as statements about one request, without entities: the form in which the solver gets them.
//!
//! [`Translator`] rewrites a policy's condition, scope included, for one request type (principal, action, resource) and
//! one side of a comparison. The result speaks only of the variables of [`schema`], so both sides of a comparison are
//! about the same request while each side has the facts and routes of its own `signet.yaml`.
//!
//! INVARIANT: what a rewritten condition answers for a request is what Cedar answers for the original one with the
//! entities that the engine builds. What cannot be rewritten so is an [`Unsupported`], and the request type stays
//! undecided.

mod disjoint;
mod fold;
mod subject;
mod translate;
mod world;

use std::sync::LazyLock;

use cedar_policy::{EntityUid, RequestEnv, Schema};
use thiserror::Error;

pub(crate) use disjoint::overlapping;
pub(crate) use fold::reads;
pub(crate) use subject::{Caller, Facts, Target};
pub(crate) use translate::{Compiled, Translator};
pub(crate) use world::{Paths, Question, RouteRule, world};

/// Something in a policy that has no counterpart in the model.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0} cannot be translated for the solver")]
pub(crate) struct Unsupported(pub(crate) String);

/// The model's variables: `p_` of the principal, `r_` of the resource, the rest as in the mesh schema.
const SCHEMA: &str = "
    entity Anything;
    action ask appliesTo {
        principal: Anything,
        resource: Anything,
        context: {
            p_account: Bool, p_td: String, p_ns: String, p_sa: String, p_path: String,
            r_td: String, r_ns: String, r_name: String, r_template: String, r_external: String,
            src_ip: ipaddr, dst_port: Long,
            now: datetime, minute_of_day: Long, weekday: Long,
            method: String, path: String, host: String, service: String, sni?: String,
            jwt?: { iss: String, sub: String, aud: Set<String>, scopes: Set<String>, groups: Set<String>, acr?: String },
            break_glass?: { ticket: String, approvers: Set<String>, until: datetime },
        },
    };
";

static MODEL: LazyLock<Result<(Schema, RequestEnv), String>> = LazyLock::new(|| {
    let (schema, _) = Schema::from_cedarschema_str(SCHEMA).map_err(|e| e.to_string())?;
    let anything = || "Anything".parse().map_err(|e: cedar_policy::ParseErrors| e.to_string());
    let action: EntityUid = r#"Action::"ask""#.parse().map_err(|e: cedar_policy::ParseErrors| e.to_string())?;
    Ok((schema, RequestEnv::new(anything()?, action, anything()?)))
});

/// The schema of the model and its only kind of request. It ships inside the program: an error is a defect of the build.
pub(crate) fn model() -> Result<&'static (Schema, RequestEnv), &'static str> {
    MODEL.as_ref().map_err(String::as_str)
}
