//! `make soak`: a demo of its own under load for 15 minutes while everything changes, then what was not as it must be.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use signet_tests::demo::Demo;
use signet_tests::soak::{Plan, run};

fn main() -> anyhow::Result<ExitCode> {
    let mut plan = Plan {
        time: Duration::from_secs(900),
        finding: Duration::from_secs(15),
        rate: None,
        every: Duration::from_secs(5),
        growth: (8 << 20, 0.1),
    };
    let mut svid_ttl = "10".to_owned();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--seconds" => plan.time = Duration::from_secs(value()?.parse().context("--seconds takes a whole number")?),
            "--rate" => plan.rate = Some(value()?.parse().context("--rate takes a whole number")?),
            "--svid-ttl" => svid_ttl = value()?,
            "--help" => {
                println!(
                    "soak [--seconds N (900)] [--rate N calls a second (half of what the demo takes)]\n     \
                     [--svid-ttl N seconds (10; they are renewed at half of it)]"
                );
                return Ok(ExitCode::SUCCESS);
            }
            other => anyhow::bail!("soak knows no `{other}`; see --help"),
        }
    }
    let mut demo = Demo::start(&["--rate", "0", "--svid-ttl", &svid_ttl])?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let report = runtime.block_on(run(&demo, &plan))?;
    print!("{report}");
    if report.problems.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("the demo's files, logs included, are kept in {}", demo.keep().display());
    Ok(ExitCode::FAILURE)
}
