//! Crates point one way: a crate may only depend on those of a lower layer, and the sidecar stays small.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use serde::Deserialize;

/// Layers from the bottom up; a crate may use those above it in this list.
const LAYERS: &[&[&str]] = &[
    &["signet-api", "signet-map"],
    &["signet-observe"],
    &["signet-mtls"],
    &["signet-policy", "signet-spool"],
    &["signet-policy-repository", "signet-identity", "signet-audit", "signet-proxy"],
    &["signet-policy-analysis", "signet-audit-export"],
    &["signet-control", "signet-gateway", "signet-ui"],
    &["signet"],
];
/// What must not come near a sidecar or a gateway, however indirectly. (axum is there: tonic routes with it.)
const NOT_IN_A_SIDECAR: [&str; 8] =
    ["signet-policy-analysis", "sqlx", "sqlx-core", "kube", "k8s-openapi", "gix", "cedar-policy-symcc", "ssh-key"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: Vec<String>,
    workspace_root: String,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    manifest_path: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<NodeDependency>,
}

#[derive(Deserialize)]
struct NodeDependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    kind: Option<String>,
}

fn metadata(root: &Path) -> anyhow::Result<Metadata> {
    let output = Command::new("cargo")
        .current_dir(root)
        .args(["metadata", "--format-version=1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"])
        .output()?;
    ensure!(output.status.success(), "cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The workspace's directories.
pub(crate) fn members(root: &Path) -> anyhow::Result<Vec<String>> {
    let metadata = metadata(root)?;
    let members: BTreeSet<&str> = metadata.workspace_members.iter().map(String::as_str).collect();
    metadata
        .packages
        .iter()
        .filter(|package| members.contains(package.id.as_str()))
        .map(|package| {
            let dir = Path::new(&package.manifest_path).parent().context("a manifest has no directory")?;
            Ok(dir.strip_prefix(&metadata.workspace_root)?.display().to_string())
        })
        .collect()
}

/// Name and licence of every package that is built. `cargo tree` knows which optional ones are; `cargo metadata` lists them
/// all.
pub(crate) fn licences(root: &Path) -> anyhow::Result<Vec<(String, Option<String>)>> {
    let output = Command::new("cargo")
        .current_dir(root)
        .args(["tree", "--workspace", "--locked", "--edges=normal,build,dev", "--prefix=none", "--no-dedupe"])
        .args(["--format={p}|{l}"])
        .output()?;
    ensure!(output.status.success(), "cargo tree failed: {}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout)?;
    let packages: BTreeSet<(String, Option<String>)> = lines
        .lines()
        .filter_map(|line| {
            let (package, licence) = line.split_once('|')?;
            // A package that stood above is marked so.
            let licence = licence.trim_end_matches(" (*)");
            let licence = Some(licence.to_owned()).filter(|licence| !licence.is_empty());
            Some((package.split(' ').next()?.to_owned(), licence))
        })
        .collect();
    ensure!(packages.len() > 100, "cargo tree named only {} packages", packages.len());
    Ok(packages.into_iter().collect())
}

pub(crate) fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let metadata = metadata(root)?;
    let mut problems = Vec::new();
    for package in &metadata.packages {
        let Some(layer) = layer(&package.name) else { continue };
        for dependency in package.dependencies.iter().filter(|dependency| dependency.kind.as_deref() != Some("dev")) {
            if let Some(other) = self::layer(&dependency.name)
                && other >= layer
                && !(package.name == "signet-gateway" && dependency.name == "signet-proxy")
            {
                problems.push(format!("{}: depends on {}, which is not below it", package.name, dependency.name));
            }
        }
    }
    for sidecar in ["signet-proxy", "signet-gateway"] {
        let reached = reached(&metadata, sidecar);
        problems.extend(
            NOT_IN_A_SIDECAR
                .iter()
                .filter(|name| reached.contains(*name))
                .map(|name| format!("{sidecar}: reaches {name}, which must not be in it")),
        );
    }
    Ok(problems)
}

fn layer(name: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&name))
}

/// Names of all packages that are built into `name`.
fn reached<'m>(metadata: &'m Metadata, name: &str) -> BTreeSet<&'m str> {
    let names: BTreeMap<&str, &str> =
        metadata.packages.iter().map(|package| (package.id.as_str(), package.name.as_str())).collect();
    let nodes: BTreeMap<&str, &Node> = metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let mut queue: Vec<&str> = names.iter().filter(|(_, other)| **other == name).map(|(id, _)| *id).collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = queue.pop() {
        if !seen.insert(id) {
            continue;
        }
        let normal = |dependency: &&NodeDependency| dependency.dep_kinds.iter().any(|kind| kind.kind.is_none());
        queue.extend(
            nodes.get(id).into_iter().flat_map(|node| node.deps.iter().filter(normal).map(|dep| dep.pkg.as_str())),
        );
    }
    seen.into_iter().filter_map(|id| names.get(id).copied()).collect()
}
