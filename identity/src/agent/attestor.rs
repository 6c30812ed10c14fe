//! Who is at the other end of a Workload API connection, and which entries are theirs.
//!
//! Facts come from the kernel (`SO_PEERCRED`) and, for executables, from `/proc/<pid>`. A process id may be reused once
//! its process has ended, so what is read there counts only if that process was there before the connection was accepted
//! and is still the same afterwards. INVARIANT: a fact that cannot be established does not hold.

use std::{fs::File, io::Read, os::unix::fs::MetadataExt, path::PathBuf, sync::Arc};

use aws_lc_rs::digest::{Context, SHA256};
use tokio::sync::OnceCell;

use crate::{
    entries::Entry,
    selector::{Selector, SocketName},
    unix::PeerCredentials,
};

/// No workload's executable is larger; hashing more would let a caller keep the agent busy.
const MAX_EXECUTABLE: u64 = 1 << 30;

/// Which socket a connection came in on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The main socket: entries without a socket of their own.
    Main,
    /// A socket of its own: entries that name it.
    Named(SocketName),
}

/// A connected workload.
#[derive(Debug, Clone)]
pub(crate) struct Workload {
    scope: Scope,
    credentials: PeerCredentials,
    agent_uid: u32,
    executable: Option<Arc<Executable>>,
}

#[derive(Debug)]
struct Executable {
    path: PathBuf,
    /// Held open since the connection was accepted, so that it is this process's whatever happens to its id.
    file: File,
    sha256: OnceCell<Option<String>>,
}

impl Workload {
    /// Establishes the facts of a connection that was just accepted.
    #[must_use]
    pub(crate) fn connected(scope: Scope, credentials: PeerCredentials) -> Self {
        let executable = credentials.pid.and_then(|pid| executable(pid, credentials.uid)).map(Arc::new);
        Self { scope, credentials, agent_uid: rustix::process::geteuid().as_raw(), executable }
    }

    /// Whether every selector of `entry` holds.
    pub(crate) async fn matches(&self, entry: &Entry) -> bool {
        if entry.socket() != self.scope.name() || entry.selectors.is_empty() {
            return false;
        }
        let names_user = entry.selectors.iter().any(|selector| matches!(selector, Selector::Uid(_)));
        let trusted = self.credentials.uid == self.agent_uid || self.credentials.uid == 0;
        // A socket of one's own is a selector only within the agent's user; others must be named by the entry.
        if matches!(self.scope, Scope::Named(_)) && !names_user && !trusted {
            return false;
        }
        for selector in &entry.selectors {
            let holds = match selector {
                Selector::Uid(uid) => self.credentials.uid == *uid,
                Selector::Gid(gid) => self.credentials.gid == *gid,
                Selector::Path(path) => self.executable.as_ref().is_some_and(|executable| executable.path == *path),
                Selector::Sha256(digest) => self.sha256().await.as_ref() == Some(digest),
                Selector::Socket(name) => self.scope.name() == Some(name),
            };
            if !holds {
                return false;
            }
        }
        true
    }

    async fn sha256(&self) -> Option<String> {
        let executable = Arc::clone(self.executable.as_ref()?);
        let file = executable.file.try_clone().ok()?;
        executable
            .sha256
            .get_or_init(|| async { tokio::task::spawn_blocking(move || hash(file)).await.ok().flatten() })
            .await
            .clone()
    }
}

impl Scope {
    /// The socket's name, for those that have one.
    #[must_use]
    pub(crate) fn name(&self) -> Option<&SocketName> {
        match self {
            Self::Main => None,
            Self::Named(name) => Some(name),
        }
    }
}

fn hash(mut file: File) -> Option<String> {
    let size = file.metadata().ok()?.len();
    if size > MAX_EXECUTABLE {
        return None;
    }
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer).ok()? {
            0 => return Some(hex::encode(context.finish())),
            count => context.update(buffer.get(..count)?),
        }
    }
}

/// The executable of process `pid`, when it is still the process that connected.
fn executable(pid: i32, uid: u32) -> Option<Executable> {
    let started = start_time(pid)?;
    // A process that started after this connection was accepted cannot have made it.
    if started > boot_ticks()? {
        return None;
    }
    let owner = std::fs::metadata(format!("/proc/{pid}")).ok()?.uid();
    // The owner of /proc/<pid> is the effective user, or root for a process that may not be inspected.
    if owner != uid {
        return None;
    }
    let link = format!("/proc/{pid}/exe");
    let path = std::fs::read_link(&link).ok()?;
    let file = File::open(&link).ok()?;
    (start_time(pid)? == started).then(|| Executable { path, file, sha256: OnceCell::new() })
}

/// Ticks after boot at which a process started: field 22 of `/proc/<pid>/stat` (proc(5)).
fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command in parentheses and may hold anything, parentheses too.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// The present in the same unit, rounded up.
fn boot_ticks() -> Option<u64> {
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    let seconds: f64 = uptime.split_ascii_whitespace().next()?.parse().ok()?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an uptime is small and positive")]
    let ticks = ((seconds + 0.01) * rustix::param::clock_ticks_per_second() as f64).ceil() as u64;
    Some(ticks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(selectors: &[&str]) -> Entry {
        Entry {
            id: "e".into(),
            spiffe_id: "spiffe://east.bank.example/w".parse().unwrap(),
            selectors: selectors.iter().map(|s| s.parse().unwrap()).collect(),
            ttl_seconds: 0,
            hint: String::new(),
        }
    }

    fn own() -> PeerCredentials {
        PeerCredentials {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            pid: i32::try_from(std::process::id()).ok(),
        }
    }

    fn named(name: &str) -> Scope {
        let Selector::Socket(name) = format!("unix:socket:{name}").parse().unwrap() else { panic!("a socket") };
        Scope::Named(name)
    }

    #[tokio::test]
    async fn every_selector_must_hold() {
        let me = Workload::connected(Scope::Main, own());
        let exe = std::env::current_exe().unwrap().canonicalize().unwrap();
        let digest = crate::ca::sha256_hex(&std::fs::read(&exe).unwrap());
        let (uid, gid) = (format!("unix:uid:{}", own().uid), format!("unix:gid:{}", own().gid));
        let (path, sha256) = (format!("unix:path:{}", exe.display()), format!("unix:sha256:{digest}"));
        for all in [vec![&uid], vec![&gid], vec![&path], vec![&sha256], vec![&uid, &gid, &path, &sha256]] {
            let all: Vec<&str> = all.into_iter().map(String::as_str).collect();
            assert!(me.matches(&entry(&all)).await, "{all:?}");
            let mut with_another = all.clone();
            with_another.push("unix:path:/bin/another");
            assert!(!me.matches(&entry(&with_another)).await, "{with_another:?}");
        }
        assert!(!me.matches(&entry(&["unix:uid:4242424"])).await);
        assert!(!me.matches(&entry(&[&format!("unix:sha256:{}", "0".repeat(64))])).await);
        assert!(!me.matches(&entry(&[])).await);
    }

    #[tokio::test]
    async fn an_entry_with_a_socket_is_served_on_that_socket_alone() {
        let uid = format!("unix:uid:{}", own().uid);
        let web = entry(&["unix:socket:web"]);
        assert!(Workload::connected(named("web"), own()).matches(&web).await);
        assert!(!Workload::connected(named("ledger"), own()).matches(&web).await);
        assert!(!Workload::connected(Scope::Main, own()).matches(&web).await);
        assert!(!Workload::connected(named("web"), own()).matches(&entry(&[&uid])).await);
    }

    #[tokio::test]
    async fn another_user_on_a_named_socket_must_be_named_by_the_entry() {
        let stranger = PeerCredentials { uid: 4_242_424, gid: 1, pid: None };
        let workload = Workload::connected(named("web"), stranger);
        assert!(!workload.matches(&entry(&["unix:socket:web"])).await);
        assert!(workload.matches(&entry(&["unix:socket:web", "unix:uid:4242424"])).await);
        assert!(!workload.matches(&entry(&["unix:socket:web", "unix:uid:1"])).await);
    }

    #[tokio::test]
    async fn a_process_that_is_gone_or_another_users_has_no_executable() {
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        child.wait().unwrap();
        assert!(executable(pid, own().uid).is_none());
        assert!(executable(own().pid.unwrap(), 4_242_424).is_none());
        assert!(executable(own().pid.unwrap(), own().uid).is_some());
    }
}
