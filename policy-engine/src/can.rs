//! A request written by hand: what `signet can` and a repository's own tests ask. Facts that were not given get a
//! plausible value, and only those.

use std::net::{IpAddr, Ipv4Addr};

use thiserror::Error;

use crate::break_glass::BreakGlass;
use crate::bundle::Bundle;
use crate::claims::Claims;
use crate::entities::split_spiffe_id;
use crate::explain::Explanation;
use crate::path::{PathError, normalise_path};
use crate::request::{Action, Net, Principal, Request};
use crate::settings::split_id;

/// What is wrong with a question.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CanError {
    #[error(
        "`{0}` is no principal; write a SPIFFE ID, `<trust domain>/<namespace>/<service account>` or `unauthenticated`"
    )]
    Principal(String),
    #[error("`{0}` is no service; write `<trust domain>/<namespace>/<name>`")]
    Service(String),
    #[error(
        "`{0}` is no action; write `http:GET`, `GET`, `grpc:call`, `package.Service/Method`, `tcp:connect` or `gateway:forward`"
    )]
    Action(String),
    #[error("`grpc:call` needs a method; write `package.Service/Method` as the path")]
    GrpcMethod,
    #[error("the path `{path}` is refused: {error}")]
    Path { path: String, error: PathError },
}

/// The kinds of action with what belongs to them.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ask {
    Http { method: String, path: String },
    Grpc { service: String, method: String },
    Tcp,
    Gateway,
    Egress,
}

/// A request that owns its text. Set the public fields to say more than the defaults do.
#[derive(Clone, Debug)]
pub struct Question {
    principal: Option<String>,
    service: String,
    ask: Ask,
    /// Loopback by default.
    pub src_ip: IpAddr,
    /// The principal's trust domain by default.
    pub src_cluster: String,
    /// The service's trust domain by default.
    pub dst_cluster: String,
    /// 80 for HTTP, 50051 for gRPC, 443 for egress, 5432 for TCP by default: ports of the demo, not of your mesh.
    pub dst_port: u16,
    /// The service's host name in its cluster by default.
    pub host: String,
    pub sni: Option<String>,
    /// None by default.
    pub end_user: Option<Claims>,
    /// None by default.
    pub break_glass: Option<BreakGlass>,
    pub time_us: i64,
}

impl Question {
    /// Reads the words of a question; `path` is a request path, or the gRPC method as `package.Service/Method`.
    pub fn new(
        principal: &str,
        action: &str,
        service: &str,
        path: Option<&str>,
        time_us: i64,
    ) -> Result<Self, CanError> {
        let bad_principal = || CanError::Principal(principal.to_owned());
        let (id, src_cluster) = match (principal, split_id(principal)) {
            ("unauthenticated", _) => (None, String::new()),
            (_, Some((td, ns, sa))) => (Some(format!("spiffe://{td}/ns/{ns}/sa/{sa}")), td.to_owned()),
            _ => {
                let (td, _) = split_spiffe_id(principal).ok_or_else(bad_principal)?;
                (Some(principal.to_owned()), td.to_owned())
            }
        };
        let ask = read_action(action, path)?;
        let (dst_cluster, host) = match (split_id(service), &ask) {
            (Some((td, ns, name)), _) => (td.to_owned(), format!("{name}.{ns}.svc.cluster.local")),
            (None, Ask::Egress) => (src_cluster.clone(), service.to_owned()),
            (None, _) => return Err(CanError::Service(service.to_owned())),
        };
        Ok(Self {
            principal: id,
            service: service.to_owned(),
            dst_port: match ask {
                Ask::Http { .. } => 80,
                Ask::Grpc { .. } => 50051,
                Ask::Tcp | Ask::Gateway => 5432,
                Ask::Egress => 443,
            },
            ask,
            src_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            src_cluster,
            dst_cluster,
            host,
            sni: None,
            end_user: None,
            break_glass: None,
            time_us,
        })
    }

    pub fn request(&self) -> Request<'_> {
        let sni = self.sni.as_deref();
        Request {
            principal: self.principal.as_deref().map_or(Principal::Unauthenticated, Principal::Workload),
            service: &self.service,
            action: match &self.ask {
                Ask::Http { method, path } => Action::Http { method, path, host: &self.host },
                Ask::Grpc { service, method } => Action::Grpc { service, method },
                Ask::Tcp => Action::TcpConnect { sni },
                Ask::Gateway => Action::GatewayForward { sni },
                Ask::Egress => Action::EgressConnect { sni },
            },
            net: Net {
                src_ip: self.src_ip,
                src_cluster: &self.src_cluster,
                dst_cluster: &self.dst_cluster,
                dst_port: self.dst_port,
            },
            end_user: self.end_user.as_ref(),
            break_glass: self.break_glass.as_ref(),
            time_us: self.time_us,
        }
    }
}

fn read_action(action: &str, path: Option<&str>) -> Result<Ask, CanError> {
    let method = action.strip_prefix("http:").unwrap_or(action);
    let is_method = !method.is_empty() && method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
    match action {
        "tcp:connect" => Ok(Ask::Tcp),
        "gateway:forward" => Ok(Ask::Gateway),
        "egress:connect" => Ok(Ask::Egress),
        "grpc:call" => path.and_then(read_grpc).ok_or(CanError::GrpcMethod),
        _ if is_method => {
            let path = path.unwrap_or("/");
            let path = path.split('?').next().unwrap_or(path);
            let normal = normalise_path(path).map_err(|error| CanError::Path { path: path.to_owned(), error })?;
            Ok(Ask::Http { method: method.to_owned(), path: normal.into_owned() })
        }
        _ => read_grpc(action).ok_or_else(|| CanError::Action(action.to_owned())),
    }
}

fn read_grpc(text: &str) -> Option<Ask> {
    let (service, method) = text.strip_prefix('/').unwrap_or(text).split_once('/')?;
    let is_name = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_'));
    (is_name(service) && is_name(method)).then(|| Ask::Grpc { service: service.to_owned(), method: method.to_owned() })
}

impl Bundle {
    /// Whether `principal` may do `action` on `service`, with the explanation either way.
    pub fn can(
        &self,
        principal: &str,
        action: &str,
        service: &str,
        path: Option<&str>,
        time_us: i64,
    ) -> Result<Explanation, CanError> {
        let question = Question::new(principal, action, service, path, time_us)?;
        Ok(self.explain(&question.request()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const WEB: &str = "spiffe://a.b/ns/bank/sa/web";

    #[test]
    fn words_become_requests() {
        let table = [
            (
                "http:GET",
                Some("/a//b?x=1"),
                Action::Http { method: "GET", path: "/a/b", host: "s.n.svc.cluster.local" },
            ),
            ("PATCH", None, Action::Http { method: "PATCH", path: "/", host: "s.n.svc.cluster.local" }),
            ("grpc:call", Some("b.v1.P/Pay"), Action::Grpc { service: "b.v1.P", method: "Pay" }),
            ("b.v1.P/Pay", None, Action::Grpc { service: "b.v1.P", method: "Pay" }),
            ("tcp:connect", None, Action::TcpConnect { sni: None }),
            ("gateway:forward", None, Action::GatewayForward { sni: None }),
        ];
        for (action, path, want) in table {
            let question = Question::new(WEB, action, "c.d/n/s", path, 0).unwrap();
            let request = question.request();
            assert_eq!((request.action, request.principal), (want, Principal::Workload(WEB)));
            assert_eq!((request.net.src_cluster, request.net.dst_cluster), ("a.b", "c.d"));
        }
        let short = Question::new("a.b/bank/web", "GET", "c.d/n/s", None, 0).unwrap();
        assert_eq!(short.request().principal, Principal::Workload(WEB));
        let nobody = Question::new("unauthenticated", "GET", "c.d/n/s", None, 0).unwrap();
        assert_eq!(nobody.request().principal, Principal::Unauthenticated);
    }

    #[test]
    fn unreadable_words_are_named() {
        let error = |p, a, s, path| Question::new(p, a, s, path, 0).unwrap_err();
        assert_eq!(error("web", "GET", "c.d/n/s", None), CanError::Principal("web".into()));
        assert_eq!(error(WEB, "GET", "ledger", None), CanError::Service("ledger".into()));
        assert_eq!(error(WEB, "fly", "c.d/n/s", None), CanError::Action("fly".into()));
        assert_eq!(error(WEB, "grpc:call", "c.d/n/s", None), CanError::GrpcMethod);
        let path = CanError::Path { path: "/../x".into(), error: PathError::Traversal };
        assert_eq!(error(WEB, "GET", "c.d/n/s", Some("/../x")), path);
    }
}
