//! The log as a stranger checks it: HTTP, the verifier key, SHA-256 and Ed25519, and none of our own code.

use std::time::Duration;

use anyhow::{Context, ensure};
use aws_lc_rs::digest::{Context as Hash, SHA256};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use signet_tests::demo::{Cluster, Demo};
use signet_tests::{calls, wait};

use crate::Test;

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("the_log_of_each_cluster_adds_up_to_its_signed_checkpoint", |demo| Box::pin(adds_up(demo))),
    ("a_decision_is_in_the_log_within_seconds_and_the_log_only_grows", |demo| Box::pin(grows(demo))),
    ("a_checkpoint_changed_in_one_byte_does_not_verify", |demo| Box::pin(changed_checkpoint(demo))),
    ("each_cluster_cosigns_the_checkpoints_of_the_other", |demo| Box::pin(cosigned(demo))),
    ("the_log_shows_nothing_beyond_its_checkpoint", |demo| Box::pin(nothing_beyond(demo))),
];

/// C2SP tlog-tiles: hashes in a tile.
const WIDTH: u64 = 256;
const SOON: Duration = Duration::from_secs(15);

pub(crate) type Digest = [u8; 32];

fn sha256(parts: &[&[u8]]) -> Digest {
    let mut hash = Hash::new(&SHA256);
    for part in parts {
        hash.update(part);
    }
    hash.finish().as_ref().try_into().expect("32 bytes")
}

pub(crate) fn leaf(entry: &[u8]) -> Digest {
    sha256(&[&[0], entry])
}

/// RFC 6962, 2.1.
fn root(leaves: &[Digest]) -> Digest {
    match leaves {
        [] => sha256(&[]),
        [one] => *one,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            sha256(&[&[1], &root(left), &root(right)])
        }
    }
}

/// The largest power of two below `size`.
fn split(size: usize) -> usize {
    size.next_power_of_two() / 2
}

/// RFC 6962, 2.1.1: the audit path of `index`.
fn path(index: usize, leaves: &[Digest]) -> Vec<Digest> {
    if leaves.len() == 1 {
        return Vec::new();
    }
    let (left, right) = leaves.split_at(split(leaves.len()));
    let (mut below, sibling) = match index < left.len() {
        true => (path(index, left), root(right)),
        false => (path(index - left.len(), right), root(left)),
    };
    below.push(sibling);
    below
}

/// RFC 9162, 2.1.3.2: the root that a leaf and its audit path lead to.
pub(crate) fn climb(leaf: Digest, index: u64, size: u64, path: &[Digest]) -> Option<Digest> {
    let (mut node, mut last, mut hash) = (index, size.checked_sub(1)?, leaf);
    for sibling in path {
        if last == 0 {
            return None;
        }
        if node & 1 == 1 || node == last {
            hash = sha256(&[&[1], sibling, &hash]);
            while node & 1 == 0 && node != 0 {
                (node, last) = (node >> 1, last >> 1);
            }
        } else {
            hash = sha256(&[&[1], &hash, sibling]);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    (last == 0).then_some(hash)
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) size: u64,
    pub(crate) root: Digest,
}

/// C2SP signed-note and tlog-checkpoint: the note holds exactly what `key` signed for `origin`.
pub(crate) fn open_note(note: &str, origin: &str, key: &str) -> anyhow::Result<Checkpoint> {
    let (name, rest) = key.split_once('+').context("the key has no name")?;
    let (id, encoded) = rest.split_once('+').context("the key has no ID")?;
    let bytes = STANDARD.decode(encoded)?;
    ensure!(bytes.len() == 33 && bytes[0] == 1, "not an Ed25519 key");
    let key_id = sha256(&[name.as_bytes(), b"\n", &bytes])[..4].to_vec();
    ensure!(id == format!("{:08x}", u32::from_be_bytes(key_id.clone().try_into().unwrap())), "the key's ID is another");

    let (text, signatures) = note.split_once("\n\n").context("the note has no signatures")?;
    let text = format!("{text}\n");
    let signature = signatures
        .lines()
        .filter_map(|line| line.strip_prefix("\u{2014} ")?.split_once(' '))
        .filter(|(signer, _)| *signer == name)
        .filter_map(|(_, signature)| STANDARD.decode(signature).ok())
        .find(|signature| signature.starts_with(&key_id))
        .context("the note is not signed by this key")?;
    UnparsedPublicKey::new(&ED25519, &bytes[1..])
        .verify(text.as_bytes(), &signature[4..])
        .map_err(|_| anyhow::anyhow!("the signature does not verify"))?;

    let mut lines = text.lines();
    ensure!(lines.next() == Some(origin), "the checkpoint is of another log");
    let size = lines.next().context("no size")?.parse()?;
    let root = STANDARD.decode(lines.next().context("no root")?)?;
    Ok(Checkpoint { size, root: root.try_into().ok().context("the root is no SHA-256")? })
}

struct Log<'a>(&'a Cluster);

impl Log<'_> {
    async fn get(&self, path: &str) -> anyhow::Result<calls::Answer> {
        let address = self.0.tlog.strip_prefix("http://").context("tlog is HTTP")?.trim_end_matches('/');
        calls::get(address, path, &[]).await
    }

    async fn file(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        let answer = self.get(path).await?;
        ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.text());
        Ok(answer.body.to_vec())
    }

    async fn note(&self) -> anyhow::Result<String> {
        Ok(String::from_utf8(self.file("/checkpoint").await?)?)
    }

    async fn checkpoint(&self) -> anyhow::Result<Checkpoint> {
        open_note(&self.note().await?, &self.0.log_origin, &self.0.log_key)
    }

    /// All entries that a checkpoint covers.
    async fn entries(&self, size: u64) -> anyhow::Result<Vec<Vec<u8>>> {
        let mut entries = Vec::new();
        for (index, width) in tiles(size) {
            let bundle = self.file(&tile_path("entries", index, width)).await?;
            let mut rest = bundle.as_slice();
            let before = entries.len();
            while let [high, low, content @ ..] = rest {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                ensure!(content.len() >= length, "entry {} is cut", entries.len());
                let (entry, after) = content.split_at(length);
                entries.push(entry.to_vec());
                rest = after;
            }
            ensure!(rest.is_empty() && (entries.len() - before) as u64 == width, "bundle {index} is not whole");
        }
        Ok(entries)
    }

    /// The hashes of a level of tiles that has `count` of them.
    async fn hashes(&self, level: u8, count: u64) -> anyhow::Result<Vec<Digest>> {
        let mut hashes = Vec::new();
        for (index, width) in tiles(count) {
            let tile = self.file(&tile_path(&level.to_string(), index, width)).await?;
            let (whole, rest) = tile.as_chunks::<32>();
            ensure!(rest.is_empty() && whole.len() as u64 == width, "tile {level}/{index} is not whole");
            hashes.extend_from_slice(whole);
        }
        Ok(hashes)
    }
}

/// Index and width of the tiles that hold `count`.
fn tiles(count: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..count.div_ceil(WIDTH)).map(move |index| (index, WIDTH.min(count - index * WIDTH)))
}

fn tile_path(level: &str, index: u64, width: u64) -> String {
    let mut number = format!("{:03}", index % 1000);
    let mut rest = index / 1000;
    while rest > 0 {
        number = format!("x{:03}/{number}", rest % 1000);
        rest /= 1000;
    }
    let part = if width < WIDTH { format!(".p/{width}") } else { String::new() };
    format!("/tile/{level}/{number}{part}")
}

async fn adds_up(demo: &Demo) -> anyhow::Result<()> {
    for (name, cluster) in &demo.endpoints().clusters {
        let log = Log(cluster);
        let checkpoint = wait::until("records in the log", SOON, || async {
            Ok(log.checkpoint().await.ok().filter(|c| c.size > 1))
        })
        .await?;
        let leaves: Vec<Digest> = log.entries(checkpoint.size).await?.iter().map(|entry| leaf(entry)).collect();
        assert_eq!(root(&leaves), checkpoint.root, "{name}: the entries lead to the signed root");
        assert_eq!(log.hashes(0, checkpoint.size).await?, leaves, "{name}: level 0 holds the entries' hashes");
        let (mut level, mut below) = (1, leaves);
        while below.len() as u64 >= WIDTH {
            let whole: Vec<Digest> = below.chunks_exact(WIDTH as usize).map(root).collect();
            assert_eq!(log.hashes(level, whole.len() as u64).await?, whole, "{name}: level {level}");
            (level, below) = (level + 1, whole);
        }
    }
    Ok(())
}

async fn grows(demo: &Demo) -> anyhow::Result<()> {
    let log = Log(demo.cluster("east")?);
    let before = log.checkpoint().await?;
    let web = demo.workload("east/bank/web")?;
    let uri = "http://ledger.bank.svc.cluster.local/accounts/1/entries";
    let headers = [("content-type", "application/json")];
    let denied = calls::through(&web.outbound, Method::POST, uri, &headers, r#"{"amount": 1}"#).await?;
    let id = denied.decision()?;

    let mut smallest = before.size;
    let found = wait::until("the decision to be in the log", SOON, || {
        let (log, from) = (&log, smallest);
        async move {
            let checkpoint = log.checkpoint().await?;
            ensure!(checkpoint.size >= from, "the log shrank from {from} to {}", checkpoint.size);
            let entries = log.entries(checkpoint.size).await?;
            let index = entries.iter().position(|entry| entry.windows(16).any(|part| part == id.as_bytes()));
            Ok(index.map(|index| (checkpoint, entries, index)))
        }
    })
    .await?;
    let (after, entries, index) = found;
    assert!(index as u64 >= before.size, "what is new comes at the end");
    let leaves: Vec<Digest> = entries.iter().map(|entry| leaf(entry)).collect();
    assert_eq!(root(&leaves), after.root, "the later checkpoint");
    let start = usize::try_from(before.size)?;
    assert_eq!(root(&leaves[..start]), before.root, "the earlier checkpoint is a beginning of the later one");
    let from_tiles = log.hashes(0, after.size).await?;
    let climbed = climb(leaves[index], index as u64, after.size, &path(index, &from_tiles));
    assert_eq!(climbed, Some(after.root), "the decision's inclusion");

    smallest = after.size;
    for _ in 0..20 {
        let size = log.checkpoint().await?.size;
        assert!(size >= smallest, "the log shrank from {smallest} to {size}");
        smallest = size;
    }
    Ok(())
}

async fn changed_checkpoint(demo: &Demo) -> anyhow::Result<()> {
    let (east, west) = (demo.cluster("east")?, demo.cluster("west")?);
    let note = Log(east).note().await?;
    open_note(&note, &east.log_origin, &east.log_key)?;
    let size = open_note(&note, &east.log_origin, &east.log_key)?.size;
    let larger = note.replacen(&format!("\n{size}\n"), &format!("\n{}\n", size + 1), 1);
    assert_ne!(note, larger);
    assert!(open_note(&larger, &east.log_origin, &east.log_key).is_err(), "another size");
    assert!(open_note(&note, &east.log_origin, &west.log_key).is_err(), "another cluster's key");
    Ok(())
}

/// C2SP tlog-cosignature: when the witness with `key` signed this note; none when it did not.
fn cosigned_at(note: &str, key: &str) -> anyhow::Result<Option<u64>> {
    let (name, rest) = key.split_once('+').context("the key has no name")?;
    let bytes = STANDARD.decode(rest.split_once('+').context("the key has no ID")?.1)?;
    ensure!(bytes.len() == 33 && bytes[0] == 4, "not a key for cosignatures");
    let (text, signatures) = note.split_once("\n\n").context("the note has no signatures")?;
    let prefix = format!("\u{2014} {name} ");
    let lines = signatures.lines().filter_map(|line| STANDARD.decode(line.strip_prefix(&prefix)?).ok());
    Ok(lines.filter(|line| line.len() == 76 && line[..4] == sha256(&[name.as_bytes(), b"\n", &bytes])[..4]).find_map(
        |line| {
            let time = u64::from_be_bytes(line[4..12].try_into().ok()?);
            let message = format!("cosignature/v1\ntime {time}\n{text}\n");
            UnparsedPublicKey::new(&ED25519, &bytes[1..]).verify(message.as_bytes(), &line[12..]).ok().map(|()| time)
        },
    ))
}

async fn cosigned(demo: &Demo) -> anyhow::Result<()> {
    for (of, by) in [("east", "west"), ("west", "east")] {
        let (log, witness) = (demo.cluster(of)?, demo.cluster(by)?);
        let (note, at) = wait::until(&format!("{by}'s cosignature of a checkpoint of {of}"), SOON, || async {
            let note = Log(log).note().await?;
            Ok(cosigned_at(&note, &witness.witness_key)?.map(|at| (note, at)))
        })
        .await?;
        open_note(&note, &log.log_origin, &log.log_key)?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        assert!(at <= now + 1 && at + 60 > now, "{by} cosigned {of} at {at}, it is {now}");
        assert_eq!(cosigned_at(&note, &log.witness_key)?, None, "{of} does not cosign itself");
    }
    Ok(())
}

async fn nothing_beyond(demo: &Demo) -> anyhow::Result<()> {
    let log = Log(demo.cluster("east")?);
    let far = log.checkpoint().await?.size / WIDTH + 1_000;
    for path in [tile_path("entries", far, WIDTH), tile_path("0", far, WIDTH), tile_path("0", far, 1)] {
        assert_eq!(log.get(&path).await?.status, 404, "{path}");
    }
    for path in [
        "/tile/64/000",
        "/tile/0/..%2f..%2fcheckpoint",
        "/tile/0/1",
        "/tile/0/000.p/256",
        "/tile/0/000.p/0",
        "/tile/entries/x",
    ] {
        assert_eq!(log.get(path).await?.status, 404, "{path}");
    }
    Ok(())
}
