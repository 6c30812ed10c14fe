//! Rows of `signet.records` as binary COPY gives them.

use std::borrow::Cow;

use uuid::Uuid;

use crate::store::compact::{Numbers, Row};
use crate::store::copy::EPOCH_US;

/// The rows of a range of leaves of a log, in any order.
pub(super) fn copy_out(log_id: i16, from: u64, to: u64) -> String {
    format!(
        "COPY (SELECT leaf_index, time, epoch_id, source_id, service_id, shape_id, context_id, latency_us, kind, allow, id, \
         trace_id, path, personal, rest FROM signet.records \
         WHERE log_id = {log_id} AND leaf_index >= {from} AND leaf_index < {to}) TO STDOUT (FORMAT binary)"
    )
}

const COLUMNS: i16 = 15;

/// What a COPY begins with: signature, flags, and an extension of no bytes.
const HEAD: usize = 19;

/// PostgreSQL's COPY format is not what it should be.
#[derive(Debug, thiserror::Error)]
#[error("PostgreSQL's binary COPY is not as its documentation says")]
pub(super) struct Malformed;

/// Reads the rows of a whole COPY.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<Row<'_>>, Malformed> {
    let mut fields = Fields(bytes.get(HEAD..).ok_or(Malformed)?);
    let mut rows = Vec::with_capacity(bytes.len() / 200);
    while let Some(row) = fields.row()? {
        rows.push(row);
    }
    Ok(rows)
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn row(&mut self) -> Result<Option<Row<'a>>, Malformed> {
        match i16::from_be_bytes(self.take()?) {
            COLUMNS => {}
            -1 => return Ok(None),
            _ => return Err(Malformed),
        }
        let leaf_index = i64::from_be_bytes(self.fixed()?);
        let time_us = i64::from_be_bytes(self.fixed()?).saturating_add(EPOCH_US);
        let numbers = Numbers {
            epoch: i32::from_be_bytes(self.fixed()?),
            source: self.maybe()?.map(i32::from_be_bytes),
            service: i32::from_be_bytes(self.fixed()?),
            shape: i32::from_be_bytes(self.fixed()?),
            context: i32::from_be_bytes(self.fixed()?),
        };
        Ok(Some(Row {
            leaf_index,
            time_us,
            numbers,
            latency_us: self.maybe()?.map(i32::from_be_bytes),
            kind: i16::from_be_bytes(self.fixed()?),
            allow: self.fixed()? == [1],
            id: Uuid::from_bytes(self.fixed()?),
            trace_id: self.maybe()?.map(Uuid::from_bytes),
            path: match self.value()? {
                Some(path) => Some(Cow::Borrowed(std::str::from_utf8(path).map_err(|_| Malformed)?)),
                None => None,
            },
            personal: self.value()?.ok_or(Malformed)?,
            rest: self.value()?.ok_or(Malformed)?,
        }))
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*taken)
    }

    /// A value; `None` is NULL.
    fn value(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        let Ok(length) = usize::try_from(i32::from_be_bytes(self.take()?)) else { return Ok(None) };
        let (value, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(Some(value))
    }

    fn maybe<const N: usize>(&mut self) -> Result<Option<[u8; N]>, Malformed> {
        self.value()?.map(|value| value.try_into().map_err(|_| Malformed)).transpose()
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.maybe()?.ok_or(Malformed)
    }
}
