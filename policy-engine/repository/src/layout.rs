//! Which files of a repository belong to a bundle, and how much of them is read at most.

/// Limits on what is read from a repository. Beyond any of them the whole bundle is refused: a part of a bundle is
/// never enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of one file.
    pub file_bytes: u64,
    /// Bytes of all files together.
    pub total_bytes: u64,
    /// Entries of all directories that are looked at.
    pub entries: usize,
    /// Directories above a file.
    pub depth: usize,
    /// Commits between two accepted ones.
    pub commits: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { file_bytes: 1 << 20, total_bytes: 32 << 20, entries: 10_000, depth: 16, commits: 10_000 }
    }
}

/// Whether a file at this path from the root belongs to a bundle.
pub fn is_wanted(path: &str) -> bool {
    let within = |folder: &str, ends: &[&str]| path.starts_with(folder) && ends.iter().any(|end| path.ends_with(end));
    path == "signet.yaml"
        || within("policies/", &[".cedar"])
        || within("invariants/", &[".cedar"])
        || within("tests/", &[".yaml", ".yml"])
        || within("keys/", &[".json"])
}

/// Whether files below this folder can belong to a bundle.
pub(crate) fn is_wanted_folder(path: &str) -> bool {
    matches!(path.split('/').next(), Some("policies" | "invariants" | "tests" | "keys"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundle_files_are_known_by_place_and_ending() {
        for path in [
            "signet.yaml",
            "policies/a.cedar",
            "policies/a/b.cedar",
            "tests/x.yml",
            "invariants/i.cedar",
            "keys/a.json",
        ] {
            assert!(is_wanted(path), "{path}");
        }
        for path in
            ["x/signet.yaml", "policies/README.md", "a.cedar", "tests/x.cedar", "policiesx/a.cedar", "keys/a.pem"]
        {
            assert!(!is_wanted(path), "{path}");
        }
        assert!(is_wanted_folder("policies/a") && !is_wanted_folder("docs"));
    }
}
