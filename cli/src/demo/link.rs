//! Links the demo's two clusters with the same calls that `signet federation invite` and `signet federation accept` make.

use std::time::{Duration, Instant};

use signet_api::control::{MeshRequest, MeshState, ProxyStatus};
use signet_api::identity::{AcceptRequest, InviteRequest};

use super::ready::READY_TIMEOUT;
use crate::context::{Cluster, Context};
use crate::failure::Failure;
use crate::rpc::{Operator, failure};

const INVITE_TTL_SECONDS: u32 = 600;

const POLL: Duration = Duration::from_millis(50);

/// Waits until each cluster knows what the other exports and each of its proxies runs a snapshot that says so.
pub(crate) async fn wait_until_known(context: &Context) -> Result<(), Failure> {
    let deadline = Instant::now() + READY_TIMEOUT;
    for (name, cluster) in &context.clusters {
        let proxies = context.workloads.keys().filter(|key| key.starts_with(&format!("{name}/"))).count() + 1;
        let mut control = Operator::connect(cluster).await?.control();
        while !control
            .mesh(MeshRequest {})
            .await
            .map_err(|status| failure("cannot ask what the clusters know of each other", &cluster.control, &status))
            .map(|state| is_known(state.get_ref(), proxies))?
        {
            if Instant::now() > deadline {
                return Err(Failure::failed(format!("cluster {name} did not learn what the other exports"))
                    .at(&cluster.control)
                    .next("read the logs of the control planes"));
            }
            tokio::time::sleep(POLL).await;
        }
    }
    Ok(())
}

fn is_known(state: &MeshState, proxies: usize) -> bool {
    let current = |proxy: &&ProxyStatus| proxy.connected && proxy.current_version >= state.version;
    state.services.iter().any(|service| !service.via.is_empty())
        && state.proxies.iter().filter(current).count() == proxies
}

/// Each cluster accepts the other's invite.
pub(crate) async fn link(context: &Context) -> Result<(), Failure> {
    let (_, east) = context.cluster(Some("east"))?;
    let (_, west) = context.cluster(Some("west"))?;
    invite_and_accept(east, west).await?;
    invite_and_accept(west, east).await
}

async fn invite_and_accept(inviting: &Cluster, accepting: &Cluster) -> Result<(), Failure> {
    let invite = Operator::connect(inviting)
        .await?
        .identity()
        .invite(InviteRequest { ttl_seconds: INVITE_TTL_SECONDS })
        .await
        .map_err(|status| failure("cannot make an invite", &inviting.identity, &status))?
        .into_inner();
    Operator::connect(accepting)
        .await?
        .identity()
        .accept(AcceptRequest { invite: invite.invite })
        .await
        .map_err(|status| failure("cannot accept the invite", &accepting.identity, &status))?;
    Ok(())
}
