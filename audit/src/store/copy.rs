//! PostgreSQL's binary COPY format: rows as bytes, nothing that the server could refuse.

use sqlx::PgConnection;
use sqlx::postgres::PgCopyIn;
use uuid::Uuid;

/// Microseconds from 1970 to 2000, where PostgreSQL's clock begins.
pub(crate) const EPOCH_US: i64 = 946_684_800_000_000;

/// Bytes of one message to the server.
const CHUNK: usize = 256 * 1024;

/// Rows in the making.
#[derive(Debug)]
pub(crate) struct Rows {
    bytes: Vec<u8>,
    columns: i16,
}

impl Rows {
    pub(crate) fn new(columns: i16) -> Self {
        let mut bytes = b"PGCOPY\n\xff\r\n\0".to_vec();
        bytes.extend_from_slice(&[0; 8]);
        Self { bytes, columns }
    }

    /// Begins a row; as many columns as promised must follow.
    pub(crate) fn row(&mut self) {
        self.bytes.extend_from_slice(&self.columns.to_be_bytes());
    }

    pub(crate) fn null(&mut self) {
        self.bytes.extend_from_slice(&(-1i32).to_be_bytes());
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) {
        // INVARIANT: no value is near 2 GiB: entries have at most 64 KiB.
        let length = i32::try_from(value.len()).unwrap_or(i32::MAX);
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend_from_slice(value);
    }

    pub(crate) fn i16(&mut self, value: i16) {
        self.bytes(&value.to_be_bytes());
    }

    pub(crate) fn i32(&mut self, value: i32) {
        self.bytes(&value.to_be_bytes());
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.bytes(&value.to_be_bytes());
    }

    pub(crate) fn bool(&mut self, value: bool) {
        self.bytes(&[u8::from(value)]);
    }

    pub(crate) fn uuid(&mut self, value: Uuid) {
        self.bytes(value.as_bytes());
    }

    /// A time; the years 1 to 9999 are what a column can hold.
    pub(crate) fn time(&mut self, unix_us: i64) {
        self.i64(unix_us - EPOCH_US);
    }

    /// Text; NUL, which PostgreSQL's text cannot hold, becomes the replacement character.
    pub(crate) fn text(&mut self, value: &str) {
        self.bytes(crate::query::without_nul(value).as_bytes());
    }

    pub(crate) fn option<T>(&mut self, value: Option<T>, put: impl FnOnce(&mut Self, T)) {
        match value {
            Some(value) => put(self, value),
            None => self.null(),
        }
    }

    /// Sends the rows with a `COPY .. FROM STDIN (FORMAT binary)` statement.
    pub(crate) async fn copy(mut self, connection: &mut PgConnection, statement: &str) -> Result<(), sqlx::Error> {
        Copying::begin(connection, statement).await?.finish(&mut self).await
    }
}

/// A COPY under way: the server takes rows in while more are made.
pub(crate) struct Copying<'c>(PgCopyIn<&'c mut PgConnection>);

impl<'c> Copying<'c> {
    /// Begins a `COPY .. FROM STDIN (FORMAT binary)` statement.
    pub(crate) async fn begin(connection: &'c mut PgConnection, statement: &str) -> Result<Self, sqlx::Error> {
        Ok(Self(connection.copy_in_raw(statement).await?))
    }

    /// Sends the rows made so far.
    pub(crate) async fn send(mut self, rows: &mut Rows) -> Result<Self, sqlx::Error> {
        for chunk in rows.bytes.chunks(CHUNK) {
            if let Err(error) = self.0.send(chunk).await {
                // The error is what counts; the transaction is rolled back.
                let _ = self.0.abort("signet: sending failed").await;
                return Err(error);
            }
        }
        rows.bytes.clear();
        Ok(self)
    }

    /// Sends the last rows.
    pub(crate) async fn finish(self, rows: &mut Rows) -> Result<(), sqlx::Error> {
        rows.bytes.extend_from_slice(&(-1i16).to_be_bytes());
        self.send(rows).await?.0.finish().await?;
        Ok(())
    }
}
