//! `signet.yaml`: entity facts, teams, defaults and floors of a bundle.
//!
//! Everything a policy can know about a service beyond its name is written here, so that the bundle digest covers it.
//! Unknown fields are errors. Trusted signers are deliberately absent: they are the control plane's own configuration.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::end_users::EndUsers;
use crate::problem::{Place, Problem};
use crate::route::RouteTable;

/// The file's path in a policy repository.
pub(crate) const PATH: &str = "signet.yaml";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Format of this file: 1.
    pub version: u32,
    #[serde(default)]
    pub defaults: Defaults,
    /// By `<trust domain>/<namespace>/<name>`.
    #[serde(default)]
    pub services: BTreeMap<String, ServiceFacts>,
    /// By `<trust domain>/<namespace>/<service account>`.
    #[serde(default)]
    pub workloads: BTreeMap<String, WorkloadFacts>,
    /// Destinations outside the mesh, by an id of the repository's own choice.
    #[serde(default)]
    pub external_services: BTreeMap<String, ExternalFacts>,
    #[serde(default)]
    pub teams: BTreeMap<String, Team>,
    #[serde(default)]
    pub floors: Floors,
    #[serde(default)]
    pub personal: Personal,
    /// Whose tokens say who the end user is.
    #[serde(default)]
    pub end_users: EndUsers,
    /// Whether control may go back to the last bundle by itself.
    #[serde(default)]
    pub automatic_return: bool,
}

/// What holds for a service or a workload that is not listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Defaults {
    pub env: Env,
    pub data_class: DataClass,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServiceFacts {
    pub env: Option<Env>,
    pub data_class: Option<DataClass>,
    pub teams: BTreeSet<String>,
    pub tags: BTreeMap<String, String>,
    /// `GET /accounts/{id}` or `bank.v1.Payments/Pay`. Where there is one, an unmatched request is denied.
    pub routes: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkloadFacts {
    pub env: Option<Env>,
    pub tags: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExternalFacts {
    pub host: String,
    #[serde(default)]
    pub data_class: Option<DataClass>,
    #[serde(default)]
    pub teams: BTreeSet<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Team {
    /// SPIFFE IDs or `<trust domain>/<namespace>/<service account>`.
    pub workloads: BTreeSet<String>,
}

/// What manifests and sidecar configuration cannot weaken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Floors {
    /// Least durability of records.
    pub durability: Option<Durability>,
    /// What a full spool does.
    pub on_full: Option<OnFull>,
    /// Whether every inbound port has to be strict.
    pub strict: bool,
}

/// Which recorded values are personal data and so committed to with a salt of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Personal {
    pub paths: bool,
}

/// From weakest to strongest, so that a floor is `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    Memory,
    Disk,
    Sync,
}

/// From weakest to strongest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFull {
    Allow,
    Deny,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Env {
    #[default]
    Prod,
    Staging,
    Dev,
}

impl Env {
    pub fn as_str(self) -> &'static str {
        match self {
            Env::Prod => "prod",
            Env::Staging => "staging",
            Env::Dev => "dev",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataClass {
    Public,
    #[default]
    Internal,
    Confidential,
    Restricted,
}

impl DataClass {
    pub fn as_str(self) -> &'static str {
        match self {
            DataClass::Public => "public",
            DataClass::Internal => "internal",
            DataClass::Confidential => "confidential",
            DataClass::Restricted => "restricted",
        }
    }
}

/// `<trust domain>/<namespace>/<name>` taken apart; `None` when it has another shape.
pub fn split_id(id: &str) -> Option<(&str, &str, &str)> {
    let mut parts = id.split('/');
    let (td, ns, name) = (parts.next()?, parts.next()?, parts.next()?);
    (parts.next().is_none() && is_trust_domain(td) && is_segment(ns) && is_segment(name)).then_some((td, ns, name))
}

/// A trust domain name as SPIFFE-ID section 2.1 has it.
pub(crate) fn is_trust_domain(text: &str) -> bool {
    (1..=255).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_'))
}

/// A path segment as SPIFFE-ID section 2.2 has it.
pub(crate) fn is_segment(text: &str) -> bool {
    !matches!(text, "" | "." | "..")
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

impl Settings {
    /// Parses `signet.yaml` and the routes in it, or says everything that is wrong with it. `files` are the bundle's.
    pub(crate) fn parse(
        text: &str,
        files: &BTreeMap<String, String>,
    ) -> Result<(Self, BTreeMap<String, RouteTable>), Vec<Problem>> {
        let settings: Settings = serde_saphyr::from_str(text).map_err(|error| vec![yaml_problem(PATH, &error)])?;
        let mut problems = Vec::new();
        let mut refuse = |needle: &str, message: String, help: &str| {
            problems.push(Problem::error("settings", &place_of(text, needle), message).help(help));
        };
        if settings.version != 1 {
            refuse("version", format!("`version` is `{}`", settings.version), "this Signet reads version 1");
        }
        for (what, id) in (settings.services.keys().map(|id| ("services", id)))
            .chain(settings.workloads.keys().map(|id| ("workloads", id)))
        {
            if split_id(id).is_none() {
                refuse(
                    id,
                    format!("`{id}` in `{what}` is not `<trust domain>/<namespace>/<name>`"),
                    "write for example `east.bank.example/bank/ledger`",
                );
            }
        }
        for (team, members) in &settings.teams {
            for workload in &members.workloads {
                if split_id(workload).is_none() && !workload.starts_with("spiffe://") {
                    refuse(
                        workload,
                        format!("`{workload}` in `teams.{team}.workloads` is no workload"),
                        "write a SPIFFE ID or `<trust domain>/<namespace>/<service account>`",
                    );
                }
            }
        }
        let used = (settings.services.iter().flat_map(|(id, s)| s.teams.iter().map(move |t| (id, t))))
            .chain(settings.external_services.iter().flat_map(|(id, s)| s.teams.iter().map(move |t| (id, t))));
        for (id, team) in used {
            if !settings.teams.contains_key(team) {
                refuse(
                    team,
                    format!("`{id}` is in team `{team}`, which `teams` does not declare"),
                    "declare the team under `teams`, with `workloads: []` if it has none",
                );
            }
        }
        for (place, message, help) in settings.end_users.check(files) {
            refuse(&place, message, help);
        }
        let mut tables = BTreeMap::new();
        for (id, facts) in &settings.services {
            match RouteTable::new(id, &facts.routes) {
                Ok(table) if facts.routes.is_empty() => drop(table),
                Ok(table) => {
                    tables.insert(id.clone(), table);
                }
                Err((route, why)) => refuse(
                    &route,
                    format!("route `{route}` of `{id}`: {why}"),
                    "write `GET /accounts/{id}` for HTTP or `package.Service/Method` for gRPC",
                ),
            }
        }
        if problems.is_empty() { Ok((settings, tables)) } else { Err(problems) }
    }
}

/// A YAML error as a problem of the file at `path`.
pub(crate) fn yaml_problem(path: &str, error: &serde_saphyr::Error) -> Problem {
    let place = error.location().map_or(Place::file(path), |at| {
        Place::at(path, u32::try_from(at.line()).unwrap_or(0), u32::try_from(at.column()).unwrap_or(0))
    });
    // The first line says what is wrong; the rest draws the place, which the problem has already.
    let text = error.without_snippet().to_string();
    let message = text.lines().next().unwrap_or("not valid YAML").trim().to_owned();
    Problem::error("settings", &place, message).help("compare with docs/policy-repository.md")
}

/// The first line that begins with `needle` or else holds it, for problems found after parsing.
fn place_of<'a>(text: &str, needle: &str) -> Place<'a> {
    let begins = |line: &&str| line.trim_start().trim_start_matches(['-', ' ', '"', '\'']).starts_with(needle);
    let found = text.lines().position(|l| begins(&l)).or_else(|| text.lines().position(|l| l.contains(needle)));
    match found {
        Some(index) => {
            let line = text.lines().nth(index).unwrap_or("");
            let column = line.find(needle).map_or(1, |c| c + 1);
            Place::at(PATH, u32::try_from(index + 1).unwrap_or(0), u32::try_from(column).unwrap_or(1))
        }
        None => Place::file(PATH),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    fn problem(text: &str) -> Problem {
        Settings::parse(text, &BTreeMap::new()).unwrap_err().remove(0)
    }

    #[test]
    fn defaults_are_production_and_internal() {
        let (settings, routes) = Settings::parse("version: 1\n", &BTreeMap::new()).unwrap();
        assert_eq!(settings.defaults, Defaults { env: Env::Prod, data_class: DataClass::Internal });
        assert!(routes.is_empty() && !settings.automatic_return);
    }

    #[test]
    fn unknown_field_is_refused_with_line_and_name() {
        let p = problem("version: 1\nservices:\n  a.b/c/d:\n    envv: prod\n");
        assert_eq!((p.path.as_str(), p.line), ("signet.yaml", 4));
        assert!(p.message.contains("envv"), "{p}");
    }

    #[test]
    fn trusted_signers_do_not_belong_here() {
        assert!(problem("version: 1\ntrusted_signers: x\n").message.contains("trusted_signers"));
    }

    #[test]
    fn semantic_errors_name_their_line() {
        let table = [
            ("version: 2\n", 1, "version"),
            ("version: 1\nservices:\n  ledger: {}\n", 3, "ledger"),
            ("version: 1\nservices:\n  a.b/c/d:\n    routes: [\"GET accounts\"]\n", 4, "GET accounts"),
            ("version: 1\nservices:\n  a.b/c/d:\n    teams: [core]\n", 4, "core"),
            ("version: 1\nteams:\n  core:\n    workloads: [web]\n", 4, "web"),
        ];
        for (text, line, word) in table {
            let p = problem(text);
            assert_eq!(p.line, line, "{text}: {p}");
            assert!(p.message.contains(word), "{p}");
        }
    }
}
