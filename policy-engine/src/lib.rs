//! The policy engine: compiles a verified policy bundle and decides requests with it.
//!
//! Pure by design: no IO, no clock, no tokio. Time and network facts are arguments, a bundle is a value. Reading a Git
//! repository, checking signatures and running a bundle's own tests live in `signet-policy-repository`.
//!
//! Invariants:
//! - [`Bundle::decide`] equals Cedar's `Authorizer` over the whole enforced set, except that an erring forbid denies
//!   ([`Reason::PolicyError`]) where Cedar would skip it.
//! - Entity facts come from the request's identifiers and the bundle's `signet.yaml`, from nowhere else.
//! - A bundle that does not compile without errors does not exist: there is no partly loaded bundle.

mod break_glass;
mod bundle;
mod cache;
mod can;
mod claims;
mod compile;
mod context;
mod coverage;
mod cut;
mod decide;
mod end_users;
mod entities;
mod explain;
mod explain_text;
mod index;
mod path;
mod problem;
mod reads;
mod request;
mod route;
mod schema;
mod settings;
mod slice;
mod source;

pub use break_glass::BreakGlass;
pub use bundle::{Bundle, PolicyInfo, RouteMatch};
pub use can::{CanError, Question};
pub use claims::Claims;
pub use coverage::{ClauseCoverage, Coverage, PolicyCoverage};
pub use cut::Needs;
pub use end_users::{EndUsers, Issuer};
pub use entities::split_spiffe_id;
pub use explain::{Clause, Explanation, Nearest, PolicyRef};
pub use path::{PathError, normalise_path};
pub use problem::{Lines, Place, Problem, Severity};
pub use reads::context_path;
pub use request::{Action, Decision, Effect, Net, Principal, Reason, Request, ShadowDecision};
pub use schema::{SCHEMA_VERSION, schema_text};
pub use settings::{
    DataClass, Defaults, Durability, Env, ExternalFacts, Floors, OnFull, Personal, ServiceFacts, Settings, Team,
    WorkloadFacts, split_id,
};
pub use slice::Slice;
pub use source::BundleSource;
