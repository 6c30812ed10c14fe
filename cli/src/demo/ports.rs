//! Ports for the demo's listeners, chosen once so that a restarted component is found where it was.
//!
//! They lie below the range from which the kernel takes ports for outgoing connections, so that no client of anybody's can
//! sit on one while its component restarts.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use crate::failure::Failure;

const FIRST: u16 = 12_000;
const LAST: u16 = 31_000;
const ATTEMPTS: usize = 200;

/// Hands out ports of one contiguous block that was free as a whole.
pub(crate) struct Ports {
    next: u16,
    end: u16,
}

impl Ports {
    /// Finds `count` neighbouring free ports, from a random place on, so that two demos started together rarely meet.
    pub(crate) fn find(count: u16) -> Result<Self, Failure> {
        for _ in 0..ATTEMPTS {
            let first = fastrand::u16(FIRST..LAST - count);
            if (first..first + count).all(is_free) {
                return Ok(Self { next: first, end: first + count });
            }
        }
        Err(Failure::failed(format!("found no {count} free neighbouring ports between {FIRST} and {LAST}"))
            .at("loopback, 127.0.0.1")
            .next("end programs that listen there (`ss -ltn` lists them) and try again"))
    }

    pub(crate) fn take(&mut self) -> Result<SocketAddr, Failure> {
        if self.next >= self.end {
            return Err(
                Failure::failed("the demo asked for more ports than it had reserved").next("report this as a bug")
            );
        }
        let port = self.next;
        self.next += 1;
        Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hands_out_distinct_ports_and_no_more_than_were_found() {
        let mut ports = Ports::find(3).unwrap();
        let taken: Vec<_> = (0..3).map(|_| ports.take().unwrap()).collect();
        assert!(taken.windows(2).all(|pair| pair[0].port() + 1 == pair[1].port()));
        assert!(ports.take().is_err());
    }
}
