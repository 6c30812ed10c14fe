//! Why a call was allowed or denied: computes the decision again from the recorded bundle and context.

use serde::Serialize;
use signet_policy::Bundle;
use signet_spool::{Kind, Record};
use sqlx::PgPool;
use uuid::Uuid;

use crate::query::{self, DecisionRow, FullRecord, QueryError, StoredBundle};

mod facts;
mod reason;

use facts::Facts;

/// Whether the decision, computed again, is the recorded one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// The same result by the same policies.
    Agrees,
    /// Another result: the log, the bundle or the engine is not what it was.
    Disagrees {
        /// What came out now.
        now: String,
    },
    /// There is nothing to compute, or not everything needed is there.
    NotRecomputable {
        /// Why.
        because: String,
    },
}

/// A policy, with its place in the repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyText {
    /// Its `@id`.
    pub id: String,
    /// File in the policy repository.
    pub path: String,
    /// Line of the file, from 1.
    pub line: u32,
    /// Its source.
    pub text: String,
}

/// A clause of a policy that did not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailedClause {
    /// The clause, as written.
    pub text: String,
    /// Line of the file, from 1.
    pub line: u32,
    /// What the clause wanted: Cedar gives no more than its text.
    pub expected: String,
    /// What the request had instead.
    pub actual: String,
}

/// A permit that came near, and what kept it from applying.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NearestPermit {
    /// The policy.
    pub policy: PolicyText,
    /// The clauses that failed.
    pub failed: Vec<FailedClause>,
}

/// The answer to `signet why`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Why {
    /// The row.
    pub row: DecisionRow,
    /// Every value that a policy could read.
    pub context: Vec<(String, String)>,
    /// Text or JSON of an event.
    pub detail: Option<String>,
    /// Whether the decision can be computed again, and comes out the same.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Who signed the commit, where the bundle is stored.
    pub signer: Option<String>,
    /// The policies that determined the decision.
    pub determining: Vec<PolicyText>,
    /// For a default deny, the permits that came nearest.
    pub nearest: Vec<NearestPermit>,
    /// The same, for people.
    pub explanation: String,
}

/// Explains a record; `None` when there is none with this id.
///
/// # Errors
/// When the store does not answer, or the stored bytes do not decode.
pub async fn explain(pool: &PgPool, id: Uuid) -> Result<Option<Why>, QueryError> {
    let Some(full) = query::by_id(pool, id).await? else {
        return Ok(None);
    };
    let bundle = query::bundle(pool, &full.record.bundle_digest).await?;
    Ok(Some(recompute(full, bundle)))
}

fn recompute(full: FullRecord, bundle: Option<StoredBundle>) -> Why {
    let signer = bundle
        .as_ref()
        .map(|bundle| bundle.source(&full.record.policy_commit).signer)
        .filter(|signer| !signer.is_empty());
    let answer = answer(&full.record, bundle.as_ref());
    Why {
        row: full.row,
        context: full.record.context,
        detail: full.record.detail,
        verdict: answer.verdict,
        signer,
        determining: answer.determining,
        nearest: answer.nearest,
        explanation: answer.explanation,
    }
}

struct Answer {
    verdict: Verdict,
    determining: Vec<PolicyText>,
    nearest: Vec<NearestPermit>,
    explanation: String,
}

impl Answer {
    fn plain(because: impl Into<String>, explanation: String) -> Self {
        let verdict = Verdict::NotRecomputable { because: because.into() };
        Self { verdict, determining: Vec::new(), nearest: Vec::new(), explanation }
    }
}

fn answer(record: &Record, bundle: Option<&StoredBundle>) -> Answer {
    if record.kind != Kind::Decision || !reason::is_of_policy(record) {
        return Answer::plain("no policy decided it", reason::explain(record));
    }
    let Some(bundle) = bundle else {
        let because = format!("the policy bundle `{}` was never stored", record.bundle_digest);
        return Answer::plain(because, reason::explain(record));
    };
    let compiled = match Bundle::compile(&bundle.source(&record.policy_commit)) {
        Ok(compiled) => compiled,
        Err(problems) => {
            let first = problems.first().map(ToString::to_string).unwrap_or_default();
            let because = format!("this version of the policy engine does not take the stored bundle: {first}");
            return Answer::plain(because, reason::explain(record));
        }
    };
    if compiled.digest() != record.bundle_digest {
        let now = format!("the stored bundle has digest `{}`", compiled.digest());
        return Answer { verdict: Verdict::Disagrees { now }, ..Answer::plain("", reason::explain(record)) };
    }
    let facts = Facts::of(record);
    let request = match facts.request() {
        Ok(request) => request,
        Err(because) => return Answer::plain(because, reason::explain(record)),
    };
    let explanation = compiled.explain(&request);
    let decision = &explanation.decision;
    let mut then: Vec<&str> = record.policy_ids.iter().map(AsRef::as_ref).collect();
    let mut now: Vec<&str> = decision.policies.iter().map(AsRef::as_ref).collect();
    then.sort_unstable();
    now.sort_unstable();
    let verdict = if decision.is_allowed() == record.allow && then == now && decision.reason.as_str() == record.reason {
        Verdict::Agrees
    } else {
        let policies = if now.is_empty() { "no policy".to_owned() } else { now.join(", ") };
        Verdict::Disagrees { now: format!("{} ({}) by {policies}", decision.effect, decision.reason) }
    };
    Answer {
        verdict,
        determining: explanation.determining.iter().map(PolicyText::from).collect(),
        nearest: explanation
            .nearest
            .iter()
            .map(|near| NearestPermit {
                policy: PolicyText::from(&near.policy),
                failed: near
                    .failed
                    .iter()
                    .map(|clause| FailedClause {
                        text: clause.text.clone(),
                        line: clause.line,
                        expected: clause.text.clone(),
                        actual: clause.actual.clone(),
                    })
                    .collect(),
            })
            .collect(),
        explanation: explanation.to_string(),
    }
}

impl From<&signet_policy::PolicyRef> for PolicyText {
    fn from(policy: &signet_policy::PolicyRef) -> Self {
        Self { id: policy.id.to_string(), path: policy.path.clone(), line: policy.line, text: policy.text.clone() }
    }
}
