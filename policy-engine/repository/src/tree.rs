//! Reading a commit's files within bounds. Every object's content is hashed again and compared with its id, so that
//! neither a damaged store nor replacement refs can put other bytes under a signature.

use std::collections::BTreeMap;

use gix::ObjectId;
use gix::objs::tree::EntryKind;
use gix::objs::{Kind, TreeRefIter};

use crate::layout::{Bounds, is_wanted, is_wanted_folder};
use crate::refusal::Cause;

/// A tree of 10,000 entries with long names fits.
const TREE_BYTES: u64 = 4 << 20;

/// The object's bytes; refused when it is another kind, larger than `limit` or not what its id says.
pub(crate) fn read_object(
    repo: &gix::Repository,
    id: ObjectId,
    kind: Kind,
    limit: u64,
    what: &str,
) -> Result<Vec<u8>, Cause> {
    let unreadable = |why: String| Cause::new("unreadable", format!("cannot read {what} ({id}): {why}"));
    let header = repo.find_header(id).map_err(|e| unreadable(e.to_string()))?;
    if header.kind() != kind {
        return Err(Cause::new("corrupt", format!("{what} ({id}) is a {} and not a {kind}", header.kind())));
    }
    if header.size() > limit {
        let message = format!("{what} has {} bytes, more than the {limit} that are read", header.size());
        return Err(Cause::new("too_large", message));
    }
    let mut object = repo.find_object(id).map_err(|e| unreadable(e.to_string()))?;
    let data = std::mem::take(&mut object.data);
    let hash = gix::objs::compute_hash(id.kind(), kind, &data).map_err(|e| unreadable(e.to_string()))?;
    if hash != id || object.kind != kind {
        return Err(Cause::new("corrupt", format!("{what} has another content than its id {id} says")));
    }
    Ok(data)
}

/// The bundle's files of a tree.
pub(crate) fn read_files(
    repo: &gix::Repository,
    root: ObjectId,
    bounds: &Bounds,
) -> Result<BTreeMap<String, String>, Cause> {
    let mut walk = Walk { repo, bounds, files: BTreeMap::new(), entries: 0, bytes: 0 };
    walk.folder(root, "", 0)?;
    Ok(walk.files)
}

/// The folder `name` of a tree, when it has one.
pub(crate) fn subtree(
    repo: &gix::Repository,
    root: ObjectId,
    name: &gix::bstr::BStr,
) -> Result<Option<ObjectId>, Cause> {
    let data = read_object(repo, root, Kind::Tree, TREE_BYTES, "a folder")?;
    for entry in TreeRefIter::from_bytes(&data, root.kind()) {
        let entry = entry.map_err(|e| Cause::new("corrupt", format!("a folder is malformed: {e}")))?;
        if entry.filename == name && entry.mode.kind() == EntryKind::Tree {
            return Ok(Some(entry.oid.to_owned()));
        }
    }
    Ok(None)
}

struct Walk<'a> {
    repo: &'a gix::Repository,
    bounds: &'a Bounds,
    files: BTreeMap<String, String>,
    entries: usize,
    bytes: u64,
}

impl Walk<'_> {
    fn folder(&mut self, id: ObjectId, prefix: &str, depth: usize) -> Result<(), Cause> {
        let name = if prefix.is_empty() { "the root folder" } else { prefix };
        if depth > self.bounds.depth {
            return Err(Cause::new("too_large", format!("`{name}` lies deeper than {} folders", self.bounds.depth)));
        }
        let data = read_object(self.repo, id, Kind::Tree, TREE_BYTES, &format!("folder `{name}`"))?;
        for entry in TreeRefIter::from_bytes(&data, id.kind()) {
            let entry = entry.map_err(|e| Cause::new("corrupt", format!("folder `{name}` is malformed: {e}")))?;
            self.entries += 1;
            if self.entries > self.bounds.entries {
                let message = format!("the repository has more than {} entries", self.bounds.entries);
                return Err(Cause::new("too_large", message));
            }
            let Ok(file) = std::str::from_utf8(entry.filename) else {
                if depth == 0 {
                    continue;
                }
                return Err(Cause::new("not_utf8", format!("a name in `{name}` is not UTF-8")));
            };
            let path = format!("{prefix}{file}");
            let wanted = is_wanted_folder(&path) || is_wanted(&path);
            if !wanted {
                continue;
            }
            if matches!(file, "" | "." | "..") || file.contains(['/', '\\']) || file.chars().any(char::is_control) {
                return Err(Cause::new("corrupt", format!("`{path:?}` is not a file name")));
            }
            let child = entry.oid.to_owned();
            match entry.mode.kind() {
                EntryKind::Tree if is_wanted_folder(&path) => self.folder(child, &format!("{path}/"), depth + 1)?,
                EntryKind::Tree => return Err(Cause::new("unreadable", format!("`{path}` is a folder, not a file"))),
                EntryKind::Link => return Err(Cause::new("symlink", format!("`{path}` is a symbolic link"))),
                EntryKind::Commit => return Err(Cause::new("submodule", format!("`{path}` is a submodule"))),
                EntryKind::Blob | EntryKind::BlobExecutable if is_wanted(&path) => self.file(child, path)?,
                EntryKind::Blob | EntryKind::BlobExecutable => {}
            }
        }
        Ok(())
    }

    fn file(&mut self, id: ObjectId, path: String) -> Result<(), Cause> {
        let data = read_object(self.repo, id, Kind::Blob, self.bounds.file_bytes, &format!("`{path}`"))?;
        self.bytes += data.len() as u64;
        if self.bytes > self.bounds.total_bytes {
            let message = format!("the files of the bundle have more than {} bytes", self.bounds.total_bytes);
            return Err(Cause::new("too_large", message));
        }
        let text =
            String::from_utf8(data).map_err(|_| Cause::new("not_utf8", format!("`{path}` is not UTF-8 text")))?;
        self.files.insert(path, text);
        Ok(())
    }
}
