//! `signet policy break-glass`: opens for an emergency, and for a time, what policies hold back for one.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, ExitCode, Stdio};

use clap::Subcommand;
use jiff::{SignedDuration, Timestamp, Unit};
use serde::Serialize;
use signet_api::control::{GrantRequest, GrantStatus, MeshRequest, RevokeRequest};
use signet_policy_repository::{BREAK_GLASS_NAMESPACE, GrantDocument};

use crate::arguments::Global;
use crate::context::{Cluster, Context};
use crate::failure::{Failure, ResultExt};
use crate::output::{self, Row, printable};
use crate::rpc::{Operator, failure};

/// A grant and its signatures are smaller by far.
const FILE_LIMIT: u64 = 256 * 1024;
const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----";
const DOCS: &str = "see docs/break-glass.md";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write the document of a grant on standard output, to be signed by those who may.
    Prepare(Prepare),
    /// Sign a grant, after showing what it says: adds a signature to FILE.sig.
    Sign {
        /// The document that `prepare` wrote.
        file: PathBuf,
        /// The SSH key to sign with, as for commits; a public key stands for one that an agent or a token holds.
        #[arg(long)]
        key: PathBuf,
    },
    /// Give a grant that was signed: it holds at once, until its end.
    Grant {
        /// The document; its signatures are in FILE.sig, one after the other.
        file: PathBuf,
    },
    /// List the grants that are in force.
    List {
        /// Of this cluster only.
        #[arg(long)]
        cluster: Option<String>,
    },
    /// End a grant at once. It cannot be given again.
    Revoke {
        /// The grant's id, as `list` shows it.
        id: String,
        /// Why, for the record.
        #[arg(long)]
        reason: String,
    },
}

#[derive(clap::Args)]
struct Prepare {
    /// The cluster whose services it is about.
    #[arg(long)]
    cluster: Option<String>,
    /// A caller: SPIFFE ID, or `<trust domain>/<namespace>/<service account>`. May be given several times.
    #[arg(long, required = true)]
    caller: Vec<String>,
    /// A service: `<trust domain>/<namespace>/<name>`, or the name of an external service. May be given several times.
    #[arg(long, required = true)]
    service: Vec<String>,
    /// For how long from now, minutes.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_080))]
    minutes: u32,
    /// Which incident it is for.
    #[arg(long)]
    ticket: String,
    /// Why.
    #[arg(long)]
    reason: String,
}

/// A grant in force.
#[derive(Serialize)]
pub(super) struct Grant {
    cluster: String,
    id: String,
    ticket: String,
    reason: String,
    callers: Vec<String>,
    services: Vec<String>,
    approvers: Vec<String>,
    /// RFC 3339.
    until: String,
    /// RFC 3339.
    granted_at: String,
    granted_by: String,
}

impl Row for Grant {
    const COLUMNS: &'static [&'static str] =
        &["cluster", "id", "ticket", "callers", "services", "approved by", "until"];

    fn cells(&self) -> Vec<String> {
        let list = |items: &[String]| items.join(" ");
        let (cluster, id, ticket) = (self.cluster.clone(), self.id.clone(), self.ticket.clone());
        let (callers, services, approvers) = (list(&self.callers), list(&self.services), list(&self.approvers));
        vec![cluster, id, ticket, callers, services, approvers, self.until.clone()]
    }
}

impl Grant {
    pub(super) fn of(cluster: &str, status: GrantStatus) -> Self {
        let grant = status.grant.unwrap_or_default();
        Self {
            cluster: cluster.to_owned(),
            id: grant.id,
            ticket: grant.ticket,
            reason: status.reason,
            callers: grant.principals,
            services: grant.services,
            approvers: grant.approvers,
            until: output::time(grant.until),
            granted_at: output::time(status.granted_at),
            granted_by: status.granted_by,
        }
    }

    /// For people, on one line.
    pub(super) fn line(&self) -> String {
        let (ticket, approvers) = (printable(&self.ticket), printable(&self.approvers.join(", ")));
        format!("break-glass {} for {ticket} holds until {}, approved by {approvers}", self.id, self.until)
    }
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<ExitCode, Failure> {
    match arguments.command {
        Command::Sign { file, key } => return sign(&file, &key),
        Command::Prepare(prepare) => output::line(&document(&Context::load(global.context.as_deref())?, prepare)?)?,
        Command::Grant { file } => {
            let grant = grant(&Context::load(global.context.as_deref())?, &file).await?;
            output::rows(global.output, &[grant], "")?;
        }
        Command::List { cluster } => {
            let context = Context::load(global.context.as_deref())?;
            let grants = in_force(&context, cluster.as_deref()).await?;
            output::rows(global.output, &grants, "No break-glass grant is in force.")?;
        }
        Command::Revoke { id, reason } => {
            let context = Context::load(global.context.as_deref())?;
            let grant = revoke(&context, &id, reason).await?;
            output::rows(global.output, &[grant], "")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn document(context: &Context, prepare: Prepare) -> Result<String, Failure> {
    let Prepare { cluster, caller, service, minutes, ticket, reason } = prepare;
    let (_, cluster) = context.cluster(cluster.as_deref())?;
    let callers = caller.into_iter().map(|id| match signet_policy::split_id(&id) {
        Some((td, ns, sa)) => format!("spiffe://{td}/ns/{ns}/sa/{sa}"),
        None => id,
    });
    let (callers, services): (BTreeSet<_>, BTreeSet<_>) = (callers.collect(), service.into_iter().collect());
    let now = Timestamp::now().round(Unit::Second).failed("this machine's clock is out of range", "set it")?;
    let until = now
        .checked_add(SignedDuration::from_mins(i64::from(minutes)))
        .failed("this machine's clock is out of range", "set it")?;
    let id = uuid::Uuid::now_v7().to_string();
    let grant = GrantDocument {
        ticket,
        reason,
        issued_at: now,
        until,
        ..GrantDocument::new(&id, &cluster.trust_domain, callers, services)
    };
    if let Some(fault) = grant.fault() {
        return Err(Failure::usage(format!("no such grant can be given: {fault}")).next(DOCS));
    }
    serde_json::to_string_pretty(&grant).failed("cannot write the grant", "report this as a bug")
}

fn sign(file: &Path, key: &Path) -> Result<ExitCode, Failure> {
    let text = read(file)?;
    let grant = GrantDocument::parse(&text).map_err(|error| Failure::failed(error).at(file.display()).next(DOCS))?;
    eprintln!("You sign that until {}, for {} ({}),", grant.until, grant.ticket, grant.reason);
    for (who, what) in grant.principals.iter().flat_map(|who| grant.services.iter().map(move |what| (who, what))) {
        eprintln!("  {who} may have from {what} what policies hold back for an emergency");
    }
    let next = "install OpenSSH's client and name a key that signs: --key ~/.ssh/id_ed25519";
    let mut keygen = Process::new("ssh-keygen")
        .args(["-q", "-Y", "sign", "-n", BREAK_GLASS_NAMESPACE, "-f"])
        .arg(key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .failed("cannot run ssh-keygen", next)?;
    // INVARIANT: what is signed is what was shown, whatever becomes of the file meanwhile.
    let written = keygen.stdin.take().map_or(Ok(()), |mut input| input.write_all(text.as_bytes()));
    let signed = keygen.wait_with_output().failed("cannot run ssh-keygen", next)?;
    written.failed("ssh-keygen did not read the grant", next)?;
    let signature = String::from_utf8(signed.stdout).unwrap_or_default();
    if !signed.status.success() || !signature.starts_with(BEGIN) {
        return Err(Failure::failed("ssh-keygen did not sign the grant").at(key.display()).next(next));
    }
    let path = signatures_of(file);
    let earlier = if path.exists() { read(&path)? } else { String::new() };
    fs::write(&path, earlier + &signature)
        .map_err(|error| Failure::failed(error).at(path.display()).next("check the space and rights there"))?;
    output::line(&path.display().to_string())?;
    eprintln!("When enough have signed: signet policy break-glass grant {}", file.display());
    Ok(ExitCode::SUCCESS)
}

async fn grant(context: &Context, file: &Path) -> Result<Grant, Failure> {
    let document = read(file)?;
    let parsed = GrantDocument::parse(&document).map_err(|e| Failure::failed(e).at(file.display()).next(DOCS))?;
    let signatures =
        split(&read(&signatures_of(file)).map_err(|failure| {
            failure.next("let those who may sign it: signet policy break-glass sign FILE --key KEY")
        })?);
    let (name, cluster) = of_trust_domain(context, &parsed.trust_domain)?;
    let answer = Operator::connect(cluster).await?.emergency().grant(GrantRequest { document, signatures }).await;
    let answer = answer.map_err(|status| failure("the grant was refused", &cluster.control, &status).next(DOCS))?;
    Ok(Grant::of(name, answer.into_inner()))
}

async fn revoke(context: &Context, id: &str, reason: String) -> Result<Grant, Failure> {
    let grants = in_force(context, None).await?;
    let found = grants.iter().find(|grant| grant.id == id).ok_or_else(|| {
        Failure::failed(format!("no grant `{id}` is in force"))
            .next("signet policy break-glass list shows those that are")
    })?;
    let (name, cluster) = context.cluster(Some(&found.cluster))?;
    let request = RevokeRequest { id: id.to_owned(), reason };
    let answer = Operator::connect(cluster).await?.emergency().revoke(request).await;
    let answer = answer.map_err(|status| failure("the grant was not revoked", &cluster.control, &status))?;
    Ok(Grant::of(name, answer.into_inner()))
}

async fn in_force(context: &Context, only: Option<&str>) -> Result<Vec<Grant>, Failure> {
    let mut grants = Vec::new();
    for (name, cluster, operator) in Operator::of_each(context, only).await? {
        let state = operator.control().mesh(MeshRequest {}).await;
        let state = state.map_err(|status| failure("cannot ask the control plane", &cluster.control, &status))?;
        grants.extend(state.into_inner().break_glass.into_iter().map(|status| Grant::of(name, status)));
    }
    Ok(grants)
}

fn of_trust_domain<'a>(context: &'a Context, trust_domain: &str) -> Result<(&'a str, &'a Cluster), Failure> {
    let found = context.clusters.iter().find(|(_, cluster)| cluster.trust_domain == trust_domain);
    found.map(|(name, cluster)| (name.as_str(), cluster)).ok_or_else(|| {
        Failure::usage(format!("the grant is for `{trust_domain}`, which is no cluster of this context"))
            .next("use the context of that cluster")
    })
}

/// `grant.json.sig`, as ssh-keygen names it.
fn signatures_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".sig");
    name.into()
}

/// Armoured signatures that stand one after the other.
fn split(text: &str) -> Vec<String> {
    text.split(BEGIN).skip(1).map(|rest| format!("{BEGIN}{rest}").trim().to_owned() + "\n").collect()
}

fn read(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let file = fs::File::open(path).and_then(|file| file.take(FILE_LIMIT).read_to_string(&mut text));
    file.map_err(|error| Failure::failed(format!("cannot read the file: {error}")).at(path.display()).next(DOCS))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_that_stand_one_after_the_other_are_told_apart() {
        let one = format!("{BEGIN}\nAAAA\n-----END SSH SIGNATURE-----\n");
        assert_eq!(split(""), Vec::<String>::new());
        assert_eq!(split(&format!("{one}\n{one}")), [one.clone(), one]);
    }
}
