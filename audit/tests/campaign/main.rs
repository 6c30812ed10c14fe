//! The fault campaign: seeded runs of real processes that are killed, cut off, filled up and lied to, after which every
//! decision has exactly one record. `make faults SEEDS=200`, or one run again: `make faults SEEDS=1 FIRST=17`.
//!
//! A run has two producers (spool and shipper, a process each), two audit services on one log (a process each, behind one
//! address), PostgreSQL, and a third producer that delivers everything out of order and more than once. This process makes
//! the decisions and keeps the books: a decision counts when the producer answered that it was kept, whatever any spool
//! says. What happens, and after how many decisions, depends on the seed alone.
//! It is a program, not a test function, because it is its own child processes too.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    unreachable_pub,
    reason = "tests"
)]

mod books;
mod check;
mod children;
mod hostile;
mod identities;
mod lane;
mod plan;
mod processes;
mod relay;

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

/// Seeds of a plain `cargo test`.
const SEEDS: u64 = 10;
/// Runs at a time, each with a PostgreSQL of its own.
const LANES: u64 = 2;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["role", "producer", rest @ ..] => return children::producer(rest),
        ["role", "service", rest @ ..] => return children::service(rest),
        ["role", "lane", rest @ ..] => return lane::run(rest),
        _ => {}
    }
    let (mut seeds, mut first, mut filters) = (SEEDS, 0, Vec::new());
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        match word {
            "--seeds" => seeds = words.next().and_then(|number| number.parse().ok()).expect("--seeds NUMBER"),
            "--first" => first = words.next().and_then(|number| number.parse().ok()).expect("--first NUMBER"),
            // What `cargo test` hands to every test program.
            "--list" => return ExitCode::SUCCESS,
            "--test-threads" | "--skip" => drop(words.next()),
            option if option.starts_with('-') => {}
            filter => filters.push(filter),
        }
    }
    if !filters.is_empty() && !filters.iter().any(|filter| "campaign".contains(filter)) {
        return ExitCode::SUCCESS;
    }
    campaign(first, seeds)
}

/// Runs the seeds, dealt out to lanes.
fn campaign(first: u64, seeds: u64) -> ExitCode {
    books::check_the_check();
    let started = Instant::now();
    let lanes: Vec<_> = (0..LANES.min(seeds))
        .map(|lane| {
            let mine: Vec<String> =
                (first..first + seeds).skip(lane as usize).step_by(LANES as usize).map(|s| s.to_string()).collect();
            let program = std::env::current_exe().unwrap();
            // A mount of its own lets a disk be full without filling this machine's; it goes with the process.
            let mut command = if plan::may_mount() {
                let mut command = Command::new("unshare");
                command.args(["--mount", "--propagation", "private"]).arg(program);
                command
            } else {
                Command::new(program)
            };
            // Everything that a lane makes, disk included, lies below.
            let place = tempfile::Builder::new().prefix("signet-campaign-").tempdir().unwrap();
            // PostgreSQL runs as another user and has to get there.
            std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
            command.env("TMPDIR", place.path());
            command.args(["role", "lane"]).args(mine).stdin(Stdio::null());
            (command.spawn().expect("a lane"), place)
        })
        .collect();
    let failed =
        lanes.into_iter().filter_map(|(mut lane, _place)| (!lane.wait().unwrap().success()).then_some(())).count();
    println!(
        "campaign: {seeds} seeds from {first} in {:.0} s, {}",
        started.elapsed().as_secs_f64(),
        if failed == 0 { "all as they must be" } else { "FAILED" }
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
