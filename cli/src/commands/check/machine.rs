//! What the machine must have for `signet demo`.

use std::path::PathBuf;

use super::Check;
use crate::demo;

const SECTION: &str = "this machine";
const PROGRAMS: [(&str, &str); 4] = [
    ("git", "sudo apt-get install -y git"),
    ("ssh-keygen", "sudo apt-get install -y openssh-client"),
    ("setpriv", "sudo apt-get install -y util-linux"),
    ("curl", "sudo apt-get install -y curl"),
];

pub(super) fn checks() -> Vec<Check> {
    let mut checks = vec![match demo::postgres_binaries() {
        Ok(path) => Check::ok(SECTION, "PostgreSQL server", path.display().to_string()),
        Err(_) => Check::failed(
            SECTION,
            "PostgreSQL server",
            "there is none below /usr/lib/postgresql",
            "sudo apt-get install -y postgresql",
        ),
    }];
    for (program, install) in PROGRAMS {
        checks.push(match find(program) {
            Some(path) => Check::ok(SECTION, program, path.display().to_string()),
            // curl is how the guides call the bank; the demo itself does without.
            None if program == "curl" => Check::warning(SECTION, program, "it is not on the path", install),
            None => Check::failed(SECTION, program, "it is not on the path", install),
        });
    }
    checks
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}
