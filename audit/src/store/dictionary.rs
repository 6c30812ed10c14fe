//! What repeats in records, stored once: key -> number, with a bounded cache.

use std::collections::{HashMap, HashSet};

use signet_spool::tag;
use sqlx::PgPool;

use super::compact::shape::Shape;
use super::compact::{Key, Prepared, context, text_key};
use crate::query::without_nul;

/// A cache that grew past this is emptied; the values are read again.
const MAX_CACHED: usize = 200_000;

/// Contexts remembered that came once so far.
const MAX_SEEN: usize = 65_536;

/// The dictionaries of texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Texts {
    Identities,
    Services,
    Labels,
    PolicySets,
}

impl Texts {
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

const INSERT_SHAPES: &str = "INSERT INTO signet.shapes (key, destination_id, action_id, policy_set_id, commit_id, digest_id, \
     reason_id, tls_id, shadow_set_id, shadow_allow, enforcement, personal_path) \
     SELECT * FROM UNNEST($1::bytea[], $2::int[], $3::int[], $4::int[], $5::int[], $6::int[], $7::int[], $8::int[], $9::int[], \
     $10::bool[], $11::smallint[], $12::bool[]) AS v(key) ORDER BY key ON CONFLICT (key) DO NOTHING";
const SELECT_SHAPES: &str = "SELECT id, key FROM signet.shapes WHERE key = ANY($1)";

const INSERT_CONTEXTS: &str = "INSERT INTO signet.contexts (key, template) \
     SELECT * FROM UNNEST($1::bytea[], $2::bytea[]) AS v(key, template) ORDER BY key ON CONFLICT (key) DO NOTHING";
const SELECT_CONTEXTS: &str = "SELECT id, key FROM signet.contexts WHERE key = ANY($1)";

type Known = HashMap<Key, i32>;

/// Values that have a number, and those that need one.
#[derive(Debug, Default)]
pub(crate) struct Dictionaries {
    texts: HashMap<Texts, Known>,
    shapes: Known,
    contexts: Known,
    wanted_texts: HashMap<Texts, HashMap<Key, String>>,
    wanted_shapes: HashMap<Key, Shape<'static>>,
    wanted_contexts: HashMap<Key, Vec<u8>>,
    /// A context gets a number when it comes the second time, so that values that never repeat fill no dictionary.
    seen: HashSet<Key>,
}

impl Dictionaries {
    /// Notes what of a record needs a number.
    pub(crate) fn want(&mut self, entry: &Prepared) {
        let keys = &entry.keys;
        if keys.source.is_some_and(|key| self.text(Texts::Identities, key).is_none()) {
            self.want_text(Texts::Identities, entry.fields().text(tag::SOURCE_SPIFFE_ID));
        }
        if self.text(Texts::Services, keys.service).is_none() {
            self.want_text(Texts::Services, entry.fields().text(tag::DESTINATION_SERVICE));
        }
        if !self.shapes.contains_key(&keys.shape)
            && !self.wanted_shapes.contains_key(&keys.shape)
            && let Some(shape) = Shape::of(&entry.fields())
        {
            self.want_shape(keys.shape, shape.into_owned());
        }
        if let Some(key) = keys.context
            && !self.contexts.contains_key(&key)
        {
            self.want_context(key, entry);
        }
    }

    fn want_text(&mut self, dictionary: Texts, text: Option<&str>) {
        if let Some(text) = text
            && self.text(dictionary, text_key(text)).is_none()
        {
            let wanted = self.wanted_texts.entry(dictionary).or_default();
            wanted.entry(text_key(text)).or_insert_with(|| without_nul(text).into_owned());
        }
    }

    fn want_shape(&mut self, key: Key, shape: Shape<'static>) {
        self.want_text(Texts::Identities, shape.destination.as_deref());
        for label in shape.labels() {
            self.want_text(Texts::Labels, Some(label));
        }
        self.want_text(Texts::PolicySets, Some(&shape.policies));
        self.want_text(Texts::PolicySets, shape.shadow.as_ref().map(|(_, policies)| &**policies));
        self.wanted_shapes.insert(key, shape);
    }

    fn want_context(&mut self, key: Key, entry: &Prepared) {
        if self.seen.insert(key) {
            if self.seen.len() > MAX_SEEN {
                self.seen.clear();
            }
        } else if let Some(bytes) = entry.fields().get(tag::CONTEXT) {
            self.wanted_contexts.entry(key).or_insert_with(|| context::template(bytes));
        }
    }

    fn text(&self, dictionary: Texts, key: Key) -> Option<i32> {
        self.texts.get(&dictionary)?.get(&key).copied()
    }

    /// The number of an identity, after [`Self::resolve`].
    pub(crate) fn identity(&self, key: Key) -> Option<i32> {
        self.text(Texts::Identities, key)
    }

    /// The number of a service, after [`Self::resolve`].
    pub(crate) fn service(&self, key: Key) -> Option<i32> {
        self.text(Texts::Services, key)
    }

    /// The number of a shape, after [`Self::resolve`].
    pub(crate) fn shape(&self, key: Key) -> Option<i32> {
        self.shapes.get(&key).copied()
    }

    /// The number of a context, after [`Self::resolve`]; `None` when it has none.
    pub(crate) fn context(&self, key: Key) -> Option<i32> {
        self.contexts.get(&key).copied()
    }

    /// Gives every wanted value a number. Each table is a statement of its own, so that a number that is cached is
    /// committed.
    pub(crate) async fn resolve(&mut self, pool: &PgPool) -> Result<(), sqlx::Error> {
        for dictionary in Texts::ALL {
            let Some(wanted) = self.wanted_texts.remove(&dictionary) else { continue };
            let (keys, values): (Vec<Key>, Vec<String>) = wanted.into_iter().unzip();
            sqlx::query(dictionary.insert()).bind(slices(&keys)).bind(values).execute(pool).await?;
            let known = self.texts.entry(dictionary).or_default();
            known.extend(numbers(pool, dictionary.select(), &keys).await?);
        }
        self.resolve_shapes(pool).await?;
        if !self.wanted_contexts.is_empty() {
            let (keys, templates): (Vec<Key>, Vec<Vec<u8>>) =
                std::mem::take(&mut self.wanted_contexts).into_iter().unzip();
            sqlx::query(INSERT_CONTEXTS).bind(slices(&keys)).bind(templates).execute(pool).await?;
            self.contexts.extend(numbers(pool, SELECT_CONTEXTS, &keys).await?);
        }
        Ok(())
    }

    async fn resolve_shapes(&mut self, pool: &PgPool) -> Result<(), sqlx::Error> {
        if self.wanted_shapes.is_empty() {
            return Ok(());
        }
        let (keys, shapes): (Vec<Key>, Vec<Shape<'static>>) =
            std::mem::take(&mut self.wanted_shapes).into_iter().unzip();
        let text = |dictionary, text: &str| self.text(dictionary, text_key(text));
        let label = |place: usize| -> Vec<Option<i32>> {
            shapes.iter().map(|shape| text(Texts::Labels, shape.labels().get(place)?)).collect()
        };
        let shadow = |shape: &Shape<'_>| shape.shadow.as_ref().and_then(|(_, set)| text(Texts::PolicySets, set));
        let destinations: Vec<Option<i32>> =
            shapes.iter().map(|shape| text(Texts::Identities, shape.destination.as_deref()?)).collect();
        let policies: Vec<Option<i32>> = shapes.iter().map(|shape| text(Texts::PolicySets, &shape.policies)).collect();
        let [action, commit, digest, reason, tls] = [0, 1, 2, 3, 4].map(label);
        sqlx::query(INSERT_SHAPES)
            .bind(slices(&keys))
            .bind(destinations)
            .bind(action)
            .bind(policies)
            .bind(commit)
            .bind(digest)
            .bind(reason)
            .bind(tls)
            .bind(shapes.iter().map(shadow).collect::<Vec<_>>())
            .bind(shapes.iter().map(|shape| shape.shadow.as_ref().map(|(allow, _)| *allow)).collect::<Vec<_>>())
            .bind(shapes.iter().map(|shape| shape.enforcement).collect::<Vec<_>>())
            .bind(shapes.iter().map(|shape| shape.personal_path).collect::<Vec<_>>())
            .execute(pool)
            .await?;
        self.shapes.extend(numbers(pool, SELECT_SHAPES, &keys).await?);
        Ok(())
    }

    /// Forgets everything when the cache has grown too large; call it between batches only.
    pub(crate) fn trim(&mut self) {
        let texts: usize = self.texts.values().map(HashMap::len).sum();
        if texts + self.shapes.len() + self.contexts.len() > MAX_CACHED {
            self.clear();
        }
    }

    /// Forgets everything: the database may be another one now.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

fn slices(keys: &[Key]) -> Vec<&[u8]> {
    keys.iter().map(Key::as_slice).collect()
}

async fn numbers(pool: &PgPool, select: &'static str, keys: &[Key]) -> Result<Known, sqlx::Error> {
    let rows: Vec<(i32, Vec<u8>)> = sqlx::query_as(select).bind(slices(keys)).fetch_all(pool).await?;
    Ok(rows.into_iter().filter_map(|(id, key)| Some((key.try_into().ok()?, id))).collect())
}
