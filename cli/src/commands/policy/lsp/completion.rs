//! What can stand at the cursor of a policy file.

use std::collections::BTreeSet;

use lsp_types::{CompletionItem, CompletionItemKind, CompletionTextEdit, Position, TextEdit, Uri};
use signet_policy::Settings;
use signet_policy_analysis::Used;

use super::{Knowledge, text};

const ANNOTATIONS: [(&str, &str); 5] = [
    ("id", "unique name of the policy; required"),
    ("owner", "the team that answers for it"),
    ("mode", "`shadow` tries the policy out without enforcing it"),
    ("control", "the control of a standard that it implements: `PCI-DSS-4.0.1:7.2.5`"),
    ("reason", "why it exists"),
];
const WORDS: [&str; 17] = [
    "permit",
    "forbid",
    "when",
    "unless",
    "principal",
    "action",
    "resource",
    "context",
    "in",
    "is",
    "has",
    "like",
    "if",
    "then",
    "else",
    "true",
    "false",
];

/// What the text before the cursor asks for.
enum Asked<'t> {
    /// The quoted id of an entity of this type.
    Id(&'t str),
    Type,
    /// An attribute of what this path names.
    Member(&'t str),
    Annotation,
    Word,
    Nothing,
}

/// Proposals for a place in a policy file; none elsewhere.
pub(super) fn complete(known: &Knowledge<'_>, uri: &Uri, at: Position) -> Vec<CompletionItem> {
    let is_policy = known.workspace.relative(uri).is_some_and(|path| path.ends_with(".cedar"));
    let Some(text) = known.workspace.text(uri).filter(|_| is_policy) else { return Vec::new() };
    let offset = text::offset(&text, at);
    let (start, line) = text::line_at(&text, offset);
    let before = line.get(..offset - start).unwrap_or_default();
    let (asked, typed) = asked(before);
    let range = text::range(&text, &(offset - typed.len()..offset));
    let item = |label: String, kind: CompletionItemKind, detail: Option<String>| CompletionItem {
        text_edit: Some(CompletionTextEdit::Edit(TextEdit::new(range, label.clone()))),
        label,
        kind: Some(kind),
        detail,
        ..CompletionItem::default()
    };
    match asked {
        Asked::Id(kind) => {
            let calls = |id: &str| Some(format!("{} recorded calls", known.used(kind, id)?.calls));
            let ids = ids(known, kind).into_iter();
            ids.map(|id| (calls(&id), id)).map(|(calls, id)| item(id, CompletionItemKind::VALUE, calls)).collect()
        }
        Asked::Type => {
            let types = known.vocabulary.types.iter().cloned().chain(["Action".to_owned()]);
            types.map(|name| item(name, CompletionItemKind::CLASS, None)).collect()
        }
        Asked::Member(path) => {
            let members = known.vocabulary.members.get(path).into_iter().flatten();
            members.map(|(name, m)| item(name.clone(), CompletionItemKind::FIELD, Some(m.kind.clone()))).collect()
        }
        Asked::Annotation => ANNOTATIONS
            .iter()
            .map(|(name, why)| item((*name).to_owned(), CompletionItemKind::PROPERTY, Some((*why).to_owned())))
            .collect(),
        Asked::Word => WORDS.iter().map(|word| item((*word).to_owned(), CompletionItemKind::KEYWORD, None)).collect(),
        Asked::Nothing => Vec::new(),
    }
}

/// What is asked for, and what of it is typed already.
fn asked(before: &str) -> (Asked<'_>, &str) {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if before.contains("//") && !before.contains("://") {
        return (Asked::Nothing, "");
    }
    if before.matches('"').count() % 2 == 1 {
        let (outside, typed) = before.rsplit_once('"').unwrap_or((before, ""));
        let kind = outside.strip_suffix("::").and_then(|rest| rest.rsplit_once("Mesh::")).map(|(_, kind)| kind);
        return match kind.filter(|kind| !kind.is_empty() && kind.chars().all(is_word)) {
            Some(kind) => (Asked::Id(kind), typed),
            None => (Asked::Nothing, ""),
        };
    }
    let typed = before.get(before.rfind(|c| !is_word(c)).map_or(0, |at| at + 1)..).unwrap_or_default();
    let rest = before.strip_suffix(typed).unwrap_or(before);
    if rest.ends_with("Mesh::") {
        return (Asked::Type, typed);
    }
    if let Some(path) = rest.strip_suffix('.') {
        let path = path.get(path.rfind(|c| !is_word(c) && c != '.').map_or(0, |at| at + 1)..).unwrap_or_default();
        return (Asked::Member(path), typed);
    }
    match rest.ends_with('@') {
        true => (Asked::Annotation, typed),
        false => (Asked::Word, typed),
    }
}

/// The ids of a type: by the schema, by `signet.yaml`, by recorded traffic, and as other policies name them.
fn ids(known: &Knowledge<'_>, kind: &str) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    if kind == "Action" {
        ids.extend(known.vocabulary.actions.iter().cloned());
        return ids;
    }
    if let Some(enumerated) = known.vocabulary.enumerated.get(kind) {
        ids.extend(enumerated.iter().cloned());
        return ids;
    }
    if let Some(bundle) = known.workspace.bundle() {
        ids.extend(declared(bundle.settings(), kind));
    }
    let recorded = match kind {
        "Workload" => known.traffic.map(|traffic| traffic.names(Used::Caller)),
        "Service" => known.traffic.map(|traffic| traffic.names(Used::Service)),
        _ => None,
    };
    ids.extend(recorded.into_iter().flatten().map(str::to_owned));
    let start = format!("Mesh::{kind}::\"");
    for (_, text) in known.workspace.files().filter(|(path, _)| path.ends_with(".cedar")) {
        let quoted = text.match_indices(&start).filter_map(|(at, _)| text.get(at + start.len()..)?.split_once('"'));
        let named = quoted.map(|(id, _)| id).filter(|id| !id.is_empty() && !id.contains('\n'));
        ids.extend(named.map(str::to_owned));
    }
    ids
}

fn declared(settings: &Settings, kind: &str) -> Vec<String> {
    match kind {
        "Service" => settings.services.keys().cloned().collect(),
        "Team" => settings.teams.keys().cloned().collect(),
        "ExternalService" => settings.external_services.keys().cloned().collect(),
        "ServiceAccount" => settings.workloads.keys().cloned().collect(),
        "Route" => {
            let services = settings.services.iter();
            services.flat_map(|(id, facts)| facts.routes.iter().map(move |route| format!("{id}#{route}"))).collect()
        }
        "Workload" => {
            let members = settings.teams.values().flat_map(|team| &team.workloads).chain(settings.workloads.keys());
            members.map(|id| super::workload_id(id)).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_before_the_cursor_says_what_is_asked_for() {
        let table = [
            ("principal == Mesh::Workload::\"spiffe://a", "id Workload", "spiffe://a"),
            ("action in [Mesh::Action::\"", "id Action", ""),
            ("resource in Mesh::Se", "type", "Se"),
            ("when { context.net.sr", "member context.net", "sr"),
            ("when { principal.", "member principal", ""),
            ("@ow", "annotation", "ow"),
            ("per", "word", "per"),
            ("@id(\"x", "nothing", ""),
            ("// context.", "nothing", ""),
        ];
        for (before, want, typed) in table {
            let (asked, found) = asked(before);
            let name = match asked {
                Asked::Id(kind) => format!("id {kind}"),
                Asked::Type => "type".to_owned(),
                Asked::Member(path) => format!("member {path}"),
                Asked::Annotation => "annotation".to_owned(),
                Asked::Word => "word".to_owned(),
                Asked::Nothing => "nothing".to_owned(),
            };
            assert_eq!((name.as_str(), found), (want, typed), "{before}");
        }
    }
}
