//! The relay's times. In tests a head has two seconds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use tokio::io::{AsyncReadExt as _, DuplexStream};
use tokio::task::JoinHandle;

use super::*;
use crate::answer::{self, Form};

/// Answers everything by itself.
struct Nobody;

impl Role for Nobody {
    fn side(&self) -> Side<'_> {
        Side::Outbound
    }

    async fn admit(&mut self, _: &RequestHead, _: &[u8]) -> Admitted {
        Admitted::Answer(Box::new(answer::fault(Form::Http, answer::NO_ENDPOINTS)))
    }

    fn another(&mut self) -> Option<Arc<Upstream>> {
        None
    }

    fn failed(&self, _: &UpstreamError) -> Response<Body> {
        answer::fault(Form::Http, answer::NO_ENDPOINTS)
    }

    fn answered(&mut self, _: u16, _: Instant) {}

    fn moved(&mut self, _: (u64, u64)) {}

    async fn signal(&mut self) {
        std::future::pending().await
    }

    async fn look_again(&mut self, _: bool) -> Looked {
        Looked::GoesOn
    }

    fn ending(&self) -> bool {
        false
    }

    fn closed(&mut self) {}
}

fn served() -> (DuplexStream, JoinHandle<bool>) {
    let (client, server) = tokio::io::duplex(64 * 1024);
    (client, tokio::spawn(async move { serve(server, &mut Nobody).await.is_some() }))
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

async fn answered(client: &mut DuplexStream) {
    let mut answer = Vec::new();
    while !answer.ends_with(b"The service has no endpoints.\n") {
        answer.push(client.read_u8().await.expect("an answer"));
    }
}

/// How long a client is served that sends `bytes` one by one.
async fn trickles(client: &mut DuplexStream, bytes: &[u8]) -> Duration {
    let started = Instant::now();
    for byte in bytes {
        if client.write_all(&[*byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    started.elapsed()
}

#[tokio::test]
async fn a_head_that_trickles_in_is_cut_off_and_an_idle_connection_lives_longer() {
    // Some 50 s of it.
    let endless = [b"GET / HTTP/1.1\r\nhost: a\r\nx: ", vec![b'y'; 10_000].as_slice()].concat();
    let cut_off = async |client: &mut DuplexStream| {
        let lived = trickles(client, &endless).await;
        assert!(lived >= limits::HEAD && lived < limits::HEAD * 5, "{lived:?}");
    };
    let (mut slow, slow_served) = served();
    // Idling before a call is no trickling, and a call buys the next head no more time.
    let (mut idle, idle_served) = served();
    let idles = async {
        tokio::time::sleep(limits::HEAD + Duration::from_millis(500)).await;
        idle.write_all(REQUEST).await.unwrap();
        answered(&mut idle).await;
        cut_off(&mut idle).await;
    };
    tokio::join!(cut_off(&mut slow), idles);
    assert!(!slow_served.await.unwrap() && !idle_served.await.unwrap(), "neither is given to the general server");
}

#[tokio::test]
async fn a_head_in_pieces_within_its_time_is_served_and_the_next_has_its_own() {
    let (mut client, _served) = served();
    for _ in 0..3 {
        trickles(&mut client, REQUEST).await;
        answered(&mut client).await;
    }
}
