//! TLS configurations over a live identity.

use std::fmt;
use std::sync::{Arc, LazyLock};

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig, SignatureScheme};

use crate::verify::PeerVerifier;
use crate::{Identity, IdentitySource, SpiffeId, Svid, TrustDomain};

/// Which SVID of a source is presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Select {
    /// `/ns/<ns>/sa/<sa>`
    Workload,
    /// `/ns/<ns>/proxy/<sa>`
    Proxy,
    /// `/signet/<name>`
    Component,
    /// The single one; with several, none.
    Only,
}

impl Select {
    /// The SVID that this selects now.
    pub fn svid(self, identity: &Identity) -> Option<&Svid> {
        let first = |matches: fn(&SpiffeId) -> bool| identity.svids.iter().find(|svid| matches(&svid.id));
        match self {
            Self::Workload => first(|id| id.as_workload().is_some()),
            Self::Proxy => first(|id| id.as_proxy().is_some()),
            Self::Component => first(|id| id.as_component().is_some()),
            Self::Only => match identity.svids.as_slice() {
                [only] => Some(only),
                _ => None,
            },
        }
    }
}

/// Which verified peers are let in.
#[derive(Clone)]
pub enum PeerRule {
    AnyOf(Vec<SpiffeId>),
    /// Any ID of one trust domain.
    TrustDomain(TrustDomain),
    /// Any ID of any trust domain whose bundle we have.
    AnyKnown,
    Predicate(Arc<dyn Fn(&SpiffeId) -> bool + Send + Sync>),
}

impl PeerRule {
    /// Whether a *verified* ID passes.
    pub fn allows(&self, id: &SpiffeId) -> bool {
        match self {
            Self::AnyOf(ids) => ids.contains(id),
            Self::TrustDomain(domain) => id.trust_domain() == domain,
            Self::AnyKnown => true,
            Self::Predicate(predicate) => predicate(id),
        }
    }
}

impl fmt::Debug for PeerRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnyOf(ids) => f.debug_tuple("AnyOf").field(ids).finish(),
            Self::TrustDomain(domain) => f.debug_tuple("TrustDomain").field(domain).finish(),
            Self::AnyKnown => f.write_str("AnyKnown"),
            Self::Predicate(_) => f.write_str("Predicate"),
        }
    }
}

/// The name to hand to `connect`. It is never sent: peers are known by SPIFFE ID, not by host name.
#[expect(clippy::expect_used, reason = "a constant that is a valid DNS name")]
pub fn server_name() -> ServerName<'static> {
    ServerName::try_from("signet").expect("`signet` is a DNS name")
}

/// For the side that connects.
pub fn client_config(source: &IdentitySource, select: Select, rule: PeerRule, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let verifier = PeerVerifier { source: source.clone(), rule, mandatory: true };
    let builder = ClientConfig::builder_with_provider(provider());
    #[expect(clippy::expect_used, reason = "fails only for a provider without TLS 1.3, and ours is fixed")]
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).expect("aws-lc-rs has TLS 1.3");
    let mut config = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(LiveSvid { source: source.clone(), select }));
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Arc::new(config)
}

/// For the side that accepts; a client certificate is required and any known trust domain is let in.
pub fn server_config(source: &IdentitySource, select: Select, alpn: &[&[u8]]) -> Arc<ServerConfig> {
    server_config_with_rule(source, select, PeerRule::AnyKnown, alpn)
}

/// Like [`server_config`], for some peers only.
pub fn server_config_with_rule(
    source: &IdentitySource,
    select: Select,
    rule: PeerRule,
    alpn: &[&[u8]],
) -> Arc<ServerConfig> {
    build_server(source, select, PeerVerifier { source: source.clone(), rule, mandatory: true }, alpn)
}

/// Like [`server_config`], but a client may come without a certificate: an agent has none before it is attested. A
/// certificate that does come is verified as strictly.
pub fn server_config_optional_client(source: &IdentitySource, select: Select, alpn: &[&[u8]]) -> Arc<ServerConfig> {
    let verifier = PeerVerifier { source: source.clone(), rule: PeerRule::AnyKnown, mandatory: false };
    build_server(source, select, verifier, alpn)
}

fn build_server(source: &IdentitySource, select: Select, verifier: PeerVerifier, alpn: &[&[u8]]) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(provider());
    #[expect(clippy::expect_used, reason = "fails only for a provider without TLS 1.3, and ours is fixed")]
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).expect("aws-lc-rs has TLS 1.3");
    let mut config = builder
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(LiveSvid { source: source.clone(), select }));
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Arc::new(config)
}

/// aws-lc-rs with the TLS 1.3 suites and the post-quantum hybrid first.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites.retain(|suite| suite.tls13().is_some());
        provider.kx_groups =
            vec![aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1];
        Arc::new(provider)
    });
    Arc::clone(&PROVIDER)
}

/// Gives each handshake the SVID of that moment.
struct LiveSvid {
    source: IdentitySource,
    select: Select,
}

impl LiveSvid {
    fn certified(&self) -> Option<Arc<CertifiedKey>> {
        let identity = self.source.current();
        let svid = self.select.svid(&identity);
        if svid.is_none() {
            tracing::warn!(select = ?self.select, "no SVID to present; the handshake will fail");
        }
        svid.map(|svid| Arc::clone(&svid.certified))
    }
}

impl fmt::Debug for LiveSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveSvid").field("select", &self.select).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for LiveSvid {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }
}

impl ResolvesClientCert for LiveSvid {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }

    fn has_certs(&self) -> bool {
        true
    }
}
