//! Licences of all dependencies against the list in `deny.toml`, and the packages that it bans, from cargo's own metadata.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context;

pub(crate) fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(root.join("deny.toml")).context("cannot read deny.toml")?;
    let allowed = quoted(&text, "allow = [");
    let banned: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("{ name = \"")?.split('"').next().map(str::to_owned))
        .collect();
    let mut problems = Vec::new();
    for (name, licence) in crate::graph::licences(root)? {
        if banned.contains(&name) {
            problems.push(format!("{name}: deny.toml bans it"));
        }
        match licence {
            Some(licence) if is_allowed(&licence, &allowed) => {}
            Some(licence) => problems.push(format!("{name}: its licence `{licence}` is not in deny.toml")),
            None => problems.push(format!("{name}: names no licence")),
        }
    }
    Ok(problems)
}

/// The strings of a TOML list that starts on the line `start`.
fn quoted(text: &str, start: &str) -> BTreeSet<String> {
    text.lines()
        .skip_while(|line| line.trim() != start)
        .skip(1)
        .take_while(|line| line.trim() != "]")
        .filter_map(|line| line.split('"').nth(1).map(str::to_owned))
        .collect()
}

/// An SPDX expression holds when one side of each OR is allowed whole; `/` is an old way to write OR.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let expression = expression.replace('/', " OR ");
    // AND binds closer than OR, except within parentheses, where every part is asked for.
    let flat = expression.replace(['(', ')'], "");
    if expression.contains('(') {
        return flat.split(" AND ").all(|part| any(part, allowed));
    }
    flat.split(" OR ").any(|side| side.split(" AND ").all(|part| allowed.contains(part.trim())))
}

fn any(part: &str, allowed: &BTreeSet<String>) -> bool {
    part.split(" OR ").any(|licence| allowed.contains(licence.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_licence_expressions() {
        let allowed: BTreeSet<String> = ["MIT", "Apache-2.0", "Unicode-3.0"].map(str::to_owned).into();
        for good in
            ["MIT", "MIT OR GPL-3.0", "MIT/Apache-2.0", "(MIT OR Apache-2.0) AND Unicode-3.0", "MIT AND Apache-2.0"]
        {
            assert!(is_allowed(good, &allowed), "{good}");
        }
        for bad in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT OR Apache-2.0) AND GPL-3.0"] {
            assert!(!is_allowed(bad, &allowed), "{bad}");
        }
    }
}
