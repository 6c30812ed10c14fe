//! `signet audit proof ID`: one record as a C2SP tlog-proof file.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use signet_audit::merkle::inclusion_proof;
use signet_audit::proof::Proof;
use signet_audit::query::{self, CosignedCheckpoint};
use uuid::Uuid;

use super::access::{Accesses, counts};
use super::export::whole;
use super::failure;
use crate::arguments::Global;
use crate::context::Context;
use crate::failure::Failure;
use crate::output;

/// How long a checkpoint may take to cover a record that was just made; one is signed each second.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(100);

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The decision or event, as `signet audit query` and `x-signet-decision` name it.
    id: Uuid,
    /// Where to; `-` for standard output.
    #[arg(long, value_name = "FILE", default_value = "-")]
    out: PathBuf,
}

pub(super) async fn run(global: &Global, arguments: Arguments) -> Result<ExitCode, Failure> {
    let context = Context::load(global.context.as_deref())?;
    let pool = query::connect(&context.postgres).map_err(|error| failure(&error))?;
    let found = query::by_id(&pool, arguments.id).await.map_err(|error| failure(&error))?;
    // The log of the record; where there is no record, every log was searched.
    let log = found.as_ref().map(|found| found.row.log.clone());
    let cluster = context.clusters.iter().find(|(_, cluster)| Some(&cluster.log_origin) == log.as_ref());
    let asked = serde_json::json!({ "proof_of": arguments.id });
    let cluster = cluster.map(|(name, _)| name.as_str());
    Accesses::answered(&context, cluster, "evidence", &asked, &counts(log.as_deref().into_iter())).await?;
    let found = found.ok_or_else(|| {
        Failure::failed(format!("there is no record `{}`", arguments.id))
            .at("the audit store")
            .next("records arrive within a second of the call; check the id, or list them with `signet audit query`")
    })?;
    let (log, index) = (&found.row.log, found.row.leaf_index.unsigned_abs());
    let CosignedCheckpoint { size, note } = covering(&pool, log, index).await?;
    let tiles = query::tiles(&pool, log, [index], &[size]).await.map_err(|error| failure(&error))?;
    let hashes = inclusion_proof(&tiles, index, size).map_err(|missing| {
        Failure::failed(format!("the store lacks hashes of log `{log}`: {missing}"))
            .next("`signet audit verify` says what is wrong with the log")
    })?;
    let proof = Proof { index, canonical: found.canonical, hashes, checkpoint: note }.to_string();
    if arguments.out == Path::new("-") {
        output::line(proof.trim_end())?;
    } else {
        whole(&arguments.out, proof.as_bytes())?;
        eprintln!("{0}; check it with `signet audit verify {0} --key KEY`", arguments.out.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// A checkpoint that covers a leaf, as soon as there is one.
async fn covering(pool: &sqlx::PgPool, log: &str, index: u64) -> Result<CosignedCheckpoint, Failure> {
    let deadline = tokio::time::Instant::now() + CHECKPOINT_TIMEOUT;
    loop {
        let found = query::cosigned_checkpoint(pool, log, index).await.map_err(|error| failure(&error))?;
        if let Some(found) = found {
            return Ok(found);
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(Failure::failed("no checkpoint covers the record yet")
                .at(log)
                .next("`signet audit status` says whether checkpoints are signed"));
        }
        tokio::time::sleep(POLL).await;
    }
}
