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
mod spooled;

use std::time::Duration;

use anyhow::{Context, Result};

use load::Load;
use measure::{ingest, reverify, space};
use place::Place;
use raw::Raw;

/// What one round gave.
#[derive(Debug, Default)]
struct Round {
    ingested: f64,
    raw: f64,
    verified: f64,
}

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

    let mut all = Vec::new();
    for index in 0..rounds {
        let mut round = Round::default();
        for measure in 0..2 {
            if (measure + index) % 2 == 0 {
                let (pool, rate) = ingest(&place, &load, &format!("ingested_{index}")).await?;
                round.ingested = rate;
                round.verified = reverify(&place, &pool, records).await?;
                pool.close().await;
            } else {
                round.raw = raw.copy(&place, &format!("raw_{index}")).await?;
            }
        }
        all.push(round);
    }
    println!("| round | ingestion, records/s | raw COPY, rows/s | ingestion of raw | verify, records/s |");
    println!("|---|---|---|---|---|");
    for (index, round) in (1..).zip(&all) {
        print_round(&index.to_string(), round.ingested, round.raw, round.ingested / round.raw, round.verified);
    }
    let of = |pick: fn(&Round) -> f64| median(all.iter().map(pick).collect());
    print_round(
        "median",
        of(|round| round.ingested),
        of(|round| round.raw),
        of(|round| round.ingested / round.raw),
        of(|round| round.verified),
    );
    println!();
    spooled::measure(&place, 20_000, Duration::from_secs(10)).await?;
    place.stop().await
}

fn print_round(name: &str, ingested: f64, raw: f64, ratio: f64, verified: f64) {
    println!("| {name} | {ingested:.0} | {raw:.0} | {:.0} % | {verified:.0} |", ratio * 100.0);
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// What stops a measurement that hangs.
const PATIENCE: Duration = Duration::from_secs(300);
