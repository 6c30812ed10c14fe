//! What a name is: its type, the facts of `signet.yaml`, and how often recorded traffic used it.

use std::fmt::Write as _;

use lsp_types::{Hover, HoverContents, MarkupContent, MarkupKind, Position, Uri};
use signet_policy::Settings;
use signet_policy_analysis::Seen;

use super::text::Name;
use super::{Knowledge, text};

pub(super) fn hover(known: &Knowledge<'_>, uri: &Uri, at: Position) -> Option<Hover> {
    let (text, name, bytes) = known.name_at(uri, at)?;
    let value = match &name {
        OwnedName::Entity { kind, id } => entity(known, kind, id),
        OwnedName::Policy(id) => format!("policy `{id}`{}", use_of(known, known.used("", id))),
        OwnedName::Path(path) => attribute(known, path)?,
    };
    let contents = HoverContents::Markup(MarkupContent { kind: MarkupKind::Markdown, value });
    Some(Hover { contents, range: Some(text::range(&text, &bytes)) })
}

/// A [`Name`] that outlives the text.
pub(super) enum OwnedName {
    Entity { kind: String, id: String },
    Policy(String),
    Path(String),
}

impl From<Name<'_>> for OwnedName {
    fn from(name: Name<'_>) -> Self {
        match name {
            Name::Entity { kind, id } => Self::Entity { kind: kind.to_owned(), id: id.to_owned() },
            Name::Policy(id) => Self::Policy(id.to_owned()),
            Name::Path(path) => Self::Path(path.to_owned()),
        }
    }
}

fn entity(known: &Knowledge<'_>, kind: &str, id: &str) -> String {
    let mut value = format!("`Mesh::{kind}` **{id}**");
    if let Some(bundle) = known.workspace.bundle() {
        for fact in facts(bundle.settings(), kind, id) {
            // Writing to a string cannot fail.
            let _ = write!(value, "\n- {fact}");
        }
    }
    value + &use_of(known, known.used(kind, id))
}

/// What `signet.yaml` says of an entity, in lines.
fn facts(settings: &Settings, kind: &str, id: &str) -> Vec<String> {
    let list = |name: &str, items: &mut dyn Iterator<Item = &String>| {
        let items: Vec<&str> = items.map(String::as_str).collect();
        (!items.is_empty()).then(|| format!("{name}: {}", items.join(", ")))
    };
    match kind {
        "Service" => {
            let facts = settings.services.get(id);
            let env = facts.and_then(|facts| facts.env).unwrap_or(settings.defaults.env);
            let class = facts.and_then(|facts| facts.data_class).unwrap_or(settings.defaults.data_class);
            let mut lines = vec![format!("env: {}", env.as_str()), format!("data class: {}", class.as_str())];
            lines.extend(facts.and_then(|facts| list("teams", &mut facts.teams.iter())));
            lines.extend(facts.and_then(|facts| list("routes", &mut facts.routes.iter())));
            if facts.is_none() {
                lines.push("not declared in signet.yaml: the defaults hold".to_owned());
            }
            lines
        }
        "Team" => match settings.teams.get(id) {
            Some(team) => list("workloads", &mut team.workloads.iter()).into_iter().collect(),
            None => vec!["not declared in signet.yaml".to_owned()],
        },
        "ExternalService" => match settings.external_services.get(id) {
            Some(facts) => vec![format!("host: {}", facts.host)],
            None => vec!["not declared in signet.yaml".to_owned()],
        },
        _ => Vec::new(),
    }
}

fn attribute(known: &Knowledge<'_>, path: &str) -> Option<String> {
    let member = known.vocabulary.member(path)?;
    let optional = if member.is_optional { ", optional: guard it with `has`" } else { "" };
    let of: Vec<&str> = member.of.iter().map(String::as_str).collect();
    let value = format!("`{path}`: **{}**{optional}\n- of {}", member.kind, of.join(", "));
    let recorded = path.starts_with("context.").then(|| use_of(known, known.used("context", path)));
    Some(value + &recorded.unwrap_or_default())
}

fn use_of(known: &Knowledge<'_>, seen: Option<Seen>) -> String {
    match (known.traffic, seen) {
        (None, _) => String::new(),
        (Some(_), None) => "\n\nno recorded call".to_owned(),
        (Some(_), Some(Seen { calls, last_seen })) => format!("\n\n{calls} recorded calls, last {last_seen}"),
    }
}
