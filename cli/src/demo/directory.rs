//! The demo's directory: empty or new when it starts, its secrets readable by its user alone.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::failure::{Failure, ResultExt};

/// A Unix socket's path holds at most 107 bytes (unix(7)); the longest name below a run directory takes 40.
const RUN_PATH_LIMIT: usize = 67;
const MARKER: &str = ".signet-demo";
const NEXT: &str = "name another directory with --dir DIR";

/// The directory, held by a lock for as long as the demo runs.
pub(crate) struct Directory {
    pub(crate) path: PathBuf,
    /// Where sockets go, and what was made for it outside of the directory.
    pub(crate) run: PathBuf,
    temporary_run: Option<tempfile::TempDir>,
    _lock: File,
}

impl Directory {
    /// Takes `path` when it is new or empty. What an ended demo left behind is emptied first when the path was not named by
    /// the user but is the default.
    pub(crate) fn prepare(path: &Path, chosen_by_user: bool) -> Result<Self, Failure> {
        fs::create_dir_all(path).map_err(|error| {
            Failure::failed(format!("cannot make the demo's directory: {error}")).at(path.display()).next(NEXT)
        })?;
        let path = path.canonicalize().failed("cannot resolve the demo's directory", NEXT)?;
        let mut entries =
            fs::read_dir(&path).map_err(|error| Failure::failed(error).at(path.display()).next(NEXT))?.peekable();
        let used = entries.peek().is_some();
        let marker = path.join(MARKER);
        if used && (chosen_by_user || !marker.is_file()) {
            return Err(Failure::usage("the demo's directory is not empty").at(path.display()).next(NEXT));
        }
        let lock = private_file(&marker).failed("cannot write the demo's lock", NEXT)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| Failure::failed("another demo runs in this directory").at(path.display()).next(NEXT))?;
        for entry in entries {
            let entry = entry.failed("cannot read the demo's directory", NEXT)?.path();
            if entry == marker {
                continue;
            }
            let removed = if entry.is_dir() && !entry.is_symlink() {
                fs::remove_dir_all(&entry)
            } else {
                fs::remove_file(&entry)
            };
            removed.map_err(|error| {
                Failure::failed(format!("cannot empty the last demo's directory: {error}"))
                    .at(entry.display())
                    .next(NEXT)
            })?;
        }
        let own_run = path.join("run");
        let temporary_run = if own_run.as_os_str().len() > RUN_PATH_LIMIT {
            Some(
                tempfile::Builder::new()
                    .prefix("signet-")
                    .tempdir()
                    .failed("cannot make a directory for sockets", "check /tmp")?,
            )
        } else {
            None
        };
        let run = temporary_run.as_ref().map_or(own_run, |directory| directory.path().to_owned());
        make(&run)?;
        // Workloads of other users may pass, not list.
        fs::set_permissions(&run, Permissions::from_mode(0o711)).failed("cannot open the run directory", NEXT)?;
        Ok(Self { path, run, temporary_run, _lock: lock })
    }

    /// Removes what lies outside of the directory.
    pub(crate) fn close(&mut self) {
        if let Some(directory) = self.temporary_run.take()
            && let Err(error) = directory.close()
        {
            eprintln!("warning: could not remove the directory of sockets: {error}");
        }
    }
}

/// Makes a directory and its parents.
pub(crate) fn make(path: &Path) -> Result<(), Failure> {
    fs::create_dir_all(path)
        .map_err(|error| Failure::failed(format!("cannot make a directory: {error}")).at(path.display()).next(NEXT))
}

fn private_file(path: &Path) -> std::io::Result<File> {
    fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
}

/// Writes a file that only its owner reads, whole or not at all.
pub(crate) fn write_private(path: &Path, contents: &[u8]) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::failed(format!("cannot write a file of the demo: {error}"))
            .at(path.display())
            .next("check the space and rights there")
    };
    let temporary = path.with_extension("new");
    let _ = fs::remove_file(&temporary);
    let mut file = private_file(&temporary).map_err(failed)?;
    file.write_all(contents).map_err(failed)?;
    drop(file);
    fs::rename(&temporary, path).map_err(failed)
}

/// 256 random bits from the kernel, as text.
pub(crate) fn secret() -> Result<String, Failure> {
    let mut bytes = [0_u8; 32];
    aws_lc_rs::rand::fill(&mut bytes).failed("the kernel gave no randomness", "check /dev/urandom")?;
    Ok(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_directory_with_strangers_files_and_leaves_them() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("mine"), "x").unwrap();
        assert!(Directory::prepare(dir.path(), false).is_err());
        assert!(Directory::prepare(dir.path(), true).is_err());
        assert!(dir.path().join("mine").exists());
    }

    #[test]
    fn takes_an_empty_directory_that_only_its_owner_may_enter() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
        assert!(Directory::prepare(dir.path(), true).is_ok());
    }

    #[test]
    fn empties_what_an_ended_demo_left_in_the_default_directory_but_not_under_a_running_one() {
        let dir = tempfile::tempdir().unwrap();
        let running = Directory::prepare(dir.path(), false).unwrap();
        fs::write(dir.path().join("endpoints.json"), "{}").unwrap();
        assert!(Directory::prepare(dir.path(), false).is_err());
        drop(running);
        Directory::prepare(dir.path(), false).unwrap();
        assert!(!dir.path().join("endpoints.json").exists());
    }
}
