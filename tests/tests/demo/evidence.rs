//! Evidence packages: checked with `signet` and public keys alone, by a second verifier that shares no code with it, and
//! after one bit of each file was changed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use signet_tests::cli::{Output, run, signet};
use signet_tests::demo::{Demo, program};

use crate::transparency::{Digest, climb, leaf, open_note};
use crate::{Running, Test};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("an_evidence_package_holds_for_us_and_for_a_second_verifier", holds),
    ("one_bit_of_any_file_of_a_package_is_found", one_bit),
    ("one_record_is_proved_by_a_file_and_no_bit_of_it_can_be_changed", |demo| Box::pin(one_record(demo))),
    ("a_package_that_continues_another_proves_it", continues),
];

fn package(demo: &Demo, out: &Path, more: &[&str]) -> anyhow::Result<Value> {
    let arguments = ["audit", "evidence", "--control", "PCI-DSS-4.0.1:7.3.3", "--out", out.to_str().unwrap()];
    let output = signet(demo, &[&arguments[..], more].concat())?;
    ensure!(output.code == 0, "{}{}", output.stdout, output.stderr);
    Ok(serde_json::from_slice(&std::fs::read(out.join("package.json"))?)?)
}

/// As a stranger does: no mesh, public keys alone.
fn verify(demo: &Demo, package: &Path) -> anyhow::Result<Output> {
    let mut command = Command::new(program("signet")?);
    command.args(["audit", "verify", package.to_str().unwrap()]).env_remove("SIGNET_CONTEXT").current_dir("/");
    for cluster in demo.endpoints().clusters.values() {
        command.args(["--key", &cluster.log_key]);
    }
    run(command)
}

/// Go's sumdb/note and tlog, as `scripts/second-verifier.sh` builds it.
fn second_verifier(demo: &Demo, package: &Path) -> anyhow::Result<Output> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/bin/second-verifier");
    ensure!(program.exists(), "{} is missing: run scripts/second-verifier.sh", program.display());
    let mut command = Command::new(program);
    command.arg(package).args(demo.endpoints().clusters.values().map(|cluster| &cluster.log_key));
    run(command)
}

fn bytes(hex: &str) -> anyhow::Result<Vec<u8>> {
    ensure!(hex.len().is_multiple_of(2) && hex.is_ascii(), "not hex");
    (0..hex.len()).step_by(2).map(|at| Ok(u8::from_str_radix(&hex[at..at + 2], 16)?)).collect()
}

fn holds(demo: &Demo) -> Running<'_> {
    Box::pin(async move {
        let directory = tempfile::tempdir()?;
        let out = directory.path().join("package");
        let package = package(demo, &out, &[])?;
        let output = verify(demo, &out)?;
        assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
        assert_eq!(package["control"]["id"], "PCI-DSS-4.0.1:7.3.3");
        assert!(
            package["facts"]["denied"].as_u64() > Some(0),
            "ledger calls payments all the time: no policy speaks of it"
        );
        assert_eq!(package["unknown_bundles"], serde_json::json!([]));
        let report = std::fs::read_to_string(out.join("report.html"))?;
        assert!(report.contains("PCI-DSS-4.0.1:7.3.3") && report.contains("X25519MLKEM768"), "{report}");

        // The second verifier: SHA-256, Ed25519 and RFC 9162, and none of Signet's code.
        let mut proved = 0;
        for cluster in demo.endpoints().clusters.values() {
            let logs = package["logs"].as_array().context("logs")?;
            let log = logs.iter().find(|log| log["log"] == cluster.log_origin.as_str()).context("the cluster's log")?;
            let below = out.join(log["directory"].as_str().context("a directory")?);
            let note = std::fs::read_to_string(below.join("checkpoint"))?;
            let checkpoint = open_note(&note, &cluster.log_origin, &cluster.log_key)?;
            for line in std::fs::read_to_string(below.join("entries.jsonl"))?.lines() {
                let entry: Value = serde_json::from_str(line)?;
                let canonical = bytes(entry["canonical"].as_str().context("bytes")?)?;
                let hashes = entry["proof"].as_array().context("a proof")?.iter();
                let path: Vec<Digest> = hashes
                    .map(|hash| bytes(hash.as_str().context("text")?)?.try_into().ok().context("32 bytes"))
                    .collect::<anyhow::Result<_>>()?;
                let index = entry["leaf_index"].as_u64().context("a place")?;
                let root = climb(leaf(&canonical), index, checkpoint.size, &path);
                assert_eq!(root, Some(checkpoint.root), "leaf {index} of {}", cluster.log_origin);
                proved += 1;
            }
        }
        assert_eq!(proved, package["facts"]["denied"]);
        let third = second_verifier(demo, &out)?;
        assert_eq!((third.code, third.stdout.trim()), (0, proved.to_string().as_str()), "{}", third.stderr);
        Ok(())
    })
}

async fn one_record(demo: &Demo) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("denied.tlog-proof");
    let query = ["audit", "query", "--cluster", "east", "--decision", "deny", "--limit", "1", "-o", "json"];
    let rows: Value = serde_json::from_str(&signet(demo, &query)?.stdout)?;
    let id = rows[0]["decision_id"].as_str().context("a decision")?;
    let output = signet(demo, &["audit", "proof", id, "--out", file.to_str().unwrap()])?;
    ensure!(output.code == 0, "{}", output.stderr);
    let checked = verify(demo, &file)?;
    assert_eq!(checked.code, 0, "{}{}", checked.stdout, checked.stderr);

    // By rules of the format alone, with none of Signet's code; the other cluster cosigned the checkpoint.
    let text = std::fs::read_to_string(&file)?;
    let (head, note) = text.split_once("\n\n").context("a checkpoint")?;
    let lines: Vec<&str> = head.lines().collect();
    assert_eq!(lines[0], "c2sp.org/tlog-proof@v1");
    let canonical = STANDARD.decode(lines[1].strip_prefix("extra ").context("the record")?)?;
    let index: u64 = lines[2].strip_prefix("index ").context("an index")?.parse()?;
    assert_eq!(rows[0]["leaf_index"], index);
    let path: Vec<Digest> = lines[3..]
        .iter()
        .map(|line| STANDARD.decode(line)?.try_into().ok().context("32 bytes"))
        .collect::<anyhow::Result<_>>()?;
    let east = demo.cluster("east")?;
    let checkpoint = open_note(note, &east.log_origin, &east.log_key)?;
    assert_eq!(climb(leaf(&canonical), index, checkpoint.size, &path), Some(checkpoint.root));
    let witness = demo.cluster("west")?.witness_key.split('+').next().context("a name")?.to_owned();
    assert!(note.contains(&format!("\u{2014} {witness} ")), "{note}");

    for at in [30, head.len() / 2, head.len() - 3, head.len() + 40] {
        let mut changed = text.clone().into_bytes();
        changed[at] ^= 1;
        std::fs::write(&file, &changed)?;
        let checked = verify(demo, &file)?;
        assert_eq!(checked.code, 1, "byte {at}: {}{}", checked.stdout, checked.stderr);
    }
    Ok(())
}

/// Every file below a directory.
fn files(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() { found.extend(files(&path)?) } else { found.push(path) }
    }
    Ok(found)
}

fn one_bit(demo: &Demo) -> Running<'_> {
    Box::pin(async move {
        let directory = tempfile::tempdir()?;
        let out = directory.path().join("package");
        package(demo, &out, &["--cluster", "east"])?;
        let files = files(&out)?;
        assert!(files.len() >= 8, "{files:?}");
        for file in files {
            let whole = std::fs::read(&file)?;
            let name = file.strip_prefix(&out)?.display().to_string();
            let mut changed = whole.clone();
            changed[whole.len() / 2] ^= 1;
            std::fs::write(&file, &changed)?;
            let output = verify(demo, &out)?;
            assert_eq!(output.code, 1, "{name}: {}{}", output.stdout, output.stderr);
            let named = match name.as_str() {
                "package.note" => "is not signed for by log",
                "package.json" => "package",
                name => name,
            };
            assert!(output.stdout.contains(named), "{name}: {}", output.stdout);
            std::fs::remove_file(&file)?;
            let output = verify(demo, &out)?;
            assert!(output.code == 1 && output.stdout.contains(&name), "{name} removed: {}", output.stdout);
            std::fs::write(&file, &whole)?;
        }
        std::fs::write(out.join("more"), "x")?;
        let output = verify(demo, &out)?;
        assert!(output.code == 1 && output.stdout.contains("does not belong"), "{}", output.stdout);
        std::fs::remove_file(out.join("more"))?;
        let output = verify(demo, &out)?;
        assert_eq!(output.code, 0, "put back: {}{}", output.stdout, output.stderr);
        Ok(())
    })
}

fn continues(demo: &Demo) -> Running<'_> {
    Box::pin(async move {
        let directory = tempfile::tempdir()?;
        let (first, second) = (directory.path().join("first"), directory.path().join("second"));
        package(demo, &first, &[])?;
        let package = package(demo, &second, &["--previous", first.to_str().unwrap()])?;
        let logs = package["logs"].as_array().context("logs")?;
        assert!(logs.iter().all(|log| log["previous"]["checkpoint"].is_string()), "{logs:?}");
        let output = verify(demo, &second)?;
        assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
        let by_go = second_verifier(demo, &second)?;
        assert_eq!(by_go.code, 0, "{}", by_go.stderr);
        // It exists already, and there is no such control.
        let again = signet(demo, &["audit", "evidence", "--control", "SOC2:CC6.1", "--out", second.to_str().unwrap()])?;
        assert_eq!(again.code, 1, "{}", again.stderr);
        let none = directory.path().join("none");
        let none = signet(demo, &["audit", "evidence", "--control", "SOC2:x", "--out", none.to_str().unwrap()])?;
        assert_eq!(none.code, 2, "{}", none.stderr);
        Ok(())
    })
}
