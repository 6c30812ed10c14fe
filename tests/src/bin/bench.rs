//! `make bench`: Signet with policy and audit on, beside nginx and HAProxy pairs with mutual TLS and neither, in one
//! interleaved run on this machine. See `docs/performance.md` for what is compared and how.

use std::process::ExitCode;

use anyhow::Context;
use signet_tests::bench::{Plan, report, run};

fn main() -> anyhow::Result<ExitCode> {
    let mut plan = Plan::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--rounds" => plan.rounds = value()?.parse().context("--rounds takes a whole number")?,
            "--seconds" => plan.seconds = value()?.parse().context("--seconds takes a whole number")?,
            "--json" => plan.json = Some(value()?.into()),
            "--help" => {
                println!("bench [--rounds N (5)] [--seconds N for each measurement (3)] [--json FILE]");
                return Ok(ExitCode::SUCCESS);
            }
            other => anyhow::bail!("bench knows no `{other}`; see --help"),
        }
    }
    let results = tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(&plan))?;
    print!("{}", report(&plan, &results));
    if let Some(path) = &plan.json {
        std::fs::write(path, serde_json::to_string_pretty(&results)?)?;
    }
    Ok(ExitCode::SUCCESS)
}
