//! Decision tables: `tests/**/*.yaml`, a repository's own statement of what its policies do.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_saphyr::Spanned;
use signet_policy::{BreakGlass, Bundle, BundleSource, Claims, Effect, Place, Problem, Question, Request};

/// Wednesday, 7 January 2026, noon UTC: when a case happens that gives no time.
const NOON: &str = "2026-01-07T12:00:00Z";
const HOUR_US: i64 = 3_600_000_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    cases: Vec<RawCase>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCase {
    name: Spanned<String>,
    principal: String,
    action: String,
    resource: String,
    path: Option<String>,
    /// The gRPC method as `package.Service/Method`.
    method: Option<String>,
    #[serde(default)]
    context: Overrides,
    expect: Effect,
    /// The `@id` that has to be among the determining policies.
    policy: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Overrides {
    src_ip: Option<IpAddr>,
    src_cluster: Option<String>,
    dst_cluster: Option<String>,
    dst_port: Option<u16>,
    host: Option<String>,
    sni: Option<String>,
    time: Option<String>,
    jwt: Option<Jwt>,
    break_glass: Option<Grant>,
}

/// The grant that covers a case, as `context.break_glass` of the schema.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Grant {
    ticket: String,
    #[serde(default)]
    approvers: BTreeSet<String>,
    /// An hour after the case when left out.
    until: Option<jiff::Timestamp>,
}

/// The end user of a case, as `context.jwt` of the schema.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Jwt {
    iss: String,
    sub: String,
    aud: BTreeSet<String>,
    scopes: BTreeSet<String>,
    groups: BTreeSet<String>,
    acr: Option<String>,
}

/// A case that was read and understood.
pub(crate) struct Case {
    path: String,
    line: u32,
    name: String,
    question: Question,
    expect: Effect,
    policy: Option<String>,
}

/// How a case went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TestResult {
    pub path: String,
    pub line: u32,
    pub name: String,
    pub passed: bool,
    /// What came instead, when it failed.
    pub message: Option<String>,
    /// The `@id`s of the policies that determined the answer.
    pub policies: Vec<String>,
}

impl fmt::Display for TestResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = self.message.as_deref().unwrap_or("passed");
        write!(f, "{}:{}: test `{}`: {verdict}", self.path, self.line, self.name)
    }
}

/// All cases of a bundle in order of path and position, and what is wrong with the files.
pub(crate) fn read(source: &BundleSource) -> (Vec<Case>, Vec<Problem>) {
    let (mut cases, mut problems) = (Vec::new(), Vec::new());
    for (path, text) in source.files.iter().filter(|(p, _)| p.starts_with("tests/")) {
        match serde_saphyr::from_str::<File>(text) {
            Ok(file) => {
                for raw in file.cases {
                    match understand(path, raw) {
                        Ok(case) => cases.push(case),
                        Err(problem) => problems.push(problem),
                    }
                }
            }
            Err(error) => {
                let number = |n: u64| u32::try_from(n).unwrap_or(0);
                let place = error
                    .location()
                    .map_or(Place::file(path), |at| Place::at(path, number(at.line()), number(at.column())));
                let text = error.without_snippet().to_string();
                let message = text.lines().next().unwrap_or("not valid YAML").trim();
                problems.push(Problem::error("tests", &place, message).help("see docs/policy-repository.md"));
            }
        }
    }
    (cases, problems)
}

fn understand(path: &str, raw: RawCase) -> Result<Case, Problem> {
    let line = u32::try_from(raw.name.referenced.line()).unwrap_or(0);
    let name = raw.name.value;
    let place = Place::at(path, line, 1);
    let fail = |why: String| Problem::error("tests", &place, format!("test `{name}`: {why}"));
    let time_text = raw.context.time.as_deref().unwrap_or(NOON);
    let time: jiff::Timestamp =
        time_text.parse().map_err(|_| fail(format!("`{time_text}` is not a time such as `{NOON}`")))?;
    let words = raw.method.as_deref().or(raw.path.as_deref());
    let mut question = Question::new(&raw.principal, &raw.action, &raw.resource, words, time.as_microsecond())
        .map_err(|e| fail(e.to_string()))?;
    let Overrides { src_ip, src_cluster, dst_cluster, dst_port, host, sni, time: _, jwt, break_glass } = raw.context;
    question.src_ip = src_ip.unwrap_or(question.src_ip);
    question.src_cluster = src_cluster.unwrap_or(question.src_cluster);
    question.dst_cluster = dst_cluster.unwrap_or(question.dst_cluster);
    question.dst_port = dst_port.unwrap_or(question.dst_port);
    question.host = host.unwrap_or(question.host);
    question.sni = sni;
    question.end_user = jwt.map(|Jwt { iss, sub, aud, scopes, groups, acr }| Claims {
        issuer: iss,
        subject: sub,
        audiences: aud,
        scopes,
        groups,
        acr,
    });
    question.break_glass = break_glass.map(|Grant { ticket, approvers, until }| BreakGlass {
        ticket,
        approvers,
        until_us: until.map_or(time.as_microsecond() + HOUR_US, |until| until.as_microsecond()),
    });
    Ok(Case { path: path.to_owned(), line, name, question, expect: raw.expect, policy: raw.policy })
}

impl Case {
    pub(crate) fn request(&self) -> Request<'_> {
        self.question.request()
    }

    pub(crate) fn run(&self, bundle: &Bundle) -> TestResult {
        let decision = bundle.decide(&self.request());
        let by = match decision.policies.as_slice() {
            [] => decision.reason.to_string(),
            ids => format!("{} by `{}`", decision.reason, ids.join("`, `")),
        };
        let wanted_policy = self.policy.as_ref().filter(|id| !decision.policies.iter().any(|p| **p == ***id));
        let message = if decision.effect != self.expect {
            Some(format!("expected {}, got {} ({by})", self.expect, decision.effect))
        } else {
            wanted_policy.map(|id| format!("expected policy `{id}` to decide, got {} ({by})", decision.effect))
        };
        TestResult {
            path: self.path.clone(),
            line: self.line,
            name: self.name.clone(),
            passed: message.is_none(),
            message,
            policies: decision.policies.iter().map(ToString::to_string).collect(),
        }
    }
}
