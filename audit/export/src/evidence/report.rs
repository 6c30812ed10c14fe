//! What a person reads: `report.html` and `VERIFY.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::Package;
use crate::format::visible;
use crate::row::rfc3339;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}\
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2rem}table{border-collapse:collapse;width:100%}\
th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #d8dee4;vertical-align:top;overflow-wrap:anywhere}\
th{font-weight:600}td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}\
code{font:13px ui-monospace,monospace}.warn{background:#fff4d6;padding:.6rem .9rem;border-left:4px solid #b58100}";

/// Text of anyone, as text of the page.
fn safe(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in visible(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

fn table(out: &mut String, heads: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    out.push_str("<table><tr>");
    for head in heads {
        let _ = write!(out, "<th>{}</th>", safe(head));
    }
    out.push_str("</tr>\n");
    for row in rows {
        out.push_str("<tr>");
        for cell in row {
            let number = !cell.is_empty() && cell.chars().all(|c| c.is_ascii_digit());
            let _ = write!(out, "<td{}>{}</td>", if number { " class=n" } else { "" }, safe(&cell));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</table>\n");
}

fn counted(out: &mut String, title: &str, what: &str, counts: &BTreeMap<String, u64>) {
    if counts.is_empty() {
        return;
    }
    let _ = writeln!(out, "<h2>{}</h2>", safe(title));
    table(out, &[what, "records"], counts.iter().map(|(name, count)| vec![name.clone(), count.to_string()]));
}

/// The report: one page without scripts or anything from elsewhere.
pub(super) fn html(package: &Package) -> String {
    let facts = &package.facts;
    let mut out = format!(
        "<!doctype html>\n<html lang=en><meta charset=utf-8><title>Signet evidence</title><style>{STYLE}</style>\n\
         <h1>Evidence from the audit log</h1>\n"
    );
    let mut about = vec![
        vec!["made".to_owned(), format!("{} by {}", package.made_at, package.by)],
        vec!["records".to_owned(), package.records().to_string()],
    ];
    if let Some(control) = &package.control {
        let _ =
            writeln!(out, "<p><b>{}</b> ({})<br>{}</p>", safe(&control.id), safe(&control.title), safe(&control.about));
        about.push(vec!["what the records show".to_owned(), control.shows.clone()]);
        about.push(vec!["what they do not show".to_owned(), control.cannot.clone()]);
    }
    let time = |time: Option<i64>| time.map_or_else(|| "any".to_owned(), rfc3339);
    about.push(vec![
        "asked for".to_owned(),
        format!("from {} until before {}", time(package.filter.from_us), time(package.filter.to_us)),
    ]);
    if let (Some(first), Some(last)) = (facts.first_us, facts.last_us) {
        about.push(vec!["earliest and latest".to_owned(), format!("{} and {}", rfc3339(first), rfc3339(last))]);
    }
    about.push(vec!["permitted and denied".to_owned(), format!("{} and {}", facts.allowed, facts.denied)]);
    table(&mut out, &["", ""], about);
    completeness(&mut out, package);
    counted(&mut out, "Kinds of records", "kind", &facts.kinds);
    counted(&mut out, "Encryption of the decided calls", "TLS version, key exchange, cipher", &facts.tls);
    counted(&mut out, "Policies that decided", "policy", &facts.policies);
    counted(&mut out, "Commits of the policies", "commit", &facts.commits);
    out.push_str(
        "<p>The records themselves lie in <code>logs/</code>, the text of the policies in <code>policies/</code>. \
         <code>VERIFY.md</code> says how to check them, what that proves and what it does not.</p></html>\n",
    );
    out
}

fn completeness(out: &mut String, package: &Package) {
    out.push_str("<h2>Completeness</h2>\n");
    let rows = package.logs.iter().map(|log| {
        let (stretch, missing) = (&log.covered.stretch, &log.covered.missing);
        let missing: u64 = missing.iter().map(|range| range.to.saturating_sub(range.from)).sum();
        let continued = if log.previous.is_some() { "proved" } else { "no earlier package was given" };
        vec![
            stretch.log.clone(),
            format!("{} to {}", stretch.from, stretch.to),
            stretch.size.to_string(),
            missing.to_string(),
            continued.to_owned(),
        ]
    });
    let heads = ["log", "leaves read", "signed size", "leaves without a row", "continues the earlier package"];
    table(out, &heads, rows);
    let missing: i64 = package.producers.iter().map(|producer| producer.missing).sum();
    let open = package.producers.iter().filter(|producer| !producer.closed).count();
    let silent = package.producers.iter().filter(|producer| producer.silent_since_us.is_some()).count();
    let _ = writeln!(
        out,
        "<p>{} spools fed these logs; {open} are open, so that more may come from them. Sequence numbers that never came: \
         {missing}. Spools that fell silent without being closed: {silent}.</p>",
        package.producers.len()
    );
    if missing > 0 || silent > 0 || !package.unknown_bundles.is_empty() {
        let _ = writeln!(
            out,
            "<p class=warn>Not complete: {missing} records never came, {silent} spools fell silent with an unknown number of \
             records in them, and the text of {} policy bundles is not in the store.</p>",
            package.unknown_bundles.len()
        );
    }
    let behind = package.producers.iter().filter(|producer| producer.missing > 0 || producer.silent_since_us.is_some());
    let rows: Vec<Vec<String>> = behind
        .map(|producer| {
            let (missing, silent) = (producer.missing.to_string(), producer.silent_since_us.map(rfc3339));
            vec![producer.producer.clone(), producer.epoch.clone(), missing, silent.unwrap_or_default()]
        })
        .collect();
    if !rows.is_empty() {
        table(out, &["producer", "spool", "missing", "silent since"], rows);
    }
}

/// How to check the package, and what that proves.
pub(super) fn how_to_verify(package: &Package) -> String {
    let mut keys = String::new();
    for log in &package.logs {
        let _ = writeln!(keys, "    {}", visible(&log.covered.stretch.verifier_key));
    }
    format!(
        "# How to check this package

    signet audit verify DIRECTORY --key KEY [--key KEY]

needs no mesh, no network and no secret. Give the logs' keys as you have them from another source than this package. For
comparison, these are the keys that the store names:

{keys}
## Without Signet

- `package.note` is a C2SP signed note whose text names the SHA-256 of `package.json`; `package.json` names the SHA-256 of
  every other file.
- `logs/N/checkpoint` is a C2SP tlog-checkpoint (a signed note: origin, size, root).
- Each line of `logs/N/entries.jsonl` has a record's canonical bytes (hex) and its path from leaf to root. The leaf is SHA-256 of a
  zero byte and the bytes; the path is that of RFC 6962. Any client for tlog-tiles or RFC 6962 checks it.
- Personal values enter the tree as commitments over a field's number, a salt and the value; `openings` has these, and can be
  erased without harm to a proof.
- `logs/N/records.jsonl` shows the same records, line by line, for people.
- `policies/` has the policy text by digest, with the commits that had it and who signed them.

## What this proves

- Every record in the package is in its log, unaltered, at the place that it names, below the checkpoint that the log's key signed.
- Where an earlier checkpoint is named, the log continues it: nothing that was there was changed or removed.
- Nothing of the package was changed since the audit service signed for it.

## What it does not prove

- That the package has every record that was asked for. The audit service signed that it was made so; the log itself, read
  whole (`signet audit verify`), shows it.
- That a call which never reached a sidecar or gateway was recorded. `report.html` names spools with missing sequences.
- That the times are right. They are the producers'; `received_at`, `epoch` and `sequence` are the store's words and not in
  the tree.
- That nobody was shown another history. Checkpoints kept by others, or signed by witnesses, show that.
"
    )
}
