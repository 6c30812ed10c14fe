//! Ingestion and raw COPY in alternation, and their table.

use anyhow::Result;

use super::load::Load;
use super::measure::{ingest, reverify};
use super::place::Place;
use super::raw::Raw;

/// What one round gave.
#[derive(Debug, Default)]
struct Round {
    ingested: f64,
    raw: f64,
    verified: f64,
}

/// Measures both in every round, each first in every other one, and prints what they gave and the medians.
pub(crate) async fn measure(place: &Place, load: &Load, raw: &Raw, rounds: usize) -> Result<()> {
    let mut all = Vec::new();
    for index in 0..rounds {
        let mut round = Round::default();
        for measure in 0..2 {
            if (measure + index) % 2 == 0 {
                let (pool, rate) = ingest(place, load, &format!("ingested_{index}")).await?;
                round.ingested = rate;
                round.verified = reverify(place, &pool, load.records()).await?;
                pool.close().await;
            } else {
                round.raw = raw.copy(place, &format!("raw_{index}")).await?;
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
    Ok(())
}

fn print_round(name: &str, ingested: f64, raw: f64, ratio: f64, verified: f64) {
    println!("| {name} | {ingested:.0} | {raw:.0} | {:.0} % | {verified:.0} |", ratio * 100.0);
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
