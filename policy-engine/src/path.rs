//! One normal form for request paths, used before deciding and before forwarding, so that the policy and the app
//! cannot read one path in two ways.
//!
//! Normalised: unreserved characters are decoded (`%61` is `a`), remaining escapes are upper case, empty segments and
//! dot segments are resolved (RFC 3986, sections 5.2.4 and 6.2.2). Refused: what servers are known to read differently.

use std::borrow::Cow;

use thiserror::Error;

/// Why a path has no normal form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PathError {
    #[error("the path does not begin with `/`")]
    NotAbsolute,
    #[error("the path holds a control character, a space, a NUL or a byte outside ASCII")]
    Character,
    #[error("the path holds a backslash or an encoded slash or backslash")]
    Separator,
    #[error("the path holds a malformed percent escape")]
    Escape,
    #[error("the path climbs above its root")]
    Traversal,
    #[error("the path holds a query or a fragment")]
    Query,
}

impl PathError {
    /// Stable word for records and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            PathError::NotAbsolute => "path_not_absolute",
            PathError::Character => "path_character",
            PathError::Separator => "path_separator",
            PathError::Escape => "path_escape",
            PathError::Traversal => "path_traversal",
            PathError::Query => "path_query",
        }
    }
}

/// The normal form of an absolute path without query; `*` (RFC 9112, section 3.2.4) stays as it is.
pub fn normalise_path(path: &str) -> Result<Cow<'_, str>, PathError> {
    if path == "*" {
        return Ok(Cow::Borrowed(path));
    }
    if !path.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    let unescaped = unescape(path)?;
    if !needs_segments(&unescaped) {
        return Ok(unescaped);
    }
    let mut segments: Vec<&str> = Vec::new();
    let mut trailing = false;
    for segment in unescaped.split('/') {
        trailing = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop().ok_or(PathError::Traversal)?;
            }
            // Servers that cut path parameters before resolving dots would climb here.
            _ if segment.starts_with("..;") || segment.starts_with(".;") => return Err(PathError::Traversal),
            _ => segments.push(segment),
        }
    }
    let mut out = String::with_capacity(unescaped.len());
    for segment in &segments {
        out.push('/');
        out.push_str(segment);
    }
    if trailing || segments.is_empty() {
        out.push('/');
    }
    Ok(Cow::Owned(out))
}

fn needs_segments(path: &str) -> bool {
    path.contains("//") || path.contains("/.")
}

/// Checks every byte and brings percent escapes into their normal form.
fn unescape(path: &str) -> Result<Cow<'_, str>, PathError> {
    let mut out: Option<String> = None;
    let mut bytes = path.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'\\' => return Err(PathError::Separator),
            b'?' | b'#' => return Err(PathError::Query),
            0..=0x20 | 0x7f.. => return Err(PathError::Character),
            b'%' => {
                let mut digit = || bytes.next().and_then(|(_, b)| char::from(b).to_digit(16)).ok_or(PathError::Escape);
                let (high, low) = (digit()?, digit()?);
                let value = u8::try_from(high * 16 + low).map_err(|_| PathError::Escape)?;
                let text = out.get_or_insert_with(|| path.get(..at).unwrap_or("").to_owned());
                match value {
                    b'/' | b'\\' => return Err(PathError::Separator),
                    0..=0x1f | 0x7f => return Err(PathError::Character),
                    b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(char::from(value)),
                    _ => text.push_str(&format!("%{value:02X}")),
                }
            }
            _ => {
                if let Some(text) = &mut out {
                    text.push(char::from(byte));
                }
            }
        }
    }
    Ok(out.map_or(Cow::Borrowed(path), Cow::Owned))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn normal_paths_are_borrowed() {
        for path in ["/", "/accounts/1", "/a/b/", "*", "/a.b/c..d", "/x;v=1/y", "/a:b@c"] {
            assert!(matches!(normalise_path(path), Ok(Cow::Borrowed(p)) if p == path), "{path}");
        }
    }

    #[test]
    fn paths_have_one_normal_form() {
        let table = [
            ("/a//b", "/a/b"),
            ("//", "/"),
            ("///a", "/a"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/a/%2e%2e/b", "/b"),
            ("/a/%2E/b", "/a/b"),
            ("/accounts/1/entries/../../2", "/accounts/2"),
            ("/%61ccounts/1", "/accounts/1"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/a%20b", "/a%20b"),
            ("/a%252fb", "/a%252fb"),
            ("/.well-known/x", "/.well-known/x"),
            ("/...", "/..."),
        ];
        for (path, normal) in table {
            assert_eq!(normalise_path(path).as_deref(), Ok(normal), "{path}");
        }
    }

    #[test]
    fn ambiguous_paths_are_refused() {
        let table = [
            ("", PathError::NotAbsolute),
            ("a/b", PathError::NotAbsolute),
            ("http://a/b", PathError::NotAbsolute),
            ("/..", PathError::Traversal),
            ("/a/../../b", PathError::Traversal),
            ("/%2e%2e/a", PathError::Traversal),
            ("/a/..;/b", PathError::Traversal),
            ("/a/.;x/b", PathError::Traversal),
            ("/a/%2e%2e;/b", PathError::Traversal),
            ("/a%2fb", PathError::Separator),
            ("/a%2Fb", PathError::Separator),
            ("/a%5cb", PathError::Separator),
            ("/a\\b", PathError::Separator),
            ("/a\0b", PathError::Character),
            ("/a%00b", PathError::Character),
            ("/a%0ab", PathError::Character),
            ("/a b", PathError::Character),
            ("/a\r\nb", PathError::Character),
            ("/café", PathError::Character),
            ("/a%", PathError::Escape),
            ("/a%2", PathError::Escape),
            ("/a%zz", PathError::Escape),
            ("/a?b", PathError::Query),
            ("/a#b", PathError::Query),
        ];
        for (path, error) in table {
            assert_eq!(normalise_path(path), Err(error), "{path:?}");
        }
    }

    proptest! {
        #[test]
        fn normalising_twice_is_normalising_once(path in "/[a-c./%25ef;]{0,24}") {
            if let Ok(once) = normalise_path(&path) {
                prop_assert_eq!(normalise_path(&once), Ok(Cow::Borrowed(once.as_ref())));
                prop_assert!(!once.contains("//"));
                prop_assert!(once.split('/').all(|s| s != ".." && s != "."));
            }
        }
    }
}
