//! Lints: what compiles and is likely not what its author meant. Each has a stable code, a place and the next step.
//!
//! No lint is a guess about traffic: a policy that "never matches" is one that no request can match with the facts of this
//! `signet.yaml`, and a "shadowed" one could be taken away without any answer changing.

mod names;
mod shadowed;

use std::collections::BTreeMap;

use signet_policy::{Bundle, BundleSource, Place, PolicyInfo, Problem};

/// Annotations that Signet gives a meaning; another one is likely a typing error.
const ANNOTATIONS: [&str; 5] = ["id", "owner", "mode", "control", "reason"];

/// Everything that is to be said about the policies of `bundle`, which was compiled of `source`.
pub(crate) fn lint(source: &BundleSource, bundle: &Bundle) -> Vec<Problem> {
    let files = Files(&source.files);
    let mut found: Vec<Problem> = Vec::new();
    for policy in bundle.policies() {
        found.extend(one(&files, &policy));
        found.extend(names::lint(&files, bundle, &policy));
    }
    found.extend(shadowed::lint(&files, bundle));
    found
}

/// The texts that places point into.
struct Files<'s>(&'s BTreeMap<String, String>);

impl Files<'_> {
    /// The place of a byte offset in the policy's file; without one, the policy's own.
    fn place<'p>(&self, policy: &PolicyInfo<'p>, offset: Option<usize>) -> Place<'p> {
        let core: &cedar_policy_core::ast::Policy = policy.cedar().as_ref();
        let begin = core.loc().map(cedar_policy_core::parser::Loc::start);
        match (self.0.get(policy.path()), offset.or(begin)) {
            (Some(text), Some(offset)) => Place::offset(policy.path(), text, offset),
            _ => Place::at(policy.path(), policy.line(), 1),
        }
    }
}

fn one(files: &Files<'_>, policy: &PolicyInfo<'_>) -> Vec<Problem> {
    let place = files.place(policy, None);
    let id = policy.id();
    let mut found = Vec::new();
    if policy.annotation("owner").is_none_or(str::is_empty) {
        let help = "write `@owner(\"a-team\")`, so that people know whom to ask";
        found.push(Problem::warning("missing_owner", &place, format!("`{id}` has no `@owner`")).help(help));
    }
    if policy.matches_everything() {
        let (code, verb, help) = match policy.is_forbid() {
            false => ("allows_everything", "permits", "name a principal, an action or a resource"),
            true => ("forbids_everything", "forbids", "nothing in the mesh will work while it is enforced"),
        };
        found.push(Problem::warning(code, &place, format!("`{id}` {verb} every call in the mesh")).help(help));
    }
    for name in policy.annotations().filter(|name| !ANNOTATIONS.contains(name)) {
        let help = format!("known are {}", ANNOTATIONS.map(|a| format!("`@{a}`")).join(", "));
        let message = format!("`@{name}` of `{id}` means nothing to Signet");
        let within = policy.text().find(&format!("@{name}"));
        let core: &cedar_policy_core::ast::Policy = policy.cedar().as_ref();
        let offset = within.zip(core.loc()).map(|(within, loc)| loc.start() + within);
        found.push(Problem::warning("unknown_annotation", &files.place(policy, offset), message).help(help));
    }
    found
}

#[cfg(test)]
mod tests;
