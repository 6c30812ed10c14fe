//! HTTP/1: heads, chunked bodies, answers and CONNECT. What the relay takes, hyper reads in the same way, wherever the bytes
//! are cut; and nothing that two readers could take in two ways is passed on.

use signet_proxy::untrusted;

use super::general;
use crate::{Shape, Target, shape};

const SOURCE: &str = "x-signet-source: spiffe://east/ns/bank/sa/web";
const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b"\r\n ",
    b"\0",
    b":",
    b", ",
    b";",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"GET / HTTP/1.1\r\n",
    b"host: a\r\n",
    b"content-length: 3\r\n",
    b"Content-Length:",
    b"transfer-encoding: chunked\r\n",
    b"Transfer-Encoding:",
    b"chunked",
    b"identity",
    b"connection: close\r\n",
    b"te: trailers\r\n",
    b"upgrade: h2c\r\n",
    b"expect: 100-continue\r\n",
    b"x-signet-source: spiffe://forged\r\n",
    b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n",
    b"http://ledger.bank/",
    b"CONNECT ",
    b"0\r\n\r\n",
    b"3\r\nabc\r\n",
    b";ext=1",
    b"a: b\r\n",
    b"%2e%2e",
    b"../",
    b"\xc3\xa9",
];

/// Heads of requests with what follows them.
pub(crate) const HEADS: Target = Target { name: "http1-heads", corpus: heads, words: WORDS, check: check_heads };
/// Chunked bodies.
pub(crate) const CHUNKS: Target = Target { name: "http1-chunks", corpus: chunks, words: WORDS, check: check_chunks };
/// Heads of answers.
pub(crate) const ANSWERS: Target =
    Target { name: "http1-answers", corpus: answers, words: WORDS, check: check_answers };
/// Authorities of CONNECT.
pub(crate) const CONNECT: Target = Target {
    name: "connect",
    corpus: authorities,
    words: &[
        b":",
        b"[::1]",
        b"@",
        b"80",
        b"%",
        b".",
        b"/",
        b"#",
        b"?",
        b"\\",
        b" ",
        b"ledger-db",
        b"127.0.0.1",
        b"::ffff:10.0.0.1",
    ],
    check: check_connect,
};

fn owned(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn heads() -> Vec<Vec<u8>> {
    owned(&[
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST /a/b?c=d HTTP/1.1\r\nHost: ledger\r\nConnection: keep-alive\r\nContent-Length: 3\r\nTE: trailers\r\nAccept: */*\r\n\r\nabc",
        "GET http://ledger.bank:80/x HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n",
        "CONNECT ledger-db:5432 HTTP/1.1\r\nHost: ledger-db\r\n\r\nbytes",
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX-Signet-Source: spiffe://forged\r\n\r\n",
    ])
}

/// What may stand before an attack on a connection; hyper takes it.
const BEFORE: [&str; 3] = [
    "",
    "GET /before HTTP/1.1\r\nhost: a\r\n\r\n",
    "PUT /before HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1;x\r\na\r\n0\r\nt: u\r\n\r\n",
];

fn check_heads(bytes: &[u8]) -> Result<Shape, String> {
    let outbound = untrusted::relayed(bytes, false);
    let inbound = untrusted::relayed(bytes, true);
    for request in [&outbound, &inbound].into_iter().flatten() {
        let Some(body) = &request.body else { continue };
        let ours = general::Seen {
            method: request.method.clone(),
            target: request.target.clone(),
            host: request.host.clone(),
            body: Some(body.clone()),
        };
        let mut onward = request.onward.clone();
        onward.extend_from_slice(body);
        for (what, bytes) in [("the request", bytes), ("what goes onward", &onward)] {
            let theirs = general::requests(bytes)?.into_iter().next();
            if theirs.as_ref() != Some(&ours) {
                return Err(format!("of {what} the relay makes {ours:?}, hyper {theirs:?}"));
            }
        }
    }
    if let Some(request) = &inbound {
        let onward = String::from_utf8_lossy(&request.onward).to_lowercase();
        let said: Vec<&str> = onward.split("\r\n").filter(|line| line.starts_with("x-signet-")).collect();
        if said != [SOURCE] {
            return Err(format!("the app is told {said:?}"));
        }
    }
    let mut taken = Vec::new();
    for before in BEFORE {
        let all = [before.as_bytes(), bytes].concat();
        let whole = untrusted::unambiguous(&all, all.len());
        for piece in [1, 7] {
            if untrusted::unambiguous(&all, piece) != whole {
                return Err(format!("behind {before:?}, pieces of {piece} are read in another way than the whole"));
            }
        }
        let seen = whole.map(|whole| general::requests(&whole)).transpose()?.unwrap_or_default();
        let seen = seen.len() - usize::from(!before.is_empty()).min(seen.len());
        if seen > 0 && has_both(bytes) {
            return Err(format!("behind {before:?}, hyper takes a request with a length and a transfer coding"));
        }
        taken.push(seen.min(3));
    }
    Ok(shape((outbound.map(|one| (one.method, one.body.is_some())), inbound.is_some(), has_both(bytes), taken)))
}

/// Whether the first head names both, read without any of the parsers that are tested.
fn has_both(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes).to_lowercase();
    let head = text.trim_start_matches(['\r', '\n']);
    let fields = head.split('\n').skip(1).take_while(|line| !line.trim_end_matches('\r').is_empty());
    let names: Vec<&str> = fields.filter_map(|line| line.split_once(':')).map(|(name, _)| name).collect();
    names.contains(&"content-length") && names.contains(&"transfer-encoding")
}

fn chunks() -> Vec<Vec<u8>> {
    owned(&[
        "0\r\n\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        "A;x=y\r\n0123456789\r\n0\r\n\r\n",
        "000003\r\nabc\r\n1f\r\n0123456789012345678901234567890\r\n0\r\nchecksum: 1\r\na: b\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5\nhello\n0\n\n",
        "fffffffffffffffff\r\n",
        "0\r\nx-signet-decision: forged\r\n\r\n",
        "0\r\na: b\r\n folded\r\n\r\n",
        "3;\"a\r\nb\"\r\nabc\r\n0\r\n\r\n",
    ])
}

fn check_chunks(bytes: &[u8]) -> Result<Shape, String> {
    let whole = untrusted::chunked(bytes, bytes.len());
    for piece in [1, 5] {
        let pieces = untrusted::chunked(bytes, piece);
        if pieces != whole {
            return Err(format!("the whole is {whole:?}, in pieces of {piece} it is {pieces:?}"));
        }
    }
    let mut bodies = None;
    if let Some((taken, true)) = whole {
        let body = bytes.get(..taken).ok_or("more was taken than there was")?;
        // Behind the body stands another request: whoever sees the end elsewhere does not find it.
        let head = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
        let next = b"GET /next HTTP/1.1\r\nhost: a\r\n\r\n";
        let seen = general::requests(&[head, body, next].concat())?;
        match seen.as_slice() {
            [first, second] if first.body.is_some() && second.target == "/next" => {
                bodies = first.body.as_ref().map(Vec::len)
            }
            _ => return Err(format!("where the relay sees a body's end, hyper sees {seen:?}")),
        }
    }
    Ok(shape((whole.map(|(taken, ended)| (taken.min(64) / 8, ended)), bodies.map(|length| length.min(64) / 8))))
}

fn answers() -> Vec<Vec<u8>> {
    owned(&[
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.0 200 OK\r\n\r\nuntil the end",
        "HTTP/1.1 404 Not there\r\nConnection: x-hop, close\r\nX-Hop: 1\r\nX-Signet-Decision: forged\r\nUpgrade: h2c\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    ])
}

fn check_answers(bytes: &[u8]) -> Result<Shape, String> {
    let Some(head) = untrusted::answered(bytes) else { return Ok(0) };
    let text = String::from_utf8_lossy(&head).to_lowercase();
    let names: Vec<&str> =
        text.split("\r\n").skip(1).filter_map(|line| line.split_once(':')).map(|(name, _)| name).collect();
    if let Some(name) =
        names.iter().find(|name| name.starts_with("x-signet-") || **name == "upgrade" || **name == "connection")
    {
        return Err(format!("an app's `{name}` is passed on"));
    }
    if names.contains(&"content-length") && names.contains(&"transfer-encoding") {
        return Err("an answer with a length and a transfer coding is passed on".to_owned());
    }
    let lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r"));
    let count = head.iter().filter(|byte| **byte == b'\n').count();
    if lines.take(count).any(|line| line.is_none_or(|line| line.contains(&b'\r') || line.contains(&0))) {
        return Err(format!("what goes to the caller has other line ends: {text:?}"));
    }
    Ok(shape((names.len().min(8), text.get(..12).map(str::to_owned))))
}

fn authorities() -> Vec<Vec<u8>> {
    owned(&[
        "ledger-db.bank.svc.cluster.local:5432",
        "ledger",
        "[::1]:80",
        "10.0.0.1:65536",
        "user@host:80",
        "a:b:80",
        ":80",
        "a:",
    ])
}

fn check_connect(bytes: &[u8]) -> Result<Shape, String> {
    // What hyper refuses never comes that far.
    let Ok(authority) = http::uri::Authority::try_from(bytes) else { return Ok(0) };
    let Some((host, port)) = untrusted::authority(authority.as_str()) else { return Ok(1) };
    if host != authority.host() || port != authority.port_u16() {
        return Err(format!(
            "`{authority}` is {host} and {port:?}, or {} and {:?}",
            authority.host(),
            authority.port_u16()
        ));
    }
    Ok(shape((port.is_some(), host.starts_with('['), host.contains(':'))))
}
