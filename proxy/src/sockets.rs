//! What every TCP connection of a proxy has set.
//!
//! A peer whose machine died says nothing any more, and its connection looks like one that is idle. HTTP/2 asks by pings and
//! HTTP/1.1 gives idle connections up; raw TCP and WebSockets may be silent for days, so the kernel asks.

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tracing::warn;

/// Silence after which the kernel asks whether the peer is there.
const IDLE: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_secs(10);
/// Unanswered questions after which the connection is broken: a peer that is gone is noticed within a minute.
const UNANSWERED: u32 = 3;

/// Has the kernel notice when the peer is gone. On a listener it holds for what is accepted from it.
pub fn notice_gone_peers<'s, S>(socket: &'s S)
where
    SockRef<'s>: From<&'s S>,
{
    let asked = TcpKeepalive::new().with_time(IDLE).with_interval(AGAIN).with_retries(UNANSWERED);
    if let Err(error) = SockRef::from(socket).set_tcp_keepalive(&asked) {
        // No reason to refuse a call: what is lost is the notice.
        warn!(%error, "peers that are gone will not be noticed");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn what_is_accepted_has_what_its_listener_has() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        notice_gone_peers(&listener);
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        assert!(!SockRef::from(&client).keepalive().unwrap(), "nobody sets it otherwise");
        notice_gone_peers(&client);
        let (accepted, _) = listener.accept().await.unwrap();
        for stream in [&client, &accepted] {
            let socket = SockRef::from(stream);
            assert!(socket.keepalive().unwrap());
            assert_eq!(socket.tcp_keepalive_time().unwrap(), IDLE);
            assert_eq!(socket.tcp_keepalive_interval().unwrap(), AGAIN);
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), UNANSWERED);
        }
    }
}
