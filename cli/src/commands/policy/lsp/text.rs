//! Places in a text, and what stands there. Columns of the protocol count UTF-16 units; offsets here are bytes.

use std::ops::Range;

use lsp_types::{Position, TextEdit};

/// The byte offset of a position; one past the end of its line is that end.
pub(super) fn offset(text: &str, at: Position) -> usize {
    let wanted = usize::try_from(at.line).unwrap_or(usize::MAX);
    let start = match wanted {
        0 => 0,
        line => text.match_indices('\n').nth(line - 1).map_or(text.len(), |(at, _)| at + 1),
    };
    let line = text.get(start..).unwrap_or_default().split('\n').next().unwrap_or_default();
    let mut units = 0;
    for (within, character) in line.char_indices() {
        if units >= at.character {
            return start + within;
        }
        units += u32::try_from(character.len_utf16()).unwrap_or(1);
    }
    start + line.len()
}

/// The position of a byte offset.
pub(super) fn position(text: &str, offset: usize) -> Position {
    let before = text.get(..offset.min(text.len())).unwrap_or(text);
    let line = before.matches('\n').count();
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    let units = before.get(start..).unwrap_or_default().encode_utf16().count();
    Position::new(u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(units).unwrap_or(u32::MAX))
}

pub(super) fn range(text: &str, bytes: &Range<usize>) -> lsp_types::Range {
    lsp_types::Range::new(position(text, bytes.start), position(text, bytes.end))
}

/// The bytes of a problem, whose line and column count from 1, the column in characters: to the end of its line. Line 0 is
/// the whole file.
pub(super) fn problem(text: &str, line: u32, column: u32) -> Range<usize> {
    let start = offset(text, Position::new(line.saturating_sub(1), 0));
    let rest = text.get(start..).unwrap_or_default().split('\n').next().unwrap_or_default();
    let skip = usize::try_from(column.saturating_sub(1)).unwrap_or(usize::MAX);
    let within = rest.char_indices().nth(skip).map_or(rest.len(), |(at, _)| at);
    start + within..start + rest.trim_end().len().max(within)
}

/// The edits that make `new` of `old`.
pub(super) fn replace_all(old: &str, new: String) -> Vec<TextEdit> {
    if old == new {
        return Vec::new();
    }
    vec![TextEdit::new(range(old, &(0..old.len())), new)]
}

/// The line around an offset, and where it begins.
pub(super) fn line_at(text: &str, offset: usize) -> (usize, &str) {
    let start = text.get(..offset).and_then(|before| before.rfind('\n')).map_or(0, |at| at + 1);
    (start, text.get(start..).unwrap_or_default().split('\n').next().unwrap_or_default())
}

/// What a name in a policy or in a test refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name<'t> {
    /// `Mesh::<kind>::"<id>"`.
    Entity { kind: &'t str, id: &'t str },
    /// A policy's `@id`.
    Policy(&'t str),
    /// `context.net.src_ip`, up to the word that was asked about.
    Path(&'t str),
}

/// The name at an offset of a policy file, with its bytes.
pub(super) fn name_in_policy(text: &str, offset: usize) -> Option<(Name<'_>, Range<usize>)> {
    let (start, line) = line_at(text, offset);
    let within = offset - start;
    for (at, _) in line.match_indices("Mesh::") {
        let rest = line.get(at + "Mesh::".len()..)?;
        let Some((kind, quoted)) = rest.split_once("::\"") else { continue };
        let Some((id, _)) = quoted.split_once('"') else { continue };
        let end = at + "Mesh::".len() + kind.len() + "::\"".len() + id.len() + 1;
        if kind.bytes().all(|b| b.is_ascii_alphanumeric()) && (at..=end).contains(&within) {
            return Some((Name::Entity { kind, id }, start + at..start + end));
        }
    }
    if let Some((before, rest)) = line.split_once("@id(\"")
        && let Some((id, _)) = rest.split_once('"')
    {
        let bytes = before.len()..before.len() + "@id(\"".len() + id.len() + 2;
        if bytes.contains(&within) {
            return Some((Name::Policy(id), start + bytes.start..start + bytes.end));
        }
    }
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let left = line.get(..within)?.rfind(|c: char| !is_word(c) && c != '.').map_or(0, |at| at + 1);
    let right = within + line.get(within..)?.find(|c| !is_word(c)).unwrap_or(line.len() - within);
    let path = line.get(left..right)?;
    let is_path = ["principal.", "resource.", "context."].iter().any(|root| path.starts_with(root));
    is_path.then_some((Name::Path(path), start + left..start + right))
}

/// The name at an offset of a decision table: the value of `policy`, `principal`, `resource` or `action`.
pub(super) fn name_in_test(text: &str, offset: usize) -> Option<(Name<'_>, Range<usize>)> {
    let (start, line) = line_at(text, offset);
    let within = offset - start;
    for (key, kind) in [("policy", ""), ("principal", "Workload"), ("resource", "Service"), ("action", "Action")] {
        for (at, _) in line.match_indices(key) {
            let Some(rest) = line.get(at + key.len()..).and_then(|rest| rest.strip_prefix(':')) else { continue };
            let value_at = line.len() - rest.trim_start().len();
            let value = rest.trim_start();
            let length = value.find([',', '}', '#']).unwrap_or(value.len());
            let value = value.get(..length)?.trim_end();
            if !(value_at..=value_at + value.len()).contains(&within) {
                continue;
            }
            let id = value.trim_matches(['"', '\'']);
            let name = if kind.is_empty() { Name::Policy(id) } else { Name::Entity { kind, id } };
            return Some((name, start + value_at..start + value_at + value.len()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn positions_count_utf16_units() {
        let text = "a\n\u{1f600}b\u{e9}c\n";
        for (line, character, bytes) in
            [(0, 0, 0), (0, 9, 1), (1, 0, 2), (1, 2, 6), (1, 3, 7), (1, 4, 9), (2, 0, 11), (7, 7, 11)]
        {
            assert_eq!(offset(text, Position::new(line, character)), bytes, "{line}:{character}");
        }
        assert_eq!(position(text, 9), Position::new(1, 4));
        assert_eq!(problem(text, 2, 3), 7..10);
        assert_eq!(problem(text, 0, 0), 0..1);
    }

    #[test]
    fn names_are_found_under_the_cursor() {
        let text = "@id(\"p\") permit(principal in Mesh::Team::\"core\", action, resource)\nwhen { context.net.src_ip.isIpv4() };";
        let at = |part: &str| name_in_policy(text, text.find(part).unwrap()).map(|(name, _)| name);
        assert_eq!(at("core"), Some(Name::Entity { kind: "Team", id: "core" }));
        assert_eq!(at("p\")"), Some(Name::Policy("p")));
        assert_eq!(at("src_ip"), Some(Name::Path("context.net.src_ip")));
        assert_eq!(at("net"), Some(Name::Path("context.net")));
        assert_eq!((at("when"), at("action")), (None, None));
        let text = "  - { name: x, principal: a.b/n/w, policy: 'p-1' } # why";
        let at = |part: &str| name_in_test(text, text.find(part).unwrap()).map(|(name, _)| name);
        assert_eq!(at("p-1"), Some(Name::Policy("p-1")));
        assert_eq!(at("a.b/n/w"), Some(Name::Entity { kind: "Workload", id: "a.b/n/w" }));
        assert_eq!(at("why"), None);
    }
}
