//! Rows that keep their canonical bytes whole, because the columns cannot give them back: what the columns show must be
//! what the bytes say.

use signet_spool::{Fields, Record, tag};

use crate::query::without_nul;
use crate::store::compact::shape::Shape;
use crate::store::compact::{Reader, Rest, Row, count, personal};

/// The first column that says another thing than the canonical bytes of the row; `None` also of a row without them, whose
/// columns *are* what is hashed. Values that were erased contradict nothing.
pub(super) fn contradiction(reader: &Reader, row: &Row<'_>) -> Option<&'static str> {
    let Some(rest) = Rest::unpack(row.rest) else { return Some("rest") };
    let canonical = rest.canonical?;
    if Record::decode(canonical, &personal::openings(row.personal)).is_err() {
        return Some("personal");
    }
    let Some((fields, shape)) = Fields::split(canonical).and_then(|fields| Some((fields, Shape::of(&fields)?))) else {
        return Some("rest");
    };
    let Ok(texts) = reader.texts(row.numbers) else { return Some("a dictionary") };
    let shown = Row::of(&fields, row.leaf_index, row.numbers);
    let same = |shown: &str, tag| fields.text(tag).map(without_nul).as_deref() == Some(shown);
    let maybe = |shown: Option<&str>, tag| fields.text(tag).map(without_nul).as_deref() == shown;
    let number = fields.fixed(tag::COUNT).map_or(1, u64::from_be_bytes);
    let stored = texts.shape;
    [
        ("id", shown.id == row.id),
        ("allow", shown.allow == row.allow),
        ("time", shown.time_us == row.time_us),
        ("kind", shown.kind == row.kind),
        ("latency_us", shown.latency_us == row.latency_us),
        ("trace_id", shown.trace_id == row.trace_id),
        ("path", shown.path == row.path),
        ("producer", same(texts.producer, tag::PRODUCER)),
        ("source_spiffe_id", maybe(texts.source, tag::SOURCE_SPIFFE_ID)),
        ("destination_service", same(texts.service, tag::DESTINATION_SERVICE)),
        ("destination_spiffe_id", stored.destination == shape.destination),
        ("action", stored.action == shape.action),
        ("policy_ids", stored.policies == shape.policies),
        ("policy_commit", stored.commit == shape.commit),
        ("bundle_digest", stored.digest == shape.digest),
        ("reason", stored.reason == shape.reason),
        ("tls", stored.tls == shape.tls),
        ("shadow_policy_ids", stored.shadow == shape.shadow),
        ("enforcement", stored.enforcement == shape.enforcement),
        ("personal_path", stored.personal_path == shape.personal_path),
        ("count", rest.count.unwrap_or(1) == count(number)),
        ("detail", maybe(rest.detail, tag::DETAIL)),
    ]
    .into_iter()
    .find_map(|(column, same)| (!same).then_some(column))
}
