//! The demo's two PostgreSQL clusters, from the server binaries of the machine: the audit store and the bank's ledger.
//!
//! `initdb` refuses to run as root, so a root user's demo runs them as user `postgres`. That user may not be able to pass the
//! directories above the demo's own, so their data then lies in a directory of its own below /tmp, removed at the end.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::directory;
use super::netns::{self, Space};
use super::process::{Spawn, run_to_end};
use crate::failure::{Failure, ResultExt};

const SERVER_ROOT: &str = "/usr/lib/postgresql";
const INSTALL: &str = "install it: sudo apt-get install -y postgresql";

/// The account that runs the servers, when it is not our own.
#[derive(Clone, Copy)]
pub(crate) struct Account {
    uid: u32,
    gid: u32,
}

pub(crate) struct Postgres {
    binaries: PathBuf,
    data: PathBuf,
    address: SocketAddr,
    account: Option<Account>,
    user: &'static str,
    password: String,
    /// Where it runs, when that is not where the demo does; `address` then leads there.
    space: Option<Space>,
    listen: SocketAddr,
}

/// The newest installed server's binaries.
pub(crate) fn binaries() -> Result<PathBuf, Failure> {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir(SERVER_ROOT)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| bin.join("initdb").exists() && bin.join("postgres").exists())
        .collect();
    versions.sort();
    versions.pop().map(|(_, bin)| bin).ok_or_else(|| {
        Failure::failed("the PostgreSQL server is not installed")
            .at(format!("{SERVER_ROOT}/*/bin/initdb"))
            .next(INSTALL)
    })
}

/// Whom the servers run as: nobody else, unless we are root.
pub(crate) fn account() -> Result<Option<Account>, Failure> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd").failed("cannot read the users of this machine", INSTALL)?;
    let ids = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        (name == "postgres").then_some(Account { uid, gid })
    });
    ids.map(Some).ok_or_else(|| {
        Failure::failed("PostgreSQL does not run as root, and there is no user `postgres`")
            .at("/etc/passwd")
            .next(INSTALL)
    })
}

impl Postgres {
    /// Makes a cluster with one superuser and one database, both named `user`.
    pub(crate) fn create(
        data: PathBuf,
        address: SocketAddr,
        account: Option<Account>,
        user: &'static str,
    ) -> Result<Self, Failure> {
        let password = directory::secret()?;
        let postgres =
            Self { binaries: binaries()?, data, address, account, user, password, space: None, listen: address };
        directory::make(&postgres.data)?;
        fs::set_permissions(&postgres.data, fs::Permissions::from_mode(0o700))
            .failed("cannot protect the database's directory", INSTALL)?;
        let password_file =
            tempfile::NamedTempFile::new().failed("cannot make a file for the password", "check /tmp")?;
        fs::write(password_file.path(), &postgres.password).failed("cannot write the password", "check /tmp")?;
        if let Some(account) = account {
            for path in [postgres.data.as_path(), password_file.path()] {
                chown(path, Some(account.uid), Some(account.gid))
                    .failed("cannot hand the database's files over", INSTALL)?;
            }
        }
        let mut initdb = postgres.command("initdb");
        initdb.arg("-D").arg(&postgres.data).args([
            "--username",
            user,
            "--auth",
            "scram-sha-256",
            "--encoding",
            "UTF8",
        ]);
        initdb.args(["--locale", "C.UTF-8", "--no-sync", "--pwfile"]).arg(password_file.path());
        run_to_end(initdb, "initdb", INSTALL)?;
        Ok(postgres)
    }

    /// Runs the server in a network namespace, where it listens on `listen`.
    pub(crate) fn move_into(&mut self, space: Space, listen: SocketAddr) {
        self.space = Some(space);
        self.listen = listen;
    }

    /// The server as a child process in the foreground.
    pub(crate) fn spawn(&self) -> Spawn {
        let mut command = self.command("postgres");
        command.arg("-D").arg(&self.data);
        let port = self.listen.port().to_string();
        for setting in [
            format!("port={port}"),
            format!("listen_addresses={}", self.listen.ip()),
            format!("unix_socket_directories={}", self.data.display()),
            "shared_buffers=64MB".to_owned(),
            "max_connections=100".to_owned(),
            "log_min_messages=warning".to_owned(),
        ] {
            command.args(["-c", &setting]);
        }
        Spawn::from(netns::inside(self.space.as_ref(), command))
    }

    /// A DSN that asks for no password.
    pub(crate) fn dsn(&self) -> String {
        format!("postgres://{0}:{1}@{2}/{0}", self.user, self.password, self.address)
    }

    /// The same without an address, for an app that reaches it through the mesh.
    pub(crate) fn dsn_without_address(&self) -> String {
        format!("user={0} password={1} dbname={0}", self.user, self.password)
    }

    fn command(&self, program: &str) -> Command {
        let program = self.binaries.join(program);
        let mut command = Command::new("setpriv");
        if let Some(account) = self.account {
            command
                .args([format!("--reuid={}", account.uid), format!("--regid={}", account.gid)])
                .arg("--clear-groups");
        }
        command.arg("--pdeathsig=INT").arg("--").arg(program);
        command.current_dir("/").env_remove("PGDATA").env_remove("PGPORT").env("LC_ALL", "C.UTF-8");
        command
    }

    /// Creates the database named like the user, which `initdb` does not.
    pub(crate) fn create_database(&self) -> Result<(), Failure> {
        let mut psql = Command::new(self.binaries.join("psql"));
        psql.arg(format!("postgres://{}@{}/postgres", self.user, self.address)).env("PGPASSWORD", &self.password);
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", &format!("CREATE DATABASE {}", self.user)]);
        run_to_end(psql, "psql", INSTALL)
    }
}

/// Where the data of the servers goes, and the directory to remove at the end if it is not the demo's own.
pub(crate) fn data_root(dir: &Path, account: Option<Account>) -> Result<(PathBuf, Option<tempfile::TempDir>), Failure> {
    let Some(account) = account else { return Ok((dir.join("postgres"), None)) };
    if dir.ancestors().all(|path| path.metadata().is_ok_and(|metadata| metadata.mode() & 0o001 != 0)) {
        return Ok((dir.join("postgres"), None));
    }
    let root = tempfile::Builder::new()
        .prefix("signet-postgres-")
        .tempdir()
        .failed("cannot make a directory", "check /tmp")?;
    chown(root.path(), Some(account.uid), Some(account.gid))
        .failed("cannot hand the database's files over", INSTALL)?;
    Ok((root.path().to_owned(), Some(root)))
}
