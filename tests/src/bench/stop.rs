//! Ending a run on a signal as it ends by itself: processes are ended, hosts and files removed.
//!
//! A signal's own way would leave the network namespaces behind. Here it only makes the next step fail, and what was
//! started is dropped on the way out.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, ensure};
use tokio::signal::unix::{SignalKind, signal};

static STOPPED: AtomicBool = AtomicBool::new(false);

/// Takes SIGINT, SIGTERM and SIGHUP from now on. The second one ends the process at once.
///
/// # Errors
/// When the system refuses.
pub fn on_signals() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let signals = {
        // Before anything is started.
        let _entered = runtime.enter();
        [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal)
    };
    let [interrupt, terminate, hangup] = signals;
    let (mut interrupt, mut terminate, mut hangup) = (interrupt?, terminate?, hangup?);
    let wait = async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            if STOPPED.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
            eprintln!("stopping ..");
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(move || runtime.block_on(wait)).context("no thread")?;
    Ok(())
}

/// # Errors
/// Once a signal asked for the end.
pub(crate) fn check() -> anyhow::Result<()> {
    ensure!(!STOPPED.load(Ordering::Relaxed), "stopped by a signal");
    Ok(())
}
