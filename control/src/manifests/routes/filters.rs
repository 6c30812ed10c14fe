//! Filters of a rule or of a reference to a service, and which may stand together.

use signet_api::control as wire;

use super::check::{backend, unsupported};
use super::{Filter, Header, HeaderModifier, HttpMatch, PathModifier, RequestMirror, RequestRedirect, UrlRewrite};
use crate::manifests::ManifestError;
use crate::manifests::place::Place;
use crate::manifests::resolve::{is_label, port_number};
use crate::model::{Backend, ServiceName};

/// Fields that framing, routing and the mesh's own statements rest on: no filter changes them.
const UNTOUCHABLE: [&str; 11] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "keep-alive",
    "proxy-connection",
    "http2-settings",
    "expect",
];
const MAX_HEADERS: usize = 16;

/// The filters of one list.
#[derive(Default)]
pub(super) struct Filters {
    pub(super) request_headers: Option<wire::HeaderModifier>,
    pub(super) response_headers: Option<wire::HeaderModifier>,
    pub(super) redirect: Option<wire::Redirect>,
    pub(super) rewrite: Option<wire::Rewrite>,
    pub(super) mirrors: Vec<(Backend, u32, u32)>,
}

pub(super) fn read(place: &Place, at: &str, written: &[Filter], route: &ServiceName) -> Result<Filters, ManifestError> {
    let mut filters = Filters::default();
    for (index, filter) in written.iter().enumerate() {
        let at = format!("{at}[{index}]");
        let missing = |field: &str| {
            let message = format!("is missing, though the filter's type is `{}`", filter.kind);
            place.error(&format!("{at}.{field}"), message)
        };
        let twice = || place.error(&format!("{at}.type"), format!("`{}` may stand only once in a list", filter.kind));
        let replaced = match filter.kind.as_str() {
            "RequestHeaderModifier" => {
                let written =
                    filter.request_header_modifier.as_ref().ok_or_else(|| missing("requestHeaderModifier"))?;
                let read = modifier(place, &format!("{at}.requestHeaderModifier"), written)?;
                filters.request_headers.replace(read).is_some()
            }
            "ResponseHeaderModifier" => {
                let written =
                    filter.response_header_modifier.as_ref().ok_or_else(|| missing("responseHeaderModifier"))?;
                let read = modifier(place, &format!("{at}.responseHeaderModifier"), written)?;
                filters.response_headers.replace(read).is_some()
            }
            "RequestMirror" => {
                let written = filter.request_mirror.as_ref().ok_or_else(|| missing("requestMirror"))?;
                filters.mirrors.push(mirror(place, &format!("{at}.requestMirror"), written, route)?);
                false
            }
            "RequestRedirect" => {
                let written = filter.request_redirect.as_ref().ok_or_else(|| missing("requestRedirect"))?;
                filters.redirect.replace(redirect(place, &format!("{at}.requestRedirect"), written)?).is_some()
            }
            "URLRewrite" => {
                let written = filter.url_rewrite.as_ref().ok_or_else(|| missing("urlRewrite"))?;
                filters.rewrite.replace(rewrite(place, &format!("{at}.urlRewrite"), written)?).is_some()
            }
            // Gateway API: a filter that is not understood must not be skipped.
            other => {
                let instead =
                    "RequestHeaderModifier, ResponseHeaderModifier, RequestMirror, RequestRedirect or URLRewrite";
                let mut error = unsupported(place, &format!("{at}.type"), instead);
                error.message = format!("`{other}` {}", error.message);
                return Err(error);
            }
        };
        if replaced {
            return Err(twice());
        }
    }
    Ok(filters)
}

impl Filters {
    /// What the Gateway API says may not stand together in a rule of an HTTPRoute.
    pub(super) fn fits_http(
        &self,
        place: &Place,
        rule: &str,
        matches: &[HttpMatch],
        backends: bool,
    ) -> Result<(), ManifestError> {
        if self.redirect.is_some() && self.rewrite.is_some() {
            return Err(place.error(&format!("{rule}.filters"), "holds both RequestRedirect and URLRewrite; keep one"));
        }
        if self.redirect.is_some() && backends {
            let message = "stands beside a RequestRedirect, which forwards nothing; keep one";
            return Err(place.error(&format!("{rule}.backendRefs"), message));
        }
        let paths = [
            self.redirect.as_ref().and_then(|redirect| redirect.path.as_ref()),
            self.rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref()),
        ];
        let by_prefix = |path: &&wire::PathModifier| matches!(path.kind, Some(wire::path_modifier::Kind::Prefix(_)));
        if paths.iter().flatten().any(by_prefix) {
            let prefixes = |written: &HttpMatch| {
                let kind = written.path.as_ref().and_then(|path| path.kind.as_deref());
                kind.is_none_or(|kind| kind == "PathPrefix")
            };
            if !matches.iter().all(prefixes) {
                let message = "`ReplacePrefixMatch` needs a PathPrefix in every match of the rule";
                return Err(place.error(&format!("{rule}.filters"), message));
            }
        }
        Ok(())
    }

    pub(super) fn fits_grpc(&self, place: &Place, rule: &str) -> Result<(), ManifestError> {
        if self.redirect.is_some() || self.rewrite.is_some() {
            let message = "a GRPCRoute takes RequestHeaderModifier, ResponseHeaderModifier and RequestMirror alone";
            return Err(place.error(&format!("{rule}.filters"), message));
        }
        Ok(())
    }

    pub(super) fn fits_backend(&self, place: &Place, backend: &str) -> Result<(), ManifestError> {
        if self.redirect.is_some() || self.rewrite.is_some() || !self.mirrors.is_empty() {
            let message = "a reference takes RequestHeaderModifier and ResponseHeaderModifier alone; \
                           move the filter to the rule";
            return Err(place.error(&format!("{backend}.filters"), message));
        }
        Ok(())
    }
}

/// Lower case.
pub(super) fn header_name(place: &Place, at: &str, name: &str) -> Result<String, ManifestError> {
    match http::HeaderName::from_bytes(name.as_bytes()) {
        Ok(name) => Ok(name.as_str().to_owned()),
        Err(_) => Err(place.error(at, format!("`{name}` is not the name of a header (RFC 9110)"))),
    }
}

fn modifier(place: &Place, at: &str, written: &HeaderModifier) -> Result<wire::HeaderModifier, ManifestError> {
    let list = |field: &str, headers: &[Header]| {
        let mut read: Vec<wire::Header> = Vec::new();
        for (index, header) in headers.iter().enumerate() {
            let at = format!("{at}.{field}[{index}]");
            let name = changeable(place, &format!("{at}.name"), &header.name)?;
            if http::HeaderValue::from_str(&header.value).is_err() {
                return Err(place.error(&format!("{at}.value"), "holds bytes that no header value may hold (RFC 9110)"));
            }
            // Gateway API: of entries with an equivalent name only the first counts.
            if !read.iter().any(|known| known.name == name) {
                read.push(wire::Header { name, value: header.value.clone() });
            }
        }
        if read.len() > MAX_HEADERS {
            return Err(place.error(&format!("{at}.{field}"), format!("has more than {MAX_HEADERS} entries")));
        }
        Ok(read)
    };
    let (set, add) = (list("set", &written.set)?, list("add", &written.add)?);
    let mut remove = Vec::new();
    for (index, name) in written.remove.iter().enumerate() {
        remove.push(changeable(place, &format!("{at}.remove[{index}]"), name)?);
    }
    Ok(wire::HeaderModifier { set, add, remove })
}

fn changeable(place: &Place, at: &str, name: &str) -> Result<String, ManifestError> {
    let name = header_name(place, at, name)?;
    if UNTOUCHABLE.contains(&name.as_str()) || name.starts_with("x-signet-") {
        let next = if name == "host" { "use URLRewrite with `hostname`" } else { "leave it out" };
        return Err(place.error(at, format!("`{name}` belongs to the mesh and cannot be changed; {next}")));
    }
    Ok(name)
}

fn mirror(
    place: &Place,
    at: &str,
    written: &RequestMirror,
    route: &ServiceName,
) -> Result<(Backend, u32, u32), ManifestError> {
    let backend = backend(place, &format!("{at}.backendRef"), &written.backend_ref, route)?;
    let (numerator, denominator, field) = match (written.percent, written.fraction) {
        (Some(_), Some(_)) => return Err(place.error(at, "gives both `percent` and `fraction`; keep one")),
        (None, None) => (100, 100, "percent"),
        (Some(percent), None) => (percent, 100, "percent"),
        (None, Some(fraction)) => (fraction.numerator, fraction.denominator.unwrap_or(100), "fraction"),
    };
    match (u32::try_from(numerator), u32::try_from(denominator)) {
        (Ok(numerator), Ok(denominator)) if denominator > 0 && numerator <= denominator => {
            Ok((backend, numerator, denominator))
        }
        _ => Err(place.error(&format!("{at}.{field}"), format!("`{numerator}` of `{denominator}` is not a share"))),
    }
}

fn hostname(place: &Place, at: &str, written: Option<&String>) -> Result<String, ManifestError> {
    match written {
        None => Ok(String::new()),
        Some(name) if name.len() <= 253 && name.split('.').all(is_label) => Ok(name.clone()),
        Some(name) => Err(place.error(&format!("{at}.hostname"), format!("`{name}` is not a hostname (RFC 1123)"))),
    }
}

fn path(place: &Place, at: &str, written: Option<&PathModifier>) -> Result<Option<wire::PathModifier>, ManifestError> {
    use wire::path_modifier::Kind;
    let Some(written) = written else { return Ok(None) };
    let (field, value) = match written.kind.as_str() {
        "ReplaceFullPath" => ("replaceFullPath", written.replace_full_path.as_ref()),
        "ReplacePrefixMatch" => ("replacePrefixMatch", written.replace_prefix_match.as_ref()),
        other => {
            let message = format!("`{other}` is neither ReplaceFullPath nor ReplacePrefixMatch");
            return Err(place.error(&format!("{at}.path.type"), message));
        }
    };
    let at = format!("{at}.path.{field}");
    let value = value.ok_or_else(|| place.error(&at, "is missing, though the type asks for it"))?;
    let normal = value.is_empty() || signet_policy::normalise_path(value).is_ok_and(|normal| normal == *value);
    if !normal || (value.is_empty() && field == "replaceFullPath") {
        return Err(place.error(&at, format!("`{value}` is not a normal, absolute path")));
    }
    let kind = if field == "replaceFullPath" { Kind::Full(value.clone()) } else { Kind::Prefix(value.clone()) };
    Ok(Some(wire::PathModifier { kind: Some(kind) }))
}

fn redirect(place: &Place, at: &str, written: &RequestRedirect) -> Result<wire::Redirect, ManifestError> {
    let scheme = written.scheme.clone().unwrap_or_default();
    if !matches!(scheme.as_str(), "" | "http" | "https") {
        return Err(place.error(&format!("{at}.scheme"), format!("`{scheme}` is neither `http` nor `https`")));
    }
    let status = written.status_code.unwrap_or(302);
    let allowed = [301, 302, 303, 307, 308];
    let status = u32::try_from(status).ok().filter(|status| allowed.contains(status));
    Ok(wire::Redirect {
        scheme,
        hostname: hostname(place, at, written.hostname.as_ref())?,
        port: match written.port {
            None => 0,
            Some(port) => u32::from(port_number(place, &format!("{at}.port"), port)?),
        },
        status: status
            .ok_or_else(|| place.error(&format!("{at}.statusCode"), "is not one of 301, 302, 303, 307, 308"))?,
        path: path(place, at, written.path.as_ref())?,
    })
}

fn rewrite(place: &Place, at: &str, written: &UrlRewrite) -> Result<wire::Rewrite, ManifestError> {
    Ok(wire::Rewrite {
        hostname: hostname(place, at, written.hostname.as_ref())?,
        path: path(place, at, written.path.as_ref())?,
    })
}
