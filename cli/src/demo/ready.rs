//! Waiting until a component says that it is ready, with a line of progress for each.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::net::TcpStream;

use crate::failure::Failure;

const POLL: Duration = Duration::from_millis(50);
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// A slow machine may take long over its first start; a component that is not there by then will not come.
pub(crate) const READY_TIMEOUT: Duration = Duration::from_secs(90);
const ANSWER_LIMIT: usize = 64 * 1024;

/// Shows what is waited for, on standard error; on a terminal as a spinner.
pub(crate) async fn step<T>(name: &str, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let started = Instant::now();
    let bar = ProgressBar::new_spinner();
    bar.set_style(
        ProgressStyle::with_template("  {spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()),
    );
    bar.set_message(name.to_owned());
    bar.enable_steady_tick(Duration::from_millis(100));
    let done = work.await;
    bar.finish_and_clear();
    if done.is_ok() {
        eprintln!("  ✓ {name} ({:.1} s)", started.elapsed().as_secs_f64());
    }
    done
}

/// Waits for 200 from the admin listener's `/readyz`.
pub(crate) async fn admin(name: &str, address: SocketAddr, log: &Path) -> Result<(), Failure> {
    let mut last = "it does not listen yet".to_owned();
    let deadline = Instant::now() + READY_TIMEOUT;
    while Instant::now() < deadline {
        match probe(address, "/readyz").await {
            Ok((StatusCode::OK, _)) => return Ok(()),
            Ok((_, body)) => last = body,
            Err(error) => last = format!("{error:#}"),
        }
        tokio::time::sleep(POLL).await;
    }
    Err(never_ready(name, &last, log))
}

/// Waits until something accepts connections.
pub(crate) async fn tcp(name: &str, address: SocketAddr, log: &Path) -> Result<(), Failure> {
    listening(name, async || TcpStream::connect(address).await.is_ok(), log).await
}

/// Waits until `listens` says so.
pub(crate) async fn listening(name: &str, listens: impl AsyncFn() -> bool, log: &Path) -> Result<(), Failure> {
    let deadline = Instant::now() + READY_TIMEOUT;
    while Instant::now() < deadline {
        if listens().await {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
    Err(never_ready(name, "it does not listen", log))
}

fn never_ready(name: &str, last: &str, log: &Path) -> Failure {
    let said = std::fs::read_to_string(log).unwrap_or_default();
    let tail: Vec<&str> = said.lines().rev().take(5).collect();
    let tail: Vec<&str> = tail.into_iter().rev().collect();
    Failure::failed(format!(
        "`{name}` did not become ready within {} s: {}\n{}",
        READY_TIMEOUT.as_secs(),
        last.trim(),
        tail.join("\n")
    ))
    .at(log.display())
    .next("read the log named above")
}

/// One GET on a loopback listener: status and body.
pub(crate) async fn probe(address: SocketAddr, path: &str) -> anyhow::Result<(StatusCode, String)> {
    fetch(address, path, ANSWER_LIMIT).await
}

/// As [`probe`], with an answer of up to `limit` bytes.
pub(crate) async fn fetch(address: SocketAddr, path: &str, limit: usize) -> anyhow::Result<(StatusCode, String)> {
    tokio::time::timeout(PROBE_TIMEOUT, async {
        let stream = TcpStream::connect(address).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::get(path).header(http::header::HOST, address.to_string()).body(Empty::<Bytes>::new())?;
        let answer = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), limit).collect().await;
            let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
            Ok::<_, anyhow::Error>((status, String::from_utf8_lossy(&body).into_owned()))
        };
        tokio::pin!(answer);
        tokio::select! {
            done = &mut answer => done,
            ended = connection => { ended?; answer.await }
        }
    })
    .await?
}
