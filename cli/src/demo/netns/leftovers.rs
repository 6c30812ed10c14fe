//! Removing what a demo made, by the id in its names: by the demo itself, by the process that waits for its death, or by the
//! next demo.

use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::ip;
use crate::failure::{Failure, ResultExt};

/// A file for each demo with namespaces, locked for as long as it lives.
const LOCKS: &str = "/run/signet-demo";
/// The demo's processes end within seconds of it; a namespace that still has some goes with the last of them.
const LAST_PROCESSES: Duration = Duration::from_secs(20);

/// The lock of a new id; `None` when the id is taken.
pub(super) fn lock_new(id: &str) -> Result<Option<File>, Failure> {
    let next = "check that root may write below /run";
    fs::create_dir_all(LOCKS).failed("cannot make the directory of locks", next)?;
    let path = Path::new(LOCKS).join(id);
    match OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path) {
        Ok(file) => {
            flock(&file, FlockOperation::NonBlockingLockExclusive).failed("cannot lock the demo's id", next)?;
            Ok(Some(file))
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(None),
        Err(error) => Err(Failure::failed(format!("cannot write a lock: {error}")).at(path.display()).next(next)),
    }
}

/// Removes what demos left behind that do not live any more.
pub(super) fn remove_orphans() -> Result<(), Failure> {
    let Ok(entries) = fs::read_dir(LOCKS) else { return Ok(()) };
    for entry in entries.flatten() {
        let Ok(id) = entry.file_name().into_string() else { continue };
        if is_id(&id) && is_free(&entry.path()) {
            eprintln!("  removing the network namespaces of an earlier demo ({id})");
            remove(&id);
        }
    }
    Ok(())
}

fn is_id(text: &str) -> bool {
    text.len() == 5 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Nobody holds the lock.
fn is_free(lock: &Path) -> bool {
    File::open(lock).is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok())
}

/// Namespaces, links, hosts files and the lock of one demo. Nothing else carries such names.
pub(crate) fn remove(id: &str) {
    let prefix = format!("signet-{id}-");
    for directory in ["/run/netns", "/etc/netns"] {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            if !name.starts_with(&prefix) {
                continue;
            }
            if directory == "/run/netns" {
                quietly(&["netns", "del", &name]);
            } else {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
    // Empty when nobody else uses it, and only then.
    let _ = fs::remove_dir("/etc/netns");
    for entry in fs::read_dir("/sys/class/net").into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.starts_with(&format!("sgn{id}")) {
            quietly(&["link", "del", &name]);
        }
    }
    let _ = fs::remove_file(Path::new(LOCKS).join(id));
}

/// A link may go with its peer before we get to it: that it is gone is all we want.
fn quietly(arguments: &[&str]) {
    let _ = ip(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
}

/// A process that outlives the demo's death, of whatever kind, and then removes what it made.
pub(super) fn start_watchdog(id: &str) -> Result<Child, Failure> {
    let own = std::env::current_exe().failed("cannot tell where `signet` lies", "call it by its whole path")?;
    let mut command = Command::new(own);
    command.args(["demo", "--remove-netns-of", id]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // Out of reach of a terminal's Ctrl-C, which would end it before the demo.
    command.process_group(0).spawn().failed("cannot start the process that cleans up", "report this as a bug")
}

/// What that process does: waits for its standard input's end, which is the demo's, then removes.
pub(crate) fn wait_and_remove(id: &str) -> Result<(), Failure> {
    if !is_id(id) {
        return Err(Failure::usage(format!("`{id}` is not a demo's id")).next("leave this to the demo"));
    }
    let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
    let lock = Path::new(LOCKS).join(id);
    let deadline = Instant::now() + LAST_PROCESSES;
    while lock.exists() && !is_free(&lock) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    if lock.exists() && is_free(&lock) {
        remove(id);
    }
    Ok(())
}
