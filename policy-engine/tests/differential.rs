//! The engine against Cedar's own `Authorizer` over the whole set, on random policies and requests.
//!
//! Policies are drawn over few names, so that scopes, hierarchies and conditions hit often; some of them err. The
//! reference knows neither index nor slice nor cache nor the narrowed context: it gets every policy, every entity and
//! the full context, built here from the schema's documentation.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use cedar_policy::{
    AuthorizationError, Authorizer, Context, Decision as Cedar, Entities, Entity, EntityUid, Policy, PolicyId,
    PolicySet, RestrictedExpression as Expr,
};
use proptest::prelude::*;
use proptest::sample::select;
use signet_policy::{
    Action, BreakGlass, Bundle, BundleSource, Decision, Effect, Needs, Net, Principal, Reason, Request,
};

const SETTINGS: &str = "version: 1
defaults: {env: staging, data_class: confidential}
teams: {red: {workloads: [a.b/n/x]}, blue: {workloads: [a.b/n/x, 'spiffe://a.b/signet/gateway']}}
workloads: {a.b/n/y: {env: dev, tags: {tier: gold}}}
services:
  a.b/n/s: {env: prod, data_class: restricted, teams: [red], tags: {tier: gold}}
  a.b/n/r: {routes: ['GET /p/{id}', 'POST /p', 'pkg.S/M']}
external_services: {ext: {host: e.x, data_class: restricted, teams: [red]}}
";

const PRINCIPALS: [&str; 7] = [
    "spiffe://a.b/ns/n/sa/x",
    "spiffe://a.b/ns/n/sa/y",
    "spiffe://a.b/ns/m/sa/x",
    "spiffe://c.d/ns/n/sa/x",
    "spiffe://a.b/signet/gateway",
    "spiffe://a.b/ns/n/proxy/x",
    "",
];
const SERVICES: [&str; 4] = ["a.b/n/s", "a.b/n/r", "a.b/m/t", "c.d/n/s"];

// ---- policies ----

fn scope(word: &'static str, kinds: &'static [&'static str], uids: &'static [&'static str]) -> BoxedStrategy<String> {
    prop_oneof![
        3 => Just(word.to_owned()),
        1 => select(kinds).prop_map(move |k| format!("{word} is {k}")),
        3 => select(uids).prop_map(move |u| format!("{word} == {u}")),
        4 => select(uids).prop_map(move |u| format!("{word} in {u}")),
        1 => (select(kinds), select(uids)).prop_map(move |(k, u)| format!("{word} is {k} in {u}")),
    ]
    .boxed()
}

fn conditions() -> BoxedStrategy<String> {
    // Conditions that hold under every action's context and for both kinds of resource, and some that err.
    let atom = select(
        &[
            "context.net.dst_port == 80",
            "context.net.src_cluster == \"a.b\"",
            "context.net.src_cluster == context.net.dst_cluster",
            "context.net.src_ip.isInRange(ip(\"10.0.0.0/8\"))",
            "context.net.src_ip.isIpv6()",
            "context.clock.minute_of_day < 720",
            "context.clock.weekday > 5",
            "context.clock.now < datetime(\"2000-01-01\")",
            "context has jwt",
            "context has sni && context.sni == \"x\"",
            // Valid for HTTP alone; where a policy's action is another, `valid` drops it.
            "context.path like \"/p*\"",
            "context.host == \"h\" && context.net.dst_port == 80",
            "context.method == \"GET\" || context.clock.minute_of_day > 700",
            "context has break_glass.ticket",
            "context has break_glass && context.break_glass.approvers.contains(\"ada\")",
            "context has break_glass && context.break_glass.until > datetime(\"1970-01-04\")",
            "resource.data_class == Mesh::DataClass::\"restricted\"",
            "resource in Mesh::Namespace::\"a.b/n\"",
            "principal in Mesh::Team::\"blue\"",
            "principal in Mesh::TrustDomain::\"a.b\"",
            "principal is Mesh::Workload && principal.env == Mesh::Env::\"dev\"",
            "principal is Mesh::Workload && principal.namespace == \"n\"",
            "principal is Mesh::Workload && principal.hasTag(\"tier\") && principal.getTag(\"tier\") == \"gold\"",
            // Overflows, which is an evaluation error that validation does not see.
            "(context.net.dst_port + 9223372036854775807) > 0",
            "(if context.net.dst_port == 443 then 9223372036854775807 + context.net.dst_port else 0) == 0",
        ][..],
    );
    let clause =
        (select(&["when", "unless"][..]), proptest::collection::vec(atom, 1..3), select(&[" && ", " || "][..]))
            .prop_map(|(word, atoms, joint)| {
                let atoms: Vec<String> = atoms.iter().map(|a| format!("({a})")).collect();
                format!("{word} {{ {} }}", atoms.join(joint))
            });
    prop_oneof![2 => Just(String::new()), 3 => clause].boxed()
}

fn policy() -> BoxedStrategy<(bool, bool, String)> {
    let principals = scope(
        "principal",
        &["Mesh::Workload", "Mesh::Unauthenticated"],
        &[
            "Mesh::Workload::\"spiffe://a.b/ns/n/sa/x\"",
            "Mesh::Workload::\"spiffe://a.b/signet/gateway\"",
            "Mesh::ServiceAccount::\"a.b/n/x\"",
            "Mesh::Namespace::\"a.b/n\"",
            "Mesh::Cluster::\"a.b\"",
            "Mesh::TrustDomain::\"a.b\"",
            "Mesh::TrustDomain::\"c.d\"",
            "Mesh::Team::\"red\"",
        ],
    );
    let resources = scope(
        "resource",
        &["Mesh::Service", "Mesh::Route", "Mesh::ExternalService"],
        &[
            "Mesh::Service::\"a.b/n/s\"",
            "Mesh::Service::\"a.b/n/r\"",
            "Mesh::Route::\"a.b/n/r#GET /p/{id}\"",
            "Mesh::Namespace::\"a.b/n\"",
            "Mesh::TrustDomain::\"c.d\"",
            "Mesh::ExternalService::\"ext\"",
            "Mesh::Team::\"red\"",
        ],
    );
    let actions = select(
        &[
            "action",
            "action",
            "action in [Mesh::Action::\"read\"]",
            "action in Mesh::Action::\"write\"",
            "action == Mesh::Action::\"http:GET\"",
            "action == Mesh::Action::\"grpc:call\"",
            "action in [Mesh::Action::\"read\", Mesh::Action::\"http:GET\", Mesh::Action::\"tcp:connect\"]",
            "action == Mesh::Action::\"gateway:forward\"",
            "action == Mesh::Action::\"egress:connect\"",
        ][..],
    );
    let effect = prop_oneof![3 => Just("permit"), 1 => Just("forbid")];
    (effect, prop::bool::weighted(0.2), principals, actions, resources, conditions())
        .prop_map(|(effect, shadow, p, a, r, c)| (effect == "forbid", shadow, format!("{effect}({p}, {a}, {r}) {c};")))
        .boxed()
}

// ---- requests ----

#[derive(Clone, Debug)]
struct Asked {
    principal: &'static str,
    service: &'static str,
    action: usize,
    path: &'static str,
    ip: IpAddr,
    port: u16,
    src_cluster: &'static str,
    time_us: i64,
    host: &'static str,
    grant: Option<BreakGlass>,
}

const ACTIONS: [&str; 8] = ["GET", "HEAD", "POST", "BREW", "grpc", "tcp", "gateway", "egress"];
/// Midnight before and after 1 January 1970 is a Thursday: a few minutes of several days.
const MINUTES: [i64; 6] = [0, 719, 720, 4_320, 29_000_003, 29_453_760];

fn asked() -> impl Strategy<Value = Asked> {
    let ips = ["10.1.2.3", "192.168.0.1", "::1"].map(|ip| ip.parse().unwrap());
    (
        select(&PRINCIPALS[..]),
        select(&SERVICES[..]),
        0..ACTIONS.len(),
        select(&["/p/1", "/p", "/other"][..]),
        select(ips.to_vec()),
        select(&[80u16, 443][..]),
        select(&["a.b", "c.d"][..]),
        // Few minutes, many instants in each: what the cache may and may not take for the same.
        (select(&MINUTES[..]), 0i64..60_000_000),
        select(&["h", "g"][..]),
        prop::option::weighted(0.3, grants()),
    )
        .prop_map(|(principal, service, action, path, ip, port, src_cluster, (minute, within), host, grant)| {
            Asked {
                principal: if ACTIONS[action] == "egress" && principal.is_empty() { PRINCIPALS[0] } else { principal },
                service: if ACTIONS[action] == "egress" { "ext" } else { service },
                action,
                path,
                ip,
                port,
                src_cluster,
                time_us: minute * 60_000_000 + within,
                host,
                grant,
            }
        })
}

/// Some end within a minute of a request, before it or after.
fn grants() -> impl Strategy<Value = BreakGlass> {
    let ends = (select(&MINUTES[..]), 0i64..60_000).prop_map(|(minute, ms)| minute * 60_000_000 + ms * 1_000);
    (select(&["INC-1", "INC-2"][..]), prop::bool::ANY, ends).prop_map(|(ticket, ada, until_us)| BreakGlass {
        ticket: ticket.to_owned(),
        approvers: ada.then(|| "ada".to_owned()).into_iter().collect(),
        until_us,
    })
}

impl Asked {
    fn request(&self) -> Request<'_> {
        Request {
            principal: if self.principal.is_empty() {
                Principal::Unauthenticated
            } else {
                Principal::Workload(self.principal)
            },
            service: self.service,
            action: match ACTIONS[self.action] {
                "grpc" => Action::Grpc { service: "pkg.S", method: if self.path == "/p" { "M" } else { "Other" } },
                "tcp" => Action::TcpConnect { sni: None },
                "gateway" => Action::GatewayForward { sni: Some("x") },
                "egress" => Action::EgressConnect { sni: (self.port == 443).then_some("x") },
                method => Action::Http { method, path: self.path, host: self.host },
            },
            net: Net { src_ip: self.ip, src_cluster: self.src_cluster, dst_cluster: "a.b", dst_port: self.port },
            end_user: None,
            break_glass: self.grant.as_ref(),
            time_us: self.time_us,
        }
    }

    /// The declared route that `a.b/n/r` answers with; `None` in the inner option when there is none.
    fn route(&self) -> Option<Option<&'static str>> {
        if self.service != "a.b/n/r" || matches!(ACTIONS[self.action], "tcp" | "gateway" | "egress") {
            return None;
        }
        Some(match (ACTIONS[self.action], self.path) {
            ("GET" | "HEAD", "/p/1") => Some("GET /p/{id}"),
            ("POST", "/p") => Some("POST /p"),
            ("grpc", "/p") => Some("pkg.S/M"),
            _ => None,
        })
    }
}

// ---- the reference ----

fn uid(text: &str) -> EntityUid {
    text.parse().unwrap()
}

fn entity(id: &str, attributes: &[(&str, Expr)], tags: &[(&str, &str)], parents: &[String]) -> Entity {
    let attributes: HashMap<String, Expr> = attributes.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
    let tags = tags.iter().map(|(k, v)| ((*k).to_owned(), Expr::new_string((*v).to_owned())));
    let parents: HashSet<EntityUid> = parents.iter().map(|p| uid(p)).collect();
    Entity::new_with_tags(uid(id), attributes, parents, tags).unwrap()
}

/// Every entity of the small world above, written out.
fn world() -> Entities {
    let text = |s: &str| Expr::new_string(s.to_owned());
    let reference = |s: &str| Expr::new_entity_uid(uid(s));
    let mut all = vec![
        entity("Mesh::Team::\"red\"", &[], &[], &[]),
        entity("Mesh::Team::\"blue\"", &[], &[], &[]),
        entity("Mesh::Unauthenticated::\"plaintext\"", &[], &[], &[]),
    ];
    for td in ["a.b", "c.d"] {
        all.push(entity(&format!("Mesh::TrustDomain::\"{td}\""), &[], &[], &[]));
        all.push(entity(&format!("Mesh::Cluster::\"{td}\""), &[], &[], &[format!("Mesh::TrustDomain::\"{td}\"")]));
        for ns in ["n", "m"] {
            all.push(entity(
                &format!("Mesh::Namespace::\"{td}/{ns}\""),
                &[],
                &[],
                &[format!("Mesh::Cluster::\"{td}\"")],
            ));
        }
    }
    for (td, ns, sa, env, teams) in [
        ("a.b", "n", "x", "staging", &["red", "blue"][..]),
        ("a.b", "n", "y", "dev", &[]),
        ("a.b", "m", "x", "staging", &[]),
        ("c.d", "n", "x", "staging", &[]),
    ] {
        let account = format!("Mesh::ServiceAccount::\"{td}/{ns}/{sa}\"");
        all.push(entity(&account, &[], &[], &[format!("Mesh::Namespace::\"{td}/{ns}\"")]));
        let mut parents: Vec<String> = teams.iter().map(|t| format!("Mesh::Team::\"{t}\"")).collect();
        parents.push(account);
        let attributes = [
            ("trust_domain", text(td)),
            ("cluster", text(td)),
            ("namespace", text(ns)),
            ("service_account", text(sa)),
            ("env", reference(&format!("Mesh::Env::\"{env}\""))),
        ];
        let tags: &[(&str, &str)] = if sa == "y" { &[("tier", "gold")] } else { &[] };
        all.push(entity(&format!("Mesh::Workload::\"spiffe://{td}/ns/{ns}/sa/{sa}\""), &attributes, tags, &parents));
    }
    let bare = [
        ("trust_domain", text("a.b")),
        ("cluster", text("a.b")),
        ("namespace", text("")),
        ("service_account", text("")),
        ("env", reference("Mesh::Env::\"staging\"")),
    ];
    all.push(entity(
        "Mesh::Workload::\"spiffe://a.b/signet/gateway\"",
        &bare,
        &[],
        &["Mesh::Team::\"blue\"".to_owned()],
    ));
    all.push(entity("Mesh::Workload::\"spiffe://a.b/ns/n/proxy/x\"", &bare, &[], &[]));
    for (service, ns, env, class, team) in [
        ("a.b/n/s", "n", "prod", "restricted", true),
        ("a.b/n/r", "n", "staging", "confidential", false),
        ("a.b/m/t", "m", "staging", "confidential", false),
        ("c.d/n/s", "n", "staging", "confidential", false),
    ] {
        let class = reference(&format!("Mesh::DataClass::\"{class}\""));
        let attributes = [
            ("namespace", text(ns)),
            ("env", reference(&format!("Mesh::Env::\"{env}\""))),
            ("data_class", class.clone()),
        ];
        let mut parents = vec![format!("Mesh::Namespace::\"{}\"", service.rsplit_once('/').unwrap().0)];
        parents.extend(team.then(|| "Mesh::Team::\"red\"".to_owned()));
        let tags: &[(&str, &str)] = if team { &[("tier", "gold")] } else { &[] };
        all.push(entity(&format!("Mesh::Service::\"{service}\""), &attributes, tags, &parents));
        if service == "a.b/n/r" {
            for template in ["GET /p/{id}", "POST /p", "pkg.S/M"] {
                let attributes = [("data_class", class.clone()), ("template", text(template))];
                let parent = [format!("Mesh::Service::\"{service}\"")];
                all.push(entity(&format!("Mesh::Route::\"{service}#{template}\""), &attributes, &[], &parent));
            }
        }
    }
    let outside = [("host", text("e.x")), ("data_class", reference("Mesh::DataClass::\"restricted\""))];
    all.push(entity("Mesh::ExternalService::\"ext\"", &outside, &[], &["Mesh::Team::\"red\"".to_owned()]));
    let schema: cedar_policy::Schema = signet_policy::schema_text().parse().unwrap();
    Entities::from_entities(all, Some(&schema)).unwrap()
}

fn full_context(asked: &Asked) -> Context {
    let text = |s: &str| Expr::new_string(s.to_owned());
    let minutes = asked.time_us / 60_000_000;
    let now = datetime(asked.time_us);
    let net = Expr::new_record([
        ("src_ip".to_owned(), Expr::new_ip(asked.ip.to_string())),
        ("src_cluster".to_owned(), text(asked.src_cluster)),
        ("dst_cluster".to_owned(), text("a.b")),
        ("dst_port".to_owned(), Expr::new_long(i64::from(asked.port))),
    ]);
    let clock = Expr::new_record([
        ("now".to_owned(), now),
        ("minute_of_day".to_owned(), Expr::new_long(minutes % 1440)),
        ("weekday".to_owned(), Expr::new_long((minutes / 1440 + 3) % 7 + 1)),
    ]);
    let mut pairs = vec![("net".to_owned(), net.unwrap()), ("clock".to_owned(), clock.unwrap())];
    match ACTIONS[asked.action] {
        "grpc" => pairs.extend([("service".to_owned(), text("pkg.S")), ("method".to_owned(), text("M"))]),
        "tcp" => {}
        "egress" if asked.port != 443 => {}
        "gateway" | "egress" => pairs.push(("sni".to_owned(), text("x"))),
        method => pairs.extend([
            ("method".to_owned(), text(method)),
            ("path".to_owned(), text(asked.path)),
            ("host".to_owned(), text(asked.host)),
        ]),
    }
    if let Some(grant) = asked.grant.as_ref().filter(|grant| asked.time_us < grant.until_us) {
        let fields = [
            ("ticket".to_owned(), text(&grant.ticket)),
            ("approvers".to_owned(), Expr::new_set(grant.approvers.iter().map(|who| text(who)))),
            ("until".to_owned(), datetime(grant.until_us)),
        ];
        pairs.push(("break_glass".to_owned(), Expr::new_record(fields).unwrap()));
    }
    Context::from_pairs(pairs).unwrap()
}

/// Cedar's own arithmetic instead of a calendar: the epoch and an offset.
fn datetime(time_us: i64) -> Expr {
    format!("datetime(\"1970-01-01\").offset(duration(\"{}ms\"))", time_us / 1000).parse().unwrap()
}

/// Policies as the reference reads them, and which of them forbid.
struct Policies {
    set: PolicySet,
    forbids: HashMap<String, bool>,
}

impl Policies {
    fn parse<'a>(texts: impl Iterator<Item = &'a (bool, String, bool)>) -> Self {
        let (mut set, mut forbids) = (PolicySet::new(), HashMap::new());
        for (_, text, forbid) in texts {
            let id = text_id(text);
            set.add(Policy::parse(Some(PolicyId::new(&id)), text).unwrap()).unwrap();
            forbids.insert(id, *forbid);
        }
        Self { set, forbids }
    }
}

/// Effect, determining ids, reason, and the ids of what erred.
type Answer = (Effect, BTreeSet<String>, Reason, BTreeSet<String>);

/// By the rules: Cedar's answer, and an erring forbid denies.
fn reference(asked: &Asked, policies: &Policies, world: &Entities) -> Answer {
    let principal = match asked.principal {
        "" => "Mesh::Unauthenticated::\"plaintext\"".to_owned(),
        id => format!("Mesh::Workload::\"{id}\""),
    };
    let action = match ACTIONS[asked.action] {
        "grpc" => "grpc:call".to_owned(),
        "tcp" => "tcp:connect".to_owned(),
        "gateway" => "gateway:forward".to_owned(),
        "egress" => "egress:connect".to_owned(),
        "BREW" => "http:OTHER".to_owned(),
        method => format!("http:{method}"),
    };
    let resource = match asked.route() {
        Some(Some(template)) => format!("Mesh::Route::\"{}#{template}\"", asked.service),
        _ if asked.service == "ext" => "Mesh::ExternalService::\"ext\"".to_owned(),
        _ => format!("Mesh::Service::\"{}\"", asked.service),
    };
    let action = uid(&format!("Mesh::Action::\"{action}\""));
    let request =
        cedar_policy::Request::new(uid(&principal), action, uid(&resource), full_context(asked), None).unwrap();
    let response = Authorizer::new().is_authorized(&request, &policies.set, world);
    let reasons: BTreeSet<String> = response.diagnostics().reason().map(ToString::to_string).collect();
    let errors: BTreeSet<String> = response
        .diagnostics()
        .errors()
        .map(|AuthorizationError::PolicyEvaluationError(e)| e.policy_id().to_string())
        .collect();
    let erring: BTreeSet<String> = errors.iter().filter(|id| policies.forbids[*id]).cloned().collect();
    let (effect, ids, reason) = match response.decision() {
        Cedar::Deny if !reasons.is_empty() => (Effect::Deny, reasons, Reason::Forbidden),
        _ if !erring.is_empty() => (Effect::Deny, erring, Reason::PolicyError),
        Cedar::Allow => (Effect::Allow, reasons, Reason::Permitted),
        Cedar::Deny => (Effect::Deny, reasons, Reason::NoPermit),
    };
    (effect, ids, reason, errors)
}

/// The `@id` that the text carries.
fn text_id(text: &str) -> String {
    text.split('"').nth(1).unwrap().to_owned()
}

fn compile(policies: &[(bool, bool, String)]) -> (Bundle, BundleSource, Vec<(bool, String, bool)>) {
    let mut kept = Vec::new();
    let mut all = String::new();
    for (n, (forbid, shadow, text)) in policies.iter().enumerate() {
        let text = format!("@id(\"p{n}\") {} {text}\n", if *shadow { "@mode(\"shadow\")" } else { "" });
        all.push_str(&text);
        kept.push((*shadow, text, *forbid));
    }
    let files =
        BTreeMap::from([("signet.yaml".to_owned(), SETTINGS.to_owned()), ("policies/all.cedar".to_owned(), all)]);
    let source = BundleSource { commit: "c".into(), signer: "s".into(), files };
    let bundle = Bundle::compile(&source).unwrap_or_else(|problems| panic!("{problems:#?}"));
    (bundle, source, kept)
}

fn answer(decision: &Decision) -> Answer {
    let ids = |ids: &[std::sync::Arc<str>]| ids.iter().map(|p| p.to_string()).collect();
    (decision.effect, ids(&decision.policies), decision.reason, ids(&decision.errors))
}

/// The bundle's slice for a sidecar that serves this service and runs as this principal.
fn sliced(bundle: &Bundle, source: &BundleSource, principal: &str, service: &str) -> (Bundle, usize) {
    let needs = Needs {
        services: (service != "ext").then(|| service.to_owned()).into_iter().collect(),
        egress_of: Some(principal.to_owned()).filter(|id| !id.is_empty()),
    };
    let cut = bundle.cut(source, &needs);
    let slice = Bundle::compile_slice(&cut, bundle.digest()).unwrap_or_else(|problems| panic!("{problems:#?}"));
    assert_eq!((slice.digest(), slice.slice_digest()), (bundle.digest(), Some(&*cut.digest())));
    let left_out = bundle.policies().count() - slice.policies().count();
    (slice, left_out)
}

/// Drops policies that strict validation refuses (an impossible scope, for example): they never reach a bundle.
fn valid(policies: Vec<(bool, bool, String)>) -> Vec<(bool, bool, String)> {
    use std::sync::LazyLock;
    static VALIDATOR: LazyLock<cedar_policy::Validator> =
        LazyLock::new(|| cedar_policy::Validator::new(signet_policy::schema_text().parse().unwrap()));
    let is_valid = |text: &str| {
        let set: PolicySet = text.parse().unwrap();
        VALIDATOR.validate(&set, cedar_policy::ValidationMode::Strict).validation_passed()
    };
    policies.into_iter().filter(|(_, _, text)| is_valid(text)).collect()
}

#[test]
fn decisions_equal_cedar_over_the_whole_set() {
    let world = world();
    use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

    // The short run asks the same every time, so that what it reaches is known; a long one asks anew each time.
    let asked_for = std::env::var("SIGNET_DIFFERENTIAL_CASES").ok().and_then(|n| n.parse().ok());
    let cases = asked_for.unwrap_or(100);
    let mut seen: BTreeMap<&'static str, usize> = BTreeMap::new();
    let counts = std::sync::Mutex::new(&mut seen);
    let config =
        ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 200, ..ProptestConfig::default() };
    let mut runner = match asked_for {
        Some(_) => TestRunner::new(config),
        None => TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha)),
    };
    let strategy = (proptest::collection::vec(policy(), 1..14), proptest::collection::vec(asked(), 200));
    let outcome = runner.run(&strategy, |(policies, requests)| {
        let (bundle, source, kept) = compile(&valid(policies));
        let (bundle, mut slices, mut cuts) = (std::sync::Arc::new(bundle), HashMap::new(), HashMap::new());
        let (enforced, all) =
            (Policies::parse(kept.iter().filter(|(shadow, ..)| !shadow)), Policies::parse(kept.iter()));
        for asked in &requests {
            let decision = bundle.decide(&asked.request());
            if asked.route() == Some(None) {
                prop_assert_eq!(decision.reason, Reason::UnknownRoute);
                continue;
            }
            let want = reference(asked, &enforced, &world);
            prop_assert_eq!(answer(&decision), want.clone());
            let with_shadow = reference(asked, &all, &world);
            let shadow = decision
                .shadow
                .as_ref()
                .map(|s| (s.effect, s.policies.iter().map(|p| p.to_string()).collect::<BTreeSet<_>>(), s.reason));
            let differs = (with_shadow.0, &with_shadow.1) != (want.0, &want.1);
            prop_assert_eq!(shadow, differs.then_some((with_shadow.0, with_shadow.1, with_shadow.2)));
            // Once more, now from the cache, and as a connection asks.
            prop_assert_eq!(bundle.decide(&asked.request()), decision.clone());
            let slice = slices
                .entry((asked.principal, asked.service))
                .or_insert_with(|| bundle.slice(asked.request().principal, asked.service));
            prop_assert_eq!(&*slice.decide(&asked.request()), &decision);
            prop_assert_eq!(&*slice.decide(&asked.request()), &decision);
            // And as a sidecar decides that was sent a part of the bundle.
            let caller = if asked.service == "ext" { asked.principal } else { "" };
            let (part, left_out) =
                cuts.entry((caller, asked.service)).or_insert_with(|| sliced(&bundle, &source, caller, asked.service));
            prop_assert_eq!(&part.decide(&asked.request()), &decision);
            *counts.lock().unwrap().entry("left_out").or_default() += *left_out;
            *counts.lock().unwrap().entry("erring_permit").or_default() +=
                usize::from(!decision.errors.is_empty() && decision.reason != Reason::PolicyError);
            *counts.lock().unwrap().entry(decision.reason.as_str()).or_default() += 1;
            if decision.reads_context {
                *counts.lock().unwrap().entry("reads_context").or_default() += 1;
            }
        }
        Ok(())
    });
    outcome.unwrap();
    // The generator has to reach every kind of answer, or the test proves little.
    for kind in ["permitted", "forbidden", "no_permit", "policy_error", "reads_context", "left_out", "erring_permit"] {
        assert!(seen.get(kind).is_some_and(|n| *n > 5), "{kind}: {seen:?}");
    }
}
