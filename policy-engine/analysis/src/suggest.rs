//! From recorded traffic to policies: the least that permits what was seen.
//!
//! Allowed calls are grouped by caller, target and action, and their paths into templates. Left out is what policies that
//! are tried out would deny, and what the bundle at hand denies: a grant that was taken back does not return by this way.
//!
//! INVARIANT: the policies that are suggested permit every call that they were made from. They permit no other caller and no
//! other target, and no path but those of the same shape.

mod paths;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Serialize;
use signet_policy::{Bundle, Effect, split_id};

use crate::recorded::{Recorded, Records, RecordsError, rfc3339};
use paths::{Shape, shapes};

/// More distinct paths of one flow than this are looked at no further: the shapes are clear by then.
const MOST_PATHS: usize = 10_000;
/// More ports than this are no list that anybody would review: any port then.
const MOST_PORTS: usize = 8;

/// What is suggested.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Suggestion {
    /// Policies as Cedar text, a file ready to be committed. Empty when there is nothing to permit.
    pub policies: String,
    /// How many they are.
    pub count: usize,
    /// Allowed calls that they were made from.
    pub calls: u64,
    /// Calls that were left out, by why.
    pub left_out: BTreeMap<&'static str, u64>,
}

/// Calls of one caller to one target.
#[derive(Default)]
struct Flow {
    calls: u64,
    /// Unix microseconds.
    last_seen_us: i64,
    /// HTTP: actions by path; more than enough of them are left out.
    paths: BTreeMap<String, BTreeSet<String>>,
    /// Actions by declared route.
    routes: BTreeMap<String, BTreeSet<String>>,
    /// gRPC: methods by service.
    methods: BTreeMap<String, BTreeSet<String>>,
    /// `tcp:connect`.
    ports: BTreeSet<u16>,
    /// The other actions.
    others: BTreeSet<String>,
}

/// Makes policies of the allowed calls in `records`. `bundle` is what is enforced: its facts and routes are relied on.
///
/// # Errors
/// When not all records could be read.
pub fn suggest(records: impl Records, bundle: &Bundle, owner: &str) -> Result<Suggestion, RecordsError> {
    let mut found = Suggestion::default();
    let mut flows: BTreeMap<(String, String), Flow> = BTreeMap::new();
    records.each(&mut |line| match use_of(line, bundle) {
        Ok(Some(path)) => {
            found.calls += line.count;
            let source = line.source_spiffe_id.as_deref().unwrap_or_default().to_owned();
            flows.entry((source, line.destination_service.to_string())).or_default().add(line, bundle, path);
        }
        Ok(None) => {}
        Err(why) => *found.left_out.entry(why).or_default() += line.count,
    })?;
    let mut text = String::new();
    for ((source, target), flow) in &flows {
        for (number, (actions, resource, condition)) in (1..).zip(flow.grants(target)) {
            found.count += 1;
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "{}",
                policy(&Head { source, target, flow, owner, number }, &actions, &resource, condition)
            );
        }
    }
    found.policies = text;
    Ok(found)
}

/// The path or method of a call that a grant should permit; nothing when the line is no allowed call.
fn use_of(line: &Recorded<'_>, bundle: &Bundle) -> Result<Option<String>, &'static str> {
    if !line.is_by_policy() || line.decision != Effect::Allow {
        return Ok(None);
    }
    if line.shadow_decision == Some(Effect::Deny) {
        return Err("a policy that is tried out would deny it");
    }
    match line.decide(bundle) {
        Ok(decision) if decision.is_allowed() => {}
        Ok(_) => return Err("it is denied today"),
        Err(_) => return Err("the record lacks what was asked"),
    }
    Ok(Some(line.path.as_deref().unwrap_or_default().to_owned()))
}

/// Actions, resource and condition of a grant.
type Grant = (BTreeSet<String>, String, Option<String>);

impl Flow {
    fn add(&mut self, line: &Recorded<'_>, bundle: &Bundle, path: String) {
        self.calls += line.count;
        self.last_seen_us = self.last_seen_us.max(line.time_us);
        let action = line.action.to_string();
        let service = &*line.destination_service;
        if action == "grpc:call" {
            let path = path.trim_start_matches('/');
            if let Some(route) = bundle.route_of(service, "POST", &format!("/{path}")) {
                self.routes.entry(route.id.to_owned()).or_default().insert(action);
            } else if let Some((service, method)) = path.rsplit_once('/') {
                self.methods.entry(service.to_owned()).or_default().insert(method.to_owned());
            }
        } else if action.starts_with("http:") {
            if let Some(route) = line.method().and_then(|method| bundle.route_of(service, method, &path)) {
                self.routes.entry(route.id.to_owned()).or_default().insert(action);
            } else if self.paths.len() < MOST_PATHS || self.paths.contains_key(&path) {
                self.paths.entry(path).or_default().insert(action);
            }
        } else if action == "tcp:connect" {
            self.ports.extend(line.port());
        } else {
            self.others.insert(action);
        }
    }

    fn grants(&self, target: &str) -> Vec<Grant> {
        let inside = split_id(target).is_some();
        let within = format!("resource in Mesh::Service::{}", quoted(target));
        let mut grants: Vec<Grant> = Vec::new();
        for (route, actions) in &self.routes {
            grants.push((actions.clone(), format!("resource == Mesh::Route::{}", quoted(route)), None));
        }
        // Shapes that are used in the same way are one grant.
        let mut by_actions: BTreeMap<BTreeSet<String>, BTreeSet<Shape>> = BTreeMap::new();
        let of_actions = |actions: &BTreeSet<String>| {
            let used = self.paths.iter().filter(|(_, used)| *used == actions);
            shapes(used.map(|(path, _)| path.as_str()))
        };
        for actions in self.paths.values().collect::<BTreeSet<_>>() {
            by_actions.entry(actions.clone()).or_default().extend(of_actions(actions));
        }
        for (actions, shapes) in by_actions {
            for shape in shapes {
                grants.push((actions.clone(), within.clone(), Some(shape.condition())));
            }
        }
        for (service, methods) in &self.methods {
            let list = methods.iter().map(|method| quoted(method)).collect::<Vec<_>>().join(", ");
            let condition = format!("context.service == {} && [{list}].contains(context.method)", quoted(service));
            grants.push((BTreeSet::from(["grpc:call".to_owned()]), within.clone(), Some(condition)));
        }
        let whole = match inside {
            true => format!("resource == Mesh::Service::{}", quoted(target)),
            false => format!("resource == Mesh::ExternalService::{}", quoted(target)),
        };
        if !self.ports.is_empty() {
            let list = self.ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let condition = format!("[{list}].contains(context.net.dst_port)");
            let condition = (self.ports.len() <= MOST_PORTS).then_some(condition);
            grants.push((BTreeSet::from(["tcp:connect".to_owned()]), whole.clone(), condition));
        }
        for action in &self.others {
            grants.push((BTreeSet::from([action.clone()]), whole.clone(), None));
        }
        grants
    }
}

/// What a policy's head is made from.
struct Head<'a> {
    source: &'a str,
    target: &'a str,
    flow: &'a Flow,
    owner: &'a str,
    /// Among those of its caller and target.
    number: u32,
}

fn policy(head: &Head<'_>, actions: &BTreeSet<String>, resource: &str, condition: Option<String>) -> String {
    let Head { source, target, flow, owner, number } = head;
    let last = |text: &str| text.rsplit('/').next().unwrap_or_default().to_owned();
    let caller = if source.is_empty() { "plaintext".to_owned() } else { last(source) };
    let domain = |text: &str| text.trim_start_matches("spiffe://").split('/').next().unwrap_or_default().to_owned();
    // Of one name in two domains: the domains are part of the id, so that ids are unique.
    let id = format!("suggested:{}:{caller}:{}:{}:{number}", domain(source), domain(target), last(target));
    let id: String =
        id.chars().map(|c| if c.is_ascii_alphanumeric() || "._-:/".contains(c) { c } else { '_' }).collect();
    let principal = match source.is_empty() {
        true => "principal is Mesh::Unauthenticated".to_owned(),
        false => format!("principal == Mesh::Workload::{}", quoted(source)),
    };
    let name = |action: &String| format!("Mesh::Action::{}", quoted(action));
    let action = match actions.iter().collect::<Vec<_>>().as_slice() {
        [one] => format!("action == {}", name(one)),
        many => format!("action in [{}]", many.iter().map(|a| name(a)).collect::<Vec<_>>().join(", ")),
    };
    let when = condition.map(|condition| format!("\nwhen {{ {condition} }}")).unwrap_or_default();
    let reason = format!("seen in {} calls from it, the last at {}", flow.calls, rfc3339(flow.last_seen_us));
    format!(
        "@id({})\n@owner({})\n@reason({})\npermit (\n  {principal},\n  {action},\n  {resource}\n){when};\n\n",
        quoted(&id),
        quoted(owner),
        quoted(&reason)
    )
}

/// A Cedar string literal. What is not plain ASCII is written as its code point, so that nothing can hide in it.
fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text))
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            ' '..='~' => out.push(c),
            // Writing to a string cannot fail.
            c => _ = write!(out, "\\u{{{:x}}}", u32::from(c)),
        }
    }
    out
}

#[cfg(test)]
mod tests;
