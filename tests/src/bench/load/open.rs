//! The open loop: requests are sent at fixed times whatever the answers take, and counted from the time at which each was
//! due, so that a stall is charged to every request that it delays (coordinated omission).

use std::io::{Read as _, Write as _};
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use anyhow::ensure;
use tokio::task::JoinSet;

use super::{Done, Target, lengths, request};

/// Each connection has a thread that sleeps to the microsecond: an async runtime's timer counts in milliseconds, which is
/// more than what is measured.
pub(super) async fn open(target: &Target, connections: usize, rate: u32, time: Duration) -> anyhow::Result<Done> {
    let gap = Duration::from_secs(1) / rate;
    let total = (f64::from(rate) * time.as_secs_f64()) as u32;
    let step = u32::try_from(connections)?;
    let mut opened = Vec::with_capacity(connections);
    for _ in 0..connections {
        let mut connection = Blocking::open(target)?;
        // The first call on a connection may have to make others; it is not what is measured.
        connection.call()?;
        opened.push(connection);
    }
    let start = Instant::now() + Duration::from_millis(50);
    let mut threads = JoinSet::new();
    for (place, mut connection) in (0..step).zip(opened) {
        threads.spawn_blocking(move || {
            rustix::thread::set_current_timer_slack(NonZeroU64::new(1_000))?;
            let mut latencies = Vec::with_capacity((total / step) as usize + 1);
            for n in (place..total).step_by(step as usize) {
                let due = start + gap * n;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                connection.call()?;
                latencies.push(due.elapsed().as_secs_f64() * 1e6);
            }
            anyhow::Ok(latencies)
        });
    }
    let mut sorted = Vec::with_capacity(total as usize);
    while let Some(done) = threads.join_next().await {
        sorted.extend(done??);
    }
    sorted.sort_by(f64::total_cmp);
    Ok(Done {
        count: sorted.len() as u64,
        seconds: start.elapsed().as_secs_f64(),
        p50_us: percentile(&sorted, 50.0),
        p99_us: percentile(&sorted, 99.0),
        ..Done::default()
    })
}

/// Of sorted values; 0 when there are none.
fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((percent / 100.0 * last as f64).round() as usize).copied().unwrap_or_default()
}

/// One keep-alive connection of a thread.
struct Blocking {
    stream: std::net::TcpStream,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

impl Blocking {
    fn open(target: &Target) -> anyhow::Result<Self> {
        let stream = std::net::TcpStream::connect(target.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Self { stream, request: request(target, false), buffer: vec![0; 16 * 1024] })
    }

    fn call(&mut self) -> anyhow::Result<()> {
        self.stream.write_all(&self.request)?;
        let mut filled = 0;
        loop {
            let room = self.buffer.get_mut(filled..).unwrap_or_default();
            ensure!(!room.is_empty(), "the answer is larger than what the benchmark asks for");
            let read = self.stream.read(room)?;
            ensure!(read > 0, "the connection was closed");
            filled += read;
            let whole = lengths(self.buffer.get(..filled).unwrap_or_default())?;
            if whole.is_some_and(|(head, body)| filled as u64 >= head as u64 + body) {
                return Ok(());
            }
        }
    }
}
