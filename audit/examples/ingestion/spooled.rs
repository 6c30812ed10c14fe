//! How long a record takes from the spool of its producer to a row that a query sees.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use signet_spool::{Spool, SpoolConfig, ship_over};
use tokio_util::sync::CancellationToken;

use super::load::{decision, producer};
use super::place::Place;

/// How often the committed rows are counted: a figure is at most this much too long.
const LOOK: Duration = Duration::from_millis(2);

/// Appends `rate` records a second to a spool (`disk`) for a while and prints when they could be queried.
pub(crate) async fn measure(place: &Place, rate: usize, during: Duration) -> Result<()> {
    let service = place.serve("spooled").await?;
    place.settle().await?;
    let config = SpoolConfig { max_bytes: 2 << 30, ..SpoolConfig::at(place.directory().join("spool")) };
    let spool = Spool::open(config, &producer("web"))?;
    let cancel = CancellationToken::new();
    let shipping = tokio::spawn(ship_over(spool.clone(), service.channel(&producer("web")), cancel.clone()));
    let count = rate * usize::try_from(during.as_secs())?;
    let started = Instant::now();
    let appending = std::thread::spawn(move || -> Result<Vec<Instant>> {
        let mut appended = Vec::with_capacity(count);
        for number in 0..count {
            // In bursts of a millisecond, as sidecars' calls come.
            let due = started + Duration::from_millis(number as u64 * 1_000 / rate as u64);
            let now = Instant::now();
            if due > now {
                std::thread::sleep(due - now);
            }
            spool.append(&decision("web", number))?;
            appended.push(Instant::now());
        }
        spool.close()?;
        Ok(appended)
    });
    // One producer: the tree's size is the number of its records that are committed.
    let mut seen: Vec<(usize, Instant)> = Vec::new();
    let deadline = started + during + super::PATIENCE;
    loop {
        let size: i64 = sqlx::query_scalar("SELECT size FROM signet.logs").fetch_one(&service.pool).await?;
        let size = usize::try_from(size)?;
        seen.push((size, Instant::now()));
        if size >= count {
            break;
        }
        if Instant::now() > deadline {
            bail!("{size} of {count} records came");
        }
        tokio::time::sleep(LOOK).await;
    }
    let appended = tokio::task::block_in_place(|| appending.join());
    let appended = appended.map_err(|_| anyhow::anyhow!("the producer panicked"))??;
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM decisions").fetch_one(&service.pool).await?;
    if usize::try_from(rows) != Ok(count) {
        bail!("the view shows {rows} of {count} records");
    }
    cancel.cancel();
    shipping.await?;
    service.stop().await?.close().await;

    let mut looks = seen.iter().peekable();
    let mut took: Vec<Duration> = Vec::with_capacity(count);
    for (place, at) in (1..).zip(&appended) {
        while looks.peek().is_some_and(|(size, _)| *size < place) {
            looks.next();
        }
        let (_, visible) = looks.peek().context("every record was seen")?;
        took.push(visible.saturating_duration_since(*at));
    }
    took.sort_unstable();
    let of = |per_mille: usize| took.get((took.len() * per_mille / 1_000).min(took.len() - 1)).map(Duration::as_millis);
    let lasted = appended.last().context("nothing was appended")?.duration_since(started).as_secs_f64();
    println!("| spool to queryable row at {:.0} records/s | p50, ms | p99, ms | slowest, ms |", count as f64 / lasted);
    println!("|---|---|---|---|");
    let [p50, p99, slowest] = [500, 990, 1_000].map(|per_mille| of(per_mille).unwrap_or_default());
    println!("| {count} records | {p50} | {p99} | {slowest} |");
    Ok(())
}
