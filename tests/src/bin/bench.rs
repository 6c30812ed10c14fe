//! `make bench`: Signet with policy and audit on, beside nginx and HAProxy pairs with mutual TLS and neither, in one
//! interleaved run on this machine. See `docs/performance.md` for what is compared and how.

use std::process::ExitCode;

use anyhow::Context;
use signet_tests::bench::load::bare_tls;
use signet_tests::bench::{Plan, report, run, stop, work};

fn main() -> anyhow::Result<ExitCode> {
    let mut plan = Plan::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--rounds" => plan.rounds = value()?.parse().context("--rounds takes a whole number")?,
            "--seconds" => plan.seconds = value()?.parse().context("--seconds takes a whole number")?,
            "--only" => plan.only.push(value()?),
            "--against" => plan.against = Some(value()?.into()),
            "--json" => plan.json = Some(value()?.into()),
            // How this program starts itself on one of the hosts.
            "load" => return work(&value()?).map(|()| ExitCode::SUCCESS),
            "bare-tls" => {
                let (listen, api) = (value()?.parse()?, value()?);
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                return runtime.block_on(bare_tls(listen, &api)).map(|()| ExitCode::SUCCESS);
            }
            "--help" => {
                println!(
                    "bench [--rounds N (5)] [--seconds N for each measurement (3)] [--json FILE]\n      \
                     [--only nginx|haproxy|signet|\"signet, off\"].. [--against SIDECAR, another build as one more contender]\n\
                     needs root, for network namespaces"
                );
                return Ok(ExitCode::SUCCESS);
            }
            other => anyhow::bail!("bench knows no `{other}`; see --help"),
        }
    }
    stop::on_signals()?;
    let results = run(&plan)?;
    print!("{}", report(&plan, &results));
    if let Some(path) = &plan.json {
        std::fs::write(path, serde_json::to_string_pretty(&results)?)?;
    }
    Ok(ExitCode::SUCCESS)
}
