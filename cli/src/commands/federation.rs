//! `signet federation`: links clusters with one file each way.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use serde::Serialize;
use signet_api::identity::{AcceptRequest, InviteRequest, ListFederationRequest, Relationship, UnlinkRequest};

use crate::arguments::Global;
use crate::context::{Cluster, Context};
use crate::failure::Failure;
use crate::output::{self, Row};
use crate::rpc::{Operator, failure};

/// An invite holds one trust bundle and a few addresses; anything near this is no invite.
const INVITE_LIMIT: u64 = 1 << 20;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write an invite to this cluster on standard output; the other cluster's operator accepts it.
    Invite {
        /// The cluster that invites.
        #[arg(long)]
        cluster: Option<String>,
        /// For how long it may be accepted, minutes.
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=10_080))]
        minutes: u32,
    },
    /// Accept another cluster's invite.
    Accept {
        /// The invite file; `-` reads standard input.
        invite: PathBuf,
        /// The cluster that accepts; without it the one cluster of the context that the invite is not from.
        #[arg(long)]
        cluster: Option<String>,
        /// The fingerprint that the inviting operator read out; a different one is refused.
        #[arg(long)]
        fingerprint: Option<String>,
    },
    /// Unlink a trust domain at once: its identities are trusted no more. The other side unlinks for itself.
    Remove {
        /// The trust domain to unlink, as `signet federation list` names it.
        trust_domain: String,
        /// The cluster that unlinks it; without it the one cluster of the context that it is not.
        #[arg(long)]
        cluster: Option<String>,
    },
    /// List the clusters that are linked.
    List {
        /// Of this cluster only.
        #[arg(long)]
        cluster: Option<String>,
    },
    /// List the links and fail when one does not work.
    Status {
        /// Of this cluster only.
        #[arg(long)]
        cluster: Option<String>,
    },
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<ExitCode, Failure> {
    let context = Context::load(global.context.as_deref())?;
    match arguments.command {
        Command::Invite { cluster, minutes } => invite(&context, cluster.as_deref(), minutes).await,
        Command::Accept { invite, cluster, fingerprint } => {
            accept(&context, &invite, cluster.as_deref(), fingerprint.as_deref()).await
        }
        Command::Remove { trust_domain, cluster } => remove(&context, &trust_domain, cluster.as_deref()).await,
        Command::List { cluster } => {
            let links = links(&context, cluster.as_deref()).await?;
            output::rows(global.output, &links, "No clusters are linked; see `signet federation invite --help`.")?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Status { cluster } => {
            let links = links(&context, cluster.as_deref()).await?;
            output::rows(global.output, &links, "No clusters are linked; see `signet federation invite --help`.")?;
            Ok(if links.iter().all(|link| link.error.is_empty()) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

async fn invite(context: &Context, cluster: Option<&str>, minutes: u32) -> Result<ExitCode, Failure> {
    let (_, cluster) = context.cluster(cluster)?;
    let invite = Operator::connect(cluster)
        .await?
        .identity()
        .invite(InviteRequest { ttl_seconds: minutes.saturating_mul(60) })
        .await
        .map_err(|status| failure("cannot make an invite", &cluster.identity, &status))?
        .into_inner();
    output::line(invite.invite.trim_end())?;
    eprintln!("Invite of {}, to be accepted within {minutes} min.", cluster.trust_domain);
    eprintln!("Fingerprint: {}", invite.fingerprint);
    eprintln!("Read the fingerprint to the other operator by a way that the file does not take.");
    Ok(ExitCode::SUCCESS)
}

async fn accept(
    context: &Context,
    path: &Path,
    cluster: Option<&str>,
    expected: Option<&str>,
) -> Result<ExitCode, Failure> {
    let text = read_invite(path)?;
    let invite = signet_identity::invite::parse(&text, jiff::Timestamp::now().as_second())
        .map_err(|error| Failure::failed(error).at(path.display()).next("ask the other operator for a new invite"))?;
    let inviting = invite.trust_domain.to_string();
    let shown = signet_identity::invite::fingerprint(&text)
        .map_err(|error| Failure::failed(error).at(path.display()).next("ask the other operator for a new invite"))?;
    if let Some(expected) = expected
        && !same_fingerprint(expected, &shown)
    {
        return Err(Failure::failed(format!("the invite's fingerprint is `{shown}`, not `{expected}`"))
            .at(path.display())
            .next("do not accept it; ask the other operator for the invite and its fingerprint again"));
    }
    let accepting = other_cluster(context, cluster, &inviting, "accept the invite")?;
    let answer = Operator::connect(accepting)
        .await?
        .identity()
        .accept(AcceptRequest { invite: text })
        .await
        .map_err(|status| failure("the invite was not accepted", &accepting.identity, &status))?
        .into_inner();
    output::line(&format!("{} now trusts {inviting} for its own identities.", accepting.trust_domain))?;
    eprintln!("Fingerprint: {}", answer.fingerprint);
    eprintln!("Compare it with what the other operator sees; if it differs, unlink at once.");
    Ok(ExitCode::SUCCESS)
}

async fn remove(context: &Context, trust_domain: &str, cluster: Option<&str>) -> Result<ExitCode, Failure> {
    let unlinking = other_cluster(context, cluster, trust_domain, "unlink it")?;
    Operator::connect(unlinking)
        .await?
        .identity()
        .unlink(UnlinkRequest { trust_domain: trust_domain.to_owned() })
        .await
        .map_err(|status| {
            failure("cannot unlink", &unlinking.identity, &status).next("signet federation list names what is linked")
        })?;
    output::line(&format!("{} no longer trusts identities of {trust_domain}.", unlinking.trust_domain))?;
    eprintln!("The other cluster still trusts this one until its operator unlinks too.");
    Ok(ExitCode::SUCCESS)
}

/// Groups and separators are for the eye.
fn same_fingerprint(left: &str, right: &str) -> bool {
    let digits = |text: &str| -> String {
        let text = text.to_ascii_lowercase();
        text.trim_start_matches("sha256:").chars().filter(char::is_ascii_hexdigit).collect()
    };
    digits(left) == digits(right)
}

/// The cluster of the context that is to do `what` about `trust_domain`: the one named, or the only one that is not it.
fn other_cluster<'a>(
    context: &'a Context,
    name: Option<&str>,
    trust_domain: &str,
    what: &str,
) -> Result<&'a Cluster, Failure> {
    if name.is_some() {
        return Ok(context.cluster(name)?.1);
    }
    let mut others = context.clusters.values().filter(|cluster| cluster.trust_domain != trust_domain);
    match (others.next(), others.next()) {
        (Some(cluster), None) => Ok(cluster),
        (None, _) => Err(Failure::usage(format!("`{trust_domain}` is this context's own"))
            .next("use the other cluster's context to ".to_owned() + what)),
        _ => Err(Failure::usage(format!("several clusters could {what}")).next("name one with --cluster")),
    }
}

fn read_invite(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().take(INVITE_LIMIT).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(INVITE_LIMIT).read_to_string(&mut text))
    };
    read.map_err(|error| {
        Failure::failed(format!("cannot read the invite: {error}")).at(path.display()).next("check the path")
    })?;
    Ok(text)
}

#[derive(Serialize)]
struct Link {
    cluster: String,
    trust_domain: String,
    gateway: String,
    bundle_endpoint: String,
    authorities: u32,
    bundle_sequence: u64,
    last_refresh: String,
    fingerprint: String,
    error: String,
}

impl Row for Link {
    const COLUMNS: &'static [&'static str] =
        &["cluster", "linked to", "gateway", "authorities", "sequence", "last refresh", "state"];

    fn cells(&self) -> Vec<String> {
        let state = if self.error.is_empty() { "ok".to_owned() } else { self.error.clone() };
        vec![
            self.cluster.clone(),
            self.trust_domain.clone(),
            self.gateway.clone(),
            self.authorities.to_string(),
            self.bundle_sequence.to_string(),
            self.last_refresh.clone(),
            state,
        ]
    }
}

async fn links(context: &Context, only: Option<&str>) -> Result<Vec<Link>, Failure> {
    let mut links = Vec::new();
    for (name, cluster, operator) in Operator::of_each(context, only).await? {
        let state = operator
            .identity()
            .list_federation(ListFederationRequest {})
            .await
            .map_err(|status| failure("cannot list the links", &cluster.identity, &status))?;
        links.extend(state.into_inner().relationships.into_iter().map(|relationship| link(name, relationship)));
    }
    Ok(links)
}

fn link(cluster: &str, relationship: Relationship) -> Link {
    Link {
        cluster: cluster.to_owned(),
        trust_domain: relationship.trust_domain,
        gateway: relationship.gateway,
        bundle_endpoint: relationship.bundle_endpoint_url,
        authorities: relationship.authorities,
        bundle_sequence: relationship.bundle_sequence,
        last_refresh: output::time(relationship.last_refresh),
        fingerprint: relationship.fingerprint,
        error: relationship.last_error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_compared_by_its_digits() {
        assert!(same_fingerprint("SHA256:AB12 cd34", "ab:12:cd:34"));
        assert!(!same_fingerprint("ab12cd35", "ab:12:cd:34"));
    }
}
