//! The context of a record as a template: its bytes in the canonical encoding without the commitments among them, which
//! are of one record only.

use signet_spool::{context_entries, context_field};

use super::personal::Items;

/// The template of a context.
pub(crate) fn template(context: &[u8]) -> Vec<u8> {
    let mut template = Vec::with_capacity(context.len());
    for entry in context_entries(context) {
        template.extend_from_slice(entry.head);
        if !entry.committed {
            template.extend_from_slice(entry.value);
        }
    }
    template
}

/// A template, ready to be filled.
#[derive(Debug, Clone, Default)]
pub(crate) struct Template {
    bytes: Vec<u8>,
    /// Where a commitment belongs, and its field.
    holes: Vec<(usize, u32)>,
}

impl Template {
    /// Reads a stored template; `None` when it is broken.
    pub(crate) fn parse(bytes: Vec<u8>) -> Option<Self> {
        let mut holes = Vec::new();
        let mut at = 0;
        for index in 0.. {
            if at == bytes.len() {
                break;
            }
            at += 4 + length(&bytes, at)?;
            let committed = *bytes.get(at)? == 1;
            let value = length(&bytes, at + 1)?;
            at += 5;
            if committed {
                holes.push((at, context_field(index)));
            } else {
                at += value;
            }
            bytes.get(at..)?;
        }
        Some(Self { bytes, holes })
    }

    /// Bytes of the context.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() + 32 * self.holes.len()
    }

    /// Appends the context, with the commitments of `personal`; `None` when those are of other fields.
    pub(crate) fn fill(&self, personal: &mut Items<'_>, out: &mut Vec<u8>) -> Option<()> {
        let mut done = 0;
        for (hole, field) in &self.holes {
            out.extend_from_slice(self.bytes.get(done..*hole)?);
            out.extend_from_slice(&personal.commitment(*field)?);
            done = *hole;
        }
        out.extend_from_slice(self.bytes.get(done..)?);
        Some(())
    }
}

fn length(bytes: &[u8], at: usize) -> Option<usize> {
    let length = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
    usize::try_from(u32::from_be_bytes(length)).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use signet_spool::{Fields, Record, Salts, tag};

    use super::super::personal;
    use super::*;

    #[test]
    fn a_template_and_the_openings_make_the_context() {
        let context = [("src_ip", "10.0.0.7"), ("host", "ledger"), ("jwt.sub", "alice"), ("dst_port", "80")];
        let record = Record {
            context: context.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            ..Record::default()
        };
        let encoded = record.encode(&mut Salts::new()).unwrap();
        let fields = Fields::split(&encoded.canonical).unwrap();
        let bytes = fields.get(tag::CONTEXT).unwrap();
        let parsed = Template::parse(template(bytes)).unwrap();
        assert_eq!(parsed.len(), bytes.len());
        let packed = personal::pack(&fields, &encoded.openings);
        let mut out = Vec::new();
        parsed.fill(&mut personal::Items::of(&packed), &mut out).unwrap();
        assert_eq!(out, bytes);
        assert!(parsed.fill(&mut personal::Items::of(&[]), &mut out).is_none(), "without what it needs");
    }

    #[test]
    fn a_broken_template_is_none() {
        for broken in [&b"\0"[..], b"\0\0\0\x01a", b"\0\0\0\x01a\0\0\0\0\x05abc", b"\xff\xff\xff\xff"] {
            assert!(Template::parse(broken.to_vec()).is_none(), "{broken:?}");
        }
    }
}
