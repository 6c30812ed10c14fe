//! The threads of a sidecar's process, and what of the operating system it raises for them.
//!
//! Calls run on the data runtime; everything else (identity, snapshots, shipping of records, the admin listener) on the
//! caller's single thread, so that neither can starve the other. With one worker the data runtime is a thread that owns its
//! scheduler: tasks wake each other without atomics that other threads could contend for
//! (docs/decisions/0014-one-worker-one-scheduler.md).

use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::sidecar;

/// How long threads of the data runtime may take to end once nobody needs them.
const LAST_TASKS: Duration = Duration::from_secs(1);
/// Blocking work of the data runtime is resolving names and nothing else.
const BLOCKING: usize = 4;

/// Runs the sidecar that `config` describes until a signal asks it to end.
///
/// # Errors
/// What keeps it from starting, with what to do about it.
pub fn run(config: Config) -> anyhow::Result<()> {
    raise_descriptors();
    let data = Data::start(config.worker_count())?;
    let control =
        Builder::new_current_thread().max_blocking_threads(8).enable_all().build().context("no control runtime")?;
    let ended = control.block_on(async {
        let _telemetry = signet_observe::init("proxy", &config.telemetry)?;
        sidecar::run(config, data.handle(), signet_observe::shutdown_signal()).await
    });
    data.end();
    ended
}

/// Each call holds two descriptors, and the soft limit of a shell is far below what the listeners allow.
fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let limit = getrlimit(Resource::Nofile);
    // Refused, it stays as it is: listeners then leave connections in the kernel's queue.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// What calls run on.
enum Data {
    One { handle: Handle, stop: CancellationToken, thread: JoinHandle<()> },
    Many(Runtime),
}

impl Data {
    fn start(workers: usize) -> anyhow::Result<Self> {
        if workers > 1 {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(workers).max_blocking_threads(BLOCKING).thread_name("data").enable_all();
            return Ok(Self::Many(builder.build().context("no data runtime")?));
        }
        let runtime = Builder::new_current_thread()
            .max_blocking_threads(BLOCKING)
            .thread_name("data-blocking")
            .enable_all()
            .build()
            .context("no data runtime")?;
        let (handle, stop) = (runtime.handle().clone(), CancellationToken::new());
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("data".to_owned())
            .spawn(move || {
                runtime.block_on(stopped.cancelled());
                runtime.shutdown_timeout(LAST_TASKS);
            })
            .context("no data thread")?;
        Ok(Self::One { handle, stop, thread })
    }

    fn handle(&self) -> Handle {
        match self {
            Self::One { handle, .. } => handle.clone(),
            Self::Many(runtime) => runtime.handle().clone(),
        }
    }

    fn end(self) {
        match self {
            Self::One { stop, thread, .. } => {
                stop.cancel();
                let _ = thread.join();
            }
            Self::Many(runtime) => runtime.shutdown_timeout(LAST_TASKS),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn tasks_run_on_threads_of_their_own_whatever_the_number_of_workers() {
        for workers in [1, 2] {
            let data = Data::start(workers).unwrap();
            let (sender, receiver) = std::sync::mpsc::channel();
            data.handle().spawn(async move {
                tokio::time::sleep(Duration::from_millis(1)).await;
                sender.send(std::thread::current().id()).unwrap();
            });
            let thread = receiver.recv_timeout(Duration::from_secs(20)).unwrap();
            assert_ne!(thread, std::thread::current().id());
            // A task that never ends does not keep the process.
            data.handle().spawn(std::future::pending::<()>());
            data.end();
        }
    }
}
