//! cvc5, asked one question at a time, each within a time limit.
//!
//! A process that answered with an error or with nothing is thrown away and the next question gets a new one. INVARIANT:
//! only an answer of `unsat` counts as a proof; whatever else goes wrong is [`Undecided`].

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use cedar_policy::{PolicySet, Request};
use cedar_policy_symcc::solver::LocalSolver;
use cedar_policy_symcc::{CedarSymCompiler, CompiledPolicySet};
use thiserror::Error;
use tokio::process::Command;
use tokio::runtime::{Builder, Runtime};

use crate::symbolic::{Compiled, model};

/// Where the solver is and how long it may think.
#[derive(Clone, Debug)]
pub struct SolverSettings {
    /// The cvc5 program; a name without a slash is looked for on the path.
    pub program: PathBuf,
    /// For each question.
    pub limit: Duration,
    /// Questions that are asked at the same time, each of a process of its own; at least 1.
    pub workers: usize,
}

impl Default for SolverSettings {
    fn default() -> Self {
        let program = std::env::var_os("CVC5").filter(|p| !p.is_empty()).map_or_else(|| "cvc5".into(), PathBuf::from);
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(8);
        Self { program, limit: Duration::from_secs(10), workers }
    }
}

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Undecided {
    #[error(
        "the solver `{program}` cannot be started ({why}); install cvc5 or name it in the environment variable CVC5"
    )]
    NoSolver { program: String, why: String },
    #[error("the solver found no answer within {0} s")]
    Time(u64),
    #[error("{policy} {why}")]
    Untranslatable { policy: String, why: String },
    #[error("policies read `context.jwt`, and `end_users` of signet.yaml differs: compare the two in two steps")]
    EndUsers,
    #[error("the solver failed: {0}")]
    Failed(String),
    #[error("the solver's example is no request that the mesh can have")]
    Spurious,
}

/// The solver of one thread.
pub(crate) struct Prover {
    settings: SolverSettings,
    runtime: Runtime,
    compiler: Option<CedarSymCompiler<LocalSolver>>,
}

impl Prover {
    pub(crate) fn new(settings: &SolverSettings) -> Result<Self, Undecided> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Undecided::Failed(format!("cannot start a runtime: {e}")))?;
        let mut prover = Self { settings: settings.clone(), runtime, compiler: None };
        prover.check()?;
        Ok(prover)
    }

    /// Whether there is a solver that answers at all.
    fn check(&mut self) -> Result<(), Undecided> {
        let program = self.settings.program.display().to_string();
        let missing = |why: String| Undecided::NoSolver { program: program.clone(), why };
        let mut command = Command::new(&self.settings.program);
        command.arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let limit = self.settings.limit.max(Duration::from_secs(10));
        let output = self.runtime.block_on(async { tokio::time::timeout(limit, command.output()).await });
        match output {
            Ok(Ok(output)) if String::from_utf8_lossy(&output.stdout).contains("cvc5") => Ok(()),
            Ok(Ok(_)) => Err(missing("it does not say that it is cvc5".to_owned())),
            Ok(Err(error)) => Err(missing(error.to_string())),
            Err(_) => Err(missing("it does not answer".to_owned())),
        }
    }

    /// Looks for a request that `left` allows and `right` does not; `None` proves that there is none.
    pub(crate) fn allowed_by_first_only(
        &mut self,
        left: &[Compiled],
        right: &[Compiled],
    ) -> Result<Option<Request>, Undecided> {
        let (left, right) = (compile(left)?, compile(right)?);
        let mut compiler = match self.compiler.take() {
            Some(compiler) => compiler,
            None => self.start()?,
        };
        // cvc5 ends by itself at its own limit; this one is for a solver that does not.
        let patience = self.settings.limit + Duration::from_secs(5);
        let answer = self.runtime.block_on(async {
            tokio::time::timeout(patience, compiler.check_implies_with_counterexample_opt(&left, &right)).await
        });
        match answer {
            Ok(Ok(found)) => {
                self.compiler = Some(compiler);
                Ok(found.map(|env| env.request))
            }
            Ok(Err(cedar_policy_symcc::err::Error::SolverUnknown)) | Err(_) => {
                Err(Undecided::Time(self.settings.limit.as_secs()))
            }
            Ok(Err(error)) => Err(Undecided::Failed(error.to_string())),
        }
    }

    fn start(&self) -> Result<CedarSymCompiler<LocalSolver>, Undecided> {
        let limit = self.settings.limit.as_millis();
        let mut command = Command::new(&self.settings.program);
        command.args(["--lang", "smt", "--strings-exp"]).arg(format!("--tlimit-per={limit}")).kill_on_drop(true);
        let _inside = self.runtime.enter();
        let solver = LocalSolver::from_command(&mut command).map_err(|e| Undecided::Failed(e.to_string()))?;
        CedarSymCompiler::new(solver).map_err(|e| Undecided::Failed(e.to_string()))
    }
}

fn compile(policies: &[Compiled]) -> Result<CompiledPolicySet, Undecided> {
    let failed = |what: &dyn std::fmt::Display| Undecided::Failed(what.to_string());
    let (schema, env) = model().map_err(|e| failed(&e))?;
    let set =
        PolicySet::from_policies(policies.iter().enumerate().map(|(n, p)| p.policy(n))).map_err(|e| failed(&e))?;
    CompiledPolicySet::compile(&set, env, schema).map_err(|e| failed(&e))
}
