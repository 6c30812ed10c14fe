//! An explanation as a person reads it.

use std::fmt;

use crate::explain::{Explanation, PolicyRef};
use crate::request::{Effect, Reason};

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.decision.effect {
            Effect::Allow => "allowed",
            Effect::Deny => "denied",
        };
        writeln!(f, "{word}: {}", sentence(self.decision.reason))?;
        if !self.principal.is_empty() {
            writeln!(f, "  principal  {}", self.principal)?;
        }
        writeln!(f, "  action     {}", self.action)?;
        if !self.resource.is_empty() {
            writeln!(f, "  resource   {}", self.resource)?;
        }
        writeln!(f, "  commit     {}", self.commit)?;
        writeln!(f, "  bundle     {}", self.bundle_digest)?;
        for policy in &self.determining {
            writeln!(f, "\ndetermined by {}", name(policy))?;
            quote(f, &policy.text)?;
        }
        for (rank, nearest) in self.nearest.iter().enumerate() {
            let rank = if rank == 0 { "nearest permit" } else { "then" };
            writeln!(f, "\n{rank}: {}", name(&nearest.policy))?;
            for clause in &nearest.failed {
                writeln!(f, "  failed on line {}: {}", clause.line, clause.text)?;
                if !clause.actual.is_empty() {
                    writeln!(f, "    the request had {}", clause.actual)?;
                }
            }
        }
        if let Some(shadow) = &self.decision.shadow {
            writeln!(f, "\nwith shadow policies enforced: {} ({})", shadow.effect, shadow.reason)?;
            for policy in &self.shadow {
                writeln!(f, "  by {}", name(policy))?;
            }
        }
        for note in &self.notes {
            writeln!(f, "\nnote: {note}")?;
        }
        Ok(())
    }
}

fn sentence(reason: Reason) -> &'static str {
    match reason {
        Reason::Permitted => "a permit holds and no forbid does",
        Reason::Forbidden => "a forbid holds",
        Reason::NoPermit => "no permit holds (default deny)",
        Reason::PolicyError => "a forbid could not be evaluated, which denies",
        Reason::UnknownRoute => "the service declares routes and none matches",
        Reason::UnknownService => "signet.yaml does not declare the external service",
        Reason::InvalidRequest => "an identifier of the request is malformed",
        Reason::NoBundle => "there is no policy bundle",
    }
}

fn name(policy: &PolicyRef) -> String {
    format!("{} ({}:{})", policy.id, policy.path, policy.line)
}

fn quote(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    text.lines().try_for_each(|line| writeln!(f, "  | {line}"))
}
