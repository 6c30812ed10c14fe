//! Where in a file an object stands, so that an error found after reading can still name a line.

use std::fmt;
use std::path::PathBuf;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::ManifestError;

/// Which document of which file, with its text.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) file: PathBuf,
    pub(super) document: usize,
    pub(super) first_line: u64,
    pub(super) text: String,
}

impl Place {
    /// An error about `field`, with the line where it stands, or where the nearest part of it does that is there.
    pub(super) fn error(&self, field: &str, message: impl Into<String>) -> ManifestError {
        ManifestError {
            file: self.file.clone(),
            document: self.document,
            line: self.first_line + self.offset_of(field),
            field: field.to_owned(),
            message: message.into(),
        }
    }

    /// The value, where given, tells apart keys that stand in a document more than once.
    pub(super) fn error_at(&self, field: &str, value: &str, message: impl Into<String>) -> ManifestError {
        let mut error = self.error(field, message);
        let segments = segments(field);
        let key = segments.iter().rev().find_map(Segment::key).unwrap_or(field);
        if let Some(offset) = self.text.lines().position(|line| line.contains(key) && line.contains(value)) {
            error.line = self.first_line + offset as u64;
        }
        error
    }

    fn offset_of(&self, field: &str) -> u64 {
        let segments = segments(field);
        for known in (1..=segments.len()).rev() {
            let Some(path) = segments.get(..known) else { continue };
            let found = serde_saphyr::with_deserializer_from_str(&self.text, |deserializer| {
                Seek(path).deserialize(deserializer)
            });
            if let Ok(Some(line)) = found {
                return line.saturating_sub(1);
            }
        }
        0
    }
}

/// A step of a field's path.
#[derive(Debug, PartialEq, Eq)]
enum Segment {
    Key(String),
    Index(usize),
}

impl Segment {
    fn key(&self) -> Option<&str> {
        match self {
            Self::Key(key) => Some(key),
            Self::Index(_) => None,
        }
    }
}

/// `spec.ports[0].port`; keys of annotations and labels hold dots and slashes and are one step.
fn segments(field: &str) -> Vec<Segment> {
    for map in ["metadata.annotations.", "metadata.labels."] {
        if let Some(key) = field.strip_prefix(map) {
            let mut steps = segments(map.trim_end_matches('.'));
            steps.push(Segment::Key(key.to_owned()));
            return steps;
        }
    }
    let mut steps = Vec::new();
    for part in field.split('.').filter(|part| !part.is_empty()) {
        let mut pieces = part.split('[');
        steps.extend(pieces.next().filter(|key| !key.is_empty()).map(|key| Segment::Key(key.to_owned())));
        steps.extend(pieces.filter_map(|index| index.trim_end_matches(']').parse().ok()).map(Segment::Index));
    }
    steps
}

/// Walks along a path and gives the line (from 1) of what stands at its end.
struct Seek<'p>(&'p [Segment]);

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = Option<u64>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        if self.0.is_empty() {
            let found = <serde_saphyr::Spanned<IgnoredAny> as serde::Deserialize>::deserialize(deserializer)?;
            return Ok(Some(found.referenced.line()));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = Option<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map or a list on the way to a field")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<String>()? {
            match self.0.split_first() {
                Some((Segment::Key(wanted), rest)) if *wanted == key => found = map.next_value_seed(Seek(rest))?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        let mut at = 0;
        loop {
            match self.0.split_first() {
                Some((Segment::Index(wanted), rest)) if *wanted == at => match list.next_element_seed(Seek(rest))? {
                    Some(line) => found = line,
                    None => return Ok(found),
                },
                _ => {
                    if list.next_element::<IgnoredAny>()?.is_none() {
                        return Ok(found);
                    }
                }
            }
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_path() {
        let text = "\
kind: X
spec:
  rules:
    - name: one
      backendRefs:
        - {name: a, port: 1}
    - name: two
      backendRefs:
        - name: b
          port: 2
        - name: c
          port: 3
metadata:
  annotations:
    a.b/c: d
";
        let place = Place { file: PathBuf::from("x.yaml"), document: 1, first_line: 11, text: text.to_owned() };
        for (field, line) in [
            ("kind", 11),
            ("spec.rules[0].backendRefs[0].port", 16),
            ("spec.rules[1].backendRefs[1].port", 22),
            ("spec.rules[1].name", 17),
            // What is missing is shown where the part of it stands that is there.
            ("spec.rules[1].backendRefs[0].weight", 19),
            ("metadata.annotations.a.b/c", 25),
            ("status.x", 11),
        ] {
            assert_eq!(place.error(field, "").line, line, "{field}");
        }
    }
}
