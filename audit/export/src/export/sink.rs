//! Where an encoder writes: counts, hashes the whole and each chunk, passes on.

use std::io::{self, Write};
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use parking_lot::Mutex;

use super::Chunk;

/// A writer that several hold: the encoder writes, the export ends chunks.
pub(super) struct Sink<W>(Arc<Mutex<State<W>>>);

impl<W> Clone for Sink<W> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct State<W> {
    out: W,
    whole: Context,
    part: Context,
    bytes: u64,
    /// The chunk that is being written; its digest is that of `part`.
    open: Chunk,
    chunks: Vec<Chunk>,
}

/// What was written.
pub(super) struct Written {
    pub(super) bytes: u64,
    pub(super) sha256: String,
    pub(super) chunks: Vec<Chunk>,
}

impl<W: Write> Sink<W> {
    pub(super) fn new(out: W) -> Self {
        Self(Arc::new(Mutex::new(State {
            out,
            whole: Context::new(&SHA256),
            part: Context::new(&SHA256),
            bytes: 0,
            open: Chunk::default(),
            chunks: Vec::new(),
        })))
    }

    /// Says that records are in the open chunk.
    pub(super) fn note(&self, log: &str, first: u64, last: u64, records: u64) {
        let mut state = self.0.lock();
        if state.open.records == 0 {
            state.open.first = (log.to_owned(), first);
        }
        state.open.last = (log.to_owned(), last);
        state.open.records += records;
    }

    /// Ends the open chunk where the bytes are now.
    pub(super) fn end_chunk(&self) {
        self.0.lock().end_chunk();
    }

    /// Flushes, and gives what was written.
    pub(super) fn finish(self) -> io::Result<Written> {
        let mut state = self.0.lock();
        state.out.flush()?;
        if state.bytes > state.open.offset {
            state.end_chunk();
        }
        let whole = std::mem::replace(&mut state.whole, Context::new(&SHA256));
        let sha256 = hex::encode(whole.finish());
        Ok(Written { bytes: state.bytes, sha256, chunks: std::mem::take(&mut state.chunks) })
    }
}

impl<W> State<W> {
    fn end_chunk(&mut self) {
        let part = std::mem::replace(&mut self.part, Context::new(&SHA256));
        let mut chunk = std::mem::replace(&mut self.open, Chunk { offset: self.bytes, ..Chunk::default() });
        chunk.bytes = self.bytes - chunk.offset;
        chunk.sha256 = hex::encode(part.finish());
        self.chunks.push(chunk);
    }
}

impl<W: Write> Write for Sink<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.0.lock();
        let written = state.out.write(bytes)?;
        let (bytes, _) = bytes.split_at_checked(written).unwrap_or((bytes, &[]));
        state.whole.update(bytes);
        state.part.update(bytes);
        state.bytes += bytes.len() as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.lock().out.flush()
    }
}
