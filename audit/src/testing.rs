//! A private PostgreSQL for tests: a cluster of its own in a temporary directory, on a Unix socket, stopped by pid.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Where Debian's packages put the server.
const BINARIES: &str = "/usr/lib/postgresql/15/bin";

/// A running PostgreSQL, stopped when dropped.
#[derive(Debug)]
pub struct Postgres {
    directory: TempDir,
    server: Option<Child>,
    /// Whom the server runs as: PostgreSQL refuses to be root.
    user: Option<(u32, u32)>,
    /// `-c` arguments that override those that all tests have.
    settings: Vec<String>,
}

impl Postgres {
    /// Makes a cluster and starts it.
    ///
    /// # Errors
    /// When the server's binaries are missing (`apt-get install postgresql`) or it does not come up.
    pub fn start() -> io::Result<Self> {
        Self::start_with(&[])
    }

    /// As [`Self::start`], with settings of the server, as name and value.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(settings: &[(&str, &str)]) -> io::Result<Self> {
        Self::start_in(&std::env::temp_dir(), settings)
    }

    /// As [`Self::start_with`], in a directory below `parent`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_in(parent: &Path, settings: &[(&str, &str)]) -> io::Result<Self> {
        if !Path::new(BINARIES).join("initdb").exists() {
            return Err(io::Error::other(format!("no PostgreSQL in {BINARIES}; apt-get install postgresql-15")));
        }
        let directory = tempfile::Builder::new().prefix("signet-pg-").tempdir_in(parent)?;
        let user = unprivileged(directory.path())?;
        if let Some((uid, gid)) = user {
            std::os::unix::fs::chown(directory.path(), Some(uid), Some(gid))?;
        }
        let mut postgres = Self { directory, server: None, user, settings: Vec::new() };
        postgres.settings = settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let data = postgres.data();
        let mut initdb = postgres.command("initdb");
        initdb.arg("-D").arg(&data).args(["-U", "signet", "-A", "trust", "-E", "UTF8", "--no-locale", "-N"]);
        let output = initdb.stdout(Stdio::null()).stderr(Stdio::piped()).output()?;
        if !output.status.success() {
            return Err(io::Error::other(format!("initdb: {}", String::from_utf8_lossy(&output.stderr))));
        }
        postgres.restart()?;
        Ok(postgres)
    }

    /// Starts the server again after [`Self::kill`].
    ///
    /// # Errors
    /// When it does not come up within 30 s.
    pub fn restart(&mut self) -> io::Result<()> {
        // A backend of a killed server may hold its shared memory for a moment: try again until it lets go.
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let mut server = self.command("postgres");
            server.arg("-D").arg(self.data()).arg("-k").arg(self.directory.path());
            server.args(["-c", "listen_addresses=", "-c", "max_connections=60", "-c", "shared_buffers=64MB"]);
            server.args(self.settings.iter().flat_map(|setting| ["-c", setting]));
            let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log())?;
            server.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            let mut child = server.spawn()?;
            while child.try_wait()?.is_none() {
                let mut ready = self.command("pg_isready");
                ready.arg("-h").arg(self.directory.path()).args(["-U", "signet", "-d", "postgres", "-q"]);
                if ready.status()?.success() {
                    self.server = Some(child);
                    return Ok(());
                }
                if Instant::now() > deadline {
                    let _ = child.kill();
                    let _ = child.wait();
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            if Instant::now() > deadline {
                let log = std::fs::read_to_string(self.log()).unwrap_or_default();
                return Err(io::Error::other(format!("PostgreSQL did not come up within 30 s: {log}")));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends the server with SIGKILL, as a crash would.
    ///
    /// # Errors
    /// When there is nothing to kill.
    pub fn kill(&mut self) -> io::Result<()> {
        if let Some(mut server) = self.server.take() {
            server.kill()?;
            server.wait()?;
        }
        Ok(())
    }

    /// Whether the server runs.
    pub fn is_running(&mut self) -> bool {
        self.server.as_mut().is_some_and(|server| matches!(server.try_wait(), Ok(None)))
    }

    /// Connection string of database `postgres`, as a superuser.
    #[must_use]
    pub fn dsn(&self) -> String {
        let socket = self.directory.path().to_string_lossy().replace('/', "%2F");
        format!("postgres://signet@{socket}/postgres")
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(Path::new(BINARIES).join(name));
        command.current_dir(self.directory.path());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// The user `postgres`, when this process is root.
fn unprivileged(directory: &Path) -> io::Result<Option<(u32, u32)>> {
    use std::os::unix::fs::MetadataExt as _;
    if std::fs::metadata(directory)?.uid() != 0 {
        return Ok(None);
    }
    let passwd = std::fs::read_to_string("/etc/passwd")?;
    let entry = passwd.lines().find(|line| line.starts_with("postgres:"));
    let mut fields = entry.unwrap_or_default().split(':').skip(2).map(str::parse);
    match (fields.next(), fields.next()) {
        (Some(Ok(uid)), Some(Ok(gid))) => Ok(Some((uid, gid))),
        _ => Err(io::Error::other("PostgreSQL refuses to run as root, and there is no user postgres")),
    }
}
