//! Which match of a service's routes fits a call. They come in order of precedence, so the first that fits is it.

use std::borrow::Cow;

use http::header::HOST;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName};

use crate::decide::Host;
use crate::snapshot::route::{Match, PathMatch, Routes, ValueMatch};

/// The first match that fits, if any. `path` is in normal form.
pub(super) fn find<'r>(routes: &'r Routes, parts: &Parts, path: &PathAndQuery, host: &Host) -> Option<&'r Match> {
    routes.matches.iter().find(|one| {
        fits_path(&one.path, path.path())
            && one.method.as_ref().is_none_or(|method| *method == parts.method)
            && one.headers.iter().all(|(name, value)| fits_header(name, value, &parts.headers, host))
            && one.query.iter().all(|(name, value)| fits_query(name, value, path.query()))
    })
}

fn fits_path(wanted: &PathMatch, path: &str) -> bool {
    match wanted {
        PathMatch::Exact(exact) => exact == path,
        PathMatch::Prefix(prefix) => {
            // By element: what follows the prefix is nothing or begins with a slash.
            path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        PathMatch::Regex(regex) => regex.is_match(path),
    }
}

fn fits_value(wanted: &ValueMatch, value: &str) -> bool {
    match wanted {
        ValueMatch::Exact(exact) => exact == value,
        ValueMatch::Regex(regex) => regex.is_match(value),
    }
}

/// A header that was sent several times is one list (RFC 9110, section 5.3).
fn fits_header(name: &HeaderName, wanted: &ValueMatch, headers: &HeaderMap, host: &Host) -> bool {
    if name == HOST {
        return fits_value(wanted, host.as_str());
    }
    let mut values = headers.get_all(name).iter();
    let Some(first) = values.next() else { return false };
    let mut text = Cow::Borrowed(match first.to_str() {
        Ok(text) => text,
        Err(_) => return false,
    });
    for value in values {
        let Ok(more) = value.to_str() else { return false };
        let joined = text.to_mut();
        joined.push_str(", ");
        joined.push_str(more);
    }
    fits_value(wanted, &text)
}

/// Of a parameter that was sent several times the first counts.
fn fits_query(name: &str, wanted: &ValueMatch, query: Option<&str>) -> bool {
    let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    let mut pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.find(|(key, _)| decoded(key) == name).is_some_and(|(_, value)| fits_value(wanted, &decoded(value)))
}

/// `application/x-www-form-urlencoded`, as browsers write queries.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let mut ahead = rest.clone();
                let pair = (ahead.next().and_then(nibble), ahead.next().and_then(nibble));
                match pair {
                    (Some(high), Some(low)) => {
                        bytes.push(high << 4 | low);
                        rest = ahead;
                    }
                    _ => bytes.push(b'%'),
                }
            }
            other => bytes.push(other),
        }
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

fn nibble(byte: u8) -> Option<u8> {
    (byte as char).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}
