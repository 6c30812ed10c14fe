//! The openings of a record's personal values, packed: what the column `personal` holds.
//!
//! ```text
//! personal = item*, ascending by field
//! item = 0 || field (4) || commitment (32)                        erased
//!      | 1 || field (4) || salt (16) || length (4) || value       any value
//!      | 2 || salt (16) || IPv4 address (4) || port (2)           the source address
//!      | 3 || salt (16) || IPv6 address (16) || port (2)          the source address
//!      | 4 || index (1) || salt (16)                              a context value: the source address without its port
//! ```
//!
//! Integers are big-endian. `signet.opened` and `signet.erased` in the migrations read the same.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use signet_spool::{Fields, Opening, commit, context_entries, context_field, tag};

const ERASED: u8 = 0;
const ANY: u8 = 1;
const IPV4: u8 = 2;
const IPV6: u8 = 3;
const SAME_IP: u8 = 4;

/// The field of the source address.
const ADDRESS: u32 = tag::SOURCE_ADDRESS_COMMITMENT as u32;

/// The commitments of a record's canonical bytes, with their fields, in order.
fn commitments<'a>(fields: &Fields<'a>) -> impl Iterator<Item = (u32, &'a [u8])> {
    let single = [tag::PATH_COMMITMENT, tag::SOURCE_ADDRESS_COMMITMENT]
        .into_iter()
        .filter_map(|tag| Some((u32::from(tag), fields.get(tag)?)))
        .collect::<Vec<_>>();
    let context = fields.get(tag::CONTEXT).unwrap_or_default();
    let of_context = (0u32..).zip(context_entries(context)).filter(|(_, entry)| entry.committed);
    single.into_iter().chain(of_context.map(|(index, entry)| (context_field(index), entry.value)))
}

/// Packs what opens the commitments of a record, and those that nothing opens.
pub(crate) fn pack(fields: &Fields<'_>, openings: &[Opening]) -> Vec<u8> {
    let mut out = Vec::with_capacity(24);
    let mut openings = openings.iter().peekable();
    let mut ip = None;
    for (field, commitment) in commitments(fields) {
        let Some(opening) = openings.next_if(|opening| opening.field == field) else {
            out.push(ERASED);
            out.extend_from_slice(&field.to_be_bytes());
            out.extend_from_slice(commitment);
            continue;
        };
        if field == ADDRESS
            && let Some(address) = plain_address(&opening.value)
        {
            ip = Some(address.ip());
            put_address(&mut out, &opening.salt, address);
        } else if let Some(index) = field.checked_sub(context_field(0)).and_then(|index| u8::try_from(index).ok())
            && ip.is_some_and(|ip| ip.to_string().as_bytes() == opening.value)
        {
            out.extend_from_slice(&[SAME_IP, index]);
            out.extend_from_slice(&opening.salt);
        } else {
            out.push(ANY);
            out.extend_from_slice(&field.to_be_bytes());
            out.extend_from_slice(&opening.salt);
            // INVARIANT: an opened value is far below 4 GiB; the encoding's limits bound it.
            out.extend_from_slice(&u32::try_from(opening.value.len()).unwrap_or(u32::MAX).to_be_bytes());
            out.extend_from_slice(&opening.value);
        }
    }
    out
}

/// The address that a text is the usual form of. Not one that PostgreSQL would write differently.
fn plain_address(text: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let address: SocketAddr = text.parse().ok()?;
    let usual = match address {
        SocketAddr::V4(_) => true,
        SocketAddr::V6(v6) => v6.scope_id() == 0 && v6.ip().segments().iter().take(5).any(|segment| *segment != 0),
    };
    (usual && address.to_string() == text).then_some(address)
}

fn put_address(out: &mut Vec<u8>, salt: &[u8], address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            out.push(IPV4);
            out.extend_from_slice(salt);
            out.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(IPV6);
            out.extend_from_slice(salt);
            out.extend_from_slice(&ip.octets());
        }
    }
    out.extend_from_slice(&address.port().to_be_bytes());
}

/// A personal value, or what is left of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// The commitment.
    Erased(&'a [u8; 32]),
    /// What opens the commitment.
    Opened { salt: &'a [u8; 16], value: Cow<'a, [u8]> },
}

/// Reads packed values in order.
#[derive(Debug, Clone)]
pub(crate) struct Items<'a> {
    rest: &'a [u8],
    ip: Option<IpAddr>,
}

impl<'a> Items<'a> {
    pub(crate) fn of(personal: &'a [u8]) -> Self {
        Self { rest: personal, ip: None }
    }

    /// Whether everything was read.
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn take<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(taken)
    }

    fn address(&mut self, ip: IpAddr) -> Option<Cow<'a, [u8]>> {
        self.ip = Some(ip);
        let port = u16::from_be_bytes(*self.take()?);
        Some(SocketAddr::new(ip, port).to_string().into_bytes().into())
    }

    /// The next value with its field; `None` at the end, or where the packing is broken.
    pub(crate) fn next(&mut self) -> Option<(u32, Value<'a>)> {
        let [form] = *self.take()?;
        let field = match form {
            ERASED | ANY => u32::from_be_bytes(*self.take()?),
            SAME_IP => context_field(u32::from(u8::from_be_bytes(*self.take()?))),
            _ => ADDRESS,
        };
        if form == ERASED {
            return Some((field, Value::Erased(self.take()?)));
        }
        let salt = self.take()?;
        let value = match form {
            ANY => {
                let length = usize::try_from(u32::from_be_bytes(*self.take()?)).ok()?;
                let (value, rest) = self.rest.split_at_checked(length)?;
                self.rest = rest;
                value.into()
            }
            IPV4 => {
                let ip = Ipv4Addr::from_octets(*self.take()?);
                self.address(ip.into())?
            }
            IPV6 => {
                let ip = Ipv6Addr::from_octets(*self.take()?);
                self.address(ip.into())?
            }
            SAME_IP => self.ip?.to_string().into_bytes().into(),
            _ => return None,
        };
        Some((field, Value::Opened { salt, value }))
    }

    /// The commitment of `field`, when the next value is of it.
    pub(crate) fn commitment(&mut self, field: u32) -> Option<[u8; 32]> {
        let mut ahead = self.clone();
        let (found, value) = ahead.next().filter(|(found, _)| *found == field)?;
        *self = ahead;
        Some(match value {
            Value::Erased(commitment) => *commitment,
            Value::Opened { salt, value } => commit(found, salt, &value),
        })
    }
}

/// The openings that are left.
pub(crate) fn openings(personal: &[u8]) -> Vec<Opening> {
    let mut items = Items::of(personal);
    let mut openings = Vec::new();
    while let Some((field, value)) = items.next() {
        if let Value::Opened { salt, value } = value {
            openings.push(Opening { field, salt: *salt, value: value.into_owned() });
        }
    }
    openings
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use signet_spool::{Record, Salts};

    use super::*;

    fn record(address: &str, context: &[(&str, &str)]) -> Record {
        Record {
            source_address: Some(address.to_owned()),
            context: context.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            ..Record::default()
        }
    }

    #[test]
    fn openings_survive_packing_and_make_their_commitments() {
        for (address, context, bytes) in [
            ("10.0.0.7:8080", &[("host", "a"), ("src_ip", "10.0.0.7")][..], 23 + 18),
            ("[2001:db8::7]:8080", &[("src_ip", "2001:db8::7")], 35 + 18),
            ("[::ffff:10.0.0.7]:80", &[], 25 + 20),
            ("not an address", &[("src_ip", "10.0.0.7"), ("jwt.sub", "alice")], 25 * 3 + 14 + 8 + 5),
            ("010.0.0.7:80", &[("src_ip", "10.0.0.8")], 25 * 2 + 12 + 8),
        ] {
            let encoded = record(address, context).encode(&mut Salts::new()).unwrap();
            let fields = Fields::split(&encoded.canonical).unwrap();
            let packed = pack(&fields, &encoded.openings);
            assert_eq!((openings(&packed), packed.len()), (encoded.openings.clone(), bytes), "{address}");
            let mut items = Items::of(&packed);
            for (field, commitment) in commitments(&fields) {
                assert_eq!(items.commitment(field).as_ref().map(<[u8; 32]>::as_slice), Some(commitment), "{address}");
            }
            assert!(items.is_empty());
        }
    }

    #[test]
    fn what_was_erased_leaves_its_commitment() {
        let encoded = record("10.0.0.7:8080", &[("src_ip", "10.0.0.7")]).encode(&mut Salts::new()).unwrap();
        let fields = Fields::split(&encoded.canonical).unwrap();
        let packed = pack(&fields, encoded.openings.get(1..).unwrap());
        assert_eq!(openings(&packed).len(), 1);
        let mut items = Items::of(&packed);
        assert_eq!(
            items.commitment(ADDRESS).as_ref().map(<[u8; 32]>::as_slice),
            fields.get(tag::SOURCE_ADDRESS_COMMITMENT)
        );
        assert!(items.commitment(context_field(1)).is_none());
        assert!(items.commitment(context_field(0)).is_some());
    }

    #[test]
    fn broken_packing_ends_early() {
        for broken in
            [&b"\x09"[..], b"\x02short", b"\x04\0aaaaaaaaaaaaaaaa", b"\x01\0\0\0\x11aaaaaaaaaaaaaaaa\xff\xff\xff\xffx"]
        {
            assert!(Items::of(broken).next().is_none(), "{broken:?}");
        }
    }
}
