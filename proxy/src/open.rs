//! Calls that are open on one connection, so that they can be decided again and closed.
//!
//! Registering costs one uncontended lock and one allocation per call. The connection's own task decides again; the
//! call's handler and its response body look at a flag and leave a waker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::decide::{Again, Asked, Enforcer, Serves, Verdict};

/// One open call.
pub(crate) struct OpenCall {
    pub(crate) asked: Asked,
    decision_id: Uuid,
    /// Set once, with `closed`.
    closed_by: Mutex<Option<Verdict>>,
    closed: AtomicBool,
    waker: AtomicWaker,
}

impl OpenCall {
    /// Ready once a new decision closed the call.
    pub(crate) fn poll_closed(&self, cx: &Context<'_>) -> Poll<Verdict> {
        if let Some(verdict) = self.closed_by() {
            return Poll::Ready(verdict);
        }
        self.waker.register(cx.waker());
        // The flag may have been set between the look and the registration.
        self.closed_by().map_or(Poll::Pending, Poll::Ready)
    }

    fn closed_by(&self) -> Option<Verdict> {
        if self.closed.load(Ordering::Acquire) { *self.closed_by.lock() } else { None }
    }

    fn close(&self, verdict: Verdict) {
        *self.closed_by.lock() = Some(verdict);
        self.closed.store(true, Ordering::Release);
        self.waker.wake();
    }
}

#[derive(Default)]
struct Slots {
    calls: Vec<Option<Arc<OpenCall>>>,
    free: Vec<usize>,
    /// Soonest time bound that an open call's decision read.
    soonest_us: Option<i64>,
}

/// The open calls of one connection.
#[derive(Default)]
pub(crate) struct OpenCalls {
    slots: Mutex<Slots>,
    /// A call with a sooner time bound was opened.
    pub(crate) sooner: Notify,
}

/// Keeps a call registered; dropped when its response ended.
pub(crate) struct OpenGuard {
    calls: Arc<OpenCalls>,
    index: usize,
    pub(crate) call: Arc<OpenCall>,
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        let mut slots = self.calls.slots.lock();
        if let Some(slot) = slots.calls.get_mut(self.index) {
            *slot = None;
        }
        slots.free.push(self.index);
    }
}

impl OpenCalls {
    pub(crate) fn open(self: &Arc<Self>, asked: Asked, verdict: Verdict) -> OpenGuard {
        let call = Arc::new(OpenCall {
            asked,
            decision_id: verdict.decision_id,
            closed_by: Mutex::new(None),
            closed: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        let mut slots = self.slots.lock();
        let index = match slots.free.pop() {
            Some(index) => index,
            None => {
                slots.calls.push(None);
                slots.calls.len() - 1
            }
        };
        if let Some(slot) = slots.calls.get_mut(index) {
            *slot = Some(Arc::clone(&call));
        }
        if let Some(at) = verdict.expires_at_us
            && slots.soonest_us.is_none_or(|soonest| at < soonest)
        {
            slots.soonest_us = Some(at);
            self.sooner.notify_one();
        }
        drop(slots);
        OpenGuard { calls: Arc::clone(self), index, call }
    }

    pub(crate) fn soonest_us(&self) -> Option<i64> {
        self.slots.lock().soonest_us
    }

    /// Decides all open calls again and closes those that are denied now. Gives how many were closed.
    ///
    /// # Cancel safety
    /// A call that was not reached stays open; the caller runs it again on the next change.
    pub(crate) async fn decide_again(&self, enforcer: &Enforcer, serves: impl Fn(&Asked) -> Serves) -> usize {
        let open: Vec<Arc<OpenCall>> = {
            let mut slots = self.slots.lock();
            slots.soonest_us = None;
            slots.calls.iter().flatten().map(Arc::clone).collect()
        };
        let mut closed = 0;
        let mut soonest: Option<i64> = None;
        for call in open {
            match enforcer.decide_again(&call.asked.call(), call.decision_id, serves(&call.asked)).await {
                Again::Closed(verdict) => {
                    call.close(verdict);
                    closed += 1;
                }
                Again::GoesOn { expires_at_us: Some(at) } => soonest = Some(soonest.map_or(at, |s| s.min(at))),
                Again::GoesOn { expires_at_us: None } => {}
            }
        }
        if let Some(at) = soonest {
            let mut slots = self.slots.lock();
            slots.soonest_us = Some(slots.soonest_us.map_or(at, |s| s.min(at)));
        }
        closed
    }
}
