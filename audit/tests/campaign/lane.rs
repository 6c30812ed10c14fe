//! One lane of the campaign: a disk and a PostgreSQL of its own, and run after run on them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use signet_audit::query;
use signet_audit::testing::Postgres;
use signet_mtls::testing::Ca;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::books::Books;
use crate::plan::{Fault, PRODUCERS, Plan, SERVICES, may_mount};
use crate::processes::{PATIENCE, Run};
use crate::{check, children, hostile, identities, relay};

/// Small, so that it fills quickly.
const DISK: &str = "320m";
const SETTINGS: [(&str, &str); 3] = [("max_wal_size", "64MB"), ("min_wal_size", "32MB"), ("shared_buffers", "32MB")];

/// Runs the seeds one after the other.
pub fn run(seeds: &[&str]) -> ExitCode {
    let disk = std::env::temp_dir().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let fillable = may_mount();
    if fillable {
        let options = format!("size={DISK},mode=1777");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "signet"]).arg(&disk).status();
        assert!(mounted.unwrap().success(), "a disk of its own");
    } else {
        println!("not root: full disks are skipped, the network is cut instead");
    }
    let mut postgres = Postgres::start_in(&disk, &SETTINGS).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut failed = false;
    for seed in seeds {
        let mut plan = Plan::of(seed.parse().unwrap());
        for (_, fault) in plan.faults.iter_mut().filter(|_| !fillable) {
            if let Fault::FillDisk(ms) = *fault {
                *fault = Fault::CutNetwork(ms);
            }
        }
        let started = Instant::now();
        let result = runtime.block_on(one(&plan, &disk, &mut postgres));
        let faults: Vec<String> = plan.faults.iter().map(|(after, fault)| format!("{fault} after {after}")).collect();
        let (what, took) = (faults.join(", "), started.elapsed().as_secs_f64());
        match result {
            Ok(summary) => println!("seed {seed} [{what}]: {summary}, {took:.1} s"),
            Err(problems) => {
                failed = true;
                println!("seed {seed} [{what}] FAILED:\n  {}", problems.join("\n  "));
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// One run; what it showed, or what is wrong.
async fn one(plan: &Plan, disk: &Path, postgres: &mut Postgres) -> Result<String, Vec<String>> {
    let directory = tempfile::tempdir_in(disk).unwrap();
    let ca = Ca::new(identities::TRUST_DOMAIN);
    identities::issue(&ca, identities::AUDIT, &directory.path().join("audit.identity"));
    for index in 0..=PRODUCERS {
        let file = directory.path().join(format!("producer-{index}.identity"));
        identities::issue(&ca, &identities::producer(index), &file);
    }
    let (server, database) = (postgres.dsn(), format!("run_{}", plan.seed));
    let admin = query::connect(&server).unwrap();
    sqlx::query(sqlx::AssertSqlSafe(format!("CREATE DATABASE {database}"))).execute(&admin).await.unwrap();
    let dsn = format!("{}/{database}", server.rsplit_once('/').unwrap().0);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let run = Arc::new(Run::new(plan.clone(), directory.path(), &dsn, listener.local_addr().unwrap()));

    let (network, up) = watch::channel(true);
    let relay = tokio::spawn(relay::run(listener, Arc::clone(&run.targets), up));
    let notes: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let watcher = tokio::spawn(watch_checkpoints(Arc::clone(&run), Arc::clone(&notes)));
    let start = |index| {
        let run = Arc::clone(&run);
        std::thread::spawn(move || run.supervise(index))
    };
    // The first one makes schema and key; from then on none is special.
    let mut services = vec![start(0)];
    wait("the first service", || run.targets.lock()[0].is_some()).await?;
    services.extend((1..SERVICES).map(start));
    let deciding: Vec<_> = (0..PRODUCERS)
        .map(|index| {
            let run = Arc::clone(&run);
            std::thread::spawn(move || run.decide(index))
        })
        .collect();
    let hostile_file = directory.path().join(format!("producer-{}.identity", hostile::INDEX));
    let hostile = tokio::spawn(hostile::deliver(plan.seed, children::channel(&hostile_file, &run.relay.to_string())));

    let mut problems = Vec::new();
    for (after, fault) in &plan.faults {
        if let Err(mut late) = wait("the load", || run.asked.load(Ordering::SeqCst) >= *after).await {
            problems.append(&mut late);
        }
        tokio::task::block_in_place(|| happen(*fault, &run, disk, postgres, &network));
    }
    run.calm.store(true, Ordering::SeqCst);

    let mut books = Books::default();
    match tokio::time::timeout(PATIENCE, hostile).await {
        Ok(kept) => books.merge(kept.unwrap()),
        Err(_) => problems.push(format!("the hostile producer could not deliver within {PATIENCE:?}")),
    }
    for thread in deciding {
        match tokio::task::block_in_place(|| thread.join()).unwrap() {
            Ok(kept) => books.merge(kept),
            Err(problem) => problems.push(problem),
        }
    }
    let pool = query::connect(&dsn).unwrap();
    let mut summary = String::new();
    if problems.is_empty() {
        match check::check(&pool, &run, &books, &notes).await {
            Ok(text) => summary = text,
            Err(mut wrong) => problems.append(&mut wrong),
        }
    }
    run.stop_services();
    for service in services {
        tokio::task::block_in_place(|| service.join()).unwrap();
    }
    watcher.abort();
    relay.abort();
    pool.close().await;
    if !problems.is_empty() {
        for name in ["service-0", "service-1", "producer-0", "producer-1"] {
            let log = std::fs::read_to_string(run.log(name)).unwrap_or_default();
            problems.extend(log.lines().rev().take(10).map(|line| format!("{name}: {line}")));
        }
    }
    sqlx::query(sqlx::AssertSqlSafe(format!("DROP DATABASE {database} WITH (FORCE)"))).execute(&admin).await.unwrap();
    admin.close().await;
    if problems.is_empty() { Ok(summary) } else { Err(problems) }
}

/// Waits for something that a run cannot go on without.
async fn wait(what: &str, holds: impl Fn() -> bool) -> Result<(), Vec<String>> {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        if Instant::now() > deadline {
            return Err(vec![format!("waited {PATIENCE:?} for {what}")]);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

fn happen(fault: Fault, run: &Run, disk: &Path, postgres: &mut Postgres, network: &watch::Sender<bool>) {
    match fault {
        Fault::KillProducer(index) => run.kill_producer(index),
        Fault::KillService(index) => run.kill_service(index),
        Fault::KillServices => (0..SERVICES).for_each(|index| run.kill_service(index)),
        Fault::KillPostgres => {
            postgres.kill().unwrap();
            postgres.restart().unwrap();
        }
        Fault::CutNetwork(ms) => {
            network.send_replace(false);
            std::thread::sleep(Duration::from_millis(ms));
            network.send_replace(true);
        }
        Fault::FillDisk(ms) => {
            let ballast = disk.join("ballast");
            fill(&ballast);
            std::thread::sleep(Duration::from_millis(ms));
            std::fs::remove_file(&ballast).unwrap();
            // Without room for its WAL PostgreSQL may have ended.
            if !postgres.is_running() {
                postgres.restart().unwrap();
            }
        }
    }
}

/// Takes all the space that is left.
fn fill(ballast: &Path) {
    let mut file = File::create(ballast).unwrap();
    for chunk in [vec![0; 1 << 20], vec![0; 4_096]] {
        while file.write_all(&chunk).is_ok() {}
    }
}

/// Collects every checkpoint that a service shows.
async fn watch_checkpoints(run: Arc<Run>, notes: Arc<Mutex<BTreeSet<String>>>) {
    loop {
        let tlogs = *run.tlogs.lock();
        for address in tlogs.into_iter().flatten() {
            let shown = tokio::time::timeout(Duration::from_secs(1), checkpoint(address)).await;
            if let Ok(Ok(Some(note))) = shown {
                notes.lock().insert(note);
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn checkpoint(address: std::net::SocketAddr) -> std::io::Result<Option<String>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /checkpoint HTTP/1.1\r\nhost: log\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let note = answer.split_once("\r\n\r\n").filter(|(head, _)| head.starts_with("HTTP/1.1 200"));
    Ok(note.map(|(_, body)| body.to_owned()))
}
