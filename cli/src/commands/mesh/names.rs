//! Names as people type and read them: `east/bank/ledger`, where `east` stands for a trust domain.

use std::collections::BTreeMap;

use crate::context::Context;

/// What the context calls its clusters, by their trust domains.
pub(super) struct Names(BTreeMap<String, String>);

impl Names {
    pub(super) fn of(context: &Context) -> Self {
        let clusters = context.clusters.iter();
        Self(clusters.map(|(name, cluster)| (cluster.trust_domain.clone(), name.clone())).collect())
    }

    /// `<cluster>/<namespace>/<name>` of a workload's SPIFFE ID or a service's id; anything else as it is.
    pub(super) fn short(&self, full: &str) -> String {
        self.parts(full).map_or_else(|| full.to_owned(), |(cluster, name)| format!("{cluster}/{name}"))
    }

    /// Whether `asked` names `full`: whole, shortened, or without its cluster.
    pub(super) fn means(&self, asked: &str, full: &str) -> bool {
        let Some((cluster, name)) = self.parts(full) else { return asked == full };
        [full, name.as_str(), format!("{cluster}/{name}").as_str()].contains(&asked)
    }

    /// The cluster, and `<namespace>/<name>`.
    fn parts(&self, full: &str) -> Option<(&str, String)> {
        let (trust_domain, rest) = full.strip_prefix("spiffe://").unwrap_or(full).split_once('/')?;
        let cluster = self.0.get(trust_domain)?;
        let name = match rest.split('/').collect::<Vec<_>>().as_slice() {
            ["ns", namespace, "sa", account] => format!("{namespace}/{account}"),
            _ => rest.to_owned(),
        };
        Some((cluster, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shortened_and_found_by_every_form() {
        let names = Names([("east.bank.example".to_owned(), "east".to_owned())].into());
        for (full, short) in [
            ("spiffe://east.bank.example/ns/bank/sa/web", "east/bank/web"),
            ("east.bank.example/bank/ledger", "east/bank/ledger"),
            ("spiffe://north.example/ns/bank/sa/web", "spiffe://north.example/ns/bank/sa/web"),
            ("unknown", "unknown"),
        ] {
            assert_eq!(names.short(full), short);
            assert!(names.means(short, full) && names.means(full, full), "{full}");
        }
        assert!(names.means("bank/ledger", "east.bank.example/bank/ledger"));
        for other in ["ledger", "west/bank/ledger", "bank/led", ""] {
            assert!(!names.means(other, "east.bank.example/bank/ledger"), "{other}");
        }
    }
}
