//! Paths grouped into shapes: segments that vary become parameters.

use std::collections::{BTreeMap, BTreeSet};

use super::{escaped, quoted};

/// So many different names in one place are values, not names.
const MOST_NAMES: usize = 8;
/// Paths with more segments than this stay as they are.
const MOST_SEGMENTS: usize = 32;

/// A path in which some segments may be anything.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shape(Vec<Option<String>>);

impl Shape {
    /// As a condition on `context.path`, which is in normal form: no parameter is empty or holds a slash.
    pub(super) fn condition(&self) -> String {
        let Self(segments) = self;
        if segments.iter().all(Option::is_some) {
            let path: String = segments.iter().flatten().map(|name| format!("/{name}")).collect();
            return format!("context.path == {}", quoted(&path));
        }
        let part = |segment: &Option<String>| match segment {
            Some(name) => format!("/{}", escaped(name).replace('*', "\\*")),
            None => "/*".to_owned(),
        };
        let pattern: String = segments.iter().map(part).collect();
        // One slash more than there are segments: `*` would match that too.
        let longer = format!("{}*", "*/".repeat(segments.len() + 1));
        let mut condition = format!("context.path like \"{pattern}\" && !(context.path like \"{longer}\")");
        if segments.last() == Some(&None) {
            condition.push_str(" && !(context.path like \"*/\")");
        }
        condition
    }
}

/// The shapes of paths that begin with `/`.
pub(super) fn shapes<'p>(paths: impl Iterator<Item = &'p str>) -> BTreeSet<Shape> {
    let mut by_length: BTreeMap<usize, Vec<Vec<&str>>> = BTreeMap::new();
    for path in paths {
        let segments: Vec<&str> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
        by_length.entry(segments.len()).or_default().push(segments);
    }
    let mut found = BTreeSet::new();
    for (length, paths) in by_length {
        if length > MOST_SEGMENTS {
            let whole = |path: Vec<&str>| Shape(path.into_iter().map(|name| Some(name.to_owned())).collect());
            found.extend(paths.into_iter().map(whole));
            continue;
        }
        let rest: Vec<&[&str]> = paths.iter().map(Vec::as_slice).collect();
        below(&mut Vec::new(), rest, &mut found);
    }
    found
}

/// All shapes that begin with `before`, of paths of one length of which `rest` are the ends.
fn below(before: &mut Vec<Option<String>>, rest: Vec<&[&str]>, found: &mut BTreeSet<Shape>) {
    let mut by_name: BTreeMap<Option<&str>, Vec<&[&str]>> = BTreeMap::new();
    for path in rest {
        let Some((first, more)) = path.split_first() else {
            found.insert(Shape(before.clone()));
            return;
        };
        by_name.entry((!is_value(first)).then_some(*first)).or_default().push(more);
    }
    if by_name.len() > MOST_NAMES && !by_name.contains_key(&Some("")) {
        let all = by_name.into_values().flatten().collect();
        by_name = BTreeMap::from([(None, all)]);
    }
    for (name, more) in by_name {
        before.push(name.map(str::to_owned));
        below(before, more, found);
        before.pop();
    }
}

/// Whether a segment is a number, a UUID or another long word with digits, rather than a name that somebody chose.
fn is_value(segment: &str) -> bool {
    let digits = segment.bytes().filter(u8::is_ascii_digit).count();
    let plain = segment.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    digits > 0 && (digits == segment.len() || (plain && segment.len() >= 8) || segment.len() >= 20)
}
