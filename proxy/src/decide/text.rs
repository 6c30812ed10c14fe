//! What a record says in text and a call has in other forms, written into the caller's stack: deciding allocates nothing.

use std::fmt::{self, Write as _};

use signet_api::control::TappedCall;
use signet_mtls::SpiffeId;
use signet_policy::Action;
use uuid::Uuid;

use super::Call;
use crate::flow::UNAUTHENTICATED;
use crate::snapshot::break_glass::Grant;
use crate::token::EndUser;

/// Text of at most `N` bytes; what does not fit makes it fail as a whole.
struct Text<const N: usize> {
    bytes: [u8; N],
    used: usize,
}

impl<const N: usize> Text<N> {
    fn of(value: impl fmt::Display) -> Self {
        let mut text = Self { bytes: [0; N], used: 0 };
        // INVARIANT: callers give values whose longest form fits; what does not is cut between characters.
        let _ = write!(text, "{value}");
        text
    }

    fn as_str(&self) -> &str {
        self.bytes.get(..self.used).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

impl<const N: usize> fmt::Write for Text<N> {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let end = self.used + part.len();
        let place = self.bytes.get_mut(self.used..end).ok_or(fmt::Error)?;
        place.copy_from_slice(part.as_bytes());
        self.used = end;
        Ok(())
    }
}

/// An IPv6 socket address with its scope takes 58 bytes at most.
const ADDRESS: usize = 64;

/// The values of one call that have to be written first.
pub(super) struct CallText<'a> {
    path: Path<'a>,
    source_address: Option<Text<ADDRESS>>,
    source_ip: Text<ADDRESS>,
    port: Text<5>,
    trace_id: Option<[u8; 32]>,
}

enum Path<'a> {
    None,
    Whole(&'a str),
    /// gRPC's `<service>/<method>`, which came as one string and was split.
    Joined(String),
}

impl<'a> CallText<'a> {
    pub(super) fn of(call: &Call<'a>) -> Self {
        Self {
            path: match call.action {
                Action::Http { path, .. } => Path::Whole(path),
                Action::Grpc { service, method } => Path::Joined(format!("{service}/{method}")),
                _ => Path::None,
            },
            source_address: call.peer.address.map(Text::of),
            source_ip: Text::of(call.net().src_ip),
            port: Text::of(call.dst_port),
            trace_id: call.trace_id.map(hex32),
        }
    }

    /// The normalised path without query; gRPC's `<service>/<method>`.
    pub(super) fn path(&self) -> Option<&str> {
        match &self.path {
            Path::None => None,
            Path::Whole(path) => Some(path),
            Path::Joined(path) => Some(path),
        }
    }

    pub(super) fn source_address(&self) -> Option<&str> {
        self.source_address.as_ref().map(Text::as_str)
    }

    pub(super) fn trace_id(&self) -> Option<&str> {
        self.trace_id.as_ref().and_then(|digits| std::str::from_utf8(digits).ok())
    }
}

/// The most values that a context has: six of the call, six of its end user, four of a grant, and the slice.
const VALUES: usize = 17;
/// What a record calls the digest of the slice that decided, where that was not the whole bundle. No attribute of the
/// schema's context has this name, so recomputing passes it over.
const SLICE: &str = "policy_slice";

/// Every value of a request that a policy could read.
pub(super) struct Context<'c> {
    pairs: [(&'static str, &'c str); VALUES],
    used: usize,
}

impl<'c> Context<'c> {
    pub(super) fn as_slice(&self) -> &[(&'c str, &'c str)] {
        self.pairs.get(..self.used).unwrap_or_default()
    }
}

impl Call<'_> {
    /// What somebody who watches is shown of it before its answer.
    pub(super) fn shown(&self, route: &str, decision_id: Uuid, shows_path: bool) -> TappedCall {
        let text = CallText::of(self);
        let path = text.path().filter(|_| shows_path);
        TappedCall {
            source: self.peer.id.as_ref().map_or(UNAUTHENTICATED, SpiffeId::as_str).to_owned(),
            destination: self.service.to_owned(),
            route: route.to_owned(),
            action: self.action.cedar_id().to_owned(),
            path: path.unwrap_or_default().to_owned(),
            decision_id: decision_id.to_string(),
            trace_id: text.trace_id().unwrap_or_default().to_owned(),
            ..TappedCall::default()
        }
    }
    /// Every value of the request that a policy could read, by the names of the schema's context; and the digest of the
    /// slice that decided, where the proxy holds one.
    pub(super) fn context<'c>(
        &'c self,
        text: &'c CallText<'_>,
        grant: Option<&'c Grant>,
        slice: Option<&'c str>,
    ) -> Context<'c> {
        let net = self.net();
        let (fifth, sixth) = match self.action {
            Action::Http { method, host, .. } => (Some(("method", method)), Some(("host", host))),
            Action::Grpc { service, method } => (Some(("grpc_service", service)), Some(("grpc_method", method))),
            Action::TcpConnect { sni } | Action::GatewayForward { sni } | Action::EgressConnect { sni } => {
                (sni.map(|sni| ("sni", sni)), None)
            }
        };
        let first = [
            Some(("src_ip", text.source_ip.as_str())),
            Some(("src_cluster", net.src_cluster)),
            Some(("dst_cluster", net.dst_cluster)),
            Some(("dst_port", text.port.as_str())),
            fifth,
            sixth,
            slice.map(|digest| (SLICE, digest)),
        ];
        let claims = self.end_user.map(EndUser::pairs).unwrap_or_default();
        let granted = grant.map(Grant::pairs).unwrap_or_default();
        let more = claims.iter().chain(granted).map(|(name, value)| (*name, value.as_str()));
        let values = first.into_iter().flatten().chain(more);
        let (mut pairs, mut used) = ([("", ""); VALUES], 0);
        for (place, value) in pairs.iter_mut().zip(values) {
            *place = value;
            used += 1;
        }
        Context { pairs, used }
    }
}

fn hex32(bytes: [u8; 16]) -> [u8; 32] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'0'; 32];
    for (place, byte) in text.chunks_exact_mut(2).zip(bytes) {
        for (digit, nibble) in place.iter_mut().zip([byte >> 4, byte & 15]) {
            *digit = DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_addresses_and_ports_fit() {
        let address: std::net::SocketAddr = std::net::SocketAddrV6::new(
            "2001:db8:1111:2222:3333:4444:5555:6666".parse().unwrap_or(std::net::Ipv6Addr::LOCALHOST),
            u16::MAX,
            0,
            u32::MAX,
        )
        .into();
        let text = Text::<ADDRESS>::of(address);
        assert_eq!(text.as_str(), address.to_string());
        assert_eq!(Text::<5>::of(u16::MAX).as_str(), "65535");
        assert_eq!(hex32([0xa5; 16]), *b"a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5");
    }
}
