//! What of a call consistent hashing goes by.

use http::HeaderMap;
use http::header::COOKIE;

use crate::balance::hash;
use crate::snapshot::traffic::HashOn;

/// The hash of what `on` names. `None` when the call has none of it: then it goes to any endpoint.
pub(super) fn key(on: &HashOn, headers: &HeaderMap, query: Option<&str>) -> Option<u64> {
    match on {
        HashOn::Header(name) => headers.get(name).map(|value| hash(value.as_bytes())),
        HashOn::Cookie(name) => {
            let lines = headers.get_all(COOKIE).into_iter().filter_map(|line| line.to_str().ok());
            let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
            pairs.find(|(key, _)| key == name).map(|(_, value)| hash(value.as_bytes()))
        }
        HashOn::Query(name) => {
            let mut pairs = query?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
            pairs.find(|(key, _)| key == name).map(|(_, value)| hash(value.as_bytes()))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn what_is_named_is_hashed_wherever_it_stands_and_what_is_missing_is_not() {
        let mut headers = HeaderMap::new();
        headers.insert("x-account", HeaderValue::from_static("7"));
        headers.append(COOKIE, HeaderValue::from_static("a=1; session=7"));
        headers.append(COOKIE, HeaderValue::from_static("session=8;b=2"));
        let seven = Some(hash(b"7"));
        let on = |on: HashOn, query| key(&on, &headers, query);
        assert_eq!(on(HashOn::Header("x-account".parse().unwrap()), None), seven);
        assert_eq!(on(HashOn::Header("x-other".parse().unwrap()), None), None);
        assert_eq!(on(HashOn::Cookie("session".into()), None), seven, "the first of two");
        assert_eq!(on(HashOn::Cookie("b".into()), None), Some(hash(b"2")));
        assert_eq!(on(HashOn::Cookie("ses".into()), None), None);
        assert_eq!(on(HashOn::Query("account".into()), Some("x=1&account=7")), seven);
        assert_eq!(on(HashOn::Query("account".into()), Some("accounts=7")), None);
        assert_eq!(on(HashOn::Query("account".into()), None), None);
    }
}
