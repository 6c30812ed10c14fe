//! Who may make a connection, or has to wait for one, where a TrafficPolicy bounds them.

use super::{Upstream, UpstreamError};
use crate::balance::{InFlight, Limit, Slot, Ticket};
use crate::limits;
use std::time::Instant;

/// What a call that found no idle connection gets.
pub(super) struct Turn<I> {
    /// One that became idle meanwhile; otherwise the call makes one.
    pub(super) idle: Option<I>,
    pub(super) slot: Option<Slot>,
    /// To be held until the connection is there.
    pub(super) waiting: Option<Ticket>,
}

impl Upstream {
    /// Counts a call in.
    pub(super) fn begin(&self) -> Result<InFlight, UpstreamError> {
        let in_flight = InFlight::start(&self.load, Instant::now());
        match &self.member {
            None => Ok(in_flight),
            Some(member) => {
                let ticket = member.ticket(Limit::Requests).map_err(|limit| self.overflow(limit))?;
                Ok(in_flight.counted(ticket))
            }
        }
    }

    pub(super) fn overflow(&self, limit: Limit) -> UpstreamError {
        UpstreamError::Overflow { address: self.address(), limit }
    }

    /// Counts a call among those that wait for a connection.
    pub(super) fn waiting(&self) -> Result<Option<Ticket>, UpstreamError> {
        let Some(member) = &self.member else { return Ok(None) };
        member.ticket(Limit::Pending).map(Some).map_err(|limit| self.overflow(limit))
    }

    /// A place for a connection that one caller keeps; there is nothing to wait for when there is none.
    pub(super) fn slot(&self) -> Result<(Option<Ticket>, Option<Slot>), UpstreamError> {
        let Some(member) = &self.member else { return Ok((None, None)) };
        let waiting = self.waiting()?;
        match member.slot() {
            Some(slot) => Ok((waiting, Some(slot))),
            None => Err(self.too_many()),
        }
    }

    fn too_many(&self) -> UpstreamError {
        self.shared.metrics.limit_met(Limit::Connections);
        self.overflow(Limit::Connections)
    }

    /// Waits until `idle` gives a connection or one may be made, for [`limits::PENDING`] at most.
    pub(super) async fn turn<I>(&self, idle: impl Fn() -> Option<I>) -> Result<Turn<I>, UpstreamError> {
        let Some(member) = &self.member else { return Ok(Turn { idle: None, slot: None, waiting: None }) };
        let waiting = self.waiting()?;
        let deadline = tokio::time::Instant::now() + limits::PENDING;
        loop {
            let freed = member.freed.notified();
            tokio::pin!(freed);
            // Before looking, so that what becomes free meanwhile is not missed.
            freed.as_mut().enable();
            if let Some(slot) = member.slot() {
                return Ok(Turn { idle: None, slot: Some(slot), waiting });
            }
            if let Some(idle) = idle() {
                return Ok(Turn { idle: Some(idle), slot: None, waiting });
            }
            if tokio::time::timeout_at(deadline, freed).await.is_err() {
                return Err(self.too_many());
            }
        }
    }

    /// A connection went back to its pool.
    pub(super) fn freed(&self) {
        if let Some(member) = &self.member {
            member.freed.notify_one();
        }
    }
}
