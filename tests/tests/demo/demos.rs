//! What needs a demo of its own: its end, a second one beside it, its summary, and change under load.

use std::time::{Duration, Instant};

use http::Method;
use signet_tests::calls;
use signet_tests::demo::{Demo, is_alive};
use signet_tests::soak::Plan;

use crate::OwnTest;

pub(crate) const TESTS: &[(&str, OwnTest)] = &[
    ("ctrl_c_ends_all_that_the_demo_started_and_not_the_demo_beside_it", two_beside_each_other),
    ("a_timed_demo_ends_by_itself_with_a_summary_that_adds_up", timed),
    ("a_minute_of_renewals_commits_and_moving_endpoints_fails_no_call_passes_none_and_loses_no_record", soak),
];

fn two_beside_each_other() -> anyhow::Result<()> {
    let mut first = Demo::start(&["--rate", "5"])?;
    let second = Demo::start(&["--rate", "0"])?;
    let endpoints = first.endpoints_now()?;
    let pids: Vec<i32> =
        endpoints.pids.values().copied().chain(endpoints.workloads.values().map(|workload| workload.pid)).collect();
    assert!(pids.iter().all(|pid| is_alive(*pid)));
    let asked = Instant::now();
    let status = first.interrupt()?;
    assert!(status.success(), "{status}: {}", first.output()?);
    assert!(asked.elapsed() < Duration::from_secs(20), "it took {:?}", asked.elapsed());
    let left: Vec<&i32> = pids.iter().filter(|pid| is_alive(**pid)).collect();
    assert!(left.is_empty(), "still there: {left:?}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let web = second.workload("east/bank/web")?;
        let uri = "http://ledger.bank.svc.cluster.local/accounts/1";
        let answer = calls::through(&web.outbound, Method::GET, uri, &[], "").await?;
        assert_eq!(answer.status, 200, "the other demo runs on: {}", answer.text());
        anyhow::Ok(())
    })
}

fn timed() -> anyhow::Result<()> {
    let mut demo = Demo::start(&["--rate", "40", "--seconds", "8"])?;
    let status = demo.wait(Duration::from_secs(60))?;
    let output = demo.output()?;
    assert!(status.success(), "{status}: {output}");
    for word in ["calls allowed", "denied", "across clusters", "records in PostgreSQL"] {
        assert!(output.contains(word), "`{word}` in: {output}");
    }
    Ok(())
}

/// A minute of `make soak`. SVIDs of 20 s are renewed at half their life, each workload at its own time: some renewal falls
/// into every few seconds.
fn soak() -> anyhow::Result<()> {
    let plan = Plan {
        time: Duration::from_secs(60),
        finding: Duration::from_secs(4),
        rate: None,
        every: Duration::from_secs(5),
        // A minute is too short to tell what leaks slowly: caches are still filling.
        growth: (32 << 20, 0.5),
    };
    let demo = Demo::start(&["--rate", "0", "--svid-ttl", "20"])?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let report = runtime.block_on(signet_tests::soak::run(&demo, &plan))?;
    assert!(report.problems.is_empty(), "{report}");
    assert!(report.commits >= 8 && report.moves >= 8, "{report}");
    // Six workloads, each renewed every ten to twelve seconds.
    assert!(report.renewals >= 15, "{report}");
    Ok(())
}
