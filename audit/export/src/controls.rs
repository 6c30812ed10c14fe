//! The controls catalogue: for clauses of standards and laws, what the mesh can show, which records show it, and what it
//! cannot. Data files in `audit/export/controls`, in our own words; clause numbers are the standards'.
//!
//! Ids are those of the policy annotation `@control`, such as `PCI-DSS-4.0.1:7.2.5`.

use serde::{Deserialize, Serialize};
use signet_audit::query::Filter;

/// A catalogue that does not parse; a defect of this build.
#[derive(Debug, thiserror::Error)]
#[error("the controls catalogue `{file}` does not parse")]
pub struct CatalogueError {
    file: &'static str,
    source: Box<serde_saphyr::Error>,
}

/// A control, and what the mesh can say of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// `<framework>:<clause>`.
    pub id: String,
    /// Name of the standard or law.
    pub title: String,
    /// What it is about, in our own words.
    pub about: String,
    /// What the mesh can show.
    pub shows: String,
    /// What the mesh cannot show.
    pub cannot: String,
    /// Which records show it.
    pub records: Records,
}

/// Which records show something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Records {
    /// Kinds of records; none means all.
    pub kinds: Vec<RecordKind>,
    /// Permitted or denied ones only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Outcome>,
    /// Of this action only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// For this reason only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A kind of record, by its name in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordKind {
    /// A request or connection that was decided.
    Decision,
    /// A connection that was refused before it could be decided.
    Refusal,
    /// Something that a component did.
    Event,
    /// Records that are missing.
    Gap,
}

impl RecordKind {
    /// Its name in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Decision => "decision",
            Self::Refusal => "refusal",
            Self::Event => "event",
            Self::Gap => "gap",
        }
    }
}

/// How a decision ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Permitted.
    Allow,
    /// Denied.
    Deny,
}

impl Records {
    /// What to look for.
    #[must_use]
    pub fn filter(&self) -> Filter {
        Filter {
            allow: self.decision.map(|outcome| outcome == Outcome::Allow),
            action: self.action.clone(),
            reason: self.reason.clone(),
            ..Filter::default()
        }
    }

    /// The arguments of `signet audit export` that choose these records.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        if !self.kinds.is_empty() {
            let kinds: Vec<&str> = self.kinds.iter().map(|kind| kind.as_str()).collect();
            arguments.extend(["--kind".to_owned(), kinds.join(",")]);
        }
        if let Some(outcome) = self.decision {
            let outcome = if outcome == Outcome::Allow { "allow" } else { "deny" };
            arguments.extend(["--decision".to_owned(), outcome.to_owned()]);
        }
        for (name, value) in [("--action", &self.action), ("--reason", &self.reason)] {
            arguments.extend(value.iter().flat_map(|value| [name.to_owned(), value.clone()]));
        }
        arguments
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Framework {
    framework: String,
    title: String,
    controls: Vec<Clause>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Clause {
    id: String,
    about: String,
    shows: String,
    cannot: String,
    records: Records,
}

const FILES: [(&str, &str); 8] = [
    ("pci-dss.yaml", include_str!("../controls/pci-dss.yaml")),
    ("soc2.yaml", include_str!("../controls/soc2.yaml")),
    ("iso-27001.yaml", include_str!("../controls/iso-27001.yaml")),
    ("nist-800-53.yaml", include_str!("../controls/nist-800-53.yaml")),
    ("nist-800-207.yaml", include_str!("../controls/nist-800-207.yaml")),
    ("dora.yaml", include_str!("../controls/dora.yaml")),
    ("hipaa.yaml", include_str!("../controls/hipaa.yaml")),
    ("sec-17a-4.yaml", include_str!("../controls/sec-17a-4.yaml")),
];

/// Every control, by standard and clause.
///
/// # Errors
/// When a file of the catalogue does not parse.
pub fn catalogue() -> Result<Vec<Control>, CatalogueError> {
    let mut controls = Vec::new();
    for (file, text) in FILES {
        let framework: Framework =
            serde_saphyr::from_str(text).map_err(|source| CatalogueError { file, source: Box::new(source) })?;
        let Framework { framework, title, controls: clauses } = framework;
        controls.extend(clauses.into_iter().map(|clause| Control {
            id: format!("{framework}:{}", clause.id),
            title: title.clone(),
            about: clause.about,
            shows: clause.shows,
            cannot: clause.cannot,
            records: clause.records,
        }));
    }
    Ok(controls)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::collections::BTreeSet;

    use super::{Outcome, RecordKind, catalogue};

    #[test]
    fn every_control_is_there_once_and_says_what_it_cannot_show() {
        let controls = catalogue().unwrap();
        let ids: BTreeSet<&str> = controls.iter().map(|control| control.id.as_str()).collect();
        assert_eq!(ids.len(), controls.len());
        for control in &controls {
            for text in [&control.about, &control.shows, &control.cannot] {
                assert!(text.len() > 15 && !text.contains('\n'), "{}: {text}", control.id);
            }
        }
        for expected in [
            "PCI-DSS-4.0.1:10.2.2",
            "SOC2:CC6.1",
            "ISO-27001-2022:A.8.24",
            "NIST-800-53r5:IA-9",
            "NIST-800-207:7",
            "DORA-RTS-2024-1774:12",
            "HIPAA-164.312:b",
            "SEC-17a-4:f.2.i.A",
        ] {
            assert!(ids.contains(expected), "{expected}");
        }
    }

    #[test]
    fn a_control_chooses_its_records() {
        let controls = catalogue().unwrap();
        let control = controls.iter().find(|control| control.id == "PCI-DSS-4.0.1:7.3.3").unwrap();
        assert_eq!(control.records.kinds, [RecordKind::Decision]);
        assert_eq!(control.records.decision, Some(Outcome::Deny));
        assert_eq!(control.records.filter().allow, Some(false));
        assert_eq!(control.records.filter().reason.as_deref(), Some("no_permit"));
        let arguments = control.records.arguments().join(" ");
        assert_eq!(arguments, "--kind decision --decision deny --reason no_permit");
    }
}
