//! What a change permits and denies that was not so before, proved for each request type.
//!
//! For each request type of the schema the solver looks for a request that head allows and base does not, and the other
//! way round. Where it finds none there is none: that is a proof over all requests, not a search among some. Each example
//! is decided again by the engine under both bundles before it is shown. Shadow policies are left out; a forbid that
//! fails to evaluate denies, as in the engine; each side has the facts and the routes of its own `signet.yaml`.

mod region;
mod regions;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Serialize, Serializer};
use signet_policy::{Bundle, Decision};

pub(crate) use region::{Asking, Side};
pub(crate) use regions::{Declared, RequestType};

use crate::example::Example;
use crate::solver::{Prover, SolverSettings, Undecided};

/// What a change does to the requests of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Some are allowed that were denied, none the other way round.
    NewlyPermitted,
    /// Some are denied that were allowed, none the other way round.
    NewlyDenied,
    Both,
    /// Proved: the answer to every request is the same.
    NoChange,
    /// The solver could not say.
    NotDecided,
}

impl Change {
    /// As in the JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Change::NewlyPermitted => "newly_permitted",
            Change::NewlyDenied => "newly_denied",
            Change::Both => "both",
            Change::NoChange => "no_change",
            Change::NotDecided => "not_decided",
        }
    }
}

/// An answer of the engine, in brief.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// `allow` or `deny`.
    pub effect: &'static str,
    pub reason: &'static str,
    /// The `@id`s of the determining policies.
    pub policies: Vec<String>,
}

impl From<Decision> for Answer {
    fn from(decision: Decision) -> Self {
        Self {
            effect: decision.effect.as_str(),
            reason: decision.reason.as_str(),
            policies: decision.policies.iter().map(ToString::to_string).collect(),
        }
    }
}

/// A request whose answer changes, and both answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    #[serde(flatten)]
    pub request: Example,
    pub base: Answer,
    pub head: Answer,
}

impl Finding {
    pub(crate) fn new(request: Example, base: &Bundle, head: &Bundle) -> Self {
        let (base, head) = (base.decide(&request.request()).into(), head.decide(&request.request()).into());
        Self { request, base, head }
    }
}

/// The result for one request type.
///
/// As JSON: `{"principal", "action", "resource", "result", "example"}`. The example is a request with the answers of
/// `base` and `head`; for `both` it is the newly permitted one and holds the newly denied one as `newly_denied`.
#[derive(Clone, Debug)]
pub struct TypeDiff {
    /// `Mesh::Workload` or `Mesh::Unauthenticated`.
    pub principal: String,
    /// A Cedar action id: `http:GET`.
    pub action: String,
    /// `Mesh::Service`, `Mesh::Route` or `Mesh::ExternalService`.
    pub resource: String,
    pub result: Change,
    /// Also where the whole is not decided but this was found.
    pub newly_permitted: Option<Finding>,
    pub newly_denied: Option<Finding>,
    /// Why it is not decided.
    pub undecided: Option<Undecided>,
}

impl Serialize for TypeDiff {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shown<'a> {
            #[serde(flatten)]
            finding: &'a Finding,
            #[serde(skip_serializing_if = "Option::is_none")]
            newly_denied: Option<&'a Finding>,
        }
        #[derive(Serialize)]
        struct Row<'a> {
            principal: &'a str,
            action: &'a str,
            resource: &'a str,
            result: Change,
            example: Option<Shown<'a>>,
        }
        let example = match (&self.newly_permitted, &self.newly_denied) {
            (Some(finding), newly_denied) => Some(Shown { finding, newly_denied: newly_denied.as_ref() }),
            (None, Some(finding)) => Some(Shown { finding, newly_denied: None }),
            (None, None) => None,
        };
        let (principal, action, resource) = (&self.principal, &self.action, &self.resource);
        Row { principal, action, resource, result: self.result, example }.serialize(serializer)
    }
}

/// The results for all request types, in the order of the schema.
#[derive(Clone, Debug, Serialize)]
pub struct Diff {
    pub request_types: Vec<TypeDiff>,
}

impl Diff {
    /// Whether the solver could say everything.
    pub fn is_decided(&self) -> bool {
        self.request_types.iter().all(|t| t.result != Change::NotDecided)
    }

    /// Whether it is proved that nothing changes.
    pub fn is_unchanged(&self) -> bool {
        self.request_types.iter().all(|t| t.result == Change::NoChange)
    }
}

/// Proves what `head` permits and denies that `base` did not. Starts solver processes; blocks.
///
/// Never fails: what could not be found out is [`Change::NotDecided`] and says why.
pub fn diff(base: &Bundle, head: &Bundle, settings: &SolverSettings) -> Diff {
    let (before, after) = (Side::new(base), Side::new(head));
    let (workloads, services) = known_names(&before, &after);
    let request_types = match RequestType::all() {
        Ok(types) => types,
        Err(why) => {
            let nothing = TypeDiff::undecided("", "", "", Undecided::Failed(why));
            return Diff { request_types: vec![nothing] };
        }
    };
    let work = |prover: &mut Prover, request: &RequestType| {
        let declared = Declared::new(base, head, &request.action);
        let free: Vec<String> = services.iter().filter(|id| !declared.routed.contains(*id)).cloned().collect();
        let asking = Asking {
            base: &before,
            head: &after,
            request,
            declared: &declared,
            workloads: &workloads,
            services: &free,
        };
        let mut result = TypeDiff::new(request);
        for region in declared.regions(base, head, request) {
            let [permitted, denied] = asking.compare(prover, &region);
            result.add(permitted, denied);
        }
        result.finish()
    };
    let none = |request: &RequestType, why: &Undecided| {
        TypeDiff { undecided: Some(why.clone()), ..TypeDiff::new(request) }.finish()
    };
    Diff { request_types: in_parallel(&request_types, settings, &work, &none) }
}

/// Does `work` on every item with a prover of the worker's own; what has no prover becomes `none`. Keeps the order.
pub(crate) fn in_parallel<I: Sync, R: Send>(
    items: &[I],
    settings: &SolverSettings,
    work: &(impl Fn(&mut Prover, &I) -> R + Sync),
    none: &(impl Fn(&I, &Undecided) -> R + Sync),
) -> Vec<R> {
    /// The symbolic compiler and its encoder go down once for each policy of a question. Only what is used takes memory.
    const STACK_BYTES: usize = 256 << 20;
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(items.len())));
    let worker = || {
        let mut prover = Prover::new(settings);
        loop {
            let position = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(position) else { break };
            let result = match &mut prover {
                Ok(prover) => work(prover, item),
                Err(why) => none(item, why),
            };
            done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((position, result));
        }
    };
    // Where one thread starts, it does the work of those that do not.
    let none_started = std::thread::scope(|scope| {
        let start = |_| std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, worker);
        let started: Vec<_> = (0..settings.workers.clamp(1, items.len().max(1))).map(start).collect();
        if started.iter().any(Result::is_ok) { None } else { started.into_iter().find_map(Result::err) }
    });
    if let Some(error) = none_started {
        let why = Undecided::Failed(format!("cannot start a thread: {error}"));
        return items.iter().map(|item| none(item, &why)).collect();
    }
    let mut done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    done.sort_by_key(|(position, _)| *position);
    done.into_iter().map(|(_, result)| result).collect()
}

impl TypeDiff {
    fn new(request: &RequestType) -> Self {
        Self {
            principal: format!("Mesh::{}", request.caller),
            action: request.action.clone(),
            resource: format!("Mesh::{}", request.resource),
            result: Change::NoChange,
            newly_permitted: None,
            newly_denied: None,
            undecided: None,
        }
    }

    fn undecided(principal: &str, action: &str, resource: &str, why: Undecided) -> Self {
        Self {
            principal: principal.to_owned(),
            action: action.to_owned(),
            resource: resource.to_owned(),
            result: Change::NotDecided,
            newly_permitted: None,
            newly_denied: None,
            undecided: Some(why),
        }
    }

    fn add(&mut self, permitted: Result<Option<Finding>, Undecided>, denied: Result<Option<Finding>, Undecided>) {
        for (found, slot) in [(permitted, &mut self.newly_permitted), (denied, &mut self.newly_denied)] {
            match found {
                Ok(Some(finding)) if slot.is_none() => *slot = Some(finding),
                Ok(_) => {}
                Err(why) => self.undecided = Some(self.undecided.take().unwrap_or(why)),
            }
        }
    }

    fn finish(mut self) -> Self {
        self.result = match (&self.undecided, &self.newly_permitted, &self.newly_denied) {
            // Both were found: nothing that is undecided could add to it.
            (_, Some(_), Some(_)) => Change::Both,
            (Some(_), ..) => Change::NotDecided,
            (None, Some(_), None) => Change::NewlyPermitted,
            (None, None, Some(_)) => Change::NewlyDenied,
            (None, None, None) => Change::NoChange,
        };
        self
    }
}

/// SPIFFE IDs and services that the policies or the facts of either side name: those of policies that changed first.
pub(crate) fn known_names(base: &Side<'_>, head: &Side<'_>) -> (Vec<String>, Vec<String>) {
    /// More would make an example slow to find and no more readable.
    const MOST: usize = 200;
    let texts =
        |side: &Side<'_>| side.enforced.iter().map(|p| p.text().to_owned()).collect::<std::collections::HashSet<_>>();
    let (before, after) = (texts(base), texts(head));
    let changed = before.symmetric_difference(&after);
    let (mut workloads, mut services) = (Vec::new(), Vec::new());
    for text in changed {
        let quoted = |start: &'static str| {
            text.match_indices(start).filter_map(move |(at, _)| text.get(at + start.len()..)?.split('"').next())
        };
        workloads.extend(quoted("Mesh::Workload::\"").map(str::to_owned));
        services.extend(quoted("Mesh::Service::\"").map(str::to_owned));
        let accounts = quoted("Mesh::ServiceAccount::\"").filter_map(account);
        workloads.extend(accounts);
    }
    workloads.sort_unstable();
    services.sort_unstable();
    for side in [head, base] {
        let settings = side.bundle.settings();
        let members = settings.teams.values().flat_map(|team| &team.workloads).chain(settings.workloads.keys());
        workloads.extend(members.map(|id| account(id).unwrap_or_else(|| id.clone())));
        services.extend(settings.services.keys().cloned());
    }
    for list in [&mut workloads, &mut services] {
        let mut seen = std::collections::HashSet::new();
        list.retain(|id| seen.insert(id.clone()));
        list.truncate(MOST);
    }
    (workloads, services)
}

fn account(id: &str) -> Option<String> {
    signet_policy::split_id(id).map(|(td, ns, sa)| format!("spiffe://{td}/ns/{ns}/sa/{sa}"))
}
