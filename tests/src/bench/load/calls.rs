//! Closed loops: each connection asks again when it was answered.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{Done, Target, lengths, request};

/// How many connections are opened at once when thousands are.
const OPENING: usize = 64;

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
        Ok(Self { stream, request: request(target, false), buffer: Vec::with_capacity(4 * 1024) })
    }

    /// Sends one request and reads its whole answer.
    async fn call(&mut self) -> anyhow::Result<()> {
        self.stream.write_all(&self.request).await?;
        self.buffer.clear();
        let mut whole = None;
        loop {
            ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the connection was closed");
            if whole.is_none() {
                whole = lengths(&self.buffer)?.map(|(head, body)| head as u64 + body);
            }
            if whole.is_some_and(|whole| self.buffer.len() as u64 >= whole) {
                return Ok(());
            }
        }
    }
}

pub(super) async fn closed(target: &Target, connections: usize, time: Duration) -> anyhow::Result<Done> {
    let mut opened = Vec::with_capacity(connections);
    for _ in 0..connections {
        opened.push(Connection::open(target).await?);
    }
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for mut connection in opened {
        tasks.spawn(async move {
            let mut requests = 0;
            while start.elapsed() < time {
                connection.call().await?;
                requests += 1;
            }
            anyhow::Ok(requests)
        });
    }
    sum(tasks, start).await
}

pub(super) async fn fresh(target: &Target, workers: usize, time: Duration) -> anyhow::Result<Done> {
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..workers {
        let target = target.clone();
        tasks.spawn(async move {
            let (mut requests, asked, mut answer) = (0, request(&target, true), Vec::with_capacity(4 * 1024));
            while start.elapsed() < time {
                let mut stream = TcpStream::connect(target.address).await.context("connecting")?;
                stream.set_nodelay(true)?;
                stream.write_all(&asked).await?;
                answer.clear();
                while stream.read_buf(&mut answer).await? > 0 {}
                let (head, body) = lengths(&answer)?.context("the answer broke off in its head")?;
                ensure!(answer.len() as u64 == head as u64 + body, "the answer broke off");
                requests += 1;
            }
            anyhow::Ok(requests)
        });
    }
    sum(tasks, start).await
}

async fn sum(mut tasks: JoinSet<anyhow::Result<u64>>, start: Instant) -> anyhow::Result<Done> {
    let mut count = 0;
    while let Some(done) = tasks.join_next().await {
        count += done??;
    }
    Ok(Done { count, seconds: start.elapsed().as_secs_f64(), ..Done::default() })
}

pub(super) async fn stream(target: &Target, time: Duration) -> anyhow::Result<Done> {
    let mut stream = TcpStream::connect(target.address).await?;
    let (asked, mut buffer) = (request(target, false), vec![0; 256 * 1024]);
    let (start, mut bytes, mut count) = (Instant::now(), 0, 0);
    while start.elapsed() < time {
        stream.write_all(&asked).await?;
        let (mut filled, mut left) = (0, None);
        while left != Some(0) {
            let room = buffer.get_mut(filled..).unwrap_or_default();
            let read = stream.read(room).await?;
            ensure!(read > 0, "the stream broke off");
            match &mut left {
                Some(left) => *left -= read as u64,
                None => {
                    filled += read;
                    if let Some((head, body)) = lengths(buffer.get(..filled).unwrap_or_default())? {
                        left = Some(body - (filled - head) as u64);
                        filled = 0;
                    }
                }
            }
            bytes += read as u64;
            // A large answer is measured for the time given, not to its end.
            if start.elapsed() >= time {
                break;
            }
        }
        count += 1;
    }
    Ok(Done { count, bytes, seconds: start.elapsed().as_secs_f64(), ..Done::default() })
}

pub(super) async fn hold(target: &Target, connections: usize) -> anyhow::Result<Done> {
    let mut held = Vec::with_capacity(connections);
    while held.len() < connections {
        let mut opening = JoinSet::new();
        for _ in 0..OPENING.min(connections - held.len()) {
            let target = target.clone();
            opening.spawn(async move {
                let mut connection = Connection::open(&target).await?;
                connection.call().await?;
                anyhow::Ok(connection.stream)
            });
        }
        while let Some(opened) = opening.join_next().await {
            held.push(opened??);
        }
    }
    println!("held");
    // Until whoever started this ends it.
    tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink())).await??;
    for stream in &held {
        let mut byte = [0];
        let open = matches!(stream.try_read(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
        ensure!(open, "a connection that was held was closed meanwhile");
    }
    Ok(Done { count: held.len() as u64, ..Done::default() })
}
