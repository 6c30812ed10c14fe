//! What decisions cost beside Cedar's own `Authorizer` over the whole set: `make bench-policy`.
//!
//! Both sides answer the same requests over the same policies in one process, in rounds that alternate; the figures are
//! medians of the rounds. Cedar gets its entities ready-made; a request is built by both, because both have to.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a measurement")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cedar_policy::{
    Authorizer, Context, Decision as Cedar, Entities, Entity, EntityUid, Policy, PolicyId, PolicySet,
    RestrictedExpression as Expr,
};
use signet_policy::{Action, Bundle, BundleSource, Net, Principal, Request};

const ROUNDS: usize = 7;
/// Callers of the service that is asked about: what one sidecar needs of the whole set.
const CALLERS: usize = 50;

struct Shape {
    name: &'static str,
    when: &'static str,
}

const SHAPES: [Shape; 3] = [
    Shape { name: "no context", when: "" },
    Shape { name: "reads path and port", when: "when { context.path like \"/p/*\" && context.net.dst_port == 80 }" },
    Shape {
        name: "reads address and clock",
        when: "when { context.net.src_ip.isInRange(ip(\"10.0.0.0/8\")) && context.clock.now > datetime(\"1970-01-01\") }",
    },
];

/// Policy `n` lets caller `n` of 50 callers read service `n / 50`.
fn policy(n: usize, when: &str) -> String {
    let (caller, service) = (n % CALLERS, n / CALLERS);
    format!(
        "@id(\"p{n}\") permit(principal == Mesh::Workload::\"spiffe://a.b/ns/n/sa/w{caller}\", \
         action == Mesh::Action::\"http:GET\", resource in Mesh::Service::\"a.b/n/s{service}\") {when};\n"
    )
}

fn compile(size: usize, when: &str) -> (Arc<Bundle>, Duration) {
    let text: String = (0..size).map(|n| policy(n, when)).collect();
    let files = [("signet.yaml", "version: 1\n".to_owned()), ("policies/all.cedar", text)];
    let files: BTreeMap<String, String> = files.into_iter().map(|(path, text)| (path.to_owned(), text)).collect();
    let source = BundleSource { commit: "c".into(), signer: "s".into(), files };
    let started = Instant::now();
    let bundle = Bundle::compile(&source).unwrap();
    (Arc::new(bundle), started.elapsed())
}

fn uid(text: &str) -> EntityUid {
    text.parse().unwrap()
}

fn entities() -> Entities {
    let text = |s: &str| Expr::new_string(s.to_owned());
    let reference = |s: &str| Expr::new_entity_uid(uid(s));
    let plain = |id: &str, parent: Option<&str>| Entity::new_no_attrs(uid(id), parent.into_iter().map(uid).collect());
    let mut all = vec![
        plain("Mesh::TrustDomain::\"a.b\"", None),
        plain("Mesh::Cluster::\"a.b\"", Some("Mesh::TrustDomain::\"a.b\"")),
        plain("Mesh::Namespace::\"a.b/n\"", Some("Mesh::Cluster::\"a.b\"")),
        plain("Mesh::ServiceAccount::\"a.b/n/w7\"", Some("Mesh::Namespace::\"a.b/n\"")),
    ];
    let workload = [
        ("trust_domain", text("a.b")),
        ("cluster", text("a.b")),
        ("namespace", text("n")),
        ("service_account", text("w7")),
        ("env", reference("Mesh::Env::\"prod\"")),
    ];
    let service = [
        ("namespace", text("n")),
        ("env", reference("Mesh::Env::\"prod\"")),
        ("data_class", reference("Mesh::DataClass::\"internal\"")),
    ];
    let with = |id: &str, attributes: &[(&str, Expr)], parent: &str| {
        let attributes = attributes.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
        Entity::new(uid(id), attributes, [uid(parent)].into()).unwrap()
    };
    all.push(with("Mesh::Workload::\"spiffe://a.b/ns/n/sa/w7\"", &workload, "Mesh::ServiceAccount::\"a.b/n/w7\""));
    all.push(with("Mesh::Service::\"a.b/n/s0\"", &service, "Mesh::Namespace::\"a.b/n\""));
    Entities::from_entities(all, None).unwrap()
}

fn context(path: &str) -> Context {
    let text = |s: &str| Expr::new_string(s.to_owned());
    let net = [
        ("src_ip", Expr::new_ip("10.0.0.1")),
        ("src_cluster", text("a.b")),
        ("dst_cluster", text("a.b")),
        ("dst_port", Expr::new_long(80)),
    ];
    let clock = [
        ("now", Expr::new_datetime("2026-01-07T12:00:00.000Z")),
        ("minute_of_day", Expr::new_long(720)),
        ("weekday", Expr::new_long(3)),
    ];
    let record = |fields: Vec<(&str, Expr)>| Expr::new_record(fields.into_iter().map(|(k, v)| (k.to_owned(), v)));
    let pairs = [
        ("net", record(net.to_vec()).unwrap()),
        ("clock", record(clock.to_vec()).unwrap()),
        ("method", text("GET")),
        ("path", text(path)),
        ("host", text("s0")),
    ];
    Context::from_pairs(pairs.map(|(k, v)| (k.to_owned(), v))).unwrap()
}

fn request(principal: &'static str, path: &'static str) -> Request<'static> {
    Request {
        principal: Principal::Workload(principal),
        service: "a.b/n/s0",
        action: Action::Http { method: "GET", path, host: "s0" },
        net: Net {
            src_ip: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
            src_cluster: "a.b",
            dst_cluster: "a.b",
            dst_port: 80,
        },
        end_user: None,
        break_glass: None,
        time_us: 1_767_787_200_000_000,
    }
}

/// Nanoseconds of one call, over at least 20 ms.
fn time(mut call: impl FnMut(usize)) -> f64 {
    let mut calls = 16;
    loop {
        let started = Instant::now();
        (0..calls).for_each(&mut call);
        let taken = started.elapsed();
        if taken >= Duration::from_millis(20) {
            return taken.as_nanos() as f64 / calls as f64;
        }
        calls *= 2;
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap_or("");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn main() {
    println!("| policies | shape | Cedar us | afresh us | uncached us | cached ns | slice ns | x Cedar | load ms |");
    println!("|---|---|---|---|---|---|---|---|---|");
    let before = resident_kib();
    let small = compile(CALLERS, SHAPES[1].when).0;
    let resident = resident_kib().saturating_sub(before);
    let entities = entities();
    let authorizer = Authorizer::new();
    // More paths than are remembered, so that each decision that reads one is made anew.
    let paths: Vec<&'static str> = (0..1024).map(|n| &*Box::leak(format!("/p/{n}").into_boxed_str())).collect();
    for size in [10, 1_000, 10_000] {
        for Shape { name, when } in SHAPES {
            let (bundle, load) = compile(size, when);
            let mut set = PolicySet::new();
            for n in 0..size {
                set.add(Policy::parse(Some(PolicyId::new(format!("p{n}"))), policy(n, when)).unwrap()).unwrap();
            }
            let (who, action) = (uid("Mesh::Workload::\"spiffe://a.b/ns/n/sa/w7\""), uid("Mesh::Action::\"http:GET\""));
            let what = uid("Mesh::Service::\"a.b/n/s0\"");
            let cedar = |n: usize| {
                let context = context(paths[n % paths.len()]);
                let asked = cedar_policy::Request::new(who.clone(), action.clone(), what.clone(), context, None);
                authorizer.is_authorized(&asked.unwrap(), &set, &entities)
            };
            let asked = |n: usize| request("spiffe://a.b/ns/n/sa/w7", paths[n % paths.len()]);
            assert_eq!(cedar(0).decision(), Cedar::Allow);
            assert!(bundle.decide(&asked(0)).is_allowed());
            let slice = bundle.slice(Principal::Workload("spiffe://a.b/ns/n/sa/w7"), "a.b/n/s0");
            let mut rounds: [Vec<f64>; 5] = Default::default();
            for _ in 0..ROUNDS {
                rounds[0].push(time(|n| drop(black_box(cedar(n)))));
                rounds[1].push(time(|n| drop(black_box(bundle.decide_afresh(&asked(n))))));
                rounds[2].push(time(|n| drop(black_box(slice.decide_anew(&asked(n))))));
                rounds[3].push(time(|n| drop(black_box(bundle.decide(&asked(n % 4))))));
                rounds[4].push(time(|n| drop(black_box(slice.decide(&asked(n % 4))))));
            }
            let [cedar, afresh, uncached, cached, sliced] = rounds.map(median);
            println!(
                "| {size} | {name} | {:.1} | {:.2} | {:.2} | {cached:.0} | {sliced:.0} | {:.0} | {:.0} |",
                cedar / 1e3,
                afresh / 1e3,
                uncached / 1e3,
                cedar / uncached,
                load.as_secs_f64() * 1e3
            );
        }
    }
    println!("\n{CALLERS} policies compiled take {resident} KiB resident, the engine's own tables included.");
    drop(small);
}
