//! Watches a directory of manifests and publishes what it says.
//!
//! A reconciler: it reads the whole directory on a signal from the file system (after a short quiet time, so that an
//! editor's several writes are one change) and on a timer, because signals can be lost.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{MAX_FILE_BYTES, MAX_FILES, ManifestError, read_directory};
use crate::model::Desired;

const QUIET: Duration = Duration::from_millis(50);
const RECONCILE: Duration = Duration::from_secs(5);

/// What the directory said when it was last read.
#[derive(Clone, Debug, Default)]
pub struct ManifestState {
    /// The last state without an error.
    pub good: Option<Arc<Desired>>,
    /// What is wrong now; `good` stays in force meanwhile.
    pub errors: Vec<ManifestError>,
}

/// Reads a directory again and again.
#[derive(Debug)]
pub struct DirectorySource {
    directory: PathBuf,
    state: watch::Sender<ManifestState>,
}

impl DirectorySource {
    /// Reads `directory` once. That it is missing or malformed is a state, not a failure to start.
    pub fn open(directory: PathBuf) -> Self {
        let source = Self { directory, state: watch::Sender::default() };
        let outcome = read_directory(&source.directory);
        source.publish(outcome);
        source
    }

    /// Follows what the directory says.
    pub fn subscribe(&self) -> watch::Receiver<ManifestState> {
        self.state.subscribe()
    }

    /// Follows the directory until `cancel`.
    pub async fn run(self, cancel: CancellationToken) {
        let (signal, mut changed) = mpsc::channel(1);
        let mut watcher = None;
        let mut timer = tokio::time::interval(RECONCILE);
        loop {
            if watcher.is_none() {
                watcher = self.watch(signal.clone());
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = timer.tick() => {}
                _ = changed.recv() => {
                    tokio::time::sleep(QUIET).await;
                    // What arrived during the quiet time is read below.
                    while changed.try_recv().is_ok() {}
                }
            }
            if !self.directory.is_dir() {
                // It may come back as another inode: watch afresh then.
                watcher = None;
            }
            let directory = self.directory.clone();
            match tokio::task::spawn_blocking(move || read_directory(&directory)).await {
                Ok(outcome) => self.publish(outcome),
                Err(error) => tracing::error!(%error, "reading the manifests was interrupted"),
            }
        }
    }

    fn watch(&self, signal: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
        let handler = move |event: notify::Result<notify::Event>| {
            // Our own reading makes access events; answering those would be a loop.
            if event.is_ok_and(|event| event.kind.is_access()) {
                return;
            }
            // A full channel already holds the signal that a change is waiting.
            let _ = signal.try_send(());
        };
        let watching = notify::recommended_watcher(handler).and_then(|mut watcher| {
            watcher.watch(&self.directory, RecursiveMode::Recursive)?;
            Ok(watcher)
        });
        match watching {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(
                    directory = %self.directory.display(), %error,
                    "changes of manifests are only seen every {} s until the directory can be watched",
                    RECONCILE.as_secs()
                );
                None
            }
        }
    }

    fn publish(&self, outcome: Result<Desired, Vec<ManifestError>>) {
        self.state.send_if_modified(|state| match outcome {
            Ok(desired) => {
                let recovered = !state.errors.is_empty();
                state.errors.clear();
                if state.good.as_deref() == Some(&desired) {
                    return recovered;
                }
                for warning in &desired.warnings {
                    let before = state.good.as_deref().map(|good| good.warnings.as_slice());
                    if !before.unwrap_or(&[]).contains(warning) {
                        tracing::warn!("manifests: {warning}");
                    }
                }
                tracing::info!(services = desired.services.len(), "manifests read");
                state.good = Some(Arc::new(desired));
                true
            }
            Err(errors) => {
                if state.errors == errors {
                    return false;
                }
                for error in &errors {
                    tracing::error!("manifests: {error}; the last good manifests stay in force");
                }
                state.errors = errors;
                true
            }
        });
    }
}

/// All manifest files below `root`, sorted; hidden files and directories (editors', ConfigMap mounts') are passed over.
pub(super) fn list_files(root: &Path) -> Result<Vec<PathBuf>, ManifestError> {
    let mut files = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        let entries = fs::read_dir(&directory).map_err(|error| unreadable(&directory, &error))?;
        for entry in entries {
            let path = entry.map_err(|error| unreadable(&directory, &error))?.path();
            let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
            if hidden {
                continue;
            }
            let extension = path.extension().and_then(|extension| extension.to_str());
            // A symbolic link to a directory is not followed: it could lead in a circle.
            if path.is_dir() && !path.is_symlink() {
                pending.push(path);
            } else if matches!(extension, Some("yaml" | "yml" | "json")) {
                files.push(path);
            }
            if files.len() > MAX_FILES {
                let message = format!("holds more than {MAX_FILES} manifests; split it");
                return Err(whole_file(root, message));
            }
        }
    }
    files.sort();
    Ok(files)
}

pub(super) fn read_file(path: &Path) -> Result<String, ManifestError> {
    let file = fs::File::open(path).map_err(|error| unreadable(path, &error))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| unreadable(path, &error))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(whole_file(path, format!("is larger than {MAX_FILE_BYTES} bytes; split it")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let message = format!("is not UTF-8 from byte {}", error.utf8_error().valid_up_to());
        whole_file(path, message)
    })
}

fn unreadable(path: &Path, error: &std::io::Error) -> ManifestError {
    whole_file(path, format!("cannot be read: {error}"))
}

fn whole_file(path: &Path, message: String) -> ManifestError {
    ManifestError { file: path.to_owned(), document: 0, line: 0, field: String::new(), message }
}
