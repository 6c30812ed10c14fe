//! Apache Parquet: typed columns, zstd, one row group per 100,000 records. Written column by column with the format's
//! own writer; Arrow would be twenty crates more for the same bytes.

use std::io::{self, Write};
use std::sync::Arc;

use parquet::basic::{Compression, ZstdLevel};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use crate::row::{COLUMNS, Row, Type, Value};

/// Rows of a full row group.
const GROUP: usize = 100_000;

pub(crate) struct Encoder<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    columns: Vec<Buffer>,
    held: usize,
}

/// The values of a column of the row group that is being filled, with Parquet's definition and repetition levels.
enum Buffer {
    Texts { values: Vec<ByteArray>, defined: Vec<i16>, repeated: Option<Vec<i16>> },
    Longs { values: Vec<i64>, defined: Vec<i16> },
}

impl Buffer {
    fn new(kind: Type) -> Self {
        match kind {
            Type::Text | Type::Pairs => Self::Texts { values: Vec::new(), defined: Vec::new(), repeated: None },
            Type::Texts => Self::Texts { values: Vec::new(), defined: Vec::new(), repeated: Some(Vec::new()) },
            Type::Long | Type::Time => Self::Longs { values: Vec::new(), defined: Vec::new() },
        }
    }

    fn push(&mut self, value: Value<'_>) -> io::Result<()> {
        match (self, value) {
            (Self::Texts { values, defined, repeated: None }, value) => match value {
                Value::Text(text) => {
                    values.push(ByteArray::from(text.as_bytes().to_vec()));
                    defined.push(1);
                }
                Value::Pairs(_) => {
                    values.push(ByteArray::from(serde_json::to_vec(&value)?));
                    defined.push(1);
                }
                _ => defined.push(0),
            },
            // LIST of required texts in a required list: level 0 is an empty list, 1 an item of it.
            (Self::Texts { values, defined, repeated: Some(repeated) }, value) => match value {
                Value::Texts(items) if !items.is_empty() => {
                    for (place, item) in items.into_iter().enumerate() {
                        values.push(ByteArray::from(item.as_bytes().to_vec()));
                        defined.push(1);
                        repeated.push(i16::from(place > 0));
                    }
                }
                _ => {
                    defined.push(0);
                    repeated.push(0);
                }
            },
            (Self::Longs { values, defined }, Value::Long(value) | Value::Time(value)) => {
                values.push(value);
                defined.push(1);
            }
            (Self::Longs { defined, .. }, _) => defined.push(0),
        }
        Ok(())
    }

    fn write(&mut self, column: &mut ColumnWriter<'_>) -> Result<(), ParquetError> {
        match (self, column) {
            (Self::Texts { values, defined, repeated }, ColumnWriter::ByteArrayColumnWriter(writer)) => {
                writer.write_batch(values, Some(defined), repeated.as_deref())?;
                values.clear();
                defined.clear();
                if let Some(repeated) = repeated {
                    repeated.clear();
                }
            }
            (Self::Longs { values, defined }, ColumnWriter::Int64ColumnWriter(writer)) => {
                writer.write_batch(values, Some(defined), None)?;
                values.clear();
                defined.clear();
            }
            _ => return Err(ParquetError::General("a column's writer is not of its type".to_owned())),
        }
        Ok(())
    }
}

/// The schema in Parquet's own notation.
fn schema() -> String {
    let mut text = String::from("message signet {\n");
    for column in COLUMNS {
        let name = column.name;
        text.push_str(&match column.kind {
            Type::Text => format!("  optional binary {name} (STRING);\n"),
            Type::Pairs => format!("  optional binary {name} (JSON);\n"),
            Type::Long => format!("  optional int64 {name};\n"),
            Type::Time => format!("  optional int64 {name} (TIMESTAMP(MICROS,true));\n"),
            Type::Texts => {
                format!(
                    "  required group {name} (LIST) {{ repeated group list {{ required binary element (STRING); }} }}\n"
                )
            }
        });
    }
    text.push('}');
    text
}

impl<W: Write + Send> Encoder<W> {
    pub(super) fn new(out: W) -> io::Result<Self> {
        let schema = parse_message_type(&schema()).map_err(io::Error::other)?;
        let level = ZstdLevel::try_new(3).map_err(io::Error::other)?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(level))
            .set_created_by(concat!("signet ", env!("CARGO_PKG_VERSION")).to_owned())
            .build();
        let writer =
            SerializedFileWriter::new(out, Arc::new(schema), Arc::new(properties)).map_err(io::Error::other)?;
        Ok(Self { writer, columns: COLUMNS.iter().map(|column| Buffer::new(column.kind)).collect(), held: 0 })
    }

    /// Takes rows; `true` when a row group was closed and its bytes are out.
    pub(super) fn rows(&mut self, rows: &[Row<'_>]) -> io::Result<bool> {
        let mut settled = false;
        for row in rows {
            for (column, buffer) in COLUMNS.iter().zip(&mut self.columns) {
                buffer.push((column.value)(row))?;
            }
            self.held += 1;
            if self.held == GROUP {
                self.close_group().map_err(io::Error::other)?;
                settled = true;
            }
        }
        Ok(settled && self.held == 0)
    }

    fn close_group(&mut self) -> Result<(), ParquetError> {
        let mut group = self.writer.next_row_group()?;
        for buffer in &mut self.columns {
            let Some(mut column) = group.next_column()? else {
                return Err(ParquetError::General("the schema has fewer columns than the rows".to_owned()));
            };
            buffer.write(column.untyped())?;
            column.close()?;
        }
        group.close()?;
        self.held = 0;
        self.writer.flush().map_err(|error| ParquetError::External(Box::new(error)))
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        if self.held > 0 {
            self.close_group().map_err(io::Error::other)?;
        }
        self.writer.close().map(|_| ()).map_err(io::Error::other)
    }
}
