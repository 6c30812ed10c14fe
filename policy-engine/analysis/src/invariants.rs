//! The invariants that a repository states, proved: what one of them forbids, no request may be permitted.
//!
//! An invariant is a `forbid` that is not enforced. For each request type the solver looks for a request that the enforced
//! policies permit and the invariant forbids; where it finds none there is none. An invariant that fails to evaluate
//! forbids, as an enforced forbid does. Each example is decided again by the engine, under the policies and, as if it were
//! enforced, under the invariant.

use cedar_policy::Effect;
use serde::{Serialize, Serializer};
use signet_policy::{Bundle, BundleSource, PolicyInfo, Reason};

use crate::diff::{Answer, Asking, Declared, RequestType, Side, in_parallel, known_names};
use crate::example::Example;
use crate::solver::{Prover, SolverSettings, Undecided};
use crate::symbolic::overlapping;

const FOLDER: &str = "invariants/";
/// Permits every call, so that beside it only the invariants deny.
const OPEN: &str = "@id(\"signet-any\") permit(principal, action, resource);\n";

/// A request that is permitted and must not be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Breach {
    #[serde(flatten)]
    pub request: Example,
    /// The answer of the policies: who permits it.
    pub head: Answer,
}

/// Whether an invariant holds.
#[derive(Clone, Debug)]
pub enum Held {
    /// Proved for every request.
    Holds,
    Broken(Box<Breach>),
    NotDecided(Undecided),
}

/// One invariant and what was found out about it.
///
/// As JSON: `{"id", "path", "line", "result": "holds" | "broken" | "not_decided", "example", "why"}`.
#[derive(Clone, Debug)]
pub struct Invariant {
    pub id: String,
    pub path: String,
    pub line: u32,
    pub held: Held,
}

impl Invariant {
    /// As in the JSON.
    pub fn result(&self) -> &'static str {
        match self.held {
            Held::Holds => "holds",
            Held::Broken(_) => "broken",
            Held::NotDecided(_) => "not_decided",
        }
    }
}

impl Serialize for Invariant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Row<'a> {
            id: &'a str,
            path: &'a str,
            line: u32,
            result: &'a str,
            example: Option<&'a Breach>,
            why: Option<String>,
        }
        let (example, why) = match &self.held {
            Held::Holds => (None, None),
            Held::Broken(breach) => (Some(breach.as_ref()), None),
            Held::NotDecided(why) => (None, Some(why.to_string())),
        };
        let result = self.result();
        Row { id: &self.id, path: &self.path, line: self.line, result, example, why }.serialize(serializer)
    }
}

/// Proves each invariant of `source` for `bundle`, which was compiled of it. In order of path and position. Starts solver
/// processes; blocks. What could not be found out is [`Held::NotDecided`].
pub fn invariants(source: &BundleSource, bundle: &Bundle, settings: &SolverSettings) -> Vec<Invariant> {
    let Some(judge) = judge(source) else { return Vec::new() };
    let judge = match judge {
        Ok(judge) => judge,
        Err(why) => {
            let held = Held::NotDecided(Undecided::Failed(why));
            return vec![Invariant { id: String::new(), path: FOLDER.to_owned(), line: 0, held }];
        }
    };
    let stated: Vec<PolicyInfo<'_>> =
        judge.policies().filter(|policy| policy.path().starts_with("policies/invariants/")).collect();
    let side = Side::new(bundle);
    let (workloads, services) = known_names(&side, &Side::new(&judge));
    let types = match RequestType::all() {
        Ok(types) => types,
        Err(why) => {
            let held = Held::NotDecided(Undecided::Failed(why));
            return stated.iter().map(|policy| found(policy, held.clone())).collect();
        }
    };
    let work = |prover: &mut Prover, request: &RequestType| -> Vec<Held> {
        let declared = Declared::new(bundle, bundle, &request.action);
        let free: Vec<String> = services.iter().filter(|id| !declared.routed.contains(*id)).cloned().collect();
        let asking =
            Asking { base: &side, head: &side, request, declared: &declared, workloads: &workloads, services: &free };
        stated.iter().map(|policy| prove(prover, &asking, policy, &judge)).collect()
    };
    let none = |_: &RequestType, why: &Undecided| vec![Held::NotDecided(why.clone()); stated.len()];
    let mut held = vec![Held::Holds; stated.len()];
    for row in in_parallel(&types, settings, &work, &none) {
        for (slot, new) in held.iter_mut().zip(row) {
            // A breach is one whatever else is not decided.
            if matches!((&*slot, &new), (Held::Holds, _) | (Held::NotDecided(_), Held::Broken(_))) {
                *slot = new;
            }
        }
    }
    stated.iter().zip(held).map(|(policy, held)| found(policy, held)).collect()
}

fn found(policy: &PolicyInfo<'_>, held: Held) -> Invariant {
    let path = policy.path().strip_prefix("policies/").unwrap_or(policy.path()).to_owned();
    Invariant { id: policy.id().to_owned(), path, line: policy.line(), held }
}

/// A bundle that permits everything but what the invariants forbid; nothing when there is no invariant.
fn judge(source: &BundleSource) -> Option<Result<Bundle, String>> {
    let mut judge = BundleSource { commit: source.commit.clone(), ..BundleSource::default() };
    for (path, text) in source.files.iter().filter(|(path, _)| path.starts_with(FOLDER)) {
        judge.files.insert(format!("policies/{path}"), text.clone());
    }
    if judge.files.is_empty() {
        return None;
    }
    judge.files.insert("policies/signet-any.cedar".to_owned(), OPEN.to_owned());
    // With the facts and the issuers of the policies.
    let facts = source.files.iter().filter(|(path, _)| *path == "signet.yaml" || path.starts_with("keys/"));
    judge.files.extend(facts.map(|(path, text)| (path.clone(), text.clone())));
    let first = |problems: Vec<signet_policy::Problem>| problems.first().map(ToString::to_string).unwrap_or_default();
    Some(Bundle::compile(&judge).map_err(first))
}

fn prove(prover: &mut Prover, asking: &Asking<'_>, invariant: &PolicyInfo<'_>, judge: &Bundle) -> Held {
    if !invariant.is_forbid() || invariant.is_shadow() {
        let why =
            format!("invariant `{}` ({}): write it as a forbid without `@mode`", invariant.id(), invariant.path());
        return Held::NotDecided(Undecided::Failed(why));
    }
    let holds = |example: &Example| {
        let request = example.request();
        let under = judge.decide(&request);
        let names = under.policies.iter().any(|id| **id == *invariant.id());
        asking.head.bundle.decide(&request).is_allowed()
            && !under.is_allowed()
            && (names || under.reason == Reason::PolicyError)
    };
    for region in asking.declared.regions(asking.head.bundle, asking.head.bundle, asking.request) {
        let translated = asking.head.translator(asking.request, &region.head).policy(invariant.cedar());
        let forbids = match translated {
            Ok(forbids) => forbids,
            Err(why) => {
                let policy = format!("invariant `{}` ({}):", invariant.id(), invariant.path());
                return Held::NotDecided(Undecided::Untranslatable { policy, why: why.to_string() });
            }
        };
        let policies = match asking.head.policies(asking.request, &region.head) {
            Ok(policies) => policies,
            Err(why) => return Held::NotDecided(why),
        };
        let (permits, own): (Vec<_>, Vec<_>) = policies.into_iter().partition(|p| p.effect == Effect::Permit);
        let permits = overlapping(permits, &forbids);
        if permits.is_empty() {
            continue;
        }
        match asking.permitted_though(prover, &region, permits, own, forbids, &holds) {
            Ok(None) => {}
            Ok(Some(request)) => {
                let head = asking.head.bundle.decide(&request.request()).into();
                return Held::Broken(Box::new(Breach { request, head }));
            }
            Err(why) => return Held::NotDecided(why),
        }
    }
    Held::Holds
}
