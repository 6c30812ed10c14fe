//! What the tests of several modules need.

use prost::Message as _;

use crate::commitment::Opening;
use crate::record::Record;
use crate::spool::{Cursor, Fetched, Spool};

/// Everything that is in the spool and not acknowledged, as the shipper would send it.
pub(crate) fn fetch_all(spool: &Spool) -> Vec<Fetched> {
    let mut cursor = Cursor::default();
    let mut out = Vec::new();
    while let Some(fetched) = spool.shared.fetch(&mut cursor, 500).unwrap() {
        out.push(fetched);
    }
    out
}

pub(crate) fn decode(entry: &signet_api::audit::Entry) -> Record {
    let openings: Vec<Opening> = entry
        .openings
        .iter()
        .map(|one| Opening {
            field: one.field,
            salt: one.salt.as_slice().try_into().unwrap(),
            value: one.value.clone(),
        })
        .collect();
    Record::decode(&entry.canonical, &openings).unwrap()
}

/// The records of [`fetch_all`].
pub(crate) fn records(spool: &Spool) -> Vec<Record> {
    let entries = |fetched: &Fetched| {
        let batch = signet_api::audit::Batch::decode(&fetched.entries.bytes[..]).unwrap();
        assert_eq!(batch.entries.len(), fetched.entries.count);
        batch.entries
    };
    fetch_all(spool).iter().flat_map(entries).map(|entry| decode(&entry)).collect()
}
