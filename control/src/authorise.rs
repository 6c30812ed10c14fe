//! Who may call what: one table, asked before anything else happens in a method.
//!
//! The peer's SPIFFE ID was verified by mutual TLS against the roots of the trust domain that it names; there is no
//! anonymous caller here.

use std::collections::BTreeSet;

use signet_mtls::grpc::Peer;
use signet_mtls::{SpiffeId, TrustDomain};
use tonic::{Extensions, Status};

use crate::snapshot::Subject;

/// Every method this server offers. A new one must join [`Method::ALL`] and the table in [`authorise`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Method {
    /// `signet.control.v1.Discovery/Stream`.
    DiscoveryStream,
    /// `signet.control.v1.Link/Exports`.
    LinkExports,
    /// `signet.control.v1.Live/Attach`.
    LiveAttach,
    /// `signet.control.v1.Status/Mesh`.
    StatusMesh,
    /// `signet.control.v1.Status/Top`.
    StatusTop,
    /// `signet.control.v1.Status/Tap`.
    StatusTap,
    /// `signet.control.v1.Emergency/Grant`.
    EmergencyGrant,
    /// `signet.control.v1.Emergency/Revoke`.
    EmergencyRevoke,
}

impl Method {
    /// All of them: the test below asks each.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 8] = [
        Self::DiscoveryStream,
        Self::LinkExports,
        Self::LiveAttach,
        Self::StatusMesh,
        Self::StatusTop,
        Self::StatusTap,
        Self::EmergencyGrant,
        Self::EmergencyRevoke,
    ];

    /// As metrics and events spell it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::DiscoveryStream => "Discovery/Stream",
            Self::LinkExports => "Link/Exports",
            Self::LiveAttach => "Live/Attach",
            Self::StatusMesh => "Status/Mesh",
            Self::StatusTop => "Status/Top",
            Self::StatusTap => "Status/Tap",
            Self::EmergencyGrant => "Emergency/Grant",
            Self::EmergencyRevoke => "Emergency/Revoke",
        }
    }
}

/// What a caller is, once it may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A sidecar or gateway of our own trust domain.
    Proxy(Subject),
    /// The control plane of a linked trust domain.
    Peer(TrustDomain),
    /// A person's tool: an operator's or the dashboard's.
    Reader,
    /// An operator.
    Operator,
}

/// The table. None: refused.
pub(crate) fn authorise(
    method: Method,
    caller: &SpiffeId,
    own: &TrustDomain,
    linked: &BTreeSet<TrustDomain>,
) -> Option<Caller> {
    let home = caller.trust_domain() == own;
    match method {
        Method::DiscoveryStream | Method::LiveAttach if home => {
            if let Some((namespace, service_account)) = caller.as_proxy() {
                let (namespace, service_account) = (namespace.to_owned(), service_account.to_owned());
                return Some(Caller::Proxy(Subject::Sidecar { namespace, service_account }));
            }
            (caller.as_component() == Some("gateway")).then_some(Caller::Proxy(Subject::Gateway))
        }
        Method::LinkExports if !home => {
            let peer = caller.trust_domain();
            let control = caller.as_component() == Some("control");
            (control && linked.contains(peer)).then(|| Caller::Peer(peer.clone()))
        }
        Method::StatusMesh | Method::StatusTop if home => {
            matches!(caller.as_component(), Some("operator" | "ui")).then_some(Caller::Reader)
        }
        // The dashboard shows many people what it sees; single calls are for one who is named in the record.
        Method::StatusTap if home => (caller.as_component() == Some("operator")).then_some(Caller::Reader),
        Method::EmergencyGrant | Method::EmergencyRevoke if home => {
            (caller.as_component() == Some("operator")).then_some(Caller::Operator)
        }
        Method::DiscoveryStream
        | Method::LinkExports
        | Method::LiveAttach
        | Method::StatusMesh
        | Method::StatusTop
        | Method::StatusTap
        | Method::EmergencyGrant
        | Method::EmergencyRevoke => None,
    }
}

/// The peer that mutual TLS verified.
///
/// # Errors
/// `UNAUTHENTICATED` when there is none: the listener was not the one that `signet_mtls::grpc::serve` runs.
pub(crate) fn peer_of(extensions: &Extensions) -> Result<SpiffeId, Status> {
    let peer = extensions.get::<Peer>().map(|peer| peer.0.clone());
    peer.ok_or_else(|| Status::unauthenticated("no verified peer"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// Every method x every kind of caller, of our own, a linked and an unknown trust domain.
    #[test]
    fn only_the_named_callers_may_call_each_method() {
        let own: TrustDomain = "east.bank.example".parse().unwrap();
        let linked: BTreeSet<TrustDomain> = ["west.bank.example".parse().unwrap()].into();
        let paths = [
            "ns/bank/proxy/web",
            "ns/bank/sa/web",
            "signet/gateway",
            "signet/control",
            "signet/audit",
            "signet/identity",
            "signet/ui",
            "signet/operator",
            "signet/agent",
            "elsewhere",
        ];
        let allowed = [
            (Method::DiscoveryStream, "east.bank.example", "ns/bank/proxy/web"),
            (Method::DiscoveryStream, "east.bank.example", "signet/gateway"),
            (Method::LinkExports, "west.bank.example", "signet/control"),
            (Method::LiveAttach, "east.bank.example", "ns/bank/proxy/web"),
            (Method::LiveAttach, "east.bank.example", "signet/gateway"),
            (Method::StatusMesh, "east.bank.example", "signet/ui"),
            (Method::StatusMesh, "east.bank.example", "signet/operator"),
            (Method::StatusTop, "east.bank.example", "signet/ui"),
            (Method::StatusTop, "east.bank.example", "signet/operator"),
            (Method::StatusTap, "east.bank.example", "signet/operator"),
            (Method::EmergencyGrant, "east.bank.example", "signet/operator"),
            (Method::EmergencyRevoke, "east.bank.example", "signet/operator"),
        ];
        for method in Method::ALL {
            for domain in ["east.bank.example", "west.bank.example", "north.bank.example"] {
                for path in paths {
                    let id: SpiffeId = format!("spiffe://{domain}/{path}").parse().unwrap();
                    assert_eq!(
                        authorise(method, &id, &own, &linked).is_some(),
                        allowed.contains(&(method, domain, path)),
                        "{} called by {id}",
                        method.as_str()
                    );
                }
            }
        }
    }

    #[test]
    fn a_sidecar_is_told_about_its_own_service_account() {
        let own: TrustDomain = "east.bank.example".parse().unwrap();
        let id = SpiffeId::proxy(&own, "bank", "web").unwrap();
        let subject = Subject::Sidecar { namespace: "bank".into(), service_account: "web".into() };
        assert_eq!(authorise(Method::DiscoveryStream, &id, &own, &BTreeSet::new()), Some(Caller::Proxy(subject)));
    }
}
