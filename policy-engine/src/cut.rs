//! The slice of a bundle that one proxy needs: the policies that can match what it decides about.
//!
//! A sidecar decides about the services of its own workload and about its own calls out of the mesh, a gateway about
//! exported services. Of 10,000 policies that is a handful, so the control plane sends those alone. INVARIANT: for every
//! request about [`Needs`], the slice and the whole bundle give the same decision; a policy is left out only where its
//! scope cannot hold, which is what the index tests as well. The facts of `signet.yaml` go along whole, so what
//! entities are is the same on both sides. Records name both digests, and recomputing uses the whole bundle: a slice
//! that left out a policy which matters shows as a decision that does not come out again.

use std::collections::{BTreeMap, BTreeSet};

use crate::bundle::Bundle;
use crate::end_users::KEYS;
use crate::entities::{self, Subject};
use crate::index::{ActionNode, Scopes};
use crate::request::{ACTIONS, Principal};
use crate::settings;
use crate::source::BundleSource;

/// What a proxy decides about.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Needs {
    /// `<trust domain>/<namespace>/<name>` of each service whose calls it decides, as resource.
    pub services: BTreeSet<String>,
    /// The SPIFFE ID whose calls out of the mesh it decides, as principal.
    pub egress_of: Option<String>,
}

/// The things that requests can be about, with the actions that go with them.
struct Reach<'b> {
    resources: Vec<Subject>,
    actions: Vec<&'b ActionNode>,
    /// When only one principal asks.
    principal: Option<Subject>,
}

impl Reach<'_> {
    fn admits(&self, scopes: &Scopes) -> bool {
        self.actions.iter().any(|action| scopes.action_holds(action))
            && self.principal.as_ref().is_none_or(|principal| scopes.principal.holds(principal))
            && self.resources.iter().any(|resource| scopes.resource.holds(resource))
    }
}

impl Bundle {
    /// The slice for `needs`: `signet.yaml` with the keys that it names, and the policies that can match, in their files and in their order. Compile
    /// it with [`Bundle::compile_slice`]. Costs a few scope tests for each policy of the bundle.
    ///
    /// `source` is what this bundle was compiled from.
    pub fn cut(&self, source: &BundleSource, needs: &Needs) -> BundleSource {
        let reaches = [self.inbound(needs), self.outbound(needs)];
        let mut files: BTreeMap<String, String> = BTreeMap::new();
        if let Some(text) = source.files.get(settings::PATH) {
            files.insert(settings::PATH.to_owned(), text.clone());
        }
        // Facts go whole, and the keys that they name with them.
        let keys = source.files.iter().filter(|(path, _)| path.starts_with(KEYS));
        files.extend(keys.map(|(path, text)| (path.clone(), text.clone())));
        for (position, policy) in self.policies.iter().enumerate() {
            // A policy that the index does not know would be kept: leaving out is what needs a reason.
            let wanted =
                self.index.scopes(position).is_none_or(|scopes| reaches.iter().any(|reach| reach.admits(scopes)));
            if wanted {
                let file = files.entry(policy.path.clone()).or_default();
                file.push_str(&policy.text);
                file.push('\n');
            }
        }
        BundleSource { commit: source.commit.clone(), signer: source.signer.clone(), files }
    }

    fn inbound(&self, needs: &Needs) -> Reach<'_> {
        let mut resources = Vec::new();
        for id in &needs.services {
            resources.extend(entities::service(&self.settings, id, None));
            let routes = self.routes.get(id).into_iter().flat_map(|table| table.all());
            resources.extend(routes.filter_map(|route| entities::service(&self.settings, id, Some(route.id.as_str()))));
        }
        Reach { resources, actions: self.actions_where(|id| id != EGRESS), principal: None }
    }

    fn outbound(&self, needs: &Needs) -> Reach<'_> {
        let principal =
            needs.egress_of.as_deref().and_then(|id| entities::principal(&self.teams, Principal::Workload(id)));
        let asked = self.settings.external_services.keys().filter(|_| principal.is_some());
        let resources = asked.filter_map(|id| entities::external(&self.settings, id)).collect();
        Reach { resources, actions: self.actions_where(|id| id == EGRESS), principal }
    }

    fn actions_where(&self, wanted: impl Fn(&str) -> bool) -> Vec<&ActionNode> {
        ACTIONS.iter().zip(&self.actions).filter(|(id, _)| wanted(id)).map(|(_, node)| &**node).collect()
    }
}

/// The one action whose resource is not a service.
const EGRESS: &str = "egress:connect";
