//! House rules that no other tool checks: `cargo run -p xtask -- tidy` and `.. licences`.

mod graph;
mod licences;
mod tidy;

use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;

fn main() -> anyhow::Result<ExitCode> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let task = std::env::args().nth(1).unwrap_or_default();
    let problems = match task.as_str() {
        "tidy" => {
            let mut problems = tidy::check(&root)?;
            problems.extend(graph::check(&root)?);
            problems
        }
        "licences" => licences::check(&root)?,
        _ => bail!("xtask knows `tidy` and `licences`, not `{task}`"),
    };
    for problem in &problems {
        eprintln!("{problem}");
    }
    eprintln!("{task}: {} problems", problems.len());
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
