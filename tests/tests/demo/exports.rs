//! `signet audit export` while the demo's load goes on, and `signet audit verify` of what it wrote and of changed copies.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::Value;
use signet_tests::cli::{Output, run, signet};
use signet_tests::demo::{Demo, program};
use signet_tests::{calls, records};

use crate::{Running, Test};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("exports_under_load_neither_skip_nor_repeat_a_record", |demo| Box::pin(exact(demo))),
    ("every_format_is_exported_with_a_manifest_that_verifies", formats),
    ("an_export_to_standard_output_is_the_records_and_nothing_else", stdout),
    ("a_changed_export_is_found_and_the_records_named", tampered),
    ("an_export_is_in_the_log_that_it_read", |demo| Box::pin(recorded(demo))),
    ("the_logs_of_the_mesh_verify_while_they_grow", logs_verify),
    ("each_control_names_an_export_that_runs", controls),
];

/// Exports to `file`, with these arguments too; gives the manifest.
fn export(demo: &Demo, format: &str, file: &Path, more: &[&str]) -> anyhow::Result<Value> {
    let mut arguments = vec!["audit", "export", "--format", format, "--out", file.to_str().unwrap()];
    arguments.extend(more);
    let output = signet(demo, &arguments)?;
    ensure!(output.code == 0, "{}{}", output.stdout, output.stderr);
    Ok(serde_json::from_slice(&std::fs::read(beside(file, ".manifest.json"))?)?)
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", file.display()))
}

fn lines(text: &str) -> anyhow::Result<Vec<Value>> {
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// Verifies an export as a stranger does: no mesh, public keys alone.
fn verify(demo: &Demo, file: &Path, keys: &[&str]) -> anyhow::Result<Output> {
    let mut command = std::process::Command::new(program("signet")?);
    command.args(["audit", "verify", file.to_str().unwrap()]).env_remove("SIGNET_CONTEXT").current_dir(demo.dir());
    for key in keys {
        command.args(["--key", key]);
    }
    run(command)
}

fn keys(demo: &Demo) -> Vec<&str> {
    demo.endpoints().clusters.values().map(|cluster| cluster.log_key.as_str()).collect()
}

async fn exact(demo: &Demo) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let mut leaves: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut sizes = BTreeMap::new();
    let mut next = String::new();
    for round in 0..4 {
        let file = directory.path().join(format!("{round}.jsonl"));
        let after = ["--after", next.as_str()];
        let manifest = export(demo, "jsonl", &file, if round == 0 { &[] } else { &after })?;
        let rows = lines(&std::fs::read_to_string(&file)?)?;
        assert_eq!(manifest["records"], rows.len());
        assert!(!rows.is_empty(), "round {round}: an export is itself a record, so there is always one");
        for row in rows {
            let log = row["log"].as_str().context("a log")?.to_owned();
            leaves.entry(log).or_default().push(row["leaf_index"].as_u64().context("a leaf")?);
        }
        for log in manifest["logs"].as_array().context("logs")? {
            sizes.insert(log["log"].as_str().context("a log")?.to_owned(), log["to"].as_u64().context("an end")?);
        }
        next = manifest["next"].as_str().context("a cursor")?.to_owned();
    }
    assert_eq!(sizes.len(), 2);
    for (log, size) in sizes {
        assert_eq!(leaves[&log], (0..size).collect::<Vec<_>>(), "{log}");
    }
    Ok(())
}

fn formats(demo: &Demo) -> Running<'_> {
    Box::pin(async move {
        let directory = tempfile::tempdir()?;
        for format in ["jsonl", "csv", "parquet", "ocsf", "cef"] {
            let file = directory.path().join(format!("export.{format}"));
            let filter = ["--decision", "deny", "--source", "east/bank/web", "--kind", "decision"];
            let manifest = export(demo, format, &file, &filter)?;
            assert_eq!(manifest["format"], format);
            assert_eq!(manifest["filter"]["source"], "spiffe://east.bank.example/ns/bank/sa/web");
            let content = std::fs::read(&file)?;
            assert_eq!(manifest["bytes"], content.len());
            let records = usize::try_from(manifest["records"].as_u64().context("records")?)?;
            assert!(records > 0, "{format}: the load is denied all the time");
            let text = String::from_utf8_lossy(&content);
            match format {
                "parquet" => assert!(content.starts_with(b"PAR1") && content.ends_with(b"PAR1")),
                "csv" => assert_eq!(text.lines().count(), records + 1),
                "cef" => {
                    assert_eq!(text.lines().count(), records);
                    assert!(text.lines().all(|line| line.starts_with("CEF:0|Signet|") && line.contains(" act=deny ")));
                }
                _ => {
                    let rows = lines(&text)?;
                    assert_eq!(rows.len(), records);
                    let denied = |row: &Value| row["decision"] == "deny" || row["action_id"] == 2;
                    assert!(rows.iter().all(denied), "{format}");
                }
            }
            let output = verify(demo, &file, &keys(demo))?;
            assert_eq!(output.code, 0, "{format}: {}{}", output.stdout, output.stderr);
        }
        Ok(())
    })
}

fn stdout(demo: &Demo) -> Running<'_> {
    Box::pin(async move {
        let directory = tempfile::tempdir()?;
        let manifest = directory.path().join("m.json");
        let arguments = ["audit", "export", "--format", "jsonl", "--out", "-", "--cluster", "west", "--manifest"];
        let output = signet(demo, &[&arguments[..], &[manifest.to_str().unwrap()]].concat())?;
        assert_eq!(output.code, 0, "{}", output.stderr);
        let rows = lines(&output.stdout)?;
        let origin = &demo.cluster("west")?.log_origin;
        assert!(!rows.is_empty() && rows.iter().all(|row| row["log"] == origin.as_str()));
        // What a pipe took verifies like a file.
        let file = directory.path().join("taken");
        std::fs::write(&file, &output.stdout)?;
        let checked =
            signet(demo, &["audit", "verify", file.to_str().unwrap(), "--manifest", manifest.to_str().unwrap()])?;
        assert_eq!(checked.code, 0, "{}{}", checked.stdout, checked.stderr);
        Ok(())
    })
}

fn tampered(demo: &Demo) -> Running<'_> {
    Box::pin(async move {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("export.jsonl");
        export(demo, "jsonl", &file, &[])?;
        let (manifest, note) = (beside(&file, ".manifest.json"), beside(&file, ".manifest.note"));
        let keys = keys(demo);
        let expect = |what: &str, keys: &[&str], said: &str| -> anyhow::Result<()> {
            let output = verify(demo, &file, keys)?;
            assert_eq!(output.code, 1, "{what}: {}{}", output.stdout, output.stderr);
            assert!(output.stdout.contains(said), "{what}: {}", output.stdout);
            Ok(())
        };
        for changed in [&file, &manifest, &note] {
            let whole = std::fs::read(changed)?;
            let mut bytes = whole.clone();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(changed, &bytes)?;
            let said = match changed {
                _ if changed == &file => "were changed:",
                _ if changed == &manifest => "manifest",
                _ => "is not signed for by log",
            };
            expect(&changed.display().to_string(), &keys, said)?;
            std::fs::write(changed, &whole)?;
        }
        let whole = std::fs::read(&file)?;
        let cut = whole.iter().rposition(|byte| *byte == b'{').context("a last record")?;
        std::fs::write(&file, &whole[..cut])?;
        expect("the last record removed", &keys, "the manifest says")?;
        std::fs::write(&file, [&whole[..], b"{}\n"].concat())?;
        expect("a record added", &keys, "the manifest says")?;
        std::fs::write(&file, &whole)?;
        expect("a key is missing", &keys[..1], "no trusted key")?;
        let whole = verify(demo, &file, &keys)?;
        assert_eq!(whole.code, 0, "put back: {}{}", whole.stdout, whole.stderr);
        Ok(())
    })
}

async fn recorded(demo: &Demo) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("export.csv");
    let manifest = export(demo, "csv", &file, &["--cluster", "east", "--kind", "event"])?;
    let pool = records::connect(&demo.endpoints().postgres).await?;
    let access = manifest["accesses"][0]["access_id"].as_str().context("an access")?;
    let events: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT source_spiffe_id, reason, detail FROM signet.entries WHERE action = 'audit:export' \
         AND (id::text = $1 OR detail LIKE '%' || $1 || '%') ORDER BY leaf_index",
    )
    .bind(access)
    .fetch_all(&pool)
    .await?;
    let reasons: Vec<&str> = events.iter().map(|(_, reason, _)| reason.as_str()).collect();
    assert_eq!(reasons, ["began", "sealed"]);
    assert!(events.iter().all(|(source, ..)| manifest["by"] == source.as_str()), "{events:?} by {}", manifest["by"]);
    assert!(events[0].2.contains("\"csv\""), "{}", events[0].2);
    Ok(())
}

fn logs_verify(demo: &Demo) -> Running<'_> {
    Box::pin(async move {
        let output = signet(demo, &["audit", "verify", "-o", "json"])?;
        assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
        let reports: Value = serde_json::from_str(&output.stdout)?;
        let reports = reports.as_array().context("a list")?;
        assert_eq!(reports.len(), 2);
        assert!(reports.iter().all(|report| report["holds"] == true && report["records"].as_u64() > Some(0)));
        // A checkpoint that someone kept, and one that was changed.
        let directory = tempfile::tempdir()?;
        let kept = directory.path().join("checkpoint");
        let east = demo.cluster("east")?;
        let note = calls::get(east.tlog.trim_start_matches("http://"), "/checkpoint", &[]).await?.text();
        std::fs::write(&kept, &note)?;
        let arguments = ["audit", "verify", "--cluster", "east", "--checkpoint", kept.to_str().unwrap()];
        let output = signet(demo, &arguments)?;
        assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
        let mut lines: Vec<&str> = note.lines().collect();
        lines[1] = "1";
        std::fs::write(&kept, lines.join("\n") + "\n")?;
        let output = signet(demo, &arguments)?;
        assert_eq!(output.code, 1, "{}{}", output.stdout, output.stderr);
        assert!(output.stdout.contains("the checkpoint from"), "{}", output.stdout);
        // A key that is not the log's: nothing of it may count as signed.
        let other = &demo.cluster("west")?.log_key;
        let wrong = signet(demo, &["audit", "verify", "--cluster", "east", "--key", other])?;
        assert_eq!(wrong.code, 2, "{}{}", wrong.stdout, wrong.stderr);
        Ok(())
    })
}

fn controls(demo: &Demo) -> Running<'_> {
    Box::pin(async move {
        let output = signet(demo, &["audit", "controls", "-o", "json"])?;
        assert_eq!(output.code, 0, "{}", output.stderr);
        let listed: Value = serde_json::from_str(&output.stdout)?;
        assert!(listed.as_array().context("a list")?.len() > 60);
        let whole = signet(demo, &["audit", "controls", "PCI-DSS-4.0.1:7.3.3"])?;
        assert_eq!(whole.code, 0, "{}", whole.stderr);
        let command = whole.stdout.lines().find_map(|line| line.split_once("records  signet ")).context("a command")?.1;
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("denied.jsonl");
        let arguments: Vec<&str> =
            command.split(' ').map(|word| if word == "FILE" { file.to_str().unwrap() } else { word }).collect();
        let output = signet(demo, &arguments)?;
        assert_eq!(output.code, 0, "{command}: {}", output.stderr);
        let rows = lines(&std::fs::read_to_string(&file)?)?;
        assert!(!rows.is_empty(), "ledger calls payments all the time, and no policy speaks of it");
        assert!(rows.iter().all(|row| row["reason"] == "no_permit" && row["decision"] == "deny"));
        assert_eq!(signet(demo, &["audit", "controls", "PCI-DSS-4.0.1:99"])?.code, 1);
        Ok(())
    })
}
