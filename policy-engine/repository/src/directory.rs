//! The bundle of a working tree: for a person who edits policies, without Git and without signatures.

use std::path::{Path, PathBuf};

use signet_policy::BundleSource;
use thiserror::Error;

use crate::layout::{Bounds, is_wanted, is_wanted_folder};

#[derive(Debug, Error)]
pub enum DirectoryError {
    #[error("cannot read `{}`: {source}; give the root of a policy repository", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("`{}` is a symbolic link; a policy bundle holds plain files only", .path.display())]
    Symlink { path: PathBuf },
    #[error("`{}` is not UTF-8", .path.display())]
    NotUtf8 { path: PathBuf },
    #[error("`{}` is beyond the bounds of a policy bundle ({what})", .path.display())]
    TooLarge { path: PathBuf, what: &'static str },
}

/// Reads the bundle's files below `path`; the commit is `working-tree` and there is no signer.
pub fn read_dir(path: impl AsRef<Path>) -> Result<BundleSource, DirectoryError> {
    let mut source = BundleSource { commit: "working-tree".to_owned(), ..BundleSource::default() };
    let (mut entries, mut bytes) = (0, 0);
    let bounds = Bounds::default();
    // Folders still to be read: on disk, and as a prefix from the root.
    let mut folders = vec![(path.as_ref().to_owned(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        let fail = |source| DirectoryError::Read { path: folder.clone(), source };
        if prefix.matches('/').count() > bounds.depth {
            return Err(DirectoryError::TooLarge { path: folder, what: "depth" });
        }
        for entry in std::fs::read_dir(&folder).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            entries += 1;
            if entries > bounds.entries {
                return Err(DirectoryError::TooLarge { path: folder, what: "number of entries" });
            }
            let on_disk = entry.path();
            let Ok(name) = entry.file_name().into_string() else {
                if prefix.is_empty() {
                    continue;
                }
                return Err(DirectoryError::NotUtf8 { path: on_disk });
            };
            let name = format!("{prefix}{name}");
            if !is_wanted(&name) && !is_wanted_folder(&name) {
                continue;
            }
            let kind = entry.file_type().map_err(fail)?;
            if kind.is_symlink() {
                return Err(DirectoryError::Symlink { path: on_disk });
            }
            if kind.is_dir() {
                folders.push((on_disk, format!("{name}/")));
            } else if kind.is_file() && is_wanted(&name) {
                let text = read_file(&on_disk, &bounds)?;
                bytes += text.len() as u64;
                if bytes > bounds.total_bytes {
                    return Err(DirectoryError::TooLarge { path: on_disk, what: "total size" });
                }
                source.files.insert(name, text);
            }
        }
    }
    Ok(source)
}

fn read_file(path: &Path, bounds: &Bounds) -> Result<String, DirectoryError> {
    let fail = |source| DirectoryError::Read { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(fail)?.len() > bounds.file_bytes {
        return Err(DirectoryError::TooLarge { path: path.to_owned(), what: "file size" });
    }
    let data = std::fs::read(path).map_err(fail)?;
    String::from_utf8(data).map_err(|_| DirectoryError::NotUtf8 { path: path.to_owned() })
}
