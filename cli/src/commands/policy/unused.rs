//! `signet policy unused`: grants that no recorded traffic used.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;
use signet_policy::{Bundle, BundleSource};
use signet_policy_analysis::{Use, Uses, uses};
use signet_policy_repository as repository;

use super::recorded::Records;
use super::report::write;
use super::sides;
use crate::arguments::Global;
use crate::failure::Failure;
use crate::output::{self, Format, printable};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    records: Records,
    /// Take the unused policies out of their files, ready to be committed. Not done when a test needs one of them.
    #[arg(long)]
    write: bool,
}

#[derive(Serialize)]
struct Shown<'a> {
    unused: Vec<&'a Use>,
    #[serde(flatten)]
    uses: &'a Uses,
}

/// Exits 0 whatever was found. Records without one allowed call say nothing about any grant: an error.
pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<ExitCode, Failure> {
    let Arguments { records, write: take_out } = arguments;
    let source = sides::working_tree(&records.repository)?;
    let bundle = sides::compile(&source)?;
    let recorded = records.source(global)?;
    let place = recorded.place();
    let (found, bundle) = recorded.analyse(move |records| Ok((uses(records, &bundle)?, bundle))).await?;
    let (Some(first), Some(last)) = (&found.first, &found.last) else {
        return Err(Failure::failed("the records hold no allowed call, so they say nothing about any grant")
            .at(place)
            .next("take a longer time, without filters"));
    };
    let unused: Vec<&Use> = found.unused().collect();
    match global.output {
        Format::Table => {
            for grant in &unused {
                output::line(&format!("{}:{}: `{}`", printable(&grant.path), grant.line, printable(&grant.id)))?;
            }
        }
        format => output::value(format, &Shown { unused: unused.clone(), uses: &found })?,
    }
    let total = found.grants.len();
    eprintln!("{} of {total} grants were used by no call from {first} to {last}.", unused.len());
    if take_out && !unused.is_empty() {
        let files = without(&source, &bundle, &unused);
        stay_sound(&source, &files)?;
        for (file, text) in &files {
            write(&records.repository.join(file), text)?;
        }
        eprintln!("next: review with `git diff`, run `signet policy report`, then `git commit -S`.");
    }
    Ok(ExitCode::SUCCESS)
}

/// The files that change, without the unused policies. Comments stay: what they say may be about more.
fn without(source: &BundleSource, bundle: &Bundle, unused: &[&Use]) -> BTreeMap<PathBuf, String> {
    let mut files: BTreeMap<PathBuf, String> = BTreeMap::new();
    for policy in bundle.policies().filter(|policy| unused.iter().any(|grant| grant.id == policy.id())) {
        let path = PathBuf::from(policy.path());
        let Some(text) = files.get(&path).or_else(|| source.files.get(policy.path())) else { continue };
        // Ids are unique, so that the text of a policy is.
        let Some((before, after)) = text.split_once(policy.text()) else { continue };
        let after = after.strip_prefix('\n').unwrap_or(after);
        let after = if before.ends_with("\n\n") || before.is_empty() { after.trim_start_matches('\n') } else { after };
        let new = format!("{before}{after}");
        files.insert(path, new.trim_end().to_owned() + "\n");
    }
    files
}

/// Nothing is written unless the repository compiles and passes its tests with `files`.
fn stay_sound(source: &BundleSource, files: &BTreeMap<PathBuf, String>) -> Result<(), Failure> {
    let mut after = source.clone();
    let named = |path: &Path| path.to_string_lossy().into_owned();
    after.files.extend(files.iter().map(|(path, text)| (named(path), text.clone())));
    let report = repository::check(&after);
    let failed = report.tests.iter().find(|test| !test.passed).map(ToString::to_string);
    let problem = report.problems.iter().find(|problem| problem.is_error()).map(ToString::to_string);
    match problem.or(failed) {
        None => Ok(()),
        Some(why) => Err(Failure::failed(format!("without the unused policies the repository is not sound: {why}"))
            .at("tests/")
            .next("take the cases away that ask for them, or keep the policies; nothing was changed")),
    }
}
