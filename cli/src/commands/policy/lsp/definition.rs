//! Where a name is declared: services, routes, teams and workloads in `signet.yaml`, policies by their `@id`.

use std::ops::Range;

use lsp_types::{Location, Position, Uri};

use super::hover::OwnedName;
use super::{Knowledge, text};

pub(super) fn definition(known: &Knowledge<'_>, uri: &Uri, at: Position) -> Option<Location> {
    let (path, text, bytes) = match known.name_at(uri, at)?.1 {
        OwnedName::Policy(id) => {
            let written = format!("@id(\"{id}\")");
            let mut policies = known.workspace.files().filter(|(path, _)| path.ends_with(".cedar"));
            policies.find_map(|(path, text)| {
                let at = text.find(&written)?;
                Some((path, text, at..at + written.len()))
            })?
        }
        OwnedName::Entity { kind, id } => {
            let (path, text) = known.workspace.files().find(|(path, _)| *path == "signet.yaml")?;
            (path, text, declared(text, &kind, &id)?)
        }
        OwnedName::Path(_) => return None,
    };
    Some(Location::new(known.workspace.uri(path)?, text::range(text, &bytes)))
}

/// The bytes of an entity's declaration in the text of `signet.yaml`.
fn declared(settings: &str, kind: &str, id: &str) -> Option<Range<usize>> {
    let account = super::account_of(id);
    let (section, name) = match kind {
        "Service" => ("services", id),
        "Route" => {
            let (service, route) = id.split_once('#')?;
            let service = within(settings, section(settings, "services")?, service)?;
            return within(settings, service.end..settings.len(), route);
        }
        "Team" => ("teams", id),
        "ExternalService" => ("external_services", id),
        "Workload" => ("workloads", account.as_deref().unwrap_or(id)),
        "ServiceAccount" => ("workloads", id),
        _ => return None,
    };
    within(settings, self::section(settings, section)?, name)
}

/// The bytes of a top-level key's value.
fn section(settings: &str, key: &str) -> Option<Range<usize>> {
    let mut start = 0;
    let mut found = None;
    for line in settings.split_inclusive('\n') {
        let is_top = line.starts_with(|c: char| c.is_ascii_alphabetic());
        match found {
            None if line.strip_prefix(key).is_some_and(|rest| rest.starts_with(':')) => found = Some(start + key.len()),
            Some(from) if is_top => return Some(from..start),
            _ => {}
        }
        start += line.len();
    }
    found.map(|from| from..settings.len())
}

/// The first place at which `name` stands by itself.
fn within(settings: &str, bytes: Range<usize>, name: &str) -> Option<Range<usize>> {
    let text = settings.get(bytes.clone())?;
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    let stands_alone = |at: &usize| {
        let before = text.get(..*at).and_then(|t| t.chars().next_back());
        let after = text.get(at + name.len()..).and_then(|t| t.chars().next());
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    };
    let at = bytes.start + text.match_indices(name).map(|(at, _)| at).find(stands_alone)?;
    Some(at..at + name.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn declarations_are_found_in_their_section() {
        let settings = "version: 1\nteams:\n  core: { workloads: [a.b/n/s] }\nservices:\n  a.b/n/s-2: {}\n  a.b/n/s:\n    \
                        routes: [\"GET /a\", \"GET /a/{id}\"]\nworkloads: {a.b/n/w: {env: dev}}\n";
        let line = |kind: &str, id: &str| {
            declared(settings, kind, id).map(|bytes| settings.get(..bytes.start).unwrap().matches('\n').count())
        };
        assert_eq!(line("Service", "a.b/n/s"), Some(5));
        assert_eq!(line("Team", "core"), Some(2));
        assert_eq!(line("Route", "a.b/n/s#GET /a/{id}"), Some(6));
        assert_eq!(line("Workload", "spiffe://a.b/ns/n/sa/w"), Some(7));
        assert_eq!((line("Team", "a.b/n/s-2"), line("Namespace", "a.b/n")), (None, None));
    }
}
