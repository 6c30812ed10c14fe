//! Failures as a person reads them: what was wrong, where, and the next step; and the exit code that scripts read.

use std::fmt::Display;
use std::process::ExitCode;

/// Exit codes, stable (DESIGN: the command line).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Failed = 1,
    Usage = 2,
    Denied = 3,
    Unreachable = 4,
    NotAuthorised = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    what: String,
    place: Option<String>,
    next: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, what: impl Display) -> Self {
        Self { exit, what: what.to_string(), place: None, next: None }
    }

    pub(crate) fn failed(what: impl Display) -> Self {
        Self::new(Exit::Failed, what)
    }

    pub(crate) fn usage(what: impl Display) -> Self {
        Self::new(Exit::Usage, what)
    }

    /// Where it went wrong: a file, a field, an address.
    pub(crate) fn at(mut self, place: impl Display) -> Self {
        self.place = Some(place.to_string());
        self
    }

    /// What the person can do now.
    pub(crate) fn next(mut self, next: impl Display) -> Self {
        self.next = Some(next.to_string());
        self
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        self.exit.into()
    }

    pub(crate) fn print(&self) {
        eprintln!("error: {}", self.what);
        if let Some(place) = &self.place {
            eprintln!("where: {place}");
        }
        if let Some(next) = &self.next {
            eprintln!(" next: {next}");
        }
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)?;
        self.place.as_ref().map_or(Ok(()), |place| write!(f, " ({place})"))
    }
}

/// Turns errors of libraries into failures at the place where the next step is known.
pub(crate) trait ResultExt<T> {
    fn failed(self, what: impl Display, next: impl Display) -> Result<T, Failure>;
    fn unreachable(self, what: impl Display, next: impl Display) -> Result<T, Failure>;
}

impl<T, E: Display> ResultExt<T> for Result<T, E> {
    fn failed(self, what: impl Display, next: impl Display) -> Result<T, Failure> {
        self.map_err(|error| Failure::failed(format!("{what}: {error:#}")).next(next))
    }

    fn unreachable(self, what: impl Display, next: impl Display) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(Exit::Unreachable, format!("{what}: {error:#}")).next(next))
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::failed(format!("{error:#}"))
    }
}
