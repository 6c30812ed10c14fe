//! HTTP/2 by hand: frames that no client library would send (RFC 9113, section 10.5).

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Field, flood, until_closed};
use crate::apps;
use crate::harness::HOST;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ENHANCE_YOUR_CALM: u32 = 11;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A literal field that is not indexed, with a new name (RFC 7541, section 6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut block = vec![0];
    for text in [name, value] {
        assert!(text.len() < 127);
        block.push(u8::try_from(text.len()).unwrap());
        block.extend(text.as_bytes());
    }
    block
}

fn request(method: &str) -> Vec<u8> {
    [field(":method", method), field(":scheme", "http"), field(":authority", HOST), field(":path", "/")].concat()
}

/// Connected, the preface and these settings said.
async fn connect(door: std::net::SocketAddr, settings: &[(u16, u32)]) -> TcpStream {
    let mut stream = TcpStream::connect(door).await.unwrap();
    let payload: Vec<u8> =
        settings.iter().flat_map(|(k, v)| [&k.to_be_bytes()[..], &v.to_be_bytes()].concat()).collect();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &payload)).await.unwrap();
    stream
}

/// Kind, flags and payload of each whole frame in what the peer said.
fn frames(mut said: &[u8]) -> Vec<(u8, u8, &[u8])> {
    let mut frames = Vec::new();
    while said.len() >= 9 {
        let length = usize::from(said[0]) << 16 | usize::from(said[1]) << 8 | usize::from(said[2]);
        let Some(payload) = said.get(9..9 + length) else { break };
        frames.push((said[3], said[4], payload));
        said = &said[9 + length..];
    }
    frames
}

/// The error codes of the GOAWAY frames among what the peer said.
fn goaways(said: &[u8]) -> Vec<u32> {
    let goaways = frames(said).into_iter().filter(|(kind, ..)| *kind == GOAWAY);
    goaways.map(|(_, _, payload)| u32::from_be_bytes(payload[4..8].try_into().unwrap())).collect()
}

/// How many of our PINGs the peer has answered.
fn pongs(said: &[u8]) -> usize {
    frames(said).into_iter().filter(|(kind, flags, _)| *kind == PING && *flags == ACK).count()
}

/// RFC 9113, section 5.4.1: who ends a connection for what its peer did says so, with the cause. A connection that is closed
/// over bytes that nobody read is reset, and its GOAWAY may be lost with it: so each round waits until the one before was read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_resets_end_the_connection_with_a_goaway() {
    let field = Field::http2().await;
    for door in field.doors {
        let mut stream = connect(door, &[]).await;
        let before = field.reached.count();
        let (mut said, mut rounds) = (Vec::new(), 0_u32);
        while goaways(&said).is_empty() {
            assert!(rounds < 100, "no GOAWAY after {rounds} rounds of resets");
            let mut round = Vec::new();
            for n in 0..50 {
                let id = 2 * (50 * rounds + n) + 1;
                round.extend(frame(HEADERS, END_STREAM | END_HEADERS, id, &request("GET")));
                round.extend(frame(RST_STREAM, 0, id, &[0, 0, 0, 8]));
            }
            round.extend(frame(PING, 0, 0, &[7; 8]));
            rounds += 1;
            stream.write_all(&round).await.unwrap();
            while goaways(&said).is_empty() && pongs(&said) < rounds as usize {
                let read = stream.read_buf(&mut said);
                let read =
                    tokio::time::timeout(std::time::Duration::from_secs(10), read).await.expect("an answer in 10 s");
                assert!(read.is_ok_and(|bytes| bytes > 0), "the connection ended without a GOAWAY");
            }
        }
        assert_eq!(goaways(&said), [ENHANCE_YOUR_CALM]);
        until_closed(stream).await;
        let reached = field.reached.count() - before;
        assert!(reached < 2_000, "{reached} of the calls that were taken back reached the app");
    }
    field.unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_continuations_ends_the_connection_within_bounds() {
    let field = Field::http2().await;
    let more = self::field("x-y", &"z".repeat(100));
    for door in field.doors {
        let mut stream = connect(door, &[]).await;
        stream.write_all(&frame(HEADERS, END_STREAM, 1, &request("GET"))).await.unwrap();
        let taken = flood(&mut stream, &frame(CONTINUATION, 0, 1, &more.repeat(100)), 64 << 20).await;
        assert!(taken < 16 << 20, "the listener took {taken} bytes of one header block");
        // Empty ones cost no header list, only work.
        let mut stream = connect(door, &[]).await;
        stream.write_all(&frame(HEADERS, END_STREAM, 1, &request("GET"))).await.unwrap();
        let taken = flood(&mut stream, &frame(CONTINUATION, 0, 1, &[]).repeat(1000), 64 << 20).await;
        assert!(taken < 16 << 20, "the listener took {taken} bytes of empty continuations");
    }
    field.unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_list_that_unpacks_to_megabytes_is_refused() {
    let field = Field::http2().await;
    // One large entry in the dynamic table (6.2.1), then references to it (6.1): index 62 is the newest entry.
    let mut block = vec![0x40, 3];
    block.extend(b"x-y");
    block.extend([0x7f, 0x81, 0x1d]); // 127 + 1 + 29 * 128 = 3,840 bytes
    block.extend(vec![b'z'; 3840]);
    let bomb = [request("GET"), block, vec![0x80 | 62; 8000]].concat();
    for door in field.doors {
        let mut stream = connect(door, &[]).await;
        let before = field.reached.count();
        stream.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &bomb[..bomb.len().min(16_000)])).await.unwrap();
        stream.write_all(&frame(GOAWAY, 0, 0, &[0; 8])).await.unwrap();
        until_closed(stream).await;
        assert_eq!(field.reached.count(), before, "the bomb did not reach the app");
    }
    field.unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_settings_and_pings_whose_answers_nobody_reads_are_held_back() {
    let field = Field::http2().await;
    for chunk in [frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]).repeat(1000), frame(PING, 0, 0, &[7; 8]).repeat(1000)] {
        for door in field.doors {
            let mut stream = connect(door, &[]).await;
            let taken = flood(&mut stream, &chunk, 128 << 20).await;
            assert!(taken < 64 << 20, "the listener took {taken} bytes that it has to answer");
        }
    }
    field.unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_empty_data_frames_is_bounded() {
    let field = Field::http2().await;
    for door in field.doors {
        let mut stream = connect(door, &[]).await;
        stream.write_all(&frame(HEADERS, END_HEADERS, 1, &request("POST"))).await.unwrap();
        let before = resident();
        flood(&mut stream, &frame(DATA, 0, 1, &[]).repeat(1000), 32 << 20).await;
        let grown = resident().saturating_sub(before);
        assert!(grown < 128 << 20, "memory grew by {grown} bytes");
    }
    field.unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_that_never_opens_buffers_little_and_hurts_nobody() {
    let (app, reached, written) = apps::endless().await;
    let field = Field::before(app, reached, signet_mtls::alpn::H2).await;
    for door in field.doors {
        let mut stream = connect(door, &[(4, 0)]).await;
        let path = [field_path("/endless")].concat();
        stream.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &path)).await.unwrap();
        stream.write_all(&frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1, 0])).await.unwrap();
        for _ in 0..20 {
            field.serves().await;
        }
        let buffered = written.count();
        assert!(buffered < 32 << 20, "{buffered} bytes were taken from an app for a client that takes none");
    }
    field.unharmed().await;
}

fn field_path(path: &str) -> Vec<u8> {
    [field(":method", "GET"), field(":scheme", "http"), field(":authority", HOST), field(":path", path)].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_without_end_are_refused_within_bounds() {
    let field = Field::http2().await;
    let more = self::field("x-y", &"z".repeat(100));
    for door in field.doors {
        let mut stream = connect(door, &[]).await;
        stream.write_all(&frame(HEADERS, END_HEADERS, 1, &request("POST"))).await.unwrap();
        stream.write_all(&frame(DATA, 0, 1, b"abcd")).await.unwrap();
        stream.write_all(&frame(HEADERS, END_STREAM, 1, &more)).await.unwrap();
        let taken = flood(&mut stream, &frame(CONTINUATION, 0, 1, &more.repeat(100)), 64 << 20).await;
        assert!(taken < 16 << 20, "the listener took {taken} bytes of trailers");
    }
    field.unharmed().await;
}

/// RFC 8441 is not offered, so nobody may ask for it; taken as a plain CONNECT it would open what nobody asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_extended_connect_is_reset_and_never_reaches_the_app() {
    let field = Field::http2().await;
    let before = field.reached.count();
    let block = [
        self::field(":method", "CONNECT"),
        self::field(":protocol", "websocket"),
        self::field(":scheme", "http"),
        self::field(":authority", HOST),
        self::field(":path", "/socket"),
        self::field("sec-websocket-version", "13"),
    ];
    let reset = frame(RST_STREAM, 0, 1, &[0, 0, 0, 1]);
    for door in field.doors {
        let mut stream = connect(door, &[]).await;
        stream.write_all(&frame(HEADERS, END_HEADERS, 1, &block.concat())).await.unwrap();
        let mut said = Vec::new();
        let refused = async {
            while !said.windows(reset.len()).any(|part| part == reset) {
                said.push(stream.read_u8().await.expect("a reset of the stream"));
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), refused).await.expect("PROTOCOL_ERROR in 10 s");
    }
    assert_eq!(field.reached.count(), before);
    field.unharmed().await;
}

/// This process' resident memory, bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}
