//! The policy bundle in force, and the slices of it that proxies are sent.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use signet_policy::{Bundle, BundleSource, Needs};

/// A bundle of at most this many policies goes to every proxy whole: a slice would save nothing worth a second digest.
const WHOLE: usize = 100;
/// Slices that are kept; when there are more, all are made anew.
const KEPT: usize = 10_000;

/// The policy bundle in force.
#[derive(Clone, Debug)]
pub struct ActivePolicy {
    /// The verified commit and its files.
    pub source: BundleSource,
    /// Over paths, contents and the engine's schema version.
    pub digest: String,
    /// Unix seconds.
    pub activated_at: i64,
    /// The bundle's floor: no inbound port may admit plaintext, whatever a manifest says.
    pub strict: bool,
    /// Whether control may go back to the bundle before this one by itself.
    pub automatic_return: bool,
    /// Compiled, where it is large enough to be sliced.
    compiled: Option<Arc<Bundle>>,
    slices: Arc<Mutex<BTreeMap<Needs, Arc<PolicySlice>>>>,
}

/// The part of a bundle that some proxies need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySlice {
    /// What is sent.
    pub source: BundleSource,
    /// Of what is sent; the bundle's own is another.
    pub digest: String,
}

impl ActivePolicy {
    /// A verified commit's bundle, in force since `activated_at`.
    pub fn new(source: BundleSource, activated_at: i64) -> Self {
        let bundle = Bundle::compile(&source).ok();
        // A bundle of an earlier version of the engine may not compile any more: then the stronger floor holds, and
        // proxies get it whole and judge it themselves.
        let strict = bundle.as_ref().is_none_or(|bundle| bundle.settings().floors.strict);
        let automatic_return = bundle.as_ref().is_some_and(|bundle| bundle.settings().automatic_return);
        let compiled = bundle.filter(|bundle| bundle.policies().count() > WHOLE).map(Arc::new);
        Self {
            digest: source.digest(),
            activated_at,
            strict,
            automatic_return,
            source,
            compiled,
            slices: Arc::default(),
        }
    }

    /// The same bundle, in force again since `activated_at`; nothing of it is compiled or cut anew.
    pub fn again(&self, activated_at: i64) -> Self {
        Self { activated_at, ..self.clone() }
    }

    /// What a proxy with these needs is sent; `None`: the whole bundle.
    pub fn slice(&self, needs: &Needs) -> Option<Arc<PolicySlice>> {
        let bundle = self.compiled.as_ref()?;
        // A panic elsewhere leaves the map as it was: each change is one insertion.
        let mut slices = self.slices.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = slices.get(needs) {
            return Some(Arc::clone(known));
        }
        let source = bundle.cut(&self.source, needs);
        let slice = Arc::new(PolicySlice { digest: source.digest(), source });
        if slices.len() >= KEPT {
            slices.clear();
        }
        slices.insert(needs.clone(), Arc::clone(&slice));
        Some(slice)
    }
}
