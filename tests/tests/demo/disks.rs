//! A sidecar whose disk is full, under load: what its configuration says is what happens, nothing is lost in silence, and
//! calls go on by themselves when there is space again.
//!
//! The ledger's sidecar gets a small file system for its spool, and its audit service is stopped, so that nothing leaves it.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use http::{Method, StatusCode};
use rustix::process::Signal;
use serde_json::{Value, json};
use signet_tests::demo::{Demo, signal};
use signet_tests::{calls, records, wait};
use sqlx::PgPool;

use crate::OwnTest;

pub(crate) const TESTS: &[(&str, OwnTest)] = &[
    ("a_sidecar_with_a_full_disk_denies_and_loses_nothing", || on_full("deny")),
    ("a_sidecar_that_may_go_on_with_a_full_disk_counts_what_it_did_not_record", || on_full("allow")),
];

const LEDGER: &str = "east/bank/ledger";
const URI: &str = "http://ledger.bank.svc.cluster.local/accounts/1";
/// Segments of a spool this small are 256 KiB.
const SPOOL_BYTES: u64 = 2 << 20;
/// More calls than fit into the segments that the spool has when its disk fills.
const CALLS: u64 = 1_500;
/// What a sidecar's memory may grow by while everything is refused, KiB.
const GROWTH_KIB: u64 = 8 * 1024;

fn on_full(rule: &str) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: a full disk with `on_full: {rule}`: mounting a file system needs root");
        return Ok(());
    }
    let demo = Demo::start(&["--rate", "0"])?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let place = Place::prepare(&demo, rule).await?;
        match rule {
            "deny" => denies(&demo, &place).await,
            _ => counts(&demo, &place).await,
        }
    })
}

/// The ledger's sidecar with a small disk.
struct Place {
    disk: Disk,
    admin: String,
    pid: i32,
    pool: PgPool,
    /// First half of the trace ids of this test's calls.
    prefix: String,
}

impl Place {
    async fn prepare(demo: &Demo, rule: &str) -> anyhow::Result<Self> {
        let sidecar = demo.workload(LEDGER)?;
        let (admin, before) = (sidecar.admin.clone(), sidecar.pid);
        let shown: Value = serde_json::from_str(&calls::get(&admin, "/config", &[]).await?.text())?;
        let spool = find(&shown, "spool").context("a spool in /config")?;
        let dir = PathBuf::from(spool["dir"].as_str().context("its directory")?);
        configure(&dir, rule)?;
        let disk = Disk::mount(&dir)?;
        signal(before, Signal::KILL)?;
        let pid = wait::until("the ledger's sidecar on its new disk", Duration::from_secs(20), || async {
            let pid = demo.endpoints_now()?.workloads[LEDGER].pid;
            let answer = call(demo, "").await.ok().filter(|status| *status == StatusCode::OK);
            Ok(answer.filter(|_| pid != before).map(|_| pid))
        })
        .await?;
        let pool = records::connect(&demo.endpoints().postgres).await?;
        let prefix = uuid::Uuid::new_v4().simple().to_string()[..16].to_owned();
        Ok(Self { disk, admin, pid, pool, prefix })
    }

    /// Calls that many times; which of them were answered 200. Any other answer has to be 403.
    async fn load(&self, demo: &Demo, calls: std::ops::Range<u64>) -> anyhow::Result<Vec<u64>> {
        let mut served = Vec::new();
        for n in calls {
            match call(demo, &self.trace(n)).await? {
                StatusCode::OK => served.push(n),
                status => assert_eq!(status, StatusCode::FORBIDDEN, "call {n}"),
            }
        }
        Ok(served)
    }

    fn trace(&self, n: u64) -> String {
        format!("00-{}{n:016x}-00f067aa0ba902b7-01", self.prefix)
    }

    /// Calls with an allow record at the ledger, and how many such records there are.
    async fn recorded(&self) -> anyhow::Result<(i64, i64)> {
        let count = "SELECT count(DISTINCT trace_id), count(*) FROM decisions \
                     WHERE trace_id LIKE $1 AND decision = 'allow' AND action = 'http:GET'";
        Ok(sqlx::query_as(count).bind(format!("{}%", self.prefix)).fetch_one(&self.pool).await?)
    }

    async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        calls::metric(&self.admin, name, &[]).await
    }
}

async fn denies(demo: &Demo, place: &Place) -> anyhow::Result<()> {
    let audit = demo.endpoints_now()?.pids["east/audit"];
    let stopped = Stopped::new(audit)?;
    place.disk.fill()?;
    let mut served = place.load(demo, 0..CALLS).await?;
    assert!(!served.is_empty() && served.len() < usize::try_from(CALLS)?, "{} of {CALLS} were served", served.len());
    assert!(served.iter().copied().eq(0..served.len() as u64), "once it is full everything is denied");
    let memory = resident_kib(place.pid)?;
    assert_eq!(place.load(demo, CALLS..2 * CALLS).await?, [0_u64; 0]);
    let grown = resident_kib(place.pid)?.saturating_sub(memory);
    assert!(grown < GROWTH_KIB, "the sidecar grew by {grown} KiB while it refused {CALLS} calls");
    let unrecorded = place.metric("signet_proxy_unrecorded_denials_total").await?;
    assert!(unrecorded >= CALLS as f64, "{unrecorded} denials without a record are counted");

    place.disk.empty()?;
    wait::until("calls to go on while nothing leaves the spool yet", Duration::from_secs(10), || async {
        Ok((call(demo, "").await? == StatusCode::OK).then_some(()))
    })
    .await?;
    served.extend(place.load(demo, 2 * CALLS..2 * CALLS + 50).await?);
    drop(stopped);
    let expected = i64::try_from(served.len())?;
    let found = wait::until("a record of each call that was served", Duration::from_secs(30), || async {
        let found = place.recorded().await?;
        Ok((found.0 >= expected).then_some(found))
    })
    .await?;
    assert_eq!(found, (expected, expected), "each has one, and none that was denied has any");
    assert_eq!(demo.endpoints_now()?.workloads[LEDGER].pid, place.pid, "the sidecar lives on");
    Ok(())
}

async fn counts(demo: &Demo, place: &Place) -> anyhow::Result<()> {
    let audit = demo.endpoints_now()?.pids["east/audit"];
    let stopped = Stopped::new(audit)?;
    place.disk.fill()?;
    let served = place.load(demo, 0..CALLS).await?;
    assert_eq!(served.len() as u64, CALLS, "`allow` goes on");
    let full = place.metric("signet_spool_full_total").await?;
    assert!(full > 0.0 && full < CALLS as f64, "{full} of {CALLS} met a full spool");
    place.disk.empty()?;
    drop(stopped);
    let (lost, (recorded, records)) = wait::until("a record or a gap for each call", Duration::from_secs(30), || async {
        call(demo, "").await?;
        let gaps = "SELECT COALESCE(sum(count), 0)::bigint FROM signet.entries WHERE kind = 'gap' AND reason = 'spool_full'";
        let lost: i64 = sqlx::query_scalar(gaps).fetch_one(&place.pool).await?;
        let found = place.recorded().await?;
        Ok((lost > 0 && lost + found.0 >= i64::try_from(CALLS)?).then_some((lost, found)))
    })
    .await?;
    assert_eq!(recorded, records, "no record is doubled");
    // Calls that were made while this waited may have met the full disk too; none of them has this test's trace.
    assert!(
        lost + recorded >= i64::try_from(CALLS)? && recorded < i64::try_from(CALLS)?,
        "{lost} lost, {recorded} recorded"
    );
    Ok(())
}

async fn call(demo: &Demo, traceparent: &str) -> anyhow::Result<StatusCode> {
    let headers = [("traceparent", traceparent)];
    let headers = if traceparent.is_empty() { &[][..] } else { &headers[..] };
    let web = &demo.workload("east/bank/web")?.outbound;
    Ok(calls::through(web, Method::GET, URI, headers, "").await?.status)
}

/// Has the sidecar, from its next start, a small spool that does `rule` when it is full.
fn configure(spool: &Path, rule: &str) -> anyhow::Result<()> {
    let component = spool.parent().context("the sidecar's directory")?;
    let cluster = component.parent().context("the cluster's directory")?;
    let file = find_config(cluster, spool)?;
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&file)?)?;
    config["spool"]["on_full"] = json!(rule);
    config["spool"]["max_bytes"] = json!(SPOOL_BYTES);
    Ok(std::fs::write(&file, serde_json::to_string_pretty(&config)?)?)
}

/// The configuration under `dir` whose spool is `spool`.
fn find_config(dir: &Path, spool: &Path) -> anyhow::Result<PathBuf> {
    let spool = spool.to_str().context("a path in UTF-8")?;
    let mut directories = vec![dir.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
            } else if std::fs::read_to_string(&path).is_ok_and(|text| text.contains(&format!("\"{spool}\""))) {
                return Ok(path);
            }
        }
    }
    anyhow::bail!("no configuration with the spool `{spool}`")
}

/// The value of `key`, wherever in `value` it is.
fn find<'v>(value: &'v Value, key: &str) -> Option<&'v Value> {
    match value {
        Value::Object(fields) => fields.get(key).or_else(|| fields.values().find_map(|value| find(value, key))),
        Value::Array(values) => values.iter().find_map(|value| find(value, key)),
        _ => None,
    }
}

fn resident_kib(pid: i32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("VmRSS")?;
    Ok(line.split_whitespace().nth(1).context("a number")?.parse()?)
}

/// A file system of 4 MiB; it goes with this value.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path) -> anyhow::Result<Self> {
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m,mode=700", "signet-test"]).arg(at).status()?;
        ensure!(status.success(), "cannot mount on {}", at.display());
        Ok(Self(at.to_owned()))
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Leaves no block of it free.
    fn fill(&self) -> anyhow::Result<()> {
        let mut file = File::create(self.filler())?;
        loop {
            match file.write(&[1; 4096]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn empty(&self) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(self.filler())?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A process that does nothing until this is dropped.
struct Stopped(i32);

impl Stopped {
    fn new(pid: i32) -> anyhow::Result<Self> {
        signal(pid, Signal::STOP)?;
        Ok(Self(pid))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = signal(self.0, Signal::CONT);
    }
}
