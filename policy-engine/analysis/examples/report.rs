//! How long `signet policy report` takes for a change of 10 policies among 1,000: `make bench-report`.
//!
//! A repository of 200 services with five policies each, of every kind of requirement that a bank has, three invariants
//! and 150 tests. Each change touches ten policies: grants only; grants and a denial; and ten policies put
//! in other words, which has to come out as no change. No traffic is replayed. Exits with 1 past 60 seconds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a measurement")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use signet_policy::BundleSource;
use signet_policy_analysis::{Change, Report, SolverSettings};

const SERVICES: usize = 200;
/// The services before it are those that change, and have no tests that would.
const FIRST_TESTED: usize = 50;
const GOAL: Duration = Duration::from_secs(60);

fn workload(n: usize) -> String {
    format!("Mesh::Workload::\"spiffe://bank.example/ns/n{}/sa/w{}\"", n % 20, n % SERVICES)
}

fn service(n: usize) -> String {
    format!("bank.example/n{}/s{}", n % 20, n % SERVICES)
}

/// The five policies of service `n`; the kinds alternate, so that each is there 40 times or more.
fn policies_of(n: usize) -> Vec<String> {
    let target = service(n);
    let policy = |kind: &str, effect: &str, who: String, action: &str, what: String, when: String| {
        format!("@id(\"s{n}-{kind}\")\n@owner(\"team{}\")\n{effect}({who}, {action}, {what}) {when};\n", n % 25)
    };
    let whole = || format!("resource in Mesh::Service::\"{target}\"");
    let only = |of: usize| format!("principal == {}", workload(of));
    let read = "action in [Mesh::Action::\"read\"]";
    let mut policies = vec![
        policy("reads", "permit", only(n + 1), read, whole(), String::new()),
        policy(
            "paths",
            "permit",
            only(n + 2),
            "action == Mesh::Action::\"http:POST\"",
            whole(),
            format!("when {{ context.path like \"/v{}/orders/*\" }}", n % 3),
        ),
        policy(
            "calls",
            "permit",
            only(n + 3),
            "action == Mesh::Action::\"grpc:call\"",
            whole(),
            format!("when {{ context.service == \"bank.v1.S{n}\" && [\"Pay\", \"Status\"].contains(context.method) }}"),
        ),
        policy(
            "connects",
            "permit",
            only(n + 4),
            "action == Mesh::Action::\"tcp:connect\"",
            whole(),
            "when { context.net.dst_port == 5432 }".to_owned(),
        ),
    ];
    policies.push(match n % 5 {
        0 => policy(
            "hours",
            "permit",
            format!("principal in Mesh::Team::\"team{}\"", n % 25),
            read,
            whole(),
            "when { context.clock.minute_of_day >= 420 && context.clock.minute_of_day < 1200 }".to_owned(),
        ),
        1 => policy(
            "network",
            "permit",
            format!("principal in Mesh::Namespace::\"bank.example/n{}\"", n % 20),
            read,
            whole(),
            "when { context.net.src_ip.isInRange(ip(\"10.0.0.0/8\")) }".to_owned(),
        ),
        2 => policy(
            "apart",
            "forbid",
            "principal is Mesh::Workload".to_owned(),
            "action",
            whole(),
            "unless { principal.env == Mesh::Env::\"prod\" }".to_owned(),
        ),
        3 => policy(
            "partner",
            "permit",
            "principal in Mesh::TrustDomain::\"partner.example\"".to_owned(),
            "action == Mesh::Action::\"http:GET\"",
            whole(),
            "when { context.path like \"/public/*\" }".to_owned(),
        ),
        _ => policy(
            "plaintext",
            "forbid",
            "principal is Mesh::Unauthenticated".to_owned(),
            "action",
            whole(),
            String::new(),
        ),
    });
    policies
}

const INVARIANTS: &str = "
@id(\"partners-only-read\") @owner(\"security\") forbid(principal in Mesh::TrustDomain::\"partner.example\",
  action in [Mesh::Action::\"write\", Mesh::Action::\"grpc:call\"], resource);
@id(\"nothing-without-an-identity\") @owner(\"security\") forbid(principal is Mesh::Unauthenticated, action, resource);
@id(\"few-reach-the-vault\") @owner(\"security\") forbid(principal, action == Mesh::Action::\"tcp:connect\",
  resource == Mesh::Service::\"bank.example/n0/s0\")
unless { principal is Mesh::Workload && principal.namespace == \"n4\" };
";

fn base() -> BundleSource {
    let mut settings = "version: 1\nservices:\n".to_owned();
    let mut source = BundleSource { commit: "base".to_owned(), ..BundleSource::default() };
    let mut cases = "cases:\n".to_owned();
    for n in 0..SERVICES {
        let class = ["public", "internal", "confidential", "restricted"][n % 4];
        settings += &format!("  {}: {{ data_class: {class}, teams: [team{}] }}\n", service(n), n % 25);
        source.files.insert(format!("policies/s{n:03}.cedar"), policies_of(n).join("\n"));
    }
    for n in FIRST_TESTED..SERVICES {
        let (caller, target) = (format!("bank.example/n{}/w{}", (n + 1) % 20, (n + 1) % SERVICES), service(n));
        cases += &format!(
            "  - {{ name: reads {n}, principal: {caller}, action: 'http:GET', resource: {target}, expect: allow }}\n"
        );
    }
    settings += "workloads:\n";
    for n in 0..20 {
        settings += &format!("  bank.example/n{n}/w{n}: {{ env: staging }}\n");
    }
    settings += "teams:\n";
    for team in 0..25 {
        settings += &format!("  team{team}: {{ workloads: [bank.example/n{}/w{team}] }}\n", team % 20);
    }
    source.files.insert("signet.yaml".to_owned(), settings);
    source.files.insert("tests/reads.yaml".to_owned(), cases);
    source.files.insert("invariants/core.cedar".to_owned(), INVARIANTS.to_owned());
    source
}

/// `base` with the policies of `kind` of ten services put through `edit`.
fn changed(base: &BundleSource, kind: &str, edit: impl Fn(usize, &str) -> String) -> BundleSource {
    let mut head = BundleSource { commit: "head".to_owned(), ..base.clone() };
    let id = |n: usize| format!("s{n}-{kind}\"");
    let services = (0..SERVICES).filter(|n| policies_of(*n).iter().any(|policy| policy.contains(&id(*n))));
    for n in services.take(10) {
        let text: Vec<String> = policies_of(n)
            .into_iter()
            .map(|policy| if policy.contains(&id(n)) { edit(n, &policy) } else { policy })
            .collect();
        head.files.insert(format!("policies/s{n:03}.cedar"), text.join("\n"));
    }
    head
}

fn main() -> ExitCode {
    let base = base();
    let wider = changed(&base, "reads", |n, policy| match n % 2 {
        0 => policy.replace("\"read\"", "\"read\", Mesh::Action::\"http:POST\""),
        _ => policy.replace(&workload(n + 1), &workload(n + 9)),
    });
    let stricter = changed(&base, "apart", |n, policy| match n % 2 {
        0 => policy.replace("unless", &format!("when {{ principal != {} }} unless", workload(n + 3))),
        _ => policy.replace("\"prod\"", "\"staging\""),
    });
    let reworded = changed(&base, "hours", |_, policy| {
        policy.replace(
            "context.clock.minute_of_day >= 420 && context.clock.minute_of_day < 1200",
            "!(context.clock.minute_of_day < 420) && context.clock.minute_of_day <= 1199",
        )
    });
    let settings = SolverSettings::default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!(
        "1,000 policies, 10 changed, 3 invariants, {} tests; {cores} cores, {} solvers.\n",
        SERVICES - FIRST_TESTED,
        settings.workers
    );
    println!("| change | seconds | request types that change | not decided |");
    println!("|---|---|---|---|");
    let mut slowest = Duration::ZERO;
    for (name, head, changes) in [
        ("grants widened and moved", wider, true),
        ("denials widened and narrowed", stricter, true),
        ("the same in other words", reworded, false),
    ] {
        let started = Instant::now();
        let report = Report::new(&base, &head, &settings);
        let taken = started.elapsed();
        let rows = &report.diff.as_ref().expect("both sides compile").request_types;
        let of = |wanted: &dyn Fn(Change) -> bool| rows.iter().filter(|row| wanted(row.result)).count();
        let undecided = of(&|change| change == Change::NotDecided);
        let changing = of(&|change| !matches!(change, Change::NoChange | Change::NotDecided));
        println!("| {name} | {:.1} | {changing} of {} | {undecided} |", taken.as_secs_f64(), rows.len());
        assert_eq!(report.broken(), [] as [&str; 0], "{name}");
        assert_eq!(changing > 0, changes, "{name}");
        slowest = slowest.max(taken);
    }
    if slowest > GOAL {
        eprintln!("slower than {} s", GOAL.as_secs());
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
