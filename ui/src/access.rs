//! Reading is a record too: has the audit service of each log record what is about to be answered, and to whom.
//!
//! INVARIANT: no record of a log reaches a browser or script before that log holds the record of this access; an audit
//! service that does not answer, or a log without one, means no answer. Counts and states (posture, clusters, services)
//! are no records and are answered without.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use parking_lot::Mutex;
use signet_api::audit::access_client::AccessClient;
use signet_api::audit::{BeginRequest, EndRequest};
use tokio::sync::watch;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::guard::Caller;
use crate::problem::Failure;

/// How long audit services may take, one that is being started again too.
const DEADLINE: Duration = Duration::from_secs(8);
/// How long the end of an access may take: the dashboard waits for it when it stops.
const END_DEADLINE: Duration = Duration::from_secs(3);
const AFTER_FAILURE: Duration = Duration::from_millis(200);

/// How many records of each log an answer holds, by the log's origin.
pub(crate) type Counts = BTreeMap<String, u64>;

/// Counts records by the log that each names.
pub(crate) fn counts<'r>(logs: impl Iterator<Item = &'r str>) -> Counts {
    let mut counts = Counts::new();
    add(&mut counts, logs);
    counts
}

fn add<'r>(counts: &mut Counts, logs: impl Iterator<Item = &'r str>) {
    for log in logs {
        *counts.entry(log.to_owned()).or_default() += 1;
    }
}

/// A connection to the audit service of one log, once the dashboard has an SVID for it.
pub(crate) type Connected = watch::Receiver<Option<AccessClient<Channel>>>;

/// The audit services of all logs, by the log's origin.
#[derive(Clone, Default)]
pub struct Access {
    logs: Arc<BTreeMap<String, Connected>>,
}

/// An access whose end is recorded with the number of records that were read.
pub(crate) struct Begun {
    access: Access,
    by: String,
    purpose: &'static str,
    /// Log -> the access's id there.
    ids: BTreeMap<String, String>,
    read: Mutex<Counts>,
}

impl Access {
    pub(crate) fn new(logs: impl IntoIterator<Item = (String, Connected)>) -> Self {
        Self { logs: Arc::new(logs.into_iter().collect()) }
    }

    /// Records that `caller` is answered with so many records of each log.
    pub(crate) async fn answered(
        &self,
        caller: &Caller,
        purpose: &'static str,
        asked: &serde_json::Value,
        counts: &Counts,
    ) -> Result<(), Failure> {
        if let Some(log) = counts.keys().find(|log| !self.logs.contains_key(*log)) {
            return Err(Failure::NotRecorded(format!("no cluster of the configuration has log `{log}`")));
        }
        self.record(caller, purpose, asked, Some(counts)).await.map(|_| ())
    }

    /// Records that `caller` begins to read.
    pub(crate) async fn begin(
        &self,
        caller: &Caller,
        purpose: &'static str,
        asked: &serde_json::Value,
    ) -> Result<Begun, Failure> {
        let ids = self.record(caller, purpose, asked, None).await?;
        Ok(Begun { access: self.clone(), by: caller.name().to_owned(), purpose, ids, read: Mutex::default() })
    }

    async fn record(
        &self,
        caller: &Caller,
        purpose: &'static str,
        asked: &serde_json::Value,
        counts: Option<&Counts>,
    ) -> Result<BTreeMap<String, String>, Failure> {
        let asked = asked.to_string();
        let records = self.logs.iter().map(|(log, connected)| {
            let request = BeginRequest {
                purpose: purpose.to_owned(),
                detail: asked.clone(),
                on_behalf_of: caller.name().to_owned(),
                records: counts.map(|counts| counts.get(log).copied().unwrap_or_default()),
            };
            async move {
                let begun = within(DEADLINE, begin(connected.clone(), request)).await;
                begun.map(|id| (log.clone(), id)).map_err(|status| not_recorded(log, &status))
            }
        });
        Ok(try_join_all(records).await?.into_iter().collect())
    }
}

impl Begun {
    /// Counts records that are about to be sent. Those of a log that began no access must not be.
    pub(crate) fn reads<'r>(&self, logs: impl Iterator<Item = &'r str>) {
        add(&mut self.read.lock(), logs);
    }

    /// Whether the access was recorded in this log.
    pub(crate) fn covers(&self, log: &str) -> bool {
        self.ids.contains_key(log)
    }

    /// Records how many records of each log were read. What cannot be recorded in time is in our own log only.
    pub(crate) async fn end(&self) {
        let read = self.read.lock().clone();
        let ends = self.ids.iter().filter_map(|(log, access_id)| {
            let connected = self.access.logs.get(log)?.clone();
            let request = EndRequest {
                access_id: access_id.clone(),
                purpose: self.purpose.to_owned(),
                records: read.get(log).copied().unwrap_or_default(),
                on_behalf_of: self.by.clone(),
            };
            Some(async move {
                if let Err(status) = within(END_DEADLINE, end(connected, request.clone())).await {
                    let EndRequest { access_id, records, .. } = request;
                    tracing::warn!(%status, log, access_id, records, "could not record the end of an access");
                }
            })
        });
        futures::future::join_all(ends).await;
    }
}

async fn begin(mut connected: Connected, request: BeginRequest) -> Result<String, Status> {
    loop {
        match client(&mut connected).await?.begin(request.clone()).await {
            Err(status) if status.code() == Code::Unavailable => tokio::time::sleep(AFTER_FAILURE).await,
            answer => return answer.map(|answer| answer.into_inner().access_id),
        }
    }
}

async fn end(mut connected: Connected, request: EndRequest) -> Result<(), Status> {
    loop {
        match client(&mut connected).await?.end(request.clone()).await {
            Err(status) if status.code() == Code::Unavailable => tokio::time::sleep(AFTER_FAILURE).await,
            answer => return answer.map(|_| ()),
        }
    }
}

/// The connection, once there is one.
async fn client(connected: &mut Connected) -> Result<AccessClient<Channel>, Status> {
    let there = connected.wait_for(Option::is_some).await;
    there.ok().and_then(|there| there.clone()).ok_or_else(|| Status::cancelled("the dashboard is stopping"))
}

async fn within<T>(deadline: Duration, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(deadline, call).await {
        Ok(answer) => answer,
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {} s", deadline.as_secs()))),
    }
}

/// What the caller could mend is told to it.
fn not_recorded(log: &str, status: &Status) -> Failure {
    match status.code() {
        Code::InvalidArgument => Failure::BadRequest(format!("the question cannot be recorded: {}", status.message())),
        code => Failure::NotRecorded(format!("log `{log}`: {code}: {}", status.message())),
    }
}
