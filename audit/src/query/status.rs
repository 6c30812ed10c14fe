//! Counts and state: posture, logs, producers, bundles.

use std::collections::BTreeMap;

use serde::Serialize;
use sqlx::PgPool;
use uuid::Uuid;

use super::QueryError;

/// What one log recorded in a window that ends now. Counts include what aggregated refusals stand for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Posture {
    /// Origin of the log.
    pub log: String,
    /// The window, in seconds.
    pub window_seconds: i64,
    /// Decisions and refusals.
    pub decisions: i64,
    /// Of these, allowed.
    pub allowed: i64,
    /// Of these, denied (refusals included).
    pub denied: i64,
    /// Of the denied, connections refused before there was anything to decide.
    pub refusals: i64,
    /// Allowed calls over mutual TLS.
    pub allowed_encrypted: i64,
    /// Allowed calls whose caller lives in another trust domain than the service.
    pub cross_cluster: i64,
    /// Commit of the newest decision that names one.
    pub policy_commit: Option<String>,
    /// Digest of the newest decision's bundle.
    pub bundle_digest: Option<String>,
    /// When the newest record was made, Unix microseconds.
    pub newest_us: Option<i64>,
}

/// Counts per log over the last `window_seconds` (cut to a day), for the dashboard.
///
/// # Errors
/// When the store does not answer.
pub async fn posture(pool: &PgPool, window_seconds: u32) -> Result<Vec<Posture>, QueryError> {
    let window = i64::from(window_seconds.clamp(1, 86_400));
    let rows = sqlx::query_as(
        "WITH counted AS (
             SELECT r.log_id, sum(n.count)::bigint AS decisions,
                    COALESCE(sum(n.count) FILTER (WHERE r.allow), 0)::bigint AS allowed,
                    COALESCE(sum(n.count) FILTER (WHERE NOT r.allow), 0)::bigint AS denied,
                    COALESCE(sum(n.count) FILTER (WHERE r.kind = 2), 0)::bigint AS refusals,
                    COALESCE(sum(n.count) FILTER (WHERE r.allow AND t.value NOT IN ('', 'none')), 0)::bigint AS allowed_encrypted,
                    COALESCE(sum(n.count) FILTER (WHERE r.allow AND split_part(s.value, '/', 3) <> ''
                        AND split_part(s.value, '/', 3) <> split_part(v.value, '/', 1)), 0)::bigint AS cross_cluster
             FROM signet.records r
             CROSS JOIN LATERAL signet.count(r.rest) AS n(count)
             LEFT JOIN signet.shapes h ON h.id = r.shape_id
             LEFT JOIN signet.labels t ON t.id = h.tls_id
             LEFT JOIN signet.identities s ON s.id = r.source_id
             LEFT JOIN signet.services v ON v.id = r.service_id
             WHERE r.kind IN (0, 2) AND r.time >= now() - $1 * interval '1 second'
             GROUP BY r.log_id)
         SELECT l.origin AS log, $1 AS window_seconds, COALESCE(c.decisions, 0) AS decisions,
                COALESCE(c.allowed, 0) AS allowed, COALESCE(c.denied, 0) AS denied, COALESCE(c.refusals, 0) AS refusals,
                COALESCE(c.allowed_encrypted, 0) AS allowed_encrypted, COALESCE(c.cross_cluster, 0) AS cross_cluster,
                newest.policy_commit, newest.bundle_digest, newest.newest_us
         FROM signet.logs l
         LEFT JOIN counted c ON c.log_id = l.id
         LEFT JOIN LATERAL (
             SELECT k.value AS policy_commit, g.value AS bundle_digest, (extract(epoch FROM r.time) * 1000000)::bigint AS newest_us
             FROM signet.records r
             JOIN signet.shapes h ON h.id = r.shape_id
             JOIN signet.labels k ON k.id = h.commit_id
             JOIN signet.labels g ON g.id = h.digest_id
             WHERE r.log_id = l.id AND r.kind = 0 AND k.value <> ''
             ORDER BY r.leaf_index DESC LIMIT 1) newest ON true
         ORDER BY l.origin",
    )
    .bind(window)
    .fetch_all(pool)
    .await?;
    Ok(rows)
}

/// The state of one log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct LogStatus {
    /// Its origin.
    pub origin: String,
    /// Whose it is.
    pub trust_domain: String,
    /// C2SP verifier key.
    pub verifier_key: String,
    /// Leaves.
    pub size: i64,
    /// Size of the newest checkpoint.
    pub checkpoint_size: Option<i64>,
    /// When it was signed, Unix microseconds.
    pub checkpoint_us: Option<i64>,
    /// The signed note.
    pub checkpoint: Option<String>,
    /// Sequences that producers skipped and that have not come since.
    pub missing: i64,
    /// Epochs that are not closed.
    pub open_epochs: i64,
    /// Of these, those whose producer stopped without a word and has not come back.
    pub silent_epochs: i64,
}

/// Every log in the store.
///
/// # Errors
/// When the store does not answer.
pub async fn logs(pool: &PgPool) -> Result<Vec<LogStatus>, QueryError> {
    let rows = sqlx::query_as(
        "SELECT l.origin, l.trust_domain, l.verifier_key, l.size, c.size AS checkpoint_size,
                (extract(epoch FROM c.signed_at) * 1000000)::bigint AS checkpoint_us, c.note AS checkpoint,
                COALESCE(e.missing, 0)::bigint AS missing, COALESCE(e.open_epochs, 0)::bigint AS open_epochs,
                COALESCE(e.silent_epochs, 0)::bigint AS silent_epochs
         FROM signet.logs l
         LEFT JOIN LATERAL (SELECT * FROM signet.checkpoints c WHERE c.log_id = l.id ORDER BY c.size DESC LIMIT 1) c ON true
         LEFT JOIN LATERAL (SELECT sum(missing) AS missing, count(*) FILTER (WHERE NOT closed) AS open_epochs,
                                   count(*) FILTER (WHERE NOT closed AND silent_since IS NOT NULL) AS silent_epochs
                            FROM signet.epochs e WHERE e.log_id = l.id) e ON true
         ORDER BY l.origin",
    )
    .fetch_all(pool)
    .await?;
    Ok(rows)
}

/// One opening of a producer's spool, as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct EpochStatus {
    /// Origin of the log.
    pub log: String,
    /// SPIFFE ID of the producer.
    pub producer: String,
    /// The opening.
    pub epoch: Uuid,
    /// Last sequence committed.
    pub watermark: i64,
    /// Sequences skipped that have not come since.
    pub missing: i64,
    /// Whether the producer said that nothing follows.
    pub closed: bool,
    /// When the last batch came, Unix microseconds.
    pub last_seen_us: i64,
    /// The producer's clock minus ours, with the way between, at the last batch.
    pub clock_offset_us: Option<i64>,
    /// When the last of it came, of an open epoch whose producer stopped without a word; Unix microseconds.
    pub silent_since_us: Option<i64>,
}

/// Epochs, latest first, at most 1,000.
///
/// # Errors
/// When the store does not answer.
pub async fn epochs(pool: &PgPool) -> Result<Vec<EpochStatus>, QueryError> {
    let rows = sqlx::query_as(
        "SELECT l.origin AS log, e.producer, e.epoch, e.watermark, e.missing, e.closed,
                (extract(epoch FROM e.last_seen) * 1000000)::bigint AS last_seen_us, e.clock_offset_us,
                CASE WHEN NOT e.closed THEN (extract(epoch FROM e.silent_since) * 1000000)::bigint END AS silent_since_us
         FROM signet.epochs e JOIN signet.logs l ON l.id = e.log_id ORDER BY e.last_seen DESC, e.id DESC LIMIT 1000",
    )
    .fetch_all(pool)
    .await?;
    Ok(rows)
}

/// An alert that is on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Alert {
    /// Origin of the log.
    pub log: String,
    /// Stable cause, such as `spool_failed`.
    pub cause: String,
    /// A producer's SPIFFE ID, a log, or a part of the audit service.
    pub subject: String,
    /// What is known of it.
    pub detail: String,
    /// The machine whose audit service reports it; empty for what every replica sees.
    pub replica: String,
    /// Since when, Unix microseconds.
    pub since_us: i64,
}

/// The alerts that are on, latest first, at most 200. Those of a replica that fell silent a minute ago are not told any more.
///
/// # Errors
/// When the store does not answer.
pub async fn alerts(pool: &PgPool) -> Result<Vec<Alert>, QueryError> {
    let rows = sqlx::query_as(
        "SELECT l.origin AS log, a.cause, a.subject, a.detail, a.replica,
                (extract(epoch FROM a.raised_at) * 1000000)::bigint AS since_us
         FROM signet.alerts a JOIN signet.logs l ON l.id = a.log_id
         WHERE a.cleared_at IS NULL AND (a.replica = '' OR a.seen_at > now() - interval '1 minute')
         ORDER BY a.raised_at DESC, a.id DESC LIMIT 200",
    )
    .fetch_all(pool)
    .await?;
    Ok(rows)
}

/// A policy bundle as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoredBundle {
    /// `sha256:<hex>`.
    pub digest: String,
    /// The commits that it was read from, with who signed each, latest first.
    pub commits: Vec<(String, String)>,
    /// Path -> content.
    pub files: BTreeMap<String, String>,
}

impl StoredBundle {
    /// As the policy engine takes it, as `commit` (the latest one it was read from when that is not known).
    #[must_use]
    pub fn source(&self, commit: &str) -> signet_policy::BundleSource {
        let known = self.commits.iter().find(|(known, _)| known == commit).or(self.commits.first());
        signet_policy::BundleSource {
            commit: known.map_or_else(|| commit.to_owned(), |(commit, _)| commit.clone()),
            signer: known.map(|(_, signer)| signer.clone()).unwrap_or_default(),
            files: self.files.clone(),
        }
    }
}

/// The bundle with this digest, with its content; `None` when it was never stored.
///
/// # Errors
/// When the store does not answer.
pub async fn bundle(pool: &PgPool, digest: &str) -> Result<Option<StoredBundle>, QueryError> {
    let digest = super::without_nul(digest).into_owned();
    let commits: Vec<(String, String)> = sqlx::query_as(
        "SELECT commit, signer FROM signet.bundle_commits WHERE digest = $1 ORDER BY stored_at DESC, commit",
    )
    .bind(&digest)
    .fetch_all(pool)
    .await?;
    if commits.is_empty() {
        return Ok(None);
    }
    let files: Vec<(String, String)> =
        sqlx::query_as("SELECT path, content FROM signet.bundle_files WHERE digest = $1")
            .bind(&digest)
            .fetch_all(pool)
            .await?;
    Ok(Some(StoredBundle { digest, commits, files: files.into_iter().collect() }))
}

/// Digest, commit and signer of every stored bundle, newest first, without content, at most 1,000.
///
/// # Errors
/// When the store does not answer.
pub async fn bundles(pool: &PgPool) -> Result<Vec<(String, String, String)>, QueryError> {
    let rows =
        sqlx::query_as("SELECT digest, commit, signer FROM signet.bundle_commits ORDER BY stored_at DESC LIMIT 1000")
            .fetch_all(pool)
            .await?;
    Ok(rows)
}
