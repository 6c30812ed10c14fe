//! Why a call was allowed or denied: computes the decision again from the recorded bundle and context.

use serde::Serialize;
use sqlx::PgPool;
use uuid::Uuid;

use crate::query::{self, DecisionRow, QueryError};

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
    /// What was there instead.
    pub actual: String,
    /// What the clause wanted.
    pub expected: String,
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

fn recompute(full: query::FullRecord, bundle: Option<query::StoredBundle>) -> Why {
    let because = match full.record.kind {
        signet_spool::Kind::Decision if bundle.is_none() => "the policy bundle that it names was never stored",
        signet_spool::Kind::Decision => "not yet",
        _ => "no policy decided it",
    };
    Why {
        context: full.record.context,
        detail: full.record.detail,
        verdict: Verdict::NotRecomputable { because: because.to_owned() },
        signer: None,
        determining: Vec::new(),
        nearest: Vec::new(),
        explanation: String::new(),
        row: full.row,
    }
}
