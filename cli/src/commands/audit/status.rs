//! `signet audit status`: whether the audit log is whole and every part of it works.
//!
//! Exits 1 on a gap or a failing part, and only then; what may become one is a warning.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::ExitCode;

use http::StatusCode;
use serde::Serialize;
use signet_audit::note::VerifierKey;
use signet_audit::query::{self, Alert, EpochStatus, LogStatus};

use crate::arguments::Global;
use crate::context::{Cluster, Context};
use crate::demo;
use crate::failure::Failure;
use crate::output::{self, Format, Row};

/// A checkpoint follows growth within a second; one this far behind means that signing has stopped.
const CHECKPOINT_LATE_US: i64 = 10_000_000;
/// A producer whose clock is this far from the audit service's is named.
const CLOCK_OFFSET_US: u64 = 1_000_000;
/// For how long the clock of a producer that is silent counts.
const RECENT_US: i64 = 3_600_000_000;

#[derive(clap::Args)]
pub(crate) struct Arguments {}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Warning,
    Gap,
    Failed,
}

/// One thing that was looked at.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Finding {
    /// The log's origin or the component.
    of: String,
    part: &'static str,
    state: State,
    detail: String,
    /// What to do; empty when all is well.
    next: String,
}

impl Finding {
    fn ok(of: &str, part: &'static str, detail: impl Into<String>) -> Self {
        Self { of: of.to_owned(), part, state: State::Ok, detail: detail.into(), next: String::new() }
    }

    fn bad(of: &str, part: &'static str, state: State, detail: impl Into<String>, next: impl Into<String>) -> Self {
        Self { of: of.to_owned(), part, state, detail: detail.into(), next: next.into() }
    }
}

impl Row for Finding {
    const COLUMNS: &'static [&'static str] = &["of", "part", "state", "detail"];

    fn cells(&self) -> Vec<String> {
        let state = match self.state {
            State::Ok => "ok",
            State::Warning => "warning",
            State::Gap => "GAP",
            State::Failed => "FAILED",
        };
        vec![self.of.clone(), self.part.to_owned(), state.to_owned(), self.detail.clone()]
    }
}

#[derive(Serialize)]
struct Report {
    ok: bool,
    logs: Vec<LogStatus>,
    alerts: Vec<Alert>,
    findings: Vec<Finding>,
}

pub(crate) async fn run(global: &Global, _arguments: Arguments) -> Result<ExitCode, Failure> {
    let context = Context::load(global.context.as_deref())?;
    let pool = query::connect(&context.postgres).map_err(|error| super::failure(&error))?;
    let logs = query::logs(&pool).await.map_err(|error| super::failure(&error))?;
    let epochs = query::epochs(&pool).await.map_err(|error| super::failure(&error))?;
    let alerts = query::alerts(&pool).await.map_err(|error| super::failure(&error))?;
    let now = jiff::Timestamp::now().as_microsecond();
    let mut findings = Vec::new();
    for (name, cluster) in &context.clusters {
        findings.push(service(name, cluster).await);
        match logs.iter().find(|log| log.origin == cluster.log_origin) {
            Some(log) => findings.extend(of_log(log, &cluster.log_key, now)),
            None => findings.push(Finding::bad(
                &cluster.log_origin,
                "log",
                State::Failed,
                "the audit store does not have this log",
                "restore the audit store that the context names, or the context",
            )),
        }
    }
    findings.extend(of_producers(&epochs, now));
    findings.extend(alerts.iter().filter_map(of_alert));
    let ok = findings.iter().all(|finding| matches!(finding.state, State::Ok | State::Warning));
    match global.output {
        Format::Table => {
            output::rows(Format::Table, &findings, "The context names no cluster.")?;
            for finding in findings.iter().filter(|finding| !finding.next.is_empty()) {
                eprintln!(" next: {} {}: {}", output::printable(&finding.of), finding.part, finding.next);
            }
        }
        Format::Jsonl => findings.iter().try_for_each(|finding| output::value(Format::Jsonl, finding))?,
        format => output::value(format, &Report { ok, logs, alerts, findings })?,
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether the audit service of a cluster is ready, as it says itself.
async fn service(name: &str, cluster: &Cluster) -> Finding {
    let of = format!("{name}/audit");
    let Some(address) = cluster.admin.get("audit") else {
        return Finding::bad(&of, "service", State::Warning, "the context does not say where to ask it", "see its log");
    };
    let Ok(address) = address.parse::<SocketAddr>() else {
        let detail = format!("`{address}` is no address");
        return Finding::bad(&of, "service", State::Failed, detail, "restore the context file");
    };
    match demo::probe(address, "/readyz").await {
        Ok((StatusCode::OK, _)) => Finding::ok(&of, "service", "ready"),
        Ok((_, body)) => {
            let body = body.split_whitespace().collect::<Vec<_>>().join(" ");
            Finding::bad(&of, "service", State::Failed, body, format!("see its log, and http://{address}/readyz"))
        }
        Err(error) => Finding::bad(&of, "service", State::Failed, format!("{error:#}"), "see its log; is it running?"),
    }
}

/// What the store says of one log.
fn of_log(log: &LogStatus, key: &str, now: i64) -> Vec<Finding> {
    let covered = log.checkpoint_size.unwrap_or_default();
    let behind = log.size - covered;
    let late = now - log.checkpoint_us.unwrap_or_default() > CHECKPOINT_LATE_US;
    let next = "see the audit service's log, then run `signet audit verify`";
    let checkpoint = match signature(log, key) {
        Err(why) => Finding::bad(&log.origin, "checkpoint", State::Failed, why, next),
        Ok(()) if behind > 0 && late => {
            Finding::bad(&log.origin, "checkpoint", State::Failed, format!("{behind} records behind"), next)
        }
        Ok(()) => Finding::ok(&log.origin, "checkpoint", format!("covers {covered} of {} records", log.size)),
    };
    let complete = if log.missing == 0 {
        Finding::ok(&log.origin, "complete", "no producer skipped a record")
    } else {
        Finding::bad(
            &log.origin,
            "complete",
            State::Gap,
            format!("{} records are missing", log.missing),
            "see the events `audit:gap` for whose; what their spools still hold comes by itself",
        )
    };
    vec![checkpoint, complete]
}

/// Whether the newest checkpoint says what the store says, under the key that the context names.
fn signature(log: &LogStatus, key: &str) -> Result<(), String> {
    let (Some(size), Some(note)) = (log.checkpoint_size, &log.checkpoint) else {
        return Err("none was signed yet".to_owned());
    };
    let key: VerifierKey = key.parse().map_err(|error| format!("log_key of the context: {error}"))?;
    let signed = key.open_checkpoint(note).map_err(|error| error.to_string())?;
    if i64::try_from(signed.size) != Ok(size) {
        return Err(format!("the newest one is filed under size {size}, but was signed for {}", signed.size));
    }
    if size > log.size {
        return Err(format!("it was signed for {size} records, and the store has {}", log.size));
    }
    Ok(())
}

/// What the audit service found failing; gaps and clocks are findings of their own here.
fn of_alert(alert: &Alert) -> Option<Finding> {
    let (part, state, next) = match alert.cause.as_str() {
        "records_missing" | "clock_offset" => return None,
        "review_overdue" => ("review", State::Warning, "look through what happened, then `signet audit review`"),
        "spool_failed" => {
            ("spool", State::Failed, "see the producer's log, its disk, and whether it reaches the audit service")
        }
        "ingestion_failed" => {
            ("ingestion", State::Failed, "see the audit service's log; producers keep what is not taken")
        }
        "export_failed" => {
            ("export", State::Failed, "see the receiver, then the audit service's log; nothing is skipped")
        }
        _ => ("alert", State::Failed, "see the audit service's log"),
    };
    Some(Finding::bad(&alert.subject, part, state, alert.detail.clone(), next))
}

/// Gaps by producer, and clocks that are off.
fn of_producers(epochs: &[EpochStatus], now: i64) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut clocks = BTreeSet::new();
    for epoch in epochs {
        if epoch.missing > 0 {
            findings.push(Finding::bad(
                &epoch.producer,
                "sequence",
                State::Gap,
                format!("{} records of epoch {} are missing", epoch.missing, epoch.epoch),
                "see the producer's log and spool; records that it still has come by themselves",
            ));
        }
        if let Some(since) = epoch.silent_since_us {
            let since = jiff::Timestamp::from_microsecond(since).unwrap_or_default();
            findings.push(Finding::bad(
                &epoch.producer,
                "silence",
                State::Gap,
                format!("nothing came of epoch {} since {since:.0}, and it was not closed", epoch.epoch),
                "start it again where its spool lies: what is left there comes by itself. A spool that is lost with its disk \
                 stays a gap",
            ));
        }
        let recent = now - epoch.last_seen_us < RECENT_US;
        let off = epoch.clock_offset_us.filter(|offset| offset.unsigned_abs() > CLOCK_OFFSET_US);
        // The latest epoch of a producer comes first: only its clock counts.
        if clocks.insert((&epoch.log, &epoch.producer))
            && recent
            && let Some(offset) = off
        {
            findings.push(Finding::bad(
                &epoch.producer,
                "clock",
                State::Warning,
                format!("{} ms away from the audit service's", offset / 1_000),
                "synchronise the clock of its host",
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use signet_audit::note::LogKey;

    use super::*;

    fn log(size: i64, checkpoint: &str) -> LogStatus {
        LogStatus {
            origin: "east.bank.example/signet-log".into(),
            trust_domain: "east.bank.example".into(),
            verifier_key: String::new(),
            size,
            checkpoint_size: Some(7),
            checkpoint_us: Some(0),
            checkpoint: Some(checkpoint.to_owned()),
            missing: 0,
            open_epochs: 1,
            silent_epochs: 0,
        }
    }

    fn states(findings: &[Finding]) -> Vec<State> {
        findings.iter().map(|finding| finding.state).collect()
    }

    #[test]
    fn a_late_forged_or_impossible_checkpoint_fails_and_a_skipped_record_is_a_gap() {
        let key = LogKey::from_seed("east.bank.example/signet-log", &[7; 32]).unwrap();
        let other = LogKey::from_seed("east.bank.example/signet-log", &[8; 32]).unwrap();
        let (note, public) = (key.sign_checkpoint(7, &[9; 32]), key.verifier_key());
        let check = |log: &LogStatus, now| states(&of_log(log, &public, now));

        assert_eq!(check(&log(7, &note), i64::MAX), [State::Ok, State::Ok], "nothing new: age is no matter");
        assert_eq!(check(&log(8, &note), CHECKPOINT_LATE_US), [State::Ok, State::Ok], "in time");
        assert_eq!(check(&log(8, &note), CHECKPOINT_LATE_US + 1), [State::Failed, State::Ok], "late");
        assert_eq!(check(&log(6, &note), 0), [State::Failed, State::Ok], "more was signed than is there");
        assert_eq!(check(&log(7, &other.sign_checkpoint(7, &[9; 32])), 0), [State::Failed, State::Ok], "forged");
        assert_eq!(check(&log(9, &key.sign_checkpoint(8, &[9; 32])), 0), [State::Failed, State::Ok], "misfiled");
        assert_eq!(check(&LogStatus { checkpoint: None, ..log(7, &note) }, 0), [State::Failed, State::Ok]);
        assert_eq!(check(&LogStatus { missing: 1, ..log(7, &note) }, 0), [State::Ok, State::Gap]);
    }

    #[test]
    fn an_overdue_review_is_a_warning_and_a_failed_spool_fails() {
        let alert = |cause: &str| Alert {
            log: "l".into(),
            cause: cause.into(),
            subject: "s".into(),
            detail: "d".into(),
            replica: String::new(),
            since_us: 0,
        };
        let state = |cause| of_alert(&alert(cause)).map(|finding| finding.state);
        assert_eq!(state("review_overdue"), Some(State::Warning));
        assert_eq!((state("spool_failed"), state("sequencing_failed")), (Some(State::Failed), Some(State::Failed)));
        assert_eq!(state("records_missing"), None, "a gap by itself already");
    }

    #[test]
    fn a_producer_that_fell_silent_is_a_gap() {
        let silent = EpochStatus {
            log: "l".into(),
            producer: "a".into(),
            epoch: uuid::Uuid::nil(),
            watermark: 9,
            missing: 0,
            closed: false,
            last_seen_us: 0,
            clock_offset_us: None,
            silent_since_us: Some(0),
        };
        let found = of_producers(&[silent], 1);
        assert_eq!((found.len(), found[0].part, found[0].state), (1, "silence", State::Gap));
    }

    #[test]
    fn producers_are_named_for_gaps_and_for_the_clock_that_they_have_now() {
        let epoch = |producer: &str, missing, offset| EpochStatus {
            log: "l".into(),
            producer: producer.into(),
            epoch: uuid::Uuid::nil(),
            watermark: 9,
            missing,
            closed: false,
            last_seen_us: 0,
            clock_offset_us: offset,
            silent_since_us: None,
        };
        // "b" was off before it was restarted, and is not any more.
        let epochs = [
            epoch("a", 0, Some(-2_000_000)),
            epoch("b", 0, Some(5)),
            epoch("b", 3, Some(9_000_000)),
            epoch("c", 0, None),
        ];
        let found = of_producers(&epochs, 1);
        let found: Vec<_> = found.iter().map(|finding| (&*finding.of, finding.part, finding.state)).collect();
        assert_eq!(found, [("a", "clock", State::Warning), ("b", "sequence", State::Gap)]);
        assert_eq!(states(&of_producers(&epochs, RECENT_US)), [State::Gap], "a clock of long ago");
    }
}
