//! End-to-end tests over the running demo: one demo serves all that leave it as they found it, one after the other; tests
//! that need a demo of their own start it themselves.
//!
//! Run some with `cargo test -p signet-tests --test demo -- NAME`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests say what they expect; a panic is the failure"
)]

mod bank;
mod break_glass;
mod command_line;
mod dashboard;
mod demos;
mod disks;
mod evidence;
mod exports;
mod failover;
mod faults;
mod live;
mod manifests;
mod policy_changes;
mod reads;
mod refusals;
mod replays;
mod silence;
mod traces;
mod transparency;
mod websockets;

use std::pin::Pin;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::{Arguments, Failed, Trial};
use signet_tests::demo::Demo;

type Running<'a> = Pin<Box<dyn Future<Output = anyhow::Result<()>> + 'a>>;
/// A test over the shared demo.
type Test = fn(&Demo) -> Running<'_>;
/// A test that starts what it needs.
type OwnTest = fn() -> anyhow::Result<()>;

/// The demo that tests share; started by the first that needs it.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Option<Demo>>>);

impl Shared {
    fn run(&self, test: Test) -> anyhow::Result<()> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            *slot = Some(Demo::start(&["--rate", "20"])?);
        }
        let demo = slot.as_ref().expect("it was just started");
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(test(demo))
    }

    fn stop(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They share one demo, and some change its policies for a while.
    arguments.test_threads = Some(1);
    let shared = Shared::default();
    let over_demo: Vec<(&str, Test)> = [
        bank::TESTS,
        break_glass::TESTS,
        command_line::TESTS,
        dashboard::TESTS,
        evidence::TESTS,
        exports::TESTS,
        live::TESTS,
        manifests::TESTS,
        failover::TESTS,
        policy_changes::TESTS,
        reads::TESTS,
        websockets::TESTS,
        refusals::TESTS,
        replays::TESTS,
        transparency::TESTS,
        faults::TESTS,
    ]
    .concat();
    let mut trials: Vec<Trial> = over_demo
        .into_iter()
        .map(|(name, test)| {
            let shared = shared.clone();
            Trial::test(name, move || shared.run(test).map_err(failed))
        })
        .collect();
    trials.extend([traces::TESTS, silence::TESTS, demos::TESTS, disks::TESTS].concat().into_iter().map(
        |(name, test): (&str, OwnTest)| {
            let shared = shared.clone();
            Trial::test(name, move || {
                // Two machines' worth of processes on two cores would measure the machine.
                shared.stop();
                test().map_err(failed)
            })
        },
    ));
    let conclusion = libtest_mimic::run(&arguments, trials);
    shared.stop();
    conclusion.exit_code()
}

fn failed(error: anyhow::Error) -> Failed {
    format!("{error:?}").into()
}
