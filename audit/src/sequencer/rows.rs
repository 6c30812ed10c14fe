//! Records as rows of the tables.

use signet_spool::{Enforcement, Kind, Record};

use crate::store::copy::Rows;
use crate::store::dictionary::{Dictionaries, Dictionary};

/// The columns that [`put`] writes, in order.
pub(super) const COPY_RECORDS: &str = "COPY signet.records (time, received_at, leaf_index, sequence, count, latency_us, id, \
     epoch_id, source_id, destination_id, service_id, action_id, policy_set_id, commit_id, digest_id, reason_id, tls_id, \
     shadow_set_id, log_id, kind, enforcement, allow, shadow_allow, path, trace_id, detail, canonical) FROM STDIN (FORMAT binary)";
pub(super) const RECORD_COLUMNS: i16 = 27;

pub(super) const COPY_OPENINGS: &str =
    "COPY signet.openings (log_id, leaf_index, source_address, path, opened) FROM STDIN (FORMAT binary)";
pub(super) const OPENING_COLUMNS: i16 = 5;

/// A trace id that is longer than one is not one; the canonical bytes keep it.
pub(crate) const MAX_TRACE_ID: usize = 64;

/// Notes the dictionary entries of a record.
pub(super) fn want(dictionaries: &mut Dictionaries, record: &Record) {
    for identity in [&record.source_spiffe_id, &record.destination_spiffe_id].into_iter().flatten() {
        dictionaries.want(Dictionary::Identities, identity);
    }
    dictionaries.want(Dictionary::Services, &record.destination_service);
    for label in labels(record) {
        dictionaries.want(Dictionary::Labels, label);
    }
    dictionaries.want(Dictionary::PolicySets, &joined(&record.policy_ids));
    if let Some((_, policies)) = &record.shadow {
        dictionaries.want(Dictionary::PolicySets, &joined(policies));
    }
}

fn labels(record: &Record) -> [&str; 5] {
    [&record.action, &record.policy_commit, &record.bundle_digest, &record.reason, &record.tls]
}

/// Policy ids in one value; a hostile id cannot pass for two.
pub(crate) fn joined<T: AsRef<str>>(ids: &[T]) -> String {
    let ids: Vec<String> = ids.iter().map(|id| id.as_ref().replace('\n', " ")).collect();
    ids.join("\n")
}

/// Counts beyond this are nonsense and would overflow sums; the canonical bytes keep them.
const MAX_COUNT: i64 = 1_000_000_000_000;

/// A count as its column has it.
pub(crate) fn count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX).min(MAX_COUNT)
}

/// A kind as its column has it.
pub(crate) fn kind(kind: Kind) -> i16 {
    match kind {
        Kind::Decision => 0,
        Kind::Event => 1,
        Kind::Refusal => 2,
        Kind::Gap => 3,
    }
}

/// An enforcement as its column has it.
pub(crate) fn enforcement(enforcement: Enforcement) -> i16 {
    match enforcement {
        Enforcement::Enforce => 0,
        Enforcement::Shadow => 1,
    }
}

/// Where a row stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) log_id: i16,
    pub(super) leaf_index: i64,
    pub(super) epoch_id: i32,
    pub(super) sequence: i64,
    pub(super) received_us: i64,
}

/// A dictionary entry that [`want`] did not note.
#[derive(Debug)]
pub(super) struct Unresolved;

/// Appends a record to `records`, and what of it is personal to `openings`.
pub(super) fn put(
    records: &mut Rows,
    openings: &mut Rows,
    dictionaries: &Dictionaries,
    place: Place,
    entry: &super::Prepared,
) -> Result<(), Unresolved> {
    let record = &entry.record;
    let number = |dictionary, value: &str| dictionaries.get(dictionary, value).ok_or(Unresolved);
    let identity = |id: &Option<String>| id.as_deref().map(|id| number(Dictionary::Identities, id)).transpose();
    let source = identity(&record.source_spiffe_id)?;
    let destination = identity(&record.destination_spiffe_id)?;
    let service = number(Dictionary::Services, &record.destination_service)?;
    let policies = number(Dictionary::PolicySets, &joined(&record.policy_ids))?;
    let shadow = match &record.shadow {
        Some((_, policies)) => Some(number(Dictionary::PolicySets, &joined(policies))?),
        None => None,
    };
    let mut numbers = [0; 5];
    for (to, label) in numbers.iter_mut().zip(labels(record)) {
        *to = number(Dictionary::Labels, label)?;
    }
    let [action, commit, digest, reason, tls] = numbers;

    records.row();
    records.time(record.time_us);
    records.time(place.received_us);
    records.i64(place.leaf_index);
    records.i64(place.sequence);
    records.i64(count(record.count));
    records.option(record.latency_us, |rows, us| rows.i64(i64::try_from(us).unwrap_or(i64::MAX)));
    records.uuid(record.id);
    records.i32(place.epoch_id);
    records.option(source, Rows::i32);
    records.option(destination, Rows::i32);
    for number in [service, action, policies, commit, digest, reason, tls] {
        records.i32(number);
    }
    records.option(shadow, Rows::i32);
    records.i16(place.log_id);
    records.i16(kind(record.kind));
    records.i16(enforcement(record.enforcement));
    records.bool(record.allow);
    records.option(record.shadow.as_ref(), |rows, (allow, _)| rows.bool(*allow));
    let path = record.path.as_deref();
    records.option(path.filter(|_| !record.personal_path), Rows::text);
    records.option(record.trace_id.as_deref().filter(|id| id.len() <= MAX_TRACE_ID), Rows::text);
    records.option(record.detail.as_deref(), Rows::text);
    records.bytes(&entry.canonical);

    if !entry.opened.is_empty() {
        openings.row();
        openings.i16(place.log_id);
        openings.i64(place.leaf_index);
        openings.option(record.source_address.as_deref(), Rows::text);
        openings.option(path.filter(|_| record.personal_path), Rows::text);
        openings.bytes(&entry.opened);
    }
    Ok(())
}
