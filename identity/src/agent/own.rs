//! The agent's own identity: attested once with a join token, kept on disk, renewed at half of its life.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use rcgen::KeyPair;
use rustls::ClientConfig;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use signet_api::identity::{AttestRequest, AttestResponse, RenewRequest, node_client::NodeClient};
use signet_mtls::{
    IdentityError, IdentityMaterial, IdentitySource, PeerRule, Select, SpiffeId, SpiffeIdError, Svid, TrustDomain,
    alpn, grpc,
};
use tonic::{Request, Status, transport::Channel};

use super::config::AgentConfig;
use crate::{
    bundle::{BundleError, TrustBundle},
    ca, csr,
    store::{self, DataDir, StoreError},
};

const CALL: Duration = Duration::from_secs(10);
const FILE: &str = "agent.json";

/// Why the agent has no identity of its own.
#[derive(Debug, thiserror::Error)]
pub enum OwnError {
    /// A file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// `bootstrap_bundle` is of no use.
    #[error("`bootstrap_bundle`: `{0}` holds no certificate; copy the identity server's `bundle.pem` there")]
    Bootstrap(PathBuf),
    /// No valid SVID and no token.
    #[error("this agent has no valid SVID and `join_token_file` {0}; create a join token and write it there")]
    NoToken(String),
    /// The server said no, or did not answer.
    #[error("the identity server refused or did not answer")]
    Server(#[from] Status),
    /// A key or certificate that cannot be used.
    #[error("the identity server's answer cannot be used")]
    Material(#[from] IdentityError),
    /// A bundle that cannot be used.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A key could not be made.
    #[error("could not make a key")]
    Key,
    /// An SVID for somebody else.
    #[error("the identity server answered for `{0}`, which is not this agent")]
    Foreign(SpiffeId),
    /// The trust domain's name is too long.
    #[error(transparent)]
    Id(#[from] SpiffeIdError),
}

#[derive(Serialize, Deserialize)]
struct Stored {
    key: String,
    chain: Vec<String>,
    roots: Vec<String>,
}

/// The agent's own identity and its channel to the server.
pub(crate) struct Own {
    trust_domain: TrustDomain,
    path: PathBuf,
    token_file: Option<PathBuf>,
    source: IdentitySource,
    tls: Arc<ClientConfig>,
    server: String,
    channel: Channel,
    renew_at: i64,
}

impl Own {
    /// Reads what an earlier start left and the bootstrap bundle; asks nobody yet.
    ///
    /// # Errors
    /// When there is nothing to verify the server with.
    pub(crate) fn open(config: &AgentConfig, dir: &DataDir, now: i64) -> Result<Self, OwnError> {
        let path = dir.file(FILE);
        let pem = store::read(&config.bootstrap_bundle)?.unwrap_or_default();
        let mut roots = ca::pem_certificates(&pem);
        let mut svids = Vec::new();
        let stored: Option<Stored> = store::read_json(&path).unwrap_or_else(|error| {
            tracing::warn!(%error, "the agent's SVID on disk is not used");
            None
        });
        if let Some(stored) = stored {
            // Roots of the last run first: the server may have rotated since the bootstrap file was copied.
            for root in certificates(&stored.roots) {
                if !roots.contains(&root) {
                    roots.push(root);
                }
            }
            match hex::decode(&stored.key).map(|key| Svid::new(certificates(&stored.chain), key, "")) {
                Ok(Ok(svid)) if svid.not_after > now && svid.id.trust_domain() == &config.trust_domain => {
                    svids.push(svid);
                }
                _ => tracing::info!("the agent's SVID on disk has ended or is not of this trust domain"),
            }
        }
        if roots.is_empty() {
            return Err(OwnError::Bootstrap(config.bootstrap_bundle.clone()));
        }
        let renew_at = svids.first().map_or(0, |svid| half(svid.not_after, now));
        let bundles = BTreeMap::from([(config.trust_domain.clone(), roots)]);
        let source = IdentitySource::fixed(IdentityMaterial { svids, bundles });
        let server = SpiffeId::component(&config.trust_domain, "identity")?;
        let tls = signet_mtls::client_config(&source, Select::Only, PeerRule::AnyOf(vec![server]), &[alpn::GRPC]);
        let channel = grpc::channel(&config.server, Arc::clone(&tls));
        Ok(Self {
            trust_domain: config.trust_domain.clone(),
            path,
            token_file: config.join_token_file.clone(),
            source,
            tls,
            server: config.server.clone(),
            channel,
            renew_at,
        })
    }

    /// For metrics.
    pub(crate) fn source(&self) -> &IdentitySource {
        &self.source
    }

    /// The channel to the server.
    pub(crate) fn client(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel.clone())
    }

    /// Unix seconds at which [`Own::ensure`] has something to do.
    pub(crate) fn renew_at(&self) -> i64 {
        self.renew_at
    }

    /// Whether there is an SVID that has not ended.
    pub(crate) fn is_valid(&self, now: i64) -> bool {
        self.source.current().svids.first().is_some_and(|svid| svid.not_after > now)
    }

    /// Attests or renews, if either is due; `true` when the identity changed and calls should begin anew.
    ///
    /// # Errors
    /// What is missing; an SVID that is still valid stays in use.
    pub(crate) async fn ensure(&mut self, now: i64) -> Result<bool, OwnError> {
        let current = self.source.current();
        let valid = current.svids.first().filter(|svid| svid.not_after > now);
        match valid {
            Some(_) if now < self.renew_at => Ok(false),
            Some(svid) => {
                let id = svid.id.clone();
                self.renew(Some(id), now).await
            }
            None => self.renew(None, now).await,
        }
    }

    async fn renew(&mut self, id: Option<SpiffeId>, now: i64) -> Result<bool, OwnError> {
        let key = KeyPair::generate().map_err(|_| OwnError::Key)?;
        let csr = csr::make(&key).map_err(|_| OwnError::Key)?;
        if id.is_none() {
            // An ended SVID would be refused in the handshake; attestation comes without one.
            let bundles = self.source.current().bundles.clone();
            self.source.replace(IdentityMaterial { svids: Vec::new(), bundles });
            self.channel = grpc::channel(&self.server, Arc::clone(&self.tls));
        }
        let mut client = self.client();
        let answer = if id.is_some() {
            let mut request = Request::new(RenewRequest { csr });
            request.set_timeout(CALL);
            client.renew(request).await?
        } else {
            let mut request = Request::new(AttestRequest { join_token: self.token()?, csr });
            request.set_timeout(CALL);
            client.attest(request).await?
        };
        self.take(answer.into_inner(), id.as_ref(), &key, now)?;
        Ok(true)
    }

    fn token(&self) -> Result<String, OwnError> {
        let Some(path) = &self.token_file else { return Err(OwnError::NoToken("is not configured".into())) };
        let missing = || OwnError::NoToken(format!("`{}` does not exist or is empty", path.display()));
        let bytes = store::read(path)?.ok_or_else(missing)?;
        let token = String::from_utf8_lossy(&bytes).trim().to_owned();
        if token.is_empty() { Err(missing()) } else { Ok(token) }
    }

    fn take(
        &mut self,
        answer: AttestResponse,
        expected: Option<&SpiffeId>,
        key: &KeyPair,
        now: i64,
    ) -> Result<(), OwnError> {
        let chain: Vec<CertificateDer<'static>> = answer.chain.into_iter().map(CertificateDer::from).collect();
        let svid = Svid::new(chain, key.serialize_der(), "")?;
        let agent = svid.id.trust_domain() == &self.trust_domain && svid.id.path().starts_with("/signet/agent/");
        if !agent || expected.is_some_and(|expected| *expected != svid.id) {
            return Err(OwnError::Foreign(svid.id));
        }
        let mut roots = self.source.current().bundles.get(&self.trust_domain).cloned().unwrap_or_default();
        if let Some(bundle) = &answer.bundle {
            let bundle = TrustBundle::from_api(bundle)?;
            if bundle.trust_domain == self.trust_domain && !bundle.authorities.is_empty() {
                roots = bundle.authorities;
            }
        }
        let stored = Stored {
            key: hex::encode(svid.key_der()),
            chain: svid.chain.iter().map(hex::encode).collect(),
            roots: roots.iter().map(hex::encode).collect(),
        };
        store::write_json(&self.path, &stored)?;
        tracing::info!(spiffe_id = %svid.id, not_after = svid.not_after, attested = expected.is_none(), "own SVID");
        self.renew_at = half(svid.not_after, now);
        let bundles = BTreeMap::from([(self.trust_domain.clone(), roots)]);
        self.source.replace(IdentityMaterial { svids: vec![svid], bundles });
        // A connection is who it was at its handshake; the next calls come with the new SVID.
        self.channel = grpc::channel(&self.server, Arc::clone(&self.tls));
        Ok(())
    }
}

fn half(not_after: i64, now: i64) -> i64 {
    now + (not_after - now) / 2
}

fn certificates(encoded: &[String]) -> Vec<CertificateDer<'static>> {
    encoded.iter().filter_map(|text| hex::decode(text).ok()).map(CertificateDer::from).collect()
}
