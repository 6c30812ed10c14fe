//! Sockets that are opened and left, at each state of a call.

use std::time::Duration;

use signet_mtls::alpn;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Field;
use crate::apps;
use crate::harness::{HOST, wait};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_may_leave_in_every_state_and_nothing_stays() {
    let field = Field::http1().await;
    let head = format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 1000000\r\n\r\n");
    let chunked = format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ntransfer-encoding: chunked\r\n\r\n4\r\nab");
    let connect = format!("CONNECT {HOST}:80 HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    let states: [&[u8]; 8] = [
        b"",
        b"G",
        b"GET / HTTP/1.1\r\nho",
        b"PRI * HTTP/2.0\r\n\r\nSM\r",
        head.as_bytes(),
        &[head.as_bytes(), &[b'x'; 70_000]].concat(),
        chunked.as_bytes(),
        connect.as_bytes(),
    ];
    for state in states {
        for door in field.doors {
            for reset in [false, true] {
                let mut stream = TcpStream::connect(door).await.unwrap();
                let _ = stream.write_all(state).await;
                if reset {
                    // Closed with a reset rather than with FIN.
                    stream.set_zero_linger().unwrap();
                }
                drop(stream);
            }
        }
    }
    field.unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_in_the_middle_of_an_answer_stops_the_app() {
    let (app, reached, written) = apps::endless().await;
    let field = Field::before(app, reached, alpn::HTTP1).await;
    for door in field.doors {
        let mut stream = TcpStream::connect(door).await.unwrap();
        let head = format!("GET /endless HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut some = vec![0; 100_000];
        stream.read_exact(&mut some).await.unwrap();
        drop(stream);
        field.unharmed().await;
        // The app is told: it stops writing.
        wait("end of the app's writing", || written.ended().then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_stops_reading_is_held_back_and_others_are_served() {
    let (app, reached, written) = apps::endless().await;
    let field = Field::before(app, reached, alpn::HTTP1).await;
    let mut held = Vec::new();
    for door in field.doors {
        let mut stream = TcpStream::connect(door).await.unwrap();
        let head = format!("GET /endless HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        held.push(stream);
    }
    for _ in 0..50 {
        field.serves().await;
    }
    let taken = written.count();
    assert!(taken < 64 << 20, "{taken} bytes were taken from an app for clients that read none");
    drop(held);
    field.unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_idle_connections_do_not_keep_others_out() {
    let field = Field::http1().await;
    let mut idle = Vec::new();
    for door in field.doors {
        for _ in 0..400 {
            idle.push(TcpStream::connect(door).await.unwrap());
        }
    }
    let started = std::time::Instant::now();
    field.serves().await;
    assert!(started.elapsed() < Duration::from_secs(2));
    drop(idle);
    field.unharmed().await;
}
