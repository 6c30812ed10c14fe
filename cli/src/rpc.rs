//! Calls to a cluster's components with the operator's own SVID, which the node's agent gives to whoever may operate.

use std::time::Duration;

use signet_api::audit::access_client::AccessClient;
use signet_api::control::emergency_client::EmergencyClient;
use signet_api::control::status_client::StatusClient;
use signet_api::identity::operator_client::OperatorClient;
use signet_mtls::{IdentitySource, PeerRule, Select, SpiffeId, TrustDomain, alpn, client_config, grpc};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::context::{Cluster, Context};
use crate::failure::{Exit, Failure, ResultExt};

/// How long the agent may take to give an identity.
const IDENTITY_TIMEOUT: Duration = Duration::from_secs(5);

/// An operator of one cluster.
pub(crate) struct Operator {
    source: IdentitySource,
    identity_server: SpiffeId,
    control_plane: SpiffeId,
    audit_service: SpiffeId,
    identity: String,
    control: String,
    audit: String,
}

impl Operator {
    /// Takes the operator's SVID from the cluster's agent.
    pub(crate) async fn connect(cluster: &Cluster) -> Result<Self, Failure> {
        let socket = format!("unix:{}", cluster.agent_socket.display());
        let next =
            "check that the mesh runs and that you are its operator (the agent gives the identity by your user id)";
        let trust_domain: TrustDomain =
            cluster.trust_domain.parse().failed("the context names a bad trust domain", "restore the context file")?;
        let source = tokio::time::timeout(IDENTITY_TIMEOUT, IdentitySource::connect(&socket, CancellationToken::new()))
            .await
            .map_err(|_| {
                Failure::new(Exit::Unreachable, "the agent gave no operator identity in time").at(&socket).next(next)
            })?
            .unreachable(format!("no operator identity from `{socket}`"), next)?;
        let component = |name| {
            SpiffeId::component(&trust_domain, name)
                .failed("the context names a bad trust domain", "restore the context file")
        };
        Ok(Self {
            source,
            identity_server: component("identity")?,
            control_plane: component("control")?,
            audit_service: component("audit")?,
            identity: cluster.identity.clone(),
            control: cluster.control.clone(),
            audit: cluster.audit.clone(),
        })
    }

    /// An operator of each cluster of the context, or of the named one.
    pub(crate) async fn of_each<'a>(
        context: &'a Context,
        only: Option<&str>,
    ) -> Result<Vec<(&'a str, &'a Cluster, Self)>, Failure> {
        if only.is_some() {
            context.cluster(only)?;
        }
        let mut operators = Vec::new();
        for (name, cluster) in &context.clusters {
            if only.is_none_or(|only| only == name) {
                operators.push((name.as_str(), cluster, Self::connect(cluster).await?));
            }
        }
        Ok(operators)
    }

    pub(crate) fn identity(&self) -> OperatorClient<Channel> {
        OperatorClient::new(self.channel(&self.identity, self.identity_server.clone()))
    }

    pub(crate) fn control(&self) -> StatusClient<Channel> {
        StatusClient::new(self.channel(&self.control, self.control_plane.clone()))
    }

    pub(crate) fn emergency(&self) -> EmergencyClient<Channel> {
        EmergencyClient::new(self.channel(&self.control, self.control_plane.clone()))
    }

    pub(crate) fn access(&self) -> AccessClient<Channel> {
        AccessClient::new(self.channel(&self.audit, self.audit_service.clone()))
    }

    /// The SPIFFE ID that the components see.
    pub(crate) fn id(&self) -> Option<String> {
        Select::Component.svid(&self.source.current()).map(|svid| svid.id.to_string())
    }

    fn channel(&self, address: &str, component: SpiffeId) -> Channel {
        let peer = PeerRule::AnyOf(vec![component]);
        grpc::channel(address, client_config(&self.source, Select::Component, peer, &[alpn::GRPC]))
    }
}

/// What a person reads of a call that failed.
pub(crate) fn failure(what: &str, address: &str, status: &Status) -> Failure {
    let exit = match status.code() {
        Code::Unavailable | Code::DeadlineExceeded => Exit::Unreachable,
        Code::PermissionDenied | Code::Unauthenticated => Exit::NotAuthorised,
        _ => Exit::Failed,
    };
    let next = match exit {
        Exit::Unreachable => "check that the component runs: `signet check`",
        Exit::NotAuthorised => "run this as the user who operates the mesh",
        _ => "mend what it says and try again",
    };
    Failure::new(exit, format!("{what}: {}", status.message())).at(address).next(next)
}
