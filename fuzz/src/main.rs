//! `make fuzz`: feeds every target for a while, or one of them. An input that breaks a promise is kept below
//! `fuzz/regressions/`, where the tests find it.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use signet_fuzz::targets::{ALL, named};
use signet_fuzz::{Session, shape};

fn main() -> anyhow::Result<ExitCode> {
    let (mut seconds, mut seed, mut targets) = (60, fastrand::u64(..), Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--seconds" => seconds = value()?.parse().context("--seconds takes a whole number")?,
            "--seed" => seed = value()?.parse().context("--seed takes a whole number")?,
            "--help" => {
                let names: Vec<&str> = ALL.iter().map(|target| target.name).collect();
                println!(
                    "fuzz [--seconds N for each target (60)] [--seed N] [TARGET..]\ntargets: {}",
                    names.join(", ")
                );
                return Ok(ExitCode::SUCCESS);
            }
            name => targets.push(*named(name).with_context(|| format!("there is no target `{name}`; see --help"))?),
        }
    }
    if targets.is_empty() {
        targets = ALL.to_vec();
    }
    let mut failed = false;
    for target in &targets {
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions").join(target.name);
        let session = Session { seed, inputs: u64::MAX, time: Duration::from_secs(seconds) };
        match session.run(target, signet_fuzz::regressions(target.name)?) {
            Ok(report) => {
                println!("{:<14} {} inputs, {} shapes, seed {seed}", target.name, report.inputs, report.shapes)
            }
            Err(failure) => {
                failed = true;
                std::fs::create_dir_all(&kept)?;
                let file = kept.join(format!("{:016x}", shape(&failure.input)));
                std::fs::write(&file, &failure.input)?;
                println!("{:<14} FAILED: {}\n{:<14} {}", target.name, failure.why, "", file.display());
            }
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
