//! The dashboard in headless Chromium, over the shared demo: `ui/web`'s own end-to-end tests.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use signet_tests::cli;
use signet_tests::demo::Demo;

use crate::{Running, Test};

pub(crate) const TESTS: &[(&str, Test)] = &[("the_dashboard_works_in_a_browser", browser)];

fn browser(demo: &Demo) -> Running<'_> {
    Box::pin(async move {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace around the tests")?;
        let web = root.join("ui/web");
        let chromium = PathBuf::from(std::env::var_os("CHROMIUM").unwrap_or_else(|| "/usr/bin/chromium".into()));
        ensure!(
            chromium.is_file(),
            "there is no Chromium at {}: install it (sudo apt-get install chromium) or name one in CHROMIUM",
            chromium.display()
        );
        ensure!(
            web.join("node_modules/playwright-core").is_dir(),
            "{} has no node_modules: run `make web` first",
            web.display()
        );
        let node = cli::run(Command::new(root.join("scripts/node.sh")))?;
        ensure!(node.code == 0, "scripts/node.sh: {}", node.stderr);
        let path = format!("{}:{}", node.stdout.trim(), std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new("npm");
        command
            .args(["run", "--silent", "e2e"])
            .current_dir(&web)
            .env("PATH", path)
            .env("CHROMIUM", chromium)
            .env("SIGNET_DASHBOARD", &demo.endpoints().dashboard)
            .env("SIGNET_DASHBOARD_TOKEN", &demo.endpoints().dashboard_token);
        let ran = cli::run(command)?;
        ensure!(ran.code == 0, "the browser's tests failed:\n{}\n{}", ran.stdout, ran.stderr);
        Ok(())
    })
}
