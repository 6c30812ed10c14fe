//! What repeats in every record, stored once: value -> number, with a bounded cache.

use std::collections::{HashMap, HashSet};

use aws_lc_rs::digest::{SHA256, digest};
use sqlx::PgPool;

use crate::query::without_nul;

/// A cache that grew past this is emptied; the values are read again.
const MAX_CACHED: usize = 200_000;

/// The dictionary tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Dictionary {
    Identities,
    Services,
    Labels,
    PolicySets,
}

impl Dictionary {
    const ALL: [Self; 4] = [Self::Identities, Self::Services, Self::Labels, Self::PolicySets];

    fn insert(self) -> &'static str {
        match self {
            Self::Identities => {
                "INSERT INTO signet.identities (key, value)
                 SELECT * FROM UNNEST($1::bytea[], $2::text[]) AS v(key, value) ORDER BY key ON CONFLICT (key) DO NOTHING"
            }
            Self::Services => {
                "INSERT INTO signet.services (key, value)
                 SELECT * FROM UNNEST($1::bytea[], $2::text[]) AS v(key, value) ORDER BY key ON CONFLICT (key) DO NOTHING"
            }
            Self::Labels => {
                "INSERT INTO signet.labels (key, value)
                 SELECT * FROM UNNEST($1::bytea[], $2::text[]) AS v(key, value) ORDER BY key ON CONFLICT (key) DO NOTHING"
            }
            Self::PolicySets => {
                "INSERT INTO signet.policy_sets (key, value)
                 SELECT * FROM UNNEST($1::bytea[], $2::text[]) AS v(key, value) ORDER BY key ON CONFLICT (key) DO NOTHING"
            }
        }
    }

    fn select(self) -> &'static str {
        match self {
            Self::Identities => "SELECT id, key FROM signet.identities WHERE key = ANY($1)",
            Self::Services => "SELECT id, key FROM signet.services WHERE key = ANY($1)",
            Self::Labels => "SELECT id, key FROM signet.labels WHERE key = ANY($1)",
            Self::PolicySets => "SELECT id, key FROM signet.policy_sets WHERE key = ANY($1)",
        }
    }
}

/// Values that have a number, and those that need one.
#[derive(Debug, Default)]
pub(crate) struct Dictionaries {
    known: HashMap<Dictionary, HashMap<String, i32>>,
    wanted: HashMap<Dictionary, HashSet<String>>,
}

impl Dictionaries {
    /// Notes that `value` needs a number.
    pub(crate) fn want(&mut self, dictionary: Dictionary, value: &str) {
        if self.get(dictionary, value).is_none() {
            self.wanted.entry(dictionary).or_default().insert(value.to_owned());
        }
    }

    /// The number of a value, after [`Self::resolve`].
    pub(crate) fn get(&self, dictionary: Dictionary, value: &str) -> Option<i32> {
        self.known.get(&dictionary)?.get(value).copied()
    }

    /// Gives every wanted value a number. Each table is a statement of its own, so that a number that is cached is
    /// committed.
    pub(crate) async fn resolve(&mut self, pool: &PgPool) -> Result<(), sqlx::Error> {
        for dictionary in Dictionary::ALL {
            let Some(wanted) = self.wanted.get(&dictionary).filter(|wanted| !wanted.is_empty()) else { continue };
            let by_key: HashMap<Vec<u8>, &String> = wanted.iter().map(|value| (key(value), value)).collect();
            let keys: Vec<&[u8]> = by_key.keys().map(Vec::as_slice).collect();
            let values: Vec<String> = by_key.values().map(|value| without_nul(value)).collect();
            sqlx::query(dictionary.insert()).bind(&keys).bind(values).execute(pool).await?;
            let rows: Vec<(i32, Vec<u8>)> = sqlx::query_as(dictionary.select()).bind(&keys).fetch_all(pool).await?;
            let known = self.known.entry(dictionary).or_default();
            for (id, key) in rows {
                if let Some(value) = by_key.get(&key) {
                    known.insert((*value).clone(), id);
                }
            }
        }
        self.wanted.clear();
        Ok(())
    }

    /// Forgets everything when the cache has grown too large; call it between batches only.
    pub(crate) fn trim(&mut self) {
        if self.known.values().map(HashMap::len).sum::<usize>() > MAX_CACHED {
            self.known.clear();
        }
    }

    /// Forgets everything: the database may be another one now.
    pub(crate) fn clear(&mut self) {
        self.known.clear();
        self.wanted.clear();
    }
}

/// What identifies a value in its table: the start of its SHA-256.
pub(crate) fn key(value: &str) -> Vec<u8> {
    digest(&SHA256, value.as_bytes()).as_ref().iter().take(16).copied().collect()
}
