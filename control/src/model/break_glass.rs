//! A grant for an emergency, once it was given.

use signet_api::control::{BreakGlass, GrantStatus};
use signet_policy_repository::AcceptedGrant;

/// A grant that is in force until its end, unless it is revoked before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// What was signed, and by whom.
    pub grant: AcceptedGrant,
    /// Unix seconds.
    pub granted_at: i64,
    /// SPIFFE ID of the operator who brought it.
    pub granted_by: String,
}

impl Given {
    /// Unix seconds: the first moment at which it is over.
    pub fn until(&self) -> i64 {
        self.grant.document.until.as_second()
    }

    /// As proxies are told.
    pub fn wire(&self) -> BreakGlass {
        let document = &self.grant.document;
        BreakGlass {
            id: document.id.clone(),
            principals: document.principals.iter().cloned().collect(),
            services: document.services.iter().cloned().collect(),
            ticket: document.ticket.clone(),
            approvers: self.grant.approvers.iter().cloned().collect(),
            until: self.until(),
        }
    }

    /// As operators are told.
    pub fn status(&self) -> GrantStatus {
        GrantStatus {
            grant: Some(self.wire()),
            reason: self.grant.document.reason.clone(),
            granted_at: self.granted_at,
            granted_by: self.granted_by.clone(),
        }
    }
}
