//! The configuration file of `signet-control`.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use signet_mtls::TrustDomain;
use signet_observe::TelemetryConfig;
use signet_spool::SpoolConfig;

/// Everything that `signet-control --config FILE` reads. There are no secrets in it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The trust domain that this control plane serves.
    pub trust_domain: TrustDomain,
    /// `unix:PATH` of the Workload API that gives `/signet/control`.
    pub workload_api: String,
    /// Discovery, Link and Status over mutual TLS.
    pub listen: SocketAddr,
    /// `host:port` of the identity server, for the list of linked clusters.
    pub identity: String,
    /// `host:port` of the audit service.
    pub audit: String,
    /// Directory of Kubernetes manifests.
    pub manifests: PathBuf,
    /// Where policy comes from.
    pub policy: PolicyConfig,
    /// `/livez`, `/readyz`, `/metrics`, `/config`; loopback only.
    pub admin: SocketAddr,
    /// Kept across restarts: linked clusters' exports, policy bundles that audit does not have yet.
    pub state_dir: PathBuf,
    /// Where events wait for the audit service.
    pub spool: SpoolConfig,
    /// Linked clusters.
    #[serde(default)]
    pub link: LinkConfig,
    /// Logs and traces.
    #[serde(default)]
    pub telemetry: TelemetryConfig,
}

/// The policy repository and who may change it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyConfig {
    /// A local Git repository, bare or not.
    pub repository: PathBuf,
    /// Its branch.
    #[serde(default = "main_branch")]
    pub branch: String,
    /// The highest of the signed tags `<tags><version>` is enforced, whatever the branch says: `policy-` for `policy-1.12`.
    #[serde(default)]
    pub tags: Option<String>,
    /// OpenSSH `allowed_signers` file. Never part of the repository.
    pub trusted_signers: PathBuf,
    /// Rules that ask for signatures of owners or of several people. Never part of the repository either.
    #[serde(default)]
    pub reviews: Option<PathBuf>,
    /// The last accepted commit and its bundle: what makes history go forward only, across restarts.
    pub state: PathBuf,
    /// When control goes back to the bundle before, where a bundle's `automatic_return` lets it.
    #[serde(default)]
    pub automatic_return: ReturnConfig,
    /// Who may sign grants for an emergency. Without it none is given.
    #[serde(default)]
    pub break_glass: Option<BreakGlassConfig>,
}

/// Grants for an emergency (docs/break-glass.md).
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BreakGlassConfig {
    /// OpenSSH `allowed_signers` file; a key whose `namespaces` leave out `signet-break-glass` signs none.
    pub trusted_signers: PathBuf,
    /// How many different people have to sign.
    #[serde(default = "two")]
    pub signatures: NonZeroU32,
    /// The longest that a grant may be for.
    #[serde(default = "four_hours")]
    pub max_minutes: u32,
}

/// How many calls a new bundle may take from callers before the last one comes back.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReturnConfig {
    /// More denials than this of calls that the bundle before allowed.
    pub denials: u32,
    /// Counted for this long after the activation. At most an hour: sidecars forget the bundle before then.
    pub within_seconds: u32,
}

impl Default for ReturnConfig {
    fn default() -> Self {
        Self { denials: 50, within_seconds: 600 }
    }
}

/// What linked clusters are told and believed.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LinkConfig {
    /// For how long linked clusters may go on using what we exported when they no longer hear from us.
    ///
    /// One hour, the default lifetime of an SVID: the loss of a control plane must not interrupt calls before that.
    pub lease_seconds: u32,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self { lease_seconds: 3600 }
    }
}

fn two() -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(1)
}

fn four_hours() -> u32 {
    240
}

fn main_branch() -> String {
    "main".to_owned()
}
