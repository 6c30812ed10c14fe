//! The request that a record tells of, as the policy engine takes it.

use std::net::{IpAddr, SocketAddr};

use signet_policy::{Action, BreakGlass, Claims, Net, Principal, Request};
use signet_spool::Record;

/// What the record says, ready to be borrowed by a request.
pub(super) struct Facts<'a> {
    record: &'a Record,
    /// gRPC service and method.
    call: Option<(&'a str, &'a str)>,
    /// Of the end user; the name of the claim that is not there any more.
    claims: Result<Option<Claims>, &'static str>,
    /// The grant that covered the call; the name of what is not there of it.
    break_glass: Result<Option<BreakGlass>, &'static str>,
}

impl<'a> Facts<'a> {
    pub(super) fn of(record: &'a Record) -> Self {
        let named = |name: &str| value(record, name);
        let call = match (
            named("service").or_else(|| named("grpc_service")),
            named("method").or_else(|| named("grpc_method")),
        ) {
            (Some(service), Some(method)) => Some((service, method)),
            _ => record.path.as_deref().and_then(|path| path.trim_start_matches('/').rsplit_once('/')),
        };
        let pairs = || record.context.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let (claims, break_glass) = (Claims::from_pairs(pairs()), BreakGlass::from_pairs(pairs()));
        Self { record, call, claims, break_glass }
    }

    /// The request, or why it cannot be made.
    pub(super) fn request(&self) -> Result<Request<'_>, String> {
        let record = self.record;
        let named = |name: &str| value(record, name);
        let absent = |what: &str| {
            if record.erased.is_empty() {
                format!("the record does not say the {what}")
            } else {
                format!("the {what} was erased on request")
            }
        };
        let sni = named("sni");
        let action = match record.action.as_str() {
            "grpc:call" => {
                let (service, method) = self.call.ok_or_else(|| absent("gRPC method"))?;
                Action::Grpc { service, method }
            }
            "tcp:connect" => Action::TcpConnect { sni },
            "gateway:forward" => Action::GatewayForward { sni },
            "egress:connect" => Action::EgressConnect { sni },
            http => {
                let declared =
                    http.strip_prefix("http:").ok_or_else(|| format!("`{http}` is no action of the mesh"))?;
                let path = named("path").or(record.path.as_deref()).ok_or_else(|| absent("path"))?;
                let method = named("method").unwrap_or(declared);
                Action::Http { method, path, host: named("host").unwrap_or_default() }
            }
        };
        let src_ip: IpAddr = match named("src_ip") {
            Some(ip) => ip.parse().map_err(|_| format!("`{ip}` is no address"))?,
            None => record
                .source_address
                .as_deref()
                .and_then(|address| address.parse::<SocketAddr>().ok())
                .map(|address| address.ip())
                .ok_or_else(|| absent("caller's address"))?,
        };
        let service = record.destination_service.as_str();
        let principal = record.source_spiffe_id.as_deref();
        let domain =
            |id: &'a str| id.strip_prefix("spiffe://").and_then(|rest| rest.split('/').next()).unwrap_or_default();
        let dst_port = named("dst_port").ok_or_else(|| absent("port"))?;
        Ok(Request {
            principal: principal.map_or(Principal::Unauthenticated, Principal::Workload),
            service,
            action,
            net: Net {
                src_ip,
                src_cluster: named("src_cluster").unwrap_or_else(|| principal.map(domain).unwrap_or_default()),
                dst_cluster: named("dst_cluster").unwrap_or_else(|| service.split('/').next().unwrap_or_default()),
                dst_port: dst_port.parse().map_err(|_| format!("`{dst_port}` is no port"))?,
            },
            end_user: self.claims.as_ref().map_err(|name| absent(&format!("end user's `{name}`")))?.as_ref(),
            break_glass: self.break_glass.as_ref().map_err(|name| absent(&format!("`{name}`")))?.as_ref(),
            time_us: record.time_us,
        })
    }
}

fn value<'a>(record: &'a Record, name: &str) -> Option<&'a str> {
    // A personal value that was erased reads as empty.
    let found = record.context.iter().find(|(key, _)| key == name || key.strip_prefix("net.") == Some(name));
    found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
}
