//! The redirect rules by themselves: who is redirected where, what is left alone, and that nothing else is touched.

use anyhow::ensure;
use signet_tests::cli::Output;
use signet_tests::demo::program;

use crate::OwnTest;
use crate::space::{A, B, Wire, exec, must};

pub(crate) const TESTS: &[(&str, OwnTest)] = &[
    ("rules_redirect_all_but_the_proxys_user_loopback_and_exclusions", || redirects("nft")),
    ("rules_of_iptables_redirect_the_same", || redirects("iptables")),
    ("init_repeats_without_a_change_and_undo_leaves_other_tables_alone", idempotent),
    ("datagrams_are_dropped_and_counted_except_to_resolvers", datagrams),
];

/// The sidecar's user, and an app's.
const PROXY: u32 = 1337;
const APP: u32 = 4711;

fn signet_proxy(namespace: &str, arguments: &[&str]) -> anyhow::Result<Output> {
    let own = program("signet-proxy")?;
    let own = own.to_string_lossy();
    exec(namespace, &[&[own.as_ref()], arguments].concat())
}

fn init(namespace: &str, more: &[&str]) -> anyhow::Result<()> {
    let output = signet_proxy(namespace, &[&["init", "--proxy-uid", "1337"], more].concat())?;
    ensure!(output.code == 0, "{}", output.stderr);
    Ok(())
}

fn redirects(backend: &str) -> anyhow::Result<()> {
    let mut wire = Wire::new()?;
    let (a, b) = (wire.a.clone(), wire.b.clone());
    for (namespace, port, word) in [
        (&a, 15001, "outbound"),
        (&a, 15006, "inbound"),
        (&a, 15000, "admin"),
        (&a, 8080, "app"),
        (&a, 8081, "excluded"),
        (&b, 80, "far"),
        (&b, 9092, "far-excluded"),
    ] {
        wire.serve(namespace, port, word)?;
    }
    init(&a, &["--backend", backend, "--exclude-outbound-port", "9092", "--exclude-inbound-port", "8081"])?;
    for ip in 0..2 {
        let (here, there, loopback) = (A[ip], B[ip], ["127.0.0.1", "::1"][ip]);
        for (namespace, uid, address, port, expected) in [
            (&a, APP, there, 80, "outbound"),
            (&a, 0, there, 80, "outbound"),
            (&a, PROXY, there, 80, "far"),
            (&a, APP, there, 9092, "far-excluded"),
            // What stays in the workload is its own affair, unless the sidecar calls it as one calls a service.
            (&a, APP, loopback, 8080, "app"),
            (&a, APP, here, 8080, "app"),
            (&a, PROXY, loopback, 8080, "app"),
            (&a, PROXY, here, 8080, "inbound"),
            (&b, APP, here, 8080, "inbound"),
            (&b, APP, here, 15000, "admin"),
            (&b, APP, here, 8081, "excluded"),
            // A port that nothing listens on is the sidecar's to refuse.
            (&b, APP, here, 9, "inbound"),
        ] {
            let said = wire.ask(namespace, uid, address, port)?;
            ensure!(said == expected, "user {uid} in {namespace} to {address} port {port}: `{said}`, not `{expected}`");
        }
    }
    // By range, and back to nothing.
    init(
        &a,
        &["--backend", backend, "--exclude-outbound-cidr", "10.77.0.0/24,fd77::/64", "--exclude-inbound-cidr", B[0]],
    )?;
    for (namespace, address, port, expected) in
        [(&a, B[0], 80, "far"), (&a, B[1], 80, "far"), (&b, A[0], 8080, "app"), (&b, A[1], 8080, "inbound")]
    {
        let said = wire.ask(namespace, APP, address, port)?;
        ensure!(said == expected, "excluded range, {address} port {port}: `{said}`, not `{expected}`");
    }
    init(&a, &["--backend", backend])?;
    ensure!(wire.ask(&a, APP, B[0], 80)? == "outbound", "written again, they redirect again");
    for _ in 0..2 {
        let undone = signet_proxy(&a, &["undo", "--backend", backend])?;
        ensure!(undone.code == 0, "undo: {}", undone.stderr);
        ensure!(wire.ask(&a, APP, B[0], 80)? == "far" && wire.ask(&b, APP, A[0], 8080)? == "app", "undone");
    }
    Ok(())
}

fn idempotent() -> anyhow::Result<()> {
    let wire = Wire::new()?;
    let list = |what: &[&str]| must(&[&["ip", "netns", "exec", wire.a.as_str(), "nft"], what].concat());
    list(&["add", "table", "inet", "others"])?;
    let dry = signet_proxy(&wire.a, &["init", "--proxy-uid", "1337", "--dry-run"])?;
    ensure!(dry.code == 0 && dry.stdout.contains("redirect to :15001"), "{}", dry.stderr);
    ensure!(list(&["list", "tables"])?.trim() == "table inet others", "a dry run changes nothing");

    init(&wire.a, &[])?;
    let first = list(&["list", "ruleset"])?;
    init(&wire.a, &[])?;
    ensure!(list(&["list", "ruleset"])? == first, "written twice it is the same");
    init(&wire.a, &["--inbound-mode", "tproxy"])?;
    ensure!(list(&["list", "ruleset"])?.contains("tproxy ip to :15006"), "TPROXY where it is asked for");
    // A script that nft refuses changes nothing: port 0 cannot be asked for, so ask as somebody without the right.
    let before = list(&["list", "ruleset"])?;
    let proxy = program("signet-proxy")?;
    let copy = tempfile::Builder::new().permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).tempdir()?;
    let path = copy.path().join("signet-proxy");
    std::fs::copy(proxy, &path)?;
    let path = path.to_string_lossy();
    let refused = exec(
        &wire.a,
        &["setpriv", "--reuid=4711", "--regid=4711", "--clear-groups", "--", &path, "init", "--proxy-uid", "1"],
    )?;
    ensure!(refused.code == 1 && refused.stderr.contains("need root"), "{} {}", refused.code, refused.stderr);
    ensure!(list(&["list", "ruleset"])? == before);
    for _ in 0..2 {
        ensure!(signet_proxy(&wire.a, &["undo"])?.code == 0);
        ensure!(list(&["list", "tables"])?.trim() == "table inet others", "only ours goes");
    }
    let counters = signet_proxy(&wire.a, &["counters"])?;
    ensure!(counters.code == 1 && counters.stderr.contains("signet-proxy init"), "{}", counters.stderr);
    for wrong in
        [&["init"][..], &["init", "--proxy-uid", "x"], &["init", "--proxy-uid", "1", "--exclude-outbound-cidr", "a/8"]]
    {
        ensure!(signet_proxy(&wire.a, wrong)?.code == 2, "{wrong:?}");
    }
    Ok(())
}

fn datagrams() -> anyhow::Result<()> {
    let wire = Wire::new()?;
    init(&wire.a, &["--resolver", "10.77.0.2"])?;
    let send = |namespace: &str, to: &str, port: u16| {
        exec(namespace, &["bash", "-c", &format!("echo x > /dev/udp/{to}/{port}")]).map(|output| output.code)
    };
    let dropped = || -> anyhow::Result<u64> {
        let output = signet_proxy(&wire.a, &["counters"])?;
        let counters: serde_json::Value = serde_json::from_str(&output.stdout)?;
        Ok(counters["udp_dropped"]["packets"].as_u64().unwrap_or_default())
    };
    ensure!(send(&wire.a, B[0], 53)? == 0 && dropped()? == 0, "the resolver may be asked");
    ensure!(send(&wire.a, B[0], 123)? != 0 && dropped()? == 1, "nothing else of it");
    ensure!(send(&wire.a, B[1], 53)? != 0 && dropped()? == 2, "nor anybody else");
    ensure!(send(&wire.a, "127.0.0.1", 9)? == 0 && dropped()? == 2, "loopback is the workload's own");
    ensure!(send(&wire.b, A[0], 9)? == 0 && dropped()? == 3, "nor may others send");
    init(&wire.a, &["--resolver", "10.77.0.2"])?;
    ensure!(dropped()? == 3, "counts go on when rules are written again");
    init(&wire.a, &["--allow-datagrams"])?;
    ensure!(send(&wire.a, B[0], 123)? == 0 && dropped()? == 3);
    Ok(())
}
