//! From source text to policies: parse, name, validate. All problems are reported together, each with its place.

mod depth;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cedar_policy::{
    Effect as CedarEffect, Policy, PolicyId, PolicySet, ValidationError, ValidationMode, ValidationWarning, Validator,
};
use miette::Diagnostic;

use crate::problem::{Lines, Place, Problem};
use crate::reads::{Reads, reads_entities};
use crate::route::RouteTable;
use crate::schema::schema;
use crate::settings::{self, Settings};
use crate::source::BundleSource;

/// One policy with what the engine needs to know about it.
#[derive(Debug)]
pub(crate) struct CompiledPolicy {
    pub(crate) id: Arc<str>,
    pub(crate) path: String,
    pub(crate) line: u32,
    /// Its source, annotations included.
    pub(crate) text: String,
    pub(crate) policy: Policy,
    pub(crate) shadow: bool,
    pub(crate) reads: Reads,
    /// Whether its condition can ask about an entity: more than its scope, which the index tests.
    pub(crate) reads_entities: bool,
    /// Byte offset of `text` in its file.
    pub(crate) offset: usize,
}

impl CompiledPolicy {
    pub(crate) fn is_forbid(&self) -> bool {
        self.policy.effect() == CedarEffect::Forbid
    }
}

pub(crate) struct Compiled {
    pub(crate) settings: Settings,
    pub(crate) routes: BTreeMap<String, RouteTable>,
    /// In order of path and position.
    pub(crate) policies: Vec<CompiledPolicy>,
    pub(crate) warnings: Vec<Problem>,
}

pub(crate) fn compile(source: &BundleSource) -> Result<Compiled, Vec<Problem>> {
    let mut problems = Vec::new();
    let parsed = match source.files.get(settings::PATH) {
        Some(text) => Settings::parse(text, &source.files).map_err(|found| problems.extend(found)).ok(),
        None => {
            let missing = Problem::error("settings", &Place::file(settings::PATH), "the file is missing");
            problems.push(missing.help("write at least `version: 1`"));
            None
        }
    };
    let policies = read_folder(source, "policies/", &mut problems);
    let invariants = read_folder(source, "invariants/", &mut problems);
    let mut warnings = Vec::new();
    for set in [&policies, &invariants] {
        validate(source, set, &mut problems, &mut warnings);
    }
    match parsed {
        Some((settings, routes)) if problems.is_empty() => Ok(Compiled { settings, routes, policies, warnings }),
        _ => Err(problems),
    }
}

fn read_folder(source: &BundleSource, folder: &str, problems: &mut Vec<Problem>) -> Vec<CompiledPolicy> {
    let mut policies: Vec<CompiledPolicy> = Vec::new();
    let mut seen: HashMap<Arc<str>, (String, u32)> = HashMap::new();
    for (path, text) in source.files.iter().filter(|(p, _)| p.starts_with(folder) && p.ends_with(".cedar")) {
        for policy in parse_file(path, text, problems) {
            if let Some((other, line)) = seen.get(&policy.id) {
                let message = format!("the id `{}` is taken by the policy at {other}:{line}", policy.id);
                let place = Place::at(path, policy.line, 1);
                problems.push(Problem::error("duplicate_id", &place, message).help("give it another `@id`"));
                continue;
            }
            seen.insert(Arc::clone(&policy.id), (path.clone(), policy.line));
            policies.push(policy);
        }
    }
    policies
}

fn parse_file(path: &str, text: &str, problems: &mut Vec<Problem>) -> Vec<CompiledPolicy> {
    if let Some((offset, why)) = depth::too_deep(text) {
        let place = Place::offset(path, text, offset);
        problems.push(Problem::error("too_deep", &place, "the text nests too deeply to be read").help(why));
        return Vec::new();
    }
    let set: PolicySet = match text.parse() {
        Ok(set) => set,
        Err(errors) => {
            let errors: cedar_policy::ParseErrors = errors;
            let lines = Lines::new(text);
            problems.extend(errors.iter().map(|error| diagnostic("parse", path, &lines, error)));
            return Vec::new();
        }
    };
    for template in set.templates() {
        let offset = template.as_ref().loc().map_or(0, |loc| loc.start());
        let message = "the policy is a template, and a bundle has no links to fill its slots";
        let help = "write the principal and the resource out";
        problems.push(Problem::error("template", &Place::offset(path, text, offset), message).help(help));
    }
    let lines = Lines::new(text);
    let mut policies: Vec<CompiledPolicy> =
        set.policies().filter_map(|policy| compile_policy(path, text, &lines, policy, problems)).collect();
    policies.sort_by_key(|p| p.offset);
    policies
}

fn compile_policy(
    path: &str,
    file: &str,
    lines: &Lines<'_>,
    policy: &Policy,
    problems: &mut Vec<Problem>,
) -> Option<CompiledPolicy> {
    let loc = policy.as_ref().loc();
    let offset = loc.map_or(0, |loc| loc.start());
    let text = loc.and_then(|loc| loc.snippet()).unwrap_or(file).to_owned();
    let place = lines.place(path, offset);
    let id = match policy.annotation("id") {
        Some(id) if is_id(id) => id,
        Some(id) => {
            let message = format!("`@id(\"{id}\")` is not a usable id");
            let help = "use 1 to 128 letters, digits and `.`, `-`, `_`, `:`, `/`";
            problems.push(Problem::error("bad_id", &place, message).help(help));
            return None;
        }
        None => {
            let message = "the policy has no `@id`";
            problems
                .push(Problem::error("missing_id", &place, message).help("write `@id(\"a-unique-name\")` above it"));
            return None;
        }
    };
    let shadow = match policy.annotation("mode") {
        None | Some("enforce") => false,
        Some("shadow") => true,
        Some(mode) => {
            let message = format!("`@mode(\"{mode}\")` is not a mode");
            problems.push(Problem::error("bad_mode", &place, message).help("write `shadow` or `enforce`"));
            return None;
        }
    };
    Some(CompiledPolicy {
        id: id.into(),
        path: path.to_owned(),
        line: place.line,
        text,
        shadow,
        reads: policy.as_ref().non_scope_constraints().map_or(Reads::NONE, Reads::of),
        reads_entities: policy.as_ref().non_scope_constraints().is_some_and(reads_entities),
        offset,
        policy: policy.new_id(PolicyId::new(id)),
    })
}

fn is_id(id: &str) -> bool {
    (1..=128).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'/'))
}

fn validate(
    source: &BundleSource,
    policies: &[CompiledPolicy],
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Problem>,
) {
    let schema = match schema() {
        Ok(schema) => schema,
        Err(why) => {
            problems.push(Problem::error("schema", &Place::file("mesh.cedarschema"), why));
            return;
        }
    };
    let set = match PolicySet::from_policies(policies.iter().map(|p| p.policy.clone())) {
        Ok(set) => set,
        Err(error) => {
            problems.push(Problem::error("validation", &Place::file("policies"), error.to_string()));
            return;
        }
    };
    let result = Validator::new(schema.clone()).validate(&set, ValidationMode::Strict);
    let by_id: HashMap<&str, &CompiledPolicy> = policies.iter().map(|p| (&*p.id, p)).collect();
    let locate = |id: &PolicyId| by_id.get(AsRef::<str>::as_ref(id)).copied();
    // A bundle of thousands of policies in one file can have as many findings: its lines are counted once.
    let mut lines: HashMap<&str, Lines<'_>> = HashMap::new();
    let mut report = |code: &str, id: &PolicyId, found: &dyn Diagnostic| -> Problem {
        let policy = locate(id);
        let path = policy.map_or("policies", |p| p.path.as_str());
        let lines = lines.entry(path).or_insert_with(|| Lines::new(source.files.get(path).map_or("", String::as_str)));
        let mut problem = diagnostic(code, path, lines, found);
        if problem.line == 0
            && let Some(policy) = policy
        {
            (problem.line, problem.column) = (policy.line, 1);
        }
        problem
    };
    let mut errors = Vec::new();
    for error in result.validation_errors() {
        let code = match error {
            ValidationError::UnsafeOptionalAttributeAccess(_) => "unguarded_attribute",
            ValidationError::UnsafeTagAccess(_) => "unguarded_tag",
            _ => "validation",
        };
        errors.push(report(code, error.policy_id(), error));
    }
    let mut weak = Vec::new();
    for warning in result.validation_warnings() {
        let code = match warning {
            ValidationWarning::ImpossiblePolicy(_) | ValidationWarning::InvalidActionApplication(_) => "never_matches",
            _ => "validation_warning",
        };
        let found = report(code, warning.policy_id(), warning);
        weak.push(Problem { severity: crate::Severity::Warning, ..found });
    }
    problems.extend(in_order(errors));
    warnings.extend(in_order(weak));
}

/// By place, code and words. The validator finds things in no fixed order, and one mistake once for each action that it
/// concerns; the first of them is a refusal's reason, which has to be the same on every machine.
fn in_order(mut found: Vec<Problem>) -> Vec<Problem> {
    let key = |p: &Problem| (p.path.clone(), p.line, p.column, p.code.clone(), p.message.clone());
    found.sort_by_cached_key(key);
    found
}

/// A Cedar error as a problem; its first label is the place.
fn diagnostic(code: &str, path: &str, lines: &Lines<'_>, error: &dyn Diagnostic) -> Problem {
    let label = error.labels().and_then(|mut labels| labels.next());
    let place = label.map_or(Place::file(path), |label| lines.place(path, label.offset()));
    let mut message = error.to_string();
    if let Some(detail) = error.labels().and_then(|mut l| l.next()).and_then(|l| l.label().map(str::to_owned)) {
        message.push_str(": ");
        message.push_str(&detail);
    }
    let problem = Problem::error(code, &place, message);
    match error.help() {
        Some(help) => problem.help(help.to_string()),
        None => problem,
    }
}

#[cfg(test)]
mod tests;
