//! What the agent serves at one moment, as one immutable value.

use std::{collections::BTreeMap, sync::Arc};

use signet_mtls::TrustDomain;

use crate::{bundle::TrustBundle, entries::Entry};

/// An SVID with its key, as the Workload API hands it out.
pub(crate) struct HeldSvid {
    /// Concatenated DER, leaf first.
    pub chain: Vec<u8>,
    /// PKCS#8 DER. It goes to the workload and nowhere else.
    pub key: Vec<u8>,
    /// Unix seconds.
    pub not_after: i64,
}

impl std::fmt::Debug for HeldSvid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HeldSvid").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// An entry and its SVID, once that is signed and until it ends.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    /// The entry.
    pub entry: Entry,
    /// `None` until signed, and again when it ended unrenewed.
    pub svid: Option<Arc<HeldSvid>>,
}

/// The state.
#[derive(Debug, Clone)]
pub(crate) struct State {
    /// The agent's own.
    pub trust_domain: TrustDomain,
    /// Whether the server was heard since the start: before that nobody can be told that they have no identity.
    pub synced: bool,
    /// In the server's order.
    pub served: Vec<Served>,
    /// The own trust domain's and all partners'.
    pub bundles: BTreeMap<TrustDomain, TrustBundle>,
}

impl State {
    /// Before the server was heard.
    #[must_use]
    pub(crate) fn starting(trust_domain: TrustDomain) -> Self {
        Self { trust_domain, synced: false, served: Vec::new(), bundles: BTreeMap::new() }
    }
}
