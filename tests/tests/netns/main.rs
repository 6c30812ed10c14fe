//! Transparent interception, in network namespaces: clients that know nothing of Signet over `signet demo --netns`, and the
//! redirect rules by themselves.
//!
//! As a user other than root each test says that it was skipped, and why.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests say what they expect; a panic is the failure"
)]

mod clients;
mod life;
mod rules;
mod space;

use std::pin::Pin;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::{Arguments, Failed, Trial};
use signet_tests::demo::Demo;

type Running<'a> = Pin<Box<dyn Future<Output = anyhow::Result<()>> + 'a>>;
/// A test over the shared demo.
type Test = fn(&Demo) -> Running<'_>;
/// A test that makes what it needs.
type OwnTest = fn() -> anyhow::Result<()>;

/// The demo that tests share; started by the first that needs it.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Option<Demo>>>);

impl Shared {
    fn run(&self, test: Test) -> anyhow::Result<()> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            *slot = Some(Demo::start(&["--netns", "--rate", "0"])?);
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
    arguments.test_threads = Some(1);
    let shared = Shared::default();
    let own = |name: &'static str, test: OwnTest| Trial::test(name, move || as_root(name, test));
    let mut trials: Vec<Trial> = rules::TESTS.iter().map(|(name, test)| own(name, *test)).collect();
    for (name, test) in clients::TESTS {
        let shared = shared.clone();
        trials.push(Trial::test(*name, move || as_root(name, || shared.run(*test))));
    }
    for (name, test) in life::TESTS {
        let shared = shared.clone();
        trials.push(Trial::test(*name, move || {
            shared.stop();
            as_root(name, test)
        }));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    shared.stop();
    conclusion.exit_code()
}

fn as_root(name: &str, test: impl FnOnce() -> anyhow::Result<()>) -> Result<(), Failed> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: {name}: network namespaces need root");
        return Ok(());
    }
    test().map_err(|error| format!("{error:?}").into())
}
