//! The load: closed loop for throughput, open loop for latency.
//!
//! The open loop sends at fixed times whatever the answers take, and counts from the time at which a request was due: a
//! stall is charged to every request that it delays (coordinated omission).

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

#[derive(Clone)]
pub struct Target {
    pub address: SocketAddr,
    pub host: String,
    pub path: String,
}

#[derive(Default)]
pub struct Closed {
    pub requests: u64,
    pub failed: u64,
}

pub struct Latencies {
    /// Sorted, microseconds.
    sorted: Vec<f64>,
    pub failed: u64,
}

impl Latencies {
    /// The given percentile, microseconds; 0 when nothing was measured.
    pub fn percentile(&self, percent: f64) -> f64 {
        let last = self.sorted.len().saturating_sub(1);
        let place = (percent / 100.0 * last as f64).round() as usize;
        self.sorted.get(place).copied().unwrap_or_default()
    }
}

/// One keep-alive connection.
struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(target: &Target) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(target.address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, request: request(target), buffer: Vec::with_capacity(16 * 1024) })
    }

    /// Sends one request and reads its whole answer; only 200 with a content length counts.
    async fn call(&mut self) -> anyhow::Result<()> {
        self.stream.write_all(&self.request).await?;
        self.buffer.clear();
        loop {
            ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the connection was closed");
            if let Some(whole) = whole_length(&self.buffer)?
                && self.buffer.len() >= whole
            {
                return Ok(());
            }
        }
    }
}

/// As many requests as `connections` make one after the other in `time`.
///
/// # Errors
/// When a connection cannot be opened or an answer is not 200.
pub async fn closed(target: &Target, connections: usize, time: Duration) -> anyhow::Result<Closed> {
    let mut tasks = JoinSet::new();
    let mut opened = Vec::with_capacity(connections);
    for _ in 0..connections {
        opened.push(Connection::open(target).await?);
    }
    let end = Instant::now() + time;
    for mut connection in opened {
        tasks.spawn(async move {
            let mut requests = 0;
            while Instant::now() < end {
                connection.call().await?;
                requests += 1;
            }
            anyhow::Ok(requests)
        });
    }
    let mut sum = Closed::default();
    while let Some(done) = tasks.join_next().await {
        sum.requests += done??;
    }
    Ok(sum)
}

/// `rate` requests per second over `connections`, evenly spaced.
///
/// Each connection has a thread that sleeps to the microsecond: an async runtime's timer counts in milliseconds, which is
/// more than what is measured.
///
/// # Errors
/// When a connection cannot be opened or an answer is not 200.
pub async fn open(target: &Target, connections: usize, rate: u32, time: Duration) -> anyhow::Result<Latencies> {
    let start = std::time::Instant::now() + Duration::from_millis(50);
    let gap = Duration::from_secs(1) / rate;
    let total = (f64::from(rate) * time.as_secs_f64()) as u32;
    let step = u32::try_from(connections)?;
    let mut threads = JoinSet::new();
    for place in 0..step {
        let mut connection = Blocking::open(target)?;
        threads.spawn_blocking(move || {
            let mut latencies = Vec::with_capacity((total / step) as usize + 1);
            for n in (place..total).step_by(step as usize) {
                let due = start + gap * n;
                std::thread::sleep(due.saturating_duration_since(std::time::Instant::now()));
                connection.call()?;
                latencies.push(due.elapsed().as_secs_f64() * 1e6);
            }
            anyhow::Ok(latencies)
        });
    }
    let mut sorted = Vec::new();
    while let Some(done) = threads.join_next().await {
        sorted.extend(done??);
    }
    sorted.sort_by(f64::total_cmp);
    Ok(Latencies { sorted, failed: 0 })
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
        Ok(Self { stream, request: request(target), buffer: vec![0; 16 * 1024] })
    }

    fn call(&mut self) -> anyhow::Result<()> {
        use std::io::{Read, Write};

        self.stream.write_all(&self.request)?;
        let mut filled = 0;
        loop {
            let room = self.buffer.get_mut(filled..).unwrap_or_default();
            ensure!(!room.is_empty(), "the answer is larger than what the benchmark asks for");
            let read = self.stream.read(room)?;
            ensure!(read > 0, "the connection was closed");
            filled += read;
            if whole_length(self.buffer.get(..filled).unwrap_or_default())?.is_some_and(|whole| filled >= whole) {
                return Ok(());
            }
        }
    }
}

fn request(target: &Target) -> Vec<u8> {
    format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", target.path, target.host).into_bytes()
}

/// How long the whole answer is, once its head is there; only 200 with a content length counts.
fn whole_length(answer: &[u8]) -> anyhow::Result<Option<usize>> {
    let Some(head) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let text = String::from_utf8_lossy(answer.get(..head).unwrap_or_default()).to_ascii_lowercase();
    if !text.starts_with("http/1.1 200") {
        bail!("answered `{}`", text.lines().next().unwrap_or_default());
    }
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    Ok(Some(head + 4 + length.context("the answer has no content-length")?))
}
