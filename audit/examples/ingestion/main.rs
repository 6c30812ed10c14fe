//! Measures ingestion beside raw COPY in one interleaved run: `make bench-audit`, or
//! `cargo run --release -p signet-audit --example ingestion -- [RECORDS [ROUNDS [PAGED]]]`, where PAGED
//! is the number of records on which first pages of filtered queries are measured (0: none).
//!
//! Ingestion is end to end: gRPC over mutual TLS from four producers, checked, deduplicated, sequenced, in the Merkle tree
//! and committed. Raw is binary COPY of the very rows that ingestion made, into the same table with the same indexes, by one
//! connection that does nothing else. Every measurement has a fresh database of one private PostgreSQL, whose `fsync`,
//! `synchronous_commit` and `full_page_writes` are on. Producers run in this process: what they take is ingestion's loss.
#![allow(clippy::print_stdout, reason = "a program that prints a table")]

mod load;
mod measure;
mod pages;
mod place;
mod raw;
mod rounds;
mod spooled;

use std::time::Duration;

use anyhow::{Context, Result};

use load::Load;
use measure::{ingest, space};
use place::Place;
use raw::Raw;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |otherwise: usize| match arguments.next() {
        Some(argument) => argument.parse().with_context(|| format!("`{argument}` is not a number")),
        None => Ok(otherwise),
    };
    let (records, rounds, paged) = (number(200_000)?, number(3)?, number(10_000_000)?);
    let place = Place::make().await?;
    let load = Load::make(records)?;

    // The first one warms up, gives raw COPY its rows, and shows what a record takes.
    let (warm, _) = ingest(&place, &load, "warm").await?;
    let raw = Raw::of(&warm).await?;
    println!("{records} records of {} canonical bytes on average, {rounds} rounds", load.mean_bytes());
    println!();
    println!("{}", space(&warm, records).await?);
    if paged > 0 {
        pages::measure(&warm, i64::try_from(paged)?).await?;
        println!();
    }
    warm.close().await;
    place.drop("warm").await?;

    rounds::measure(&place, &load, &raw, rounds).await?;
    println!();
    spooled::measure(&place, 20_000, Duration::from_secs(10)).await?;
    place.stop().await
}

/// What stops a measurement that hangs.
const PATIENCE: Duration = Duration::from_secs(300);
