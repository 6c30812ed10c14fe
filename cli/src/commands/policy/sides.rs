//! The two sides of a comparison: `BASE..HEAD`, one revision and the working tree, or the last commit and the working tree.

use std::path::{Path, PathBuf};

use signet_policy::{Bundle, BundleSource};
use signet_policy_repository::{self as repository, Revisions};

use super::check::problem_text;
use crate::failure::Failure;

/// What is compared.
#[derive(clap::Args)]
pub(crate) struct Range {
    /// `BASE..HEAD`, `BASE...HEAD` (from where HEAD left BASE), or BASE alone, which is compared with the working tree.
    #[arg(default_value = "HEAD", value_name = "BASE..HEAD")]
    pub(crate) range: String,
    /// The policy repository's root.
    #[arg(long, default_value = ".", value_name = "DIR")]
    pub(crate) repository: PathBuf,
}

/// Reads both sides; a side that does not compile is an error, because there is nothing to compare.
pub(crate) fn read(range: &Range) -> Result<(Bundle, Bundle), Failure> {
    let (base, head) = sources(range)?;
    Ok((compile(&base)?, compile(&head)?))
}

/// One bundle: of a revision, or of the working tree.
pub(crate) fn one(path: &Path, revision: Option<&str>) -> Result<Bundle, Failure> {
    match revision {
        None => compile(&working_tree(path)?),
        Some(name) => {
            let range = Range { range: format!("{name}..{name}"), repository: path.to_owned() };
            compile(&sources(&range)?.1)
        }
    }
}

/// The files of both sides.
pub(crate) fn sources(range: &Range) -> Result<(BundleSource, BundleSource), Failure> {
    let path = &range.repository;
    let revisions = Revisions::discover(path).map_err(|error| {
        Failure::failed(&error).at(path.display()).next("run this in a Git repository, or name one with --repository")
    })?;
    let revision = |name: &str| {
        revisions.read(name).map_err(|error| {
            Failure::failed(&error).at(path.display()).next("give two revisions that exist, such as `main..HEAD`")
        })
    };
    let or_head = |name: &str| if name.is_empty() { "HEAD".to_owned() } else { name.to_owned() };
    if let Some((base, head)) = range.range.split_once("...") {
        let (base, head) = (or_head(base), or_head(head));
        let ancestor = revisions.merge_base(&base, &head).map_err(|error| {
            Failure::failed(&error).at(path.display()).next("give two revisions with a common history")
        })?;
        Ok((revision(&ancestor)?, revision(&head)?))
    } else if let Some((base, head)) = range.range.split_once("..") {
        Ok((revision(&or_head(base))?, revision(&or_head(head))?))
    } else {
        Ok((revision(&range.range)?, working_tree(path)?))
    }
}

/// The files of a working tree.
pub(crate) fn working_tree(path: &Path) -> Result<BundleSource, Failure> {
    repository::read_dir(path).map_err(|error| {
        Failure::failed(signet_observe::error_chain(&error))
            .at(path.display())
            .next("run this in a policy repository: signet.yaml beside a directory `policies`")
    })
}

/// Compiles it, or says all that is wrong with it.
pub(super) fn compile(source: &BundleSource) -> Result<Bundle, Failure> {
    let name = &source.commit;
    match Bundle::compile(source) {
        Ok(bundle) => Ok(bundle),
        Err(problems) => {
            for problem in &problems {
                eprintln!("{}", problem_text(problem));
            }
            Err(Failure::failed(format!("the policies of `{name}` do not compile"))
                .at(problems.first().map_or_else(|| name.to_owned(), |p| format!("{}:{}", p.path, p.line)))
                .next("mend what is listed above; `signet policy check` shows it for the working tree"))
        }
    }
}
