//! Transparent listeners: connections that the rules of [`crate::redirect`] led here, and where they were going.
//!
//! INVARIANT: a connection counts as redirected only when the kernel says so. One that somebody made to a listener of ours
//! by its own address has no other destination and gets nowhere.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tracing::info;

use crate::config::{InboundMode, TransparentConfig};
use crate::outbound::ListenError;

pub const OUTBOUND_PORT: u16 = 15_001;
pub const INBOUND_PORT: u16 = 15_006;

const BACKLOG: i32 = 4096;

/// Where a redirected connection was going.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OriginalDst(pub(crate) SocketAddr);

impl OriginalDst {
    /// `None`: nobody redirected it. `listener` is the port that it was accepted on.
    pub(crate) fn of(stream: &TcpStream, listener: u16) -> Option<Self> {
        let local = stream.local_addr().ok()?;
        if local.port() != listener {
            // Handed over as it was (TPROXY): the socket's own address is where it was going.
            return Some(Self(local));
        }
        let socket = SockRef::from(stream);
        let found = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
        let destination = found.ok()?.as_socket()?;
        // Connection tracking also knows connections that no rule touched, by the address that they have anyway.
        (destination.port() != listener || destination.ip() != local.ip()).then_some(Self(destination))
    }
}

/// Both sides' listeners, one for each address family that the machine has.
pub struct Listeners {
    pub outbound: Vec<TcpListener>,
    pub inbound: Vec<TcpListener>,
}

/// Binds them. Redirected outbound connections arrive on loopback; nobody else's can.
///
/// # Errors
/// When a port is taken, or the right to be transparent is missing.
pub fn bind(config: &TransparentConfig) -> Result<Listeners, ListenError> {
    let tproxy = config.inbound_mode == InboundMode::Tproxy;
    let outbound = [
        SocketAddr::from((Ipv4Addr::LOCALHOST, config.outbound_port)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, config.outbound_port)),
    ];
    let inbound = [
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, config.inbound_port)),
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, config.inbound_port)),
    ];
    let all = |addresses: [SocketAddr; 2], transparent: bool| -> Result<Vec<TcpListener>, ListenError> {
        let mut listeners = Vec::new();
        for address in addresses {
            match listen(address, transparent) {
                Ok(listener) => listeners.push(listener),
                Err(error) if address.is_ipv6() && is_no_ipv6(&error) => info!(%address, "this machine has no IPv6"),
                Err(source) => return Err(ListenError::Bind { address, source }),
            }
        }
        Ok(listeners)
    };
    Ok(Listeners { outbound: all(outbound, false)?, inbound: all(inbound, tproxy)? })
}

fn listen(address: SocketAddr, transparent: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    match (transparent, address.is_ipv6()) {
        (true, false) => socket.set_ip_transparent_v4(true)?,
        (true, true) => socket.set_ip_transparent_v6(true)?,
        (false, _) => {}
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Address family not supported, or no address of it.
fn is_no_ipv6(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}
