//! Links the demo's two clusters with the same calls that `signet federation invite` and `signet federation accept` make.

use signet_api::identity::{AcceptRequest, InviteRequest};

use crate::context::{Cluster, Context};
use crate::failure::Failure;
use crate::rpc::{Operator, failure};

const INVITE_TTL_SECONDS: u32 = 600;

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
