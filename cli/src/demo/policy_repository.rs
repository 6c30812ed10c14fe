//! The demo's policy repository: the model policies that ship with Signet, in a Git repository of their own whose first
//! commit is signed with a key made for this demo.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rust_embed::RustEmbed;
use signet_policy_repository::BREAK_GLASS_NAMESPACE;

use super::directory;
use super::process::run_to_end;
use crate::failure::{Failure, ResultExt};

const AUTHOR: &str = "Bank Policy Author";
const EMAIL: &str = "policy@bank.example";
const INSTALL_GIT: &str = "install Git: sudo apt-get install -y git openssh-client";

/// `deploy/demo/policies`, a policy repository's root.
#[derive(RustEmbed)]
#[folder = "../deploy/demo/policies"]
struct ModelPolicies;

pub(crate) struct PolicyRepository {
    pub(crate) path: PathBuf,
    pub(crate) signing_key: PathBuf,
    /// For the control planes' own configuration, outside of the repository.
    pub(crate) trusted_signers: PathBuf,
}

impl PolicyRepository {
    /// Makes key, repository and first commit below `dir`.
    pub(crate) fn create(dir: &Path) -> Result<Self, Failure> {
        let keys = dir.join("policy-keys");
        directory::make(&keys)?;
        let signing_key = keys.join("id_ed25519");
        let trusted_signers = keys.join("trusted_signers");
        let public = make_key(&signing_key)?;
        directory::write_private(
            &trusted_signers,
            format!("{EMAIL} namespaces=\"git,{BREAK_GLASS_NAMESPACE}\" {public}\n").as_bytes(),
        )?;

        let path = dir.join("policy");
        for name in ModelPolicies::iter() {
            let Some(file) = ModelPolicies::get(&name) else { continue };
            let target = path.join(name.as_ref());
            if let Some(parent) = target.parent() {
                directory::make(parent)?;
            }
            fs::write(&target, &file.data).map_err(|error| {
                Failure::failed(error).at(target.display()).next("check the space and rights there")
            })?;
        }
        let repository = Self { path, signing_key, trusted_signers };
        repository.git(&["init", "--quiet", "--initial-branch=main", "--template="])?;
        let signing_key = repository.signing_key.display().to_string();
        let signers = repository.trusted_signers.display().to_string();
        for (name, value) in [
            ("user.name", AUTHOR),
            ("user.email", EMAIL),
            ("gpg.format", "ssh"),
            ("user.signingkey", &signing_key),
            ("gpg.ssh.allowedSignersFile", &signers),
        ] {
            repository.git(&["config", name, value])?;
        }
        repository.git(&["add", "--all"])?;
        repository.git(&["commit", "--quiet", "-S", "-m", "Permit what the bank's services need"])?;
        Ok(repository)
    }

    fn git(&self, arguments: &[&str]) -> Result<(), Failure> {
        let mut git = Command::new("git");
        // What the user has configured elsewhere must neither sign with another key nor run hooks here.
        git.arg("-C")
            .arg(&self.path)
            .args(arguments)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null");
        run_to_end(git, &format!("git {}", arguments.join(" ")), INSTALL_GIT)
    }
}

/// An Ed25519 key without passphrase; gives the public line.
fn make_key(path: &Path) -> Result<String, Failure> {
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", EMAIL, "-f"]).arg(path);
    run_to_end(keygen, "ssh-keygen", INSTALL_GIT)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .failed("cannot protect the signing key", INSTALL_GIT)?;
    let public = fs::read_to_string(path.with_extension("pub")).failed("cannot read the signing key", INSTALL_GIT)?;
    Ok(public.trim().to_owned())
}
