//! Rows back to canonical bytes, with a bounded cache of the dictionaries.

use std::collections::HashMap;

use signet_spool::{VERSION, tag};
use sqlx::PgConnection;

use super::context::Template;
use super::personal::Items;
use super::shape::{Parts, Shape, length, put};
use super::{Numbers, Rest, Row, StoredRow};

/// A cache that grew past this is emptied; the entries are read again.
const MAX_CACHED: usize = 200_000;

/// The dictionaries by number, as far as rows needed them.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    producers: HashMap<i32, String>,
    identities: HashMap<i32, String>,
    services: HashMap<i32, String>,
    shapes: HashMap<i32, (Shape<'static>, Parts)>,
    contexts: HashMap<i32, Template>,
}

/// A row that names what no dictionary has, or whose packed columns are broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the row names an entry that no dictionary has, or is broken")]
pub(crate) struct Dangling;

/// A shape as its tables have it.
#[derive(sqlx::FromRow)]
struct ShapeRow {
    id: i32,
    has_destination: bool,
    destination: Option<String>,
    action: String,
    policies: String,
    commit: String,
    digest: String,
    reason: String,
    tls: String,
    has_shadow: bool,
    shadow_allow: Option<bool>,
    shadow: Option<String>,
    enforcement: i16,
    personal_path: bool,
}

const SHAPES: &str = "SELECT s.id, s.destination_id IS NOT NULL AS has_destination, d.value AS destination, a.value AS action, \
     p.value AS policies, c.value AS commit, g.value AS digest, n.value AS reason, t.value AS tls, \
     s.shadow_set_id IS NOT NULL AS has_shadow, s.shadow_allow, sp.value AS shadow, s.enforcement, s.personal_path \
     FROM signet.shapes s \
     JOIN signet.labels a ON a.id = s.action_id \
     JOIN signet.policy_sets p ON p.id = s.policy_set_id \
     JOIN signet.labels c ON c.id = s.commit_id \
     JOIN signet.labels g ON g.id = s.digest_id \
     JOIN signet.labels n ON n.id = s.reason_id \
     JOIN signet.labels t ON t.id = s.tls_id \
     LEFT JOIN signet.identities d ON d.id = s.destination_id \
     LEFT JOIN signet.policy_sets sp ON sp.id = s.shadow_set_id \
     WHERE s.id = ANY($1)";

impl ShapeRow {
    /// The shape; `None` when an entry that it names is not there.
    fn shape(self) -> Option<Shape<'static>> {
        let shadow = match (self.has_shadow, self.shadow_allow, self.shadow) {
            (false, None, None) => None,
            (true, Some(allow), Some(policies)) => Some((allow, policies.into())),
            _ => return None,
        };
        (self.has_destination == self.destination.is_some()).then(|| Shape {
            destination: self.destination.map(Into::into),
            action: self.action.into(),
            policies: self.policies.into(),
            commit: self.commit.into(),
            digest: self.digest.into(),
            reason: self.reason.into(),
            tls: self.tls.into(),
            shadow,
            enforcement: self.enforcement,
            personal_path: self.personal_path,
        })
    }
}

/// A row in words, for comparing.
#[derive(Debug)]
pub(crate) struct Texts<'r> {
    pub(crate) producer: &'r str,
    pub(crate) source: Option<&'r str>,
    pub(crate) service: &'r str,
    pub(crate) shape: &'r Shape<'static>,
}

impl Reader {
    /// Reads the dictionary entries that rows name and that are not known yet. Those that are not there stay unknown.
    ///
    /// # Errors
    /// When PostgreSQL is away.
    pub(crate) async fn resolve(
        &mut self,
        connection: &mut PgConnection,
        rows: impl Iterator<Item = Numbers>,
    ) -> Result<(), sqlx::Error> {
        if self.size() > MAX_CACHED {
            *self = Self::default();
        }
        let mut wanted: [Vec<i32>; 5] = Default::default();
        for numbers in rows {
            let [producers, identities, services, shapes, contexts] = &mut wanted;
            want(producers, &self.producers, Some(numbers.epoch));
            want(identities, &self.identities, numbers.source);
            want(services, &self.services, Some(numbers.service));
            want(shapes, &self.shapes, Some(numbers.shape));
            want(contexts, &self.contexts, Some(numbers.context).filter(|id| *id != 0));
        }
        let [producers, identities, services, shapes, contexts] = wanted;
        let texts = [
            (producers, &mut self.producers, "SELECT id, producer FROM signet.epochs WHERE id = ANY($1)"),
            (identities, &mut self.identities, "SELECT id, value FROM signet.identities WHERE id = ANY($1)"),
            (services, &mut self.services, "SELECT id, value FROM signet.services WHERE id = ANY($1)"),
        ];
        for (ids, known, select) in texts {
            if !ids.is_empty() {
                known.extend(read::<(i32, String)>(connection, select, ids).await?);
            }
        }
        if !shapes.is_empty() {
            for row in read::<ShapeRow>(connection, SHAPES, shapes).await? {
                let id = row.id;
                if let Some(shape) = row.shape() {
                    self.shapes.insert(id, (shape.clone(), Parts::of(&shape)));
                }
            }
        }
        if !contexts.is_empty() {
            let select = "SELECT id, template FROM signet.contexts WHERE id = ANY($1)";
            let rows = read::<(i32, Vec<u8>)>(connection, select, contexts).await?;
            self.contexts.extend(rows.into_iter().filter_map(|(id, bytes)| Some((id, Template::parse(bytes)?))));
        }
        Ok(())
    }

    fn size(&self) -> usize {
        self.producers.len() + self.identities.len() + self.services.len() + self.shapes.len() + self.contexts.len()
    }

    /// A row in words.
    pub(crate) fn texts(&self, numbers: Numbers) -> Result<Texts<'_>, Dangling> {
        let source = match numbers.source {
            Some(id) => Some(self.identities.get(&id).ok_or(Dangling)?.as_str()),
            None => None,
        };
        Ok(Texts {
            producer: self.producers.get(&numbers.epoch).ok_or(Dangling)?,
            source,
            service: self.services.get(&numbers.service).ok_or(Dangling)?,
            shape: &self.shapes.get(&numbers.shape).ok_or(Dangling)?.0,
        })
    }

    /// Appends the canonical bytes of a row, after [`Self::resolve`].
    ///
    /// # Errors
    /// When the row does not make any; what was appended by then is meaningless.
    pub(crate) fn rebuild(&self, row: &Row<'_>, out: &mut Vec<u8>) -> Result<(), Dangling> {
        let rest = Rest::unpack(row.rest).ok_or(Dangling)?;
        if let Some(canonical) = rest.canonical {
            out.extend_from_slice(canonical);
            return Ok(());
        }
        let texts = self.texts(row.numbers)?;
        let (_, parts) = self.shapes.get(&row.numbers.shape).ok_or(Dangling)?;
        let mut personal = Items::of(row.personal);
        out.push(VERSION);
        put(out, tag::ID, row.id.as_bytes());
        put(out, tag::TIME_US, &row.time_us.to_be_bytes());
        put(out, tag::KIND, &[u8::try_from(row.kind + 1).map_err(|_| Dangling)?]);
        put(out, tag::PRODUCER, texts.producer.as_bytes());
        if let Some(source) = texts.source {
            put(out, tag::SOURCE_SPIFFE_ID, source.as_bytes());
        }
        out.extend_from_slice(&parts.destination);
        put(out, tag::DESTINATION_SERVICE, texts.service.as_bytes());
        out.extend_from_slice(&parts.action);
        if let Some(path) = row.path.as_deref() {
            put(out, tag::PATH, path.as_bytes());
        }
        committed(out, tag::PATH_COMMITMENT, &mut personal);
        put(out, tag::ALLOW, &[u8::from(row.allow)]);
        out.extend_from_slice(&parts.verdict);
        committed(out, tag::SOURCE_ADDRESS_COMMITMENT, &mut personal);
        out.extend_from_slice(&parts.tls);
        if let Some(trace) = row.trace_id {
            put(out, tag::TRACE_ID, trace.simple().encode_lower(&mut [0; 32]).as_bytes());
        }
        if let Some(latency) = row.latency_us {
            let latency = u64::try_from(latency).map_err(|_| Dangling)?;
            put(out, tag::LATENCY_US, &latency.to_be_bytes());
        }
        self.context(row.numbers.context, rest, &mut personal, out)?;
        put(out, tag::COUNT, &rest.count.unwrap_or(1).to_be_bytes());
        if let Some(detail) = rest.detail {
            put(out, tag::DETAIL, detail.as_bytes());
        }
        out.extend_from_slice(&parts.end);
        if personal.is_empty() { Ok(()) } else { Err(Dangling) }
    }

    fn context(&self, id: i32, rest: Rest<'_>, personal: &mut Items<'_>, out: &mut Vec<u8>) -> Result<(), Dangling> {
        let own = match (id, rest.context) {
            (0, context) => Some(Template::parse(context.unwrap_or_default().to_vec()).ok_or(Dangling)?),
            (_, None) => None,
            (_, Some(_)) => return Err(Dangling),
        };
        let template = own.as_ref().or_else(|| self.contexts.get(&id)).ok_or(Dangling)?;
        out.extend_from_slice(&tag::CONTEXT.to_be_bytes());
        out.extend_from_slice(&length(template.len()));
        template.fill(personal, out).ok_or(Dangling)
    }

    /// Shapes that are not what their key says, or that name what is not there.
    ///
    /// # Errors
    /// When PostgreSQL is away.
    pub(crate) async fn changed_shapes(connection: &mut PgConnection) -> Result<Vec<i32>, sqlx::Error> {
        let keys: Vec<(i32, Vec<u8>)> =
            sqlx::query_as("SELECT id, key FROM signet.shapes ORDER BY id").fetch_all(&mut *connection).await?;
        let mut reader = Self::default();
        let mut changed = Vec::new();
        for keys in keys.chunks(10_000) {
            for row in read::<ShapeRow>(connection, SHAPES, keys.iter().map(|(id, _)| *id).collect()).await? {
                let id = row.id;
                reader.shapes.extend(row.shape().map(|shape| (id, (shape.clone(), Parts::of(&shape)))));
            }
            let whole = |id: &i32, key: &[u8]| reader.shapes.get(id).is_some_and(|(shape, _)| shape.key() == key);
            changed.extend(keys.iter().filter(|(id, key)| !whole(id, key)).map(|(id, _)| *id));
            reader.shapes.clear();
        }
        Ok(changed)
    }

    /// The canonical bytes of each row.
    ///
    /// # Errors
    /// When PostgreSQL is away.
    pub(crate) async fn canonical(
        &mut self,
        connection: &mut PgConnection,
        rows: &[StoredRow],
    ) -> Result<Vec<Result<Vec<u8>, Dangling>>, sqlx::Error> {
        self.resolve(connection, rows.iter().map(|row| row.as_row().numbers)).await?;
        let rebuilt = |row: &StoredRow| {
            let mut canonical = Vec::with_capacity(1024);
            self.rebuild(&row.as_row(), &mut canonical).map(|()| canonical)
        };
        Ok(rows.iter().map(rebuilt).collect())
    }
}

/// Appends the commitment of a field, where the personal values have one.
fn committed(out: &mut Vec<u8>, tag: u16, personal: &mut Items<'_>) {
    if let Some(commitment) = personal.commitment(u32::from(tag)) {
        put(out, tag, &commitment);
    }
}

fn want<T>(wanted: &mut Vec<i32>, known: &HashMap<i32, T>, id: Option<i32>) {
    if let Some(id) = id
        && !known.contains_key(&id)
        && wanted.last() != Some(&id)
    {
        wanted.push(id);
    }
}

async fn read<T>(connection: &mut PgConnection, select: &'static str, ids: Vec<i32>) -> Result<Vec<T>, sqlx::Error>
where
    T: for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow> + Send + Unpin,
{
    let mut ids = ids;
    ids.sort_unstable();
    ids.dedup();
    sqlx::query_as(select).bind(ids).fetch_all(connection).await
}
