//! Running nft or iptables in the namespace that we are in.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use super::iptables::{CHAINS, Family};
use super::{Backend, Counters, Inbound, Rules, TABLE, iptables, nft};

const INSTALL: &str = "install it: sudo apt-get install -y nftables";

/// Why the rules could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("neither `nft` nor `iptables-restore` is installed; {INSTALL}")]
    NoProgram,
    #[error("`{0}` is not installed; {INSTALL}")]
    Missing(&'static str),
    #[error("cannot run `{program}`")]
    Run { program: String, source: std::io::Error },
    #[error(
        "`{program}` refused: {said}; redirect rules need root (CAP_NET_ADMIN) in the workload's network namespace"
    )]
    Refused { program: String, said: String },
    #[error("TPROXY needs nft; {INSTALL}, or use --inbound-mode redirect")]
    Tproxy,
    #[error("there are no rules of Signet's in this network namespace; write them with `signet-proxy init`")]
    NoRules,
    #[error("nft's list of counters cannot be read")]
    Counters(#[source] serde_json::Error),
    #[error("counters are read from nft; with iptables see `iptables -t filter -nvL SIGNET_DATAGRAMS_OUT`")]
    CountersNeedNft,
}

/// Writes the rules, or with `dry_run` gives the text that would be written.
///
/// # Errors
/// When a program is missing or refuses; what was in force before is in force then.
pub fn init(rules: &Rules, backend: Backend, dry_run: bool) -> Result<String, ApplyError> {
    if chosen(backend, dry_run)? == Backend::Nft {
        // Without rights to read there are none to write either, which the write itself says best.
        let counters = read_counters().unwrap_or_default();
        let script = nft::script(rules, &counters);
        if !dry_run {
            feed("nft", &["-f", "-"], &script)?;
        }
        return Ok(script);
    }
    if rules.inbound == Inbound::Tproxy {
        return Err(ApplyError::Tproxy);
    }
    let mut all = String::new();
    for family in Family::ALL {
        let jumps: Vec<&str> = match dry_run {
            true => CHAINS.iter().map(|(_, _, ours)| *ours).collect(),
            false => CHAINS.iter().filter(|chain| !jumps_to(family, chain)).map(|(_, _, ours)| *ours).collect(),
        };
        let script = iptables::script(rules, family, &jumps);
        if !dry_run {
            feed(family.restore(), &["--noflush", "-w", "5"], &script)?;
        }
        let _ = write!(all, "# {}\n{script}", family.restore());
    }
    Ok(all)
}

/// Removes the rules; without any it does nothing.
///
/// # Errors
/// When a program is missing or refuses.
pub fn undo(backend: Backend, dry_run: bool) -> Result<String, ApplyError> {
    if chosen(backend, dry_run)? == Backend::Nft {
        let script = nft::undo();
        if !dry_run {
            feed("nft", &["-f", "-"], &script)?;
        }
        return Ok(script);
    }
    let mut all = String::new();
    for family in Family::ALL {
        for (table, from, ours) in CHAINS {
            let steps: [&[&str]; 3] = [&["-D", from, "-j", ours], &["-F", ours], &["-X", ours]];
            let there = dry_run || exists(family, table, ours);
            for step in steps.iter().filter(|_| there) {
                let mut arguments = vec!["-w", "5", "-t", table];
                arguments.extend_from_slice(step);
                let _ = writeln!(all, "{} {}", family.program(), arguments.join(" "));
                // A jump that is not there is as good as removed; the chain itself must go.
                let ran = if dry_run { Ok(()) } else { feed(family.program(), &arguments, "") };
                match ran {
                    Err(_) if step.first() == Some(&"-D") => {}
                    other => other?,
                }
            }
        }
    }
    Ok(all)
}

/// What the rules of this namespace counted.
///
/// # Errors
/// When there are none, or no right to read them.
pub fn counters() -> Result<Counters, ApplyError> {
    if !is_installed("nft") {
        return Err(ApplyError::CountersNeedNft);
    }
    read_counters()
}

fn read_counters() -> Result<Counters, ApplyError> {
    match output("nft", &["-j", "list", "counters", "table", "inet", TABLE]) {
        Ok(json) => nft::counters(&json).map_err(ApplyError::Counters),
        Err(ApplyError::Refused { said, .. }) if said.contains("No such file") => Err(ApplyError::NoRules),
        Err(error) => Err(error),
    }
}

fn chosen(backend: Backend, dry_run: bool) -> Result<Backend, ApplyError> {
    match backend {
        Backend::Nft if dry_run || is_installed("nft") => Ok(Backend::Nft),
        Backend::Nft => Err(ApplyError::Missing("nft")),
        Backend::Iptables if dry_run || is_installed("iptables-restore") => Ok(Backend::Iptables),
        Backend::Iptables => Err(ApplyError::Missing("iptables-restore")),
        Backend::Auto if is_installed("nft") => Ok(Backend::Nft),
        Backend::Auto if is_installed("iptables-restore") => Ok(Backend::Iptables),
        // To see what would be written nothing has to be installed.
        Backend::Auto if dry_run => Ok(Backend::Nft),
        Backend::Auto => Err(ApplyError::NoProgram),
    }
}

fn is_installed(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
}

fn jumps_to(family: Family, (table, from, ours): &(&str, &str, &str)) -> bool {
    output(family.program(), &["-w", "5", "-t", table, "-C", from, "-j", ours]).is_ok()
}

fn exists(family: Family, table: &str, chain: &str) -> bool {
    output(family.program(), &["-w", "5", "-t", table, "-n", "-L", chain]).is_ok()
}

fn output(program: &str, arguments: &[&str]) -> Result<String, ApplyError> {
    run(program, arguments, "").map(|out| String::from_utf8_lossy(&out).into_owned())
}

fn feed(program: &str, arguments: &[&str], input: &str) -> Result<(), ApplyError> {
    run(program, arguments, input).map(drop)
}

fn run(program: &str, arguments: &[&str], input: &str) -> Result<Vec<u8>, ApplyError> {
    let failed = |source| ApplyError::Run { program: program.to_owned(), source };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends without reading says why on its standard error.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it said nothing").to_owned();
    Err(ApplyError::Refused { program: program.to_owned(), said })
}
