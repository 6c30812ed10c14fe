//! The repository as the editor has it: the files on disk with what is typed and not yet saved.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use lsp_types::{InitializeParams, PublishDiagnosticsParams, Uri};
use signet_policy::{Bundle, BundleSource};
use signet_policy_repository as repository;

use super::diagnostics;

pub(super) struct Workspace {
    root: PathBuf,
    /// Open documents by path from the root, as the editor named them.
    open: BTreeMap<String, (Uri, String)>,
    /// Files that have findings in the editor.
    marked: BTreeSet<String>,
    /// What was read last, with open documents over it.
    source: BundleSource,
    /// The last state that compiled: its facts stay of use while a file is half typed.
    bundle: Option<Bundle>,
}

impl Workspace {
    pub(super) fn new(root: PathBuf) -> Self {
        // Editors name files by their true paths.
        let root = root.canonicalize().unwrap_or(root);
        Self { root, open: BTreeMap::new(), marked: BTreeSet::new(), source: BundleSource::default(), bundle: None }
    }

    /// Takes the text of an open document; whether it belongs to the repository.
    pub(super) fn set(&mut self, uri: Uri, text: String) -> bool {
        let Some(path) = self.relative(&uri) else { return false };
        self.open.insert(path, (uri, text));
        true
    }

    pub(super) fn close(&mut self, uri: &Uri) -> bool {
        self.relative(uri).is_some_and(|path| self.open.remove(&path).is_some())
    }

    /// Reads the repository anew and gives the findings of every file that has, or had, some.
    pub(super) fn check(&mut self) -> Vec<PublishDiagnosticsParams> {
        let read = repository::read_dir(&self.root);
        let mut source = match &read {
            Ok(source) => source.clone(),
            Err(_) => BundleSource::default(),
        };
        let open = self.open.iter().filter(|(path, _)| repository::is_bundle_file(path));
        source.files.extend(open.map(|(path, (_, text))| (path.clone(), text.clone())));
        self.source = source;
        let mut found = diagnostics::of(&self.source);
        if let Err(error) = read {
            found.entry("signet.yaml".to_owned()).or_default().push(diagnostics::unreadable(&error));
        }
        if let Ok(bundle) = Bundle::compile(&self.source) {
            self.bundle = Some(bundle);
        }
        // What is mended has to be said as well, and that an open file has nothing.
        let paths: BTreeSet<String> = found.keys().chain(&self.marked).chain(self.open.keys()).cloned().collect();
        self.marked = found.keys().cloned().collect();
        let findings = paths.into_iter().filter_map(|path| {
            let diagnostics = found.remove(&path).unwrap_or_default();
            Some(PublishDiagnosticsParams::new(self.uri(&path)?, diagnostics, None))
        });
        findings.collect()
    }

    pub(super) fn bundle(&self) -> Option<&Bundle> {
        self.bundle.as_ref()
    }

    /// Path and text of every file.
    pub(super) fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.source.files.iter().map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// The text of a document, open or saved.
    pub(super) fn text(&self, uri: &Uri) -> Option<String> {
        let path = self.relative(uri)?;
        let open = self.open.get(&path).map(|(_, text)| text);
        open.or_else(|| self.source.files.get(&path)).cloned()
    }

    /// The document's path from the root, with `/` between its parts.
    pub(super) fn relative(&self, uri: &Uri) -> Option<String> {
        let path = path_of(uri)?;
        // A file that is not saved yet has a true place already: its folder's.
        let folder = || Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?));
        let path = path.canonicalize().ok().or_else(folder).unwrap_or(path);
        let parts: Option<Vec<&str>> =
            path.strip_prefix(&self.root).ok()?.components().map(|part| part.as_os_str().to_str()).collect();
        parts.map(|parts| parts.join("/"))
    }

    /// As the editor names the file where it is open.
    pub(super) fn uri(&self, path: &str) -> Option<Uri> {
        match self.open.get(path) {
            Some((uri, _)) => Some(uri.clone()),
            None => uri_of(&self.root.join(path)),
        }
    }
}

/// The folder that the editor opened.
pub(super) fn root_of(asked: &InitializeParams) -> Option<PathBuf> {
    let folder = asked.workspace_folders.as_ref().and_then(|folders| folders.first()).map(|folder| &folder.uri);
    #[expect(deprecated, reason = "older editors give nothing else")]
    let root = folder.or(asked.root_uri.as_ref())?;
    path_of(root)
}

/// The path of a `file:` URI.
pub(super) fn path_of(uri: &Uri) -> Option<PathBuf> {
    uri.scheme().filter(|scheme| scheme.as_str() == "file")?;
    let mut bytes = Vec::new();
    let mut rest = uri.path().as_str().bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => byte,
        });
    }
    Some(PathBuf::from(String::from_utf8(bytes).ok()?))
}

fn uri_of(path: &Path) -> Option<Uri> {
    let mut text = "file://".to_owned();
    for byte in path.to_str()?.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => text.push(char::from(byte)),
            byte => text.push_str(&format!("%{byte:02X}")),
        }
    }
    Uri::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn paths_survive_being_uris() {
        for path in ["/a/b.cedar", "/a b/\u{e9}#%?.yaml"] {
            assert_eq!(path_of(&uri_of(Path::new(path)).unwrap()), Some(PathBuf::from(path)));
        }
        for other in ["https://a/b", "file:///a%zz", "untitled:1"] {
            assert_eq!(Uri::from_str(other).ok().as_ref().and_then(path_of), None, "{other}");
        }
    }
}
