//! Named conditions, all of which must hold for a component to be ready.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The conditions of one component. Cheap to clone; clones share the conditions.
#[derive(Clone, Default)]
pub struct Readiness {
    conditions: Arc<Mutex<BTreeMap<String, Result<(), String>>>>,
}

/// A handle on one condition.
#[derive(Clone)]
pub struct Condition {
    name: String,
    readiness: Readiness,
}

impl Readiness {
    /// Adds a condition that does not hold yet.
    pub fn condition(&self, name: &str) -> Condition {
        self.lock().entry(name.to_owned()).or_insert_with(|| Err("not there yet".to_owned()));
        Condition { name: name.to_owned(), readiness: self.clone() }
    }

    /// Whether every condition holds, and one line for each.
    pub fn report(&self) -> (bool, String) {
        let conditions = self.lock();
        let ready = conditions.values().all(Result::is_ok);
        let mut text = String::from(if ready { "ready\n" } else { "not ready\n" });
        for (name, state) in conditions.iter() {
            match state {
                Ok(()) => text.push_str(&format!("{name}: ok\n")),
                Err(why) => text.push_str(&format!("{name}: {why}\n")),
            }
        }
        (ready, text)
    }

    /// The conditions that do not hold, with why.
    pub fn failing(&self) -> Vec<(String, String)> {
        let conditions = self.lock();
        let failing = conditions.iter().filter_map(|(name, state)| Some((name.clone(), state.clone().err()?)));
        failing.collect()
    }

    pub fn is_ready(&self) -> bool {
        self.lock().values().all(Result::is_ok)
    }

    // A panic while this map is locked cannot leave it half written.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Result<(), String>>> {
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Condition {
    /// Says whether the condition holds, or why not.
    pub fn set<E: std::fmt::Display>(&self, state: Result<(), E>) {
        let state = state.map_err(|why| why.to_string());
        self.readiness.lock().insert(self.name.clone(), state);
    }
}
