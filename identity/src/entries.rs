//! Registration entries: which workload, known by its selectors, is which SPIFFE ID. Read from one YAML file.
//!
//! The file is a list of `{spiffe_id, selectors, id?, ttl_seconds?, hint?}`, alone or under the key `entries`. It is accepted or refused whole: a mistake in
//! it leaves the entries that ran before running.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::Deserialize;
use serde_saphyr::Spanned;
use signet_api::identity as api;
use signet_mtls::{SpiffeId, TrustDomain};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    ca::sha256_hex,
    selector::{Selector, SocketName},
};

const MAX_FILE: u64 = 4 << 20;
const MAX_ENTRIES: usize = 20_000;
const MAX_SELECTORS: usize = 16;
/// The longest life that an entry may ask for.
pub const MAX_TTL: u32 = 7 * 86_400;
/// How often the file is looked at.
const POLL: Duration = Duration::from_millis(100);

/// One registration entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Unique; derived from the rest when the file gives none.
    pub id: String,
    /// Who a matching workload is.
    pub spiffe_id: SpiffeId,
    /// All must hold.
    pub selectors: Vec<Selector>,
    /// Seconds; 0 takes the server's default.
    pub ttl_seconds: u32,
    /// The Workload API's hint.
    pub hint: String,
}

impl Entry {
    /// As agents get it.
    #[must_use]
    pub fn to_api(&self) -> api::RegistrationEntry {
        api::RegistrationEntry {
            id: self.id.clone(),
            spiffe_id: self.spiffe_id.to_string(),
            selectors: self.selectors.iter().map(ToString::to_string).collect(),
            ttl_seconds: self.ttl_seconds,
            hint: self.hint.clone(),
        }
    }

    /// Reads what [`Entry::to_api`] made; `None` when it is not one of `trust_domain`'s.
    #[must_use]
    pub fn from_api(entry: &api::RegistrationEntry, trust_domain: &TrustDomain) -> Option<Self> {
        let spiffe_id: SpiffeId = entry.spiffe_id.parse().ok()?;
        let selectors = entry.selectors.iter().map(|s| s.parse().ok()).collect::<Option<Vec<_>>>()?;
        (spiffe_id.trust_domain() == trust_domain && !selectors.is_empty()).then(|| Self {
            id: entry.id.clone(),
            spiffe_id,
            selectors,
            ttl_seconds: entry.ttl_seconds,
            hint: entry.hint.clone(),
        })
    }

    /// The socket that this entry is served on alone, if it names one.
    #[must_use]
    pub fn socket(&self) -> Option<&SocketName> {
        self.selectors.iter().find_map(|selector| match selector {
            Selector::Socket(name) => Some(name),
            _ => None,
        })
    }
}

/// Why the file was refused: file, line, field, what to do.
#[derive(Debug, thiserror::Error)]
pub enum EntriesError {
    /// It cannot be read.
    #[error("cannot read registration entries `{path}`; check the path and its permissions")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// One place in it is wrong.
    #[error("`{path}` line {line}, field `{field}`: {message}; correct it, the last good entries stay in force")]
    At {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: u64,
        /// The field.
        field: String,
        /// What is wrong.
        message: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    #[serde(default)]
    id: Option<Spanned<String>>,
    spiffe_id: Spanned<String>,
    selectors: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    ttl_seconds: Option<Spanned<u32>>,
    #[serde(default)]
    hint: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keyed {
    entries: Vec<Row>,
}

/// Reads the entries of `trust_domain`.
///
/// # Errors
/// Naming file, line and field of the first mistake.
pub fn load(path: &Path, trust_domain: &TrustDomain) -> Result<Vec<Entry>, EntriesError> {
    let read = |source| EntriesError::Read { path: path.to_owned(), source };
    let size = std::fs::metadata(path).map_err(read)?.len();
    if size > MAX_FILE {
        return Err(at(path, 1, "entries", format!("the file has {size} bytes, at most {MAX_FILE} are read")));
    }
    parse(path, &std::fs::read_to_string(path).map_err(read)?, trust_domain)
}

fn at(path: &Path, line: u64, field: &str, message: impl Into<String>) -> EntriesError {
    EntriesError::At { path: path.to_owned(), line, field: field.to_owned(), message: message.into() }
}

fn parse(path: &Path, text: &str, trust_domain: &TrustDomain) -> Result<Vec<Entry>, EntriesError> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Vec::new());
    }
    let first = text.lines().map(str::trim_start).find(|line| !matches!(line.chars().next(), None | Some('#')));
    let listed = first.is_some_and(|line| line.starts_with(['-', '[']) && line.trim_end() != "---");
    let rows = if listed {
        serde_saphyr::from_str(text)
    } else {
        serde_saphyr::from_str::<Keyed>(text).map(|keyed| keyed.entries)
    };
    let rows: Vec<Row> = rows.map_err(|error| {
        let line = error.location().map_or(1, |location| location.line());
        let message = error.without_snippet().to_string();
        let message = message.lines().next().unwrap_or_default().to_owned();
        at(path, line, &quoted(&message).unwrap_or_else(|| "entries".into()), message)
    })?;
    if rows.len() > MAX_ENTRIES {
        return Err(at(path, 1, "entries", format!("{} entries, at most {MAX_ENTRIES} are served", rows.len())));
    }
    let mut ids = BTreeSet::new();
    let mut sockets: BTreeMap<String, SocketName> = BTreeMap::new();
    let mut entries = Vec::with_capacity(rows.len());
    for row in rows {
        let line = row.spiffe_id.referenced.line();
        let entry = entry(path, row, trust_domain)?;
        if !ids.insert(entry.id.clone()) {
            return Err(at(path, line, "id", format!("`{}` names two entries", entry.id)));
        }
        if let Some(name) = entry.socket() {
            let taken = sockets.entry(name.file_name()).or_insert_with(|| name.clone());
            if taken != name {
                let message = format!("sockets `{taken}` and `{name}` would be the same file `{}`", name.file_name());
                return Err(at(path, line, "selectors", message));
            }
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn quoted(message: &str) -> Option<String> {
    message.split('`').nth(1).map(ToOwned::to_owned)
}

fn entry(path: &Path, row: Row, trust_domain: &TrustDomain) -> Result<Entry, EntriesError> {
    let line = row.spiffe_id.referenced.line();
    let refuse = |message: String| at(path, line, "spiffe_id", message);
    let text = &row.spiffe_id.value;
    let spiffe_id: SpiffeId = text.parse().map_err(|error| refuse(format!("`{text}`: {error}")))?;
    if spiffe_id.trust_domain() != trust_domain {
        return Err(refuse(format!("`{text}` is not of trust domain `{trust_domain}`")));
    }
    // The server and its agents prove themselves otherwise; an entry for them would hand their powers to a workload.
    if spiffe_id.path() == "/signet/identity" || spiffe_id.path().starts_with("/signet/agent") {
        return Err(refuse(format!("`{text}` belongs to the identity service itself")));
    }
    if spiffe_id.path().is_empty() {
        return Err(refuse(format!("`{text}` names a whole trust domain; add a path")));
    }
    let listed = row.selectors.referenced.line();
    let mut selectors = Vec::new();
    for given in &row.selectors.value {
        let selector: Selector = given
            .value
            .parse()
            .map_err(|error| at(path, given.referenced.line(), "selectors", format!("`{}`: {error}", given.value)))?;
        if !selectors.contains(&selector) {
            selectors.push(selector);
        }
    }
    if selectors.is_empty() {
        return Err(at(path, listed, "selectors", "at least one is needed, or anyone would match"));
    }
    if selectors.len() > MAX_SELECTORS {
        return Err(at(path, listed, "selectors", format!("at most {MAX_SELECTORS}")));
    }
    if selectors.iter().filter(|selector| matches!(selector, Selector::Socket(_))).count() > 1 {
        return Err(at(path, listed, "selectors", "two sockets can never hold at once; make two entries"));
    }
    let ttl_seconds = row.ttl_seconds.as_ref().map_or(0, |ttl| ttl.value);
    if let Some(ttl) = row.ttl_seconds.filter(|ttl| ttl.value > MAX_TTL) {
        return Err(at(path, ttl.referenced.line(), "ttl_seconds", format!("{} is more than {MAX_TTL}", ttl.value)));
    }
    if row.hint.len() > 256 {
        return Err(at(path, line, "hint", "longer than 256 bytes"));
    }
    let id = match row.id {
        Some(id) if id.value.is_empty() || id.value.len() > 128 => {
            return Err(at(path, id.referenced.line(), "id", "must have 1 to 128 bytes"));
        }
        Some(id) => id.value,
        None => derived_id(&spiffe_id, &selectors),
    };
    Ok(Entry { id, spiffe_id, selectors, ttl_seconds, hint: row.hint })
}

/// Stable over restarts and the file's order, so that agents keep the SVIDs they have.
fn derived_id(spiffe_id: &SpiffeId, selectors: &[Selector]) -> String {
    let mut sorted: Vec<String> = selectors.iter().map(ToString::to_string).collect();
    sorted.sort();
    let digest = sha256_hex(format!("{spiffe_id}\n{}", sorted.join("\n")).as_bytes());
    digest.get(..16).unwrap_or_default().to_owned()
}

/// What the watcher says about the file.
pub type OnReload = Box<dyn Fn(&Result<usize, EntriesError>) + Send + Sync>;

/// Follows the file: a good change is published within half a second, a bad one is reported once and changes nothing.
///
/// Ends with `cancel`.
pub async fn follow(
    path: PathBuf,
    trust_domain: TrustDomain,
    entries: watch::Sender<Arc<Vec<Entry>>>,
    on_reload: OnReload,
    cancel: CancellationToken,
) {
    // What is on disk at the first look may be newer than what was read at start.
    let mut taken = None;
    let mut before = None;
    let mut timer = tokio::time::interval(POLL);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = timer.tick() => {}
        }
        let now = Some(stamp(&path));
        // Two looks must agree: a file that is being written may be empty for a moment, and an empty file is a valid one.
        let settled = before == now;
        before = now;
        if !settled || taken == now {
            continue;
        }
        taken = now;
        match load(&path, &trust_domain) {
            Ok(read) => {
                let count = read.len();
                let changed = entries.send_if_modified(|current| {
                    let differs = **current != read;
                    if differs {
                        *current = Arc::new(read);
                    }
                    differs
                });
                if changed {
                    tracing::info!(entries = count, "registration entries changed");
                }
                on_reload(&Ok(count));
            }
            Err(error) => {
                tracing::error!(error = %signet_observe::error_chain(&error), "registration entries refused, the last good ones stay");
                on_reload(&Err(error));
            }
        }
    }
}

/// Anything that changes when the file is written, replaced or removed.
fn stamp(path: &Path) -> Option<(std::time::SystemTime, u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn td() -> TrustDomain {
        "east.bank.example".parse().unwrap()
    }

    fn check(text: &str, expected: &str) {
        let error = parse(Path::new("entries.yaml"), text, &td()).unwrap_err().to_string();
        assert!(error.contains(expected), "`{error}` should contain `{expected}`");
        assert!(error.contains("`entries.yaml` line"), "{error}");
    }

    #[test]
    fn reads_a_list_of_entries() {
        let text = "# who is who\n- spiffe_id: spiffe://east.bank.example/ns/bank/sa/web\n  selectors: [\"unix:socket:bank-web\"]\n\
            - {id: op, spiffe_id: 'spiffe://east.bank.example/signet/operator', selectors: ['unix:uid:1000'], ttl_seconds: 20, hint: x}\n";
        let entries = parse(Path::new("e"), text, &td()).unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].socket().unwrap().file_name(), "bank-web.sock");
        assert_eq!(entries[0].id.len(), 16);
        assert_eq!((entries[1].id.as_str(), entries[1].ttl_seconds, entries[1].hint.as_str()), ("op", 20, "x"));
        assert_eq!(Entry::from_api(&entries[1].to_api(), &td()).unwrap(), entries[1]);
        assert!(parse(Path::new("e"), "# nothing yet\n", &td()).unwrap().is_empty());
        let keyed = format!("# who\nentries:\n{text}");
        assert_eq!(parse(Path::new("e"), &keyed, &td()).unwrap(), entries);
        let json = r#"{"entries": [{"spiffe_id": "spiffe://east.bank.example/w", "selectors": ["unix:uid:1"]}]}"#;
        assert_eq!(parse(Path::new("e"), json, &td()).unwrap().len(), 1);
    }

    #[test]
    fn mistakes_name_file_line_and_field() {
        let with = |spiffe_id: &str, rest: &str| format!("- spiffe_id: {spiffe_id}\n{rest}\n");
        let web = "spiffe://east.bank.example/web";
        check(&with("spiffe://West/x", "  selectors: ['unix:uid:1']"), "line 1, field `spiffe_id`");
        check(&with("spiffe://west.bank.example/x", "  selectors: ['unix:uid:1']"), "not of trust domain");
        check(&with("spiffe://east.bank.example", "  selectors: ['unix:uid:1']"), "whole trust domain");
        check(&with("spiffe://east.bank.example/signet/identity", "  selectors: ['unix:uid:1']"), "identity service");
        check(&with("spiffe://east.bank.example/signet/agent/x", "  selectors: ['unix:uid:1']"), "identity service");
        check(&with(web, "  selectors: []"), "line 2, field `selectors`: at least one");
        check(&with(web, "  selectors:\n    - unix:uid:1\n    - unix:uid:x"), "line 4, field `selectors`");
        check(&with(web, "  selector: []"), "line 2, field `selector`");
        check(&with(web, "  ttl_seconds: 3"), "field `selectors`");
        check(&with(web, "  selectors: ['unix:uid:1']\n  ttl_seconds: 9999999"), "line 3, field `ttl_seconds`");
        check(&with(web, "  selectors: ['unix:socket:a', 'unix:socket:b']"), "two sockets");
        check("- spiffe_id: [\n", "line");
        let twice = with(web, "  selectors: ['unix:uid:1']").repeat(2);
        check(&twice, "line 3, field `id`");
        let clash = with(web, "  selectors: ['unix:socket:a/b']") + &with(web, "  selectors: ['unix:socket:a-b']");
        check(&clash, "same file `a-b.sock`");
    }

    #[tokio::test]
    async fn a_bad_edit_keeps_the_last_good_entries_and_a_good_one_arrives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("entries.yaml");
        let line = |n: u32| format!("- spiffe_id: spiffe://east.bank.example/w{n}\n  selectors: ['unix:uid:{n}']\n");
        std::fs::write(&path, line(1)).unwrap();
        let (sender, mut receiver) = watch::channel(Arc::new(load(&path, &td()).unwrap()));
        let cancel = CancellationToken::new();
        let (reports, mut reported) = tokio::sync::mpsc::unbounded_channel();
        let on_reload: OnReload = Box::new(move |result| {
            let _ = reports.send(result.as_ref().map(|n| *n).map_err(ToString::to_string));
        });
        let task = tokio::spawn(follow(path.clone(), td(), sender, on_reload, cancel.clone()));
        let within = Duration::from_secs(5);
        std::fs::write(&path, line(1) + "- nonsense\n").unwrap();
        let report = loop {
            let report = tokio::time::timeout(within, reported.recv()).await.expect("a report").unwrap();
            if report.is_err() {
                break report;
            }
        };
        assert!(report.unwrap_err().contains("line 3"));
        assert_eq!(receiver.borrow_and_update().len(), 1);
        std::fs::write(&path, line(1) + &line(2)).unwrap();
        tokio::time::timeout(within, receiver.changed()).await.expect("a change").unwrap();
        assert_eq!(receiver.borrow_and_update().len(), 2);
        cancel.cancel();
        task.await.unwrap();
    }
}
