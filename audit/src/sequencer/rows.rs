//! Records as rows of the tables.

use signet_spool::tag;

use super::plan;
use crate::query::without_nul;
use crate::store::MAX_RUN;
use crate::store::compact::{Numbers, Reader, Rest, Row, context, count};
use crate::store::copy::Rows;
use crate::store::dictionary::Dictionaries;

/// The columns that [`Maker::put`] writes, in order.
pub(super) const COPY_RECORDS: &str = "COPY signet.records (time, leaf_index, epoch_id, source_id, service_id, shape_id, context_id, \
     latency_us, log_id, kind, allow, id, trace_id, path, personal, rest) FROM STDIN (FORMAT binary)";
const RECORD_COLUMNS: i16 = 16;

/// The columns of a run, in order.
pub(super) const COPY_RUNS: &str =
    "COPY signet.runs (first_leaf, first_sequence, received_at, epoch_id, records, log_id) FROM STDIN (FORMAT binary)";
const RUN_COLUMNS: i16 = 6;

/// A dictionary entry that was not noted.
#[derive(Debug)]
pub(super) struct Unresolved;

/// The entries of dictionaries that the row of a record names.
pub(super) fn numbers(dictionaries: &Dictionaries, row: &plan::Row<'_>) -> Result<Numbers, Unresolved> {
    let keys = &row.entry.keys;
    let source = keys.source.map(|key| dictionaries.identity(key).ok_or(Unresolved)).transpose()?;
    Ok(Numbers {
        epoch: row.epoch_id,
        source,
        service: dictionaries.service(keys.service).ok_or(Unresolved)?,
        shape: dictionaries.shape(keys.shape).ok_or(Unresolved)?,
        context: keys.context.and_then(|key| dictionaries.context(key)).unwrap_or(0),
    })
}

/// Makes the rows of one transaction.
pub(super) struct Maker<'r> {
    reader: &'r Reader,
    log_id: i16,
    received_us: i64,
    pub(super) records: Rows,
    pub(super) runs: Rows,
    run: Option<Run>,
    /// Reused from record to record.
    rest: Vec<u8>,
    rebuilt: Vec<u8>,
}

/// A run that may go on.
#[derive(Debug, Clone, Copy)]
struct Run {
    first_leaf: i64,
    first_sequence: u64,
    epoch_id: i32,
    records: u64,
}

impl<'r> Maker<'r> {
    pub(super) fn new(reader: &'r Reader, log_id: i16, received_us: i64) -> Self {
        Self {
            reader,
            log_id,
            received_us,
            records: Rows::new(RECORD_COLUMNS),
            runs: Rows::new(RUN_COLUMNS),
            run: None,
            rest: Vec::new(),
            rebuilt: Vec::new(),
        }
    }

    /// Appends a record; one that its row cannot give back brings its canonical bytes along.
    pub(super) fn put(&mut self, row: &plan::Row<'_>, numbers: Numbers, leaf_index: i64) {
        self.extend_run(row, leaf_index);
        let fields = row.entry.fields();
        let detail = fields.text(tag::DETAIL).map(without_nul);
        let context = match fields.get(tag::CONTEXT) {
            Some(context) if numbers.context == 0 && !context.is_empty() => Some(context::template(context)),
            _ => None,
        };
        let occurrences = fields.fixed(tag::COUNT).map_or(1, u64::from_be_bytes);
        let mut rest = Rest {
            count: (occurrences != 1).then(|| count(occurrences)),
            detail: detail.as_deref(),
            context: context.as_deref(),
            canonical: None,
        };
        let columns = Row { personal: &row.entry.personal, ..Row::of(&fields, leaf_index, numbers) };
        self.rest.clear();
        rest.pack(&mut self.rest);
        if !self.gives_back(&columns, &row.entry.canonical) {
            rest.canonical = Some(&row.entry.canonical);
            rest.context = None;
            self.rest.clear();
            rest.pack(&mut self.rest);
        }
        write(&mut self.records, self.log_id, &Row { rest: &self.rest, ..columns });
    }

    fn gives_back(&mut self, columns: &Row<'_>, canonical: &[u8]) -> bool {
        self.rebuilt.clear();
        let row = Row { rest: &self.rest, ..columns.clone() };
        self.reader.rebuild(&row, &mut self.rebuilt).is_ok() && self.rebuilt == canonical
    }

    fn extend_run(&mut self, row: &plan::Row<'_>, leaf_index: i64) {
        if let Some(run) = &mut self.run
            && (run.epoch_id, run.first_sequence + run.records) == (row.epoch_id, row.sequence)
            && run.records < MAX_RUN
        {
            run.records += 1;
            return;
        }
        self.end_run();
        self.run =
            Some(Run { first_leaf: leaf_index, first_sequence: row.sequence, epoch_id: row.epoch_id, records: 1 });
    }

    /// Writes the last run; call it once after the last record.
    pub(super) fn end_run(&mut self) {
        let Some(run) = self.run.take() else { return };
        self.runs.row();
        self.runs.i64(run.first_leaf);
        self.runs.i64(crate::store::signed(run.first_sequence));
        self.runs.time(self.received_us);
        self.runs.i32(run.epoch_id);
        self.runs.i32(i32::try_from(run.records).unwrap_or(i32::MAX));
        self.runs.i16(self.log_id);
    }
}

fn write(rows: &mut Rows, log_id: i16, row: &Row<'_>) {
    rows.row();
    rows.time(row.time_us);
    rows.i64(row.leaf_index);
    rows.i32(row.numbers.epoch);
    rows.option(row.numbers.source, Rows::i32);
    for number in [row.numbers.service, row.numbers.shape, row.numbers.context] {
        rows.i32(number);
    }
    rows.option(row.latency_us, Rows::i32);
    rows.i16(log_id);
    rows.i16(row.kind);
    rows.bool(row.allow);
    rows.uuid(row.id);
    rows.option(row.trace_id, Rows::uuid);
    rows.option(row.path.as_deref(), Rows::text);
    rows.bytes(row.personal);
    rows.bytes(row.rest);
}
