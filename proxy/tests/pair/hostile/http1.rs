//! HTTP/1.1: bombs, floods and bytes that two parsers could read in two ways.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Field, flood, until_closed};
use crate::harness::HOST;

/// Sends a whole attack and reads what comes back.
async fn send(field: &Field, door: usize, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(field.doors[door]).await.unwrap();
    let _ = stream.write_all(bytes).await;
    String::from_utf8_lossy(&until_closed(stream).await).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_two_parsers_read_in_two_ways_are_refused_and_never_reach_the_app() {
    let field = Field::http1().await;
    let host = format!("host: {HOST}\r\n");
    let heads = [
        format!("POST / HTTP/1.1\r\n{host}content-length: 4\r\ncontent-length: 5\r\n\r\nabcde"),
        format!("POST / HTTP/1.1\r\n{host}content-length: +4\r\n\r\nabcd"),
        format!("POST / HTTP/1.1\r\n{host}content-length: 4, 4\r\n\r\nabcd"),
        format!("POST / HTTP/1.1\r\n{host}transfer-encoding: xchunked\r\n\r\n0\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{host}transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{host}transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("POST / HTTP/1.0\r\n{host}transfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{host}transfer-encoding : chunked\r\n\r\n0\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{host} folded: yes\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{host}host: other\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{host}x: a\0b\r\n\r\n"),
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        format!(
            "GET / HTTP/1.1\r\n{host}upgrade: h2c\r\nconnection: upgrade\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n"
        ),
        format!("GET / HTTP/9.9\r\n{host}\r\n"),
    ];
    let before = field.reached.count();
    for head in &heads {
        for door in [0, 1] {
            let answer = send(&field, door, head.as_bytes()).await;
            let refused =
                answer.is_empty() || ["HTTP/1.1 4", "HTTP/1.0 4", "HTTP/1.1 501"].iter().any(|s| answer.starts_with(s));
            assert!(refused, "door {door} took {head:?}: {answer}");
        }
    }
    assert_eq!(field.reached.count(), before, "none reached the app");
    field.unharmed().await;
}

/// RFC 9112, section 6.1: such a message is refused, whatever came before it on the connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_length_beside_a_transfer_coding_is_refused_and_counted() {
    let field = Field::http1().await;
    let before = field.reached.count();
    let first = format!("GET /first HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    let chunked = format!("PUT /first HTTP/1.1\r\nhost: {HOST}\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n");
    let mut attacks = 0;
    for framing in [
        "content-length: 4\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 4",
        "Transfer-Encoding: chunked\r\nx: y\r\nContent-Length: 0",
    ] {
        let smuggled = format!("GET /smuggled HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
        let attack = format!("POST /attack HTTP/1.1\r\nhost: {HOST}\r\n{framing}\r\n\r\n0\r\n\r\n{smuggled}");
        // Alone; behind a request that is relayed; behind one that hyper serves.
        for preceding in ["", &first, &chunked] {
            for door in [0, 1] {
                let answer = send(&field, door, format!("{preceding}{attack}").as_bytes()).await;
                let statuses: Vec<&str> = answer.split("HTTP/1.1 ").skip(1).map(|one| &one[..3]).collect();
                let expected: &[&str] = if preceding.is_empty() { &["400"] } else { &["200", "400"] };
                assert_eq!(statuses, expected, "door {door}, {framing:?} behind {preceding:?}: {answer}");
                attacks += 1;
            }
        }
    }
    assert_eq!(field.reached.count() - before, 12, "nothing but what came before reached the app");
    let counted = [&field.pair.web, &field.pair.ledger].map(|side| side.metrics.refusals("bad_http"));
    assert_eq!(counted.iter().sum::<u64>(), attacks, "{counted:?}");
    field.unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_whose_chunks_do_not_add_up_end_the_call() {
    let field = Field::http1().await;
    let before = field.reached.count();
    let bodies = [
        "FFFFFFFFFFFFFFFFF\r\n",
        "-1\r\n",
        "4\r\nabcdX",
        "zz\r\n",
        "0x4\r\nabcd\r\n0\r\n\r\n",
        "4\nabcd\n0\n\n",
        "4 \r\nabcd\r\n0\r\n\r\n",
        "4;\nabcd\r\n0\r\n\r\n",
        "0\r\nno-colon\r\n\r\n",
        "0\r\na: b\r\n folded\r\n\r\n",
        "0\r\nx-signet-source: forged\r\n\r\n",
    ];
    for body in bodies {
        let head =
            format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n{body}");
        for door in [0, 1] {
            let answer = send(&field, door, head.as_bytes()).await;
            assert!(!answer.starts_with("HTTP/1.1 2"), "door {door} took {body:?}: {answer}");
        }
    }
    // The app may have seen a head, but no such request ever was whole.
    assert!(field.reached.count() - before <= 2 * bodies.len() + 2);
    field.unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_without_end_is_refused_within_bounds() {
    let field = Field::http1().await;
    for (start, chunk) in [
        ("GET / HTTP/1.1\r\nx: ", "a".repeat(4096)),
        ("GET /", "a".repeat(4096)),
        ("GET / HTTP/1.1\r\n", "x-y: zzzz\r\n".repeat(100)),
        ("", "G".repeat(4096)),
    ] {
        for door in field.doors {
            let mut stream = TcpStream::connect(door).await.unwrap();
            stream.write_all(start.as_bytes()).await.unwrap();
            let taken = flood(&mut stream, chunk.as_bytes(), 64 << 20).await;
            assert!(taken < 16 << 20, "the listener took {taken} bytes of a head");
        }
    }
    field.unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_and_chunk_extensions_without_end_are_refused_within_bounds() {
    let field = Field::http1().await;
    for (start, chunk) in [("0\r\n", "x-y: zzzz\r\n".repeat(100)), ("1;", "a".repeat(4096))] {
        for door in field.doors {
            let mut stream = TcpStream::connect(door).await.unwrap();
            let head = format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ntransfer-encoding: chunked\r\n\r\n{start}");
            stream.write_all(head.as_bytes()).await.unwrap();
            let taken = flood(&mut stream, chunk.as_bytes(), 64 << 20).await;
            assert!(taken < 16 << 20, "the listener took {taken} bytes of framing");
        }
    }
    field.unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_pipelines_and_never_reads_is_held_back() {
    let field = Field::http1().await;
    let before = field.reached.count();
    let one = format!("GET /{} HTTP/1.1\r\nhost: {HOST}\r\n\r\n", "p".repeat(2000));
    for door in field.doors {
        let mut stream = TcpStream::connect(door).await.unwrap();
        let taken = flood(&mut stream, one.repeat(32).as_bytes(), 256 << 20).await;
        assert!(taken < 64 << 20, "the listener took {taken} bytes of requests whose answers nobody reads");
    }
    assert!(field.reached.count() > before, "the first ones were served");
    field.unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compressed_bomb_passes_unopened() {
    let field = Field::http1().await;
    // Ten megabytes of zeros deflate to about ten kilobytes; nothing here is ever inflated, so any bytes do.
    let bomb = vec![0x78_u8; 10_000];
    let head = format!(
        "POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        bomb.len()
    );
    for door in field.doors {
        let mut stream = TcpStream::connect(door).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&bomb).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("content-encoding: gzip"), "{answer}");
        assert!(answer.contains("body: 10000"), "{answer}");
    }
    field.unharmed().await;
}
