//! Policies that read an end user's claims, and that one user's answer is never given to another.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use signet_policy::{Action, Bundle, BundleSource, Claims, Effect, Net, Principal, Request};

const WEB: &str = "spiffe://a.b/ns/bank/sa/web";
const POLICY: &str = r#"
@id("tellers")
permit(principal, action in [Mesh::Action::"read", Mesh::Action::"grpc:call"], resource)
when { context has jwt && context.jwt.groups.contains("tellers") && context.jwt.iss == "https://login" };
@id("not-mallory")
forbid(principal, action in [Mesh::Action::"read", Mesh::Action::"grpc:call"], resource)
when { context has jwt && context.jwt.sub == "mallory" };
"#;

fn bundle() -> Arc<Bundle> {
    let files = [("signet.yaml", "version: 1\n"), ("policies/p.cedar", POLICY)];
    let files = files.into_iter().map(|(p, t)| (p.to_owned(), t.to_owned())).collect::<BTreeMap<_, _>>();
    Arc::new(Bundle::compile(&BundleSource { commit: "c".to_owned(), signer: "s".to_owned(), files }).unwrap())
}

fn user(issuer: &str, subject: &str, group: &str) -> Claims {
    Claims {
        issuer: issuer.to_owned(),
        subject: subject.to_owned(),
        groups: [group.to_owned()].into(),
        ..Claims::default()
    }
}

fn request<'a>(action: Action<'a>, end_user: Option<&'a Claims>) -> Request<'a> {
    let net = Net { src_ip: IpAddr::V4(Ipv4Addr::LOCALHOST), src_cluster: "a.b", dst_cluster: "a.b", dst_port: 80 };
    Request {
        principal: Principal::Workload(WEB),
        service: "a.b/bank/ledger",
        action,
        net,
        end_user,
        break_glass: None,
        time_us: 0,
    }
}

#[test]
fn claims_decide_and_the_answer_is_not_remembered_for_somebody_else() {
    let bundle = bundle();
    let slice = bundle.slice(Principal::Workload(WEB), "a.b/bank/ledger");
    let (teller, clerk) = (user("https://login", "alice", "tellers"), user("https://login", "alice", "clerks"));
    let (forged, mallory) = (user("https://other", "alice", "tellers"), user("https://login", "mallory", "tellers"));
    let cases = [
        (Some(&teller), Effect::Allow),
        (None, Effect::Deny),
        (Some(&clerk), Effect::Deny),
        (Some(&forged), Effect::Deny),
        (Some(&mallory), Effect::Deny),
        (Some(&teller), Effect::Allow),
    ];
    let actions =
        [Action::Http { method: "GET", path: "/", host: "h" }, Action::Grpc { service: "b.P", method: "Pay" }];
    for action in actions {
        // Twice, so that what is remembered answers too.
        for (claims, expected) in cases.iter().chain(&cases) {
            let request = request(action, *claims);
            assert_eq!(bundle.decide(&request).effect, *expected, "{claims:?}");
            assert_eq!(slice.decide(&request).effect, *expected, "{claims:?}");
            assert_eq!(bundle.decide_afresh(&request).effect, *expected, "{claims:?}");
        }
    }
}
