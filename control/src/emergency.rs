//! `Emergency`: operators bring grants for an emergency and end them.

use std::sync::Arc;

use signet_api::control::emergency_server::Emergency;
use signet_api::control::{GrantRequest, GrantStatus, RevokeRequest};
use signet_observe::error_chain;
use tonic::{Request, Response, Status};

use crate::authorise::Method;
use crate::break_glass::{BreakGlass, GrantError};
use crate::gate::Gate;
use crate::model::Given;

/// A person's words that go into a record.
const MAX_REASON: usize = 1_000;

/// The service.
pub(crate) struct EmergencyService {
    pub(crate) gate: Gate,
    pub(crate) grants: BreakGlass,
}

#[tonic::async_trait]
impl Emergency for EmergencyService {
    async fn grant(&self, request: Request<GrantRequest>) -> Result<Response<GrantStatus>, Status> {
        let (operator, _) = self.gate.admit(Method::EmergencyGrant, request.extensions())?;
        let GrantRequest { document, signatures } = request.into_inner();
        let grants = self.grants.clone();
        answer(tokio::task::spawn_blocking(move || grants.grant(operator.as_str(), document, signatures)).await)
    }

    async fn revoke(&self, request: Request<RevokeRequest>) -> Result<Response<GrantStatus>, Status> {
        let (operator, _) = self.gate.admit(Method::EmergencyRevoke, request.extensions())?;
        let RevokeRequest { id, reason } = request.into_inner();
        if reason.trim().is_empty() || reason.len() > MAX_REASON {
            return Err(Status::invalid_argument(format!("say why, in 1 to {MAX_REASON} bytes")));
        }
        let grants = self.grants.clone();
        answer(tokio::task::spawn_blocking(move || grants.revoke(operator.as_str(), &id, &reason)).await)
    }
}

fn answer(
    outcome: Result<Result<Arc<Given>, GrantError>, tokio::task::JoinError>,
) -> Result<Response<GrantStatus>, Status> {
    match outcome {
        Ok(Ok(given)) => Ok(Response::new(given.status())),
        // Operators read why: what they brought is not a stranger's.
        Ok(Err(error @ (GrantError::Refused(_) | GrantError::Replayed(_)))) => {
            Err(Status::invalid_argument(error_chain(&error)))
        }
        Ok(Err(error @ GrantError::Unknown(_))) => Err(Status::not_found(error_chain(&error))),
        Ok(Err(error)) => Err(Status::failed_precondition(error_chain(&error))),
        Err(_) => Err(Status::internal("the grant was not looked at")),
    }
}
