//! Notices a database that went back in time or was rewritten: remembers the last checkpoint that was signed, outside the
//! database, and demands a consistency proof from it to whatever is to be sequenced or signed next.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use sqlx::PgConnection;

use super::{Store, StoreError};
use crate::merkle::{Hash, HashSource, MissingTile, TileId, consistency_proof, verify_consistency};
use crate::note::{Checkpoint, NoteError, VerifierKey, write_whole};

/// The database contradicts what was signed before.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// Fewer leaves than were signed for.
    #[error(
        "log `{origin}` has {size} records in PostgreSQL, but a checkpoint of {signed} was signed (`{}`): the database was \
         restored to an earlier point. Nothing is sequenced. Restore a newer backup; only if the records are lost for good \
         and everyone who saw the checkpoint has been told, begin a new log with a new key and database", file.display()
    )]
    Behind {
        /// The log.
        origin: String,
        /// In the database.
        size: u64,
        /// In the checkpoint.
        signed: u64,
        /// Where the checkpoint is remembered.
        file: PathBuf,
    },
    /// The signed tree is not the beginning of the stored one.
    #[error(
        "log `{origin}`: the {size} records in PostgreSQL do not continue the signed checkpoint of {signed} (`{}`): the tree \
         was rewritten. Nothing is sequenced; run signet audit verify", file.display()
    )]
    Forked {
        /// The log.
        origin: String,
        /// In the database.
        size: u64,
        /// In the checkpoint.
        signed: u64,
        /// Where the checkpoint is remembered.
        file: PathBuf,
    },
    /// The remembered checkpoint cannot be read.
    #[error("the remembered checkpoint `{}` cannot be used; restore the file rather than delete it", file.display())]
    State {
        /// Which file.
        file: PathBuf,
        /// Why.
        source: NoteError,
    },
}

/// The last signed checkpoint.
#[derive(Debug)]
pub(crate) struct Guard {
    file: PathBuf,
    signed: Mutex<Option<Checkpoint>>,
    /// What is stored was found not to continue what was signed.
    contradicted: AtomicBool,
}

impl Guard {
    /// Reads the remembered checkpoint; none on the first start.
    ///
    /// # Errors
    /// When the file is there and is not a checkpoint signed with this key.
    pub(crate) fn open(file: &Path, key: &VerifierKey) -> Result<Self, GuardError> {
        let failed = |source| GuardError::State { file: file.to_owned(), source };
        let signed = match std::fs::read_to_string(file) {
            Ok(note) => Some(key.open_checkpoint(&note).map_err(failed)?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(source) => return Err(failed(NoteError::File { action: "read", path: file.to_owned(), source })),
        };
        Ok(Self { file: file.to_owned(), signed: Mutex::new(signed), contradicted: AtomicBool::new(false) })
    }

    pub(crate) fn signed(&self) -> Option<Checkpoint> {
        *self.signed.lock()
    }

    /// Remembers a checkpoint, durably, before anyone is shown it.
    pub(crate) fn remember(&self, checkpoint: Checkpoint, note: &str) -> Result<(), GuardError> {
        write_whole(&self.file, note.as_bytes(), 0o644)
            .map_err(|source| GuardError::State { file: self.file.clone(), source })?;
        *self.signed.lock() = Some(checkpoint);
        Ok(())
    }

    /// Whether the last check failed, so that nothing may be sequenced without another.
    pub(crate) fn is_contradicted(&self) -> bool {
        self.contradicted.load(Ordering::Relaxed)
    }

    /// Takes up a checkpoint that a witness showed and this log's key signed. Where what is stored does not continue it,
    /// it is remembered, so that nothing is sequenced until that is mended, after a restart too.
    ///
    /// # Errors
    /// When what is stored does not continue it.
    pub(crate) async fn recall(
        &self,
        store: &Store,
        connection: &mut PgConnection,
        witnessed: Checkpoint,
        note: &str,
    ) -> Result<(), StoreError> {
        let (size, root) = store.head(&mut *connection).await?;
        let checked = self.check_against(store, connection, witnessed, size, &root).await;
        if matches!(checked, Err(StoreError::Guard(_))) {
            self.contradicted.store(true, Ordering::Relaxed);
            // Also where a larger one is remembered: that is of the fork.
            self.remember(witnessed, note)?;
        }
        checked
    }

    /// Proves that the tree of this size and root continues what was signed.
    pub(crate) async fn check(
        &self,
        store: &Store,
        connection: &mut PgConnection,
        size: u64,
        root: &Hash,
    ) -> Result<(), StoreError> {
        let Some(signed) = self.signed() else { return Ok(()) };
        let checked = self.check_against(store, connection, signed, size, root).await;
        match &checked {
            Ok(()) => self.contradicted.store(false, Ordering::Relaxed),
            Err(StoreError::Guard(_)) => self.contradicted.store(true, Ordering::Relaxed),
            // PostgreSQL is away: nothing was found out.
            Err(_) => {}
        }
        checked
    }

    async fn check_against(
        &self,
        store: &Store,
        connection: &mut PgConnection,
        signed: Checkpoint,
        size: u64,
        root: &Hash,
    ) -> Result<(), StoreError> {
        let origin = store.origin().to_owned();
        let file = self.file.clone();
        if size < signed.size {
            return Err(GuardError::Behind { origin, size, signed: signed.size, file }.into());
        }
        let forked = GuardError::Forked { origin, size, signed: signed.size, file };
        let Some(proof) = prove(store, connection, |tiles| consistency_proof(tiles, signed.size, size)).await? else {
            return Err(forked.into());
        };
        verify_consistency(signed.size, &signed.root, size, root, &proof).map_err(|_| forked.into())
    }
}

/// Makes a proof, fetching the tiles that it turns out to need; `None` when one is not there.
pub(crate) async fn prove<T>(
    store: &Store,
    connection: &mut PgConnection,
    make: impl Fn(&BTreeMap<TileId, Vec<Hash>>) -> Result<T, MissingTile>,
) -> Result<Option<T>, StoreError> {
    let mut tiles = BTreeMap::new();
    loop {
        match make(&tiles) {
            Ok(made) => return Ok(Some(made)),
            // Fetched and still too short: it is not there.
            Err(MissingTile(tile)) if tiles.tile(tile).is_some() => return Ok(None),
            Err(MissingTile(tile)) => match store.tiles(&mut *connection, &[tile]).await?.remove(&tile) {
                Some(hashes) => {
                    tiles.insert(tile, hashes);
                }
                None => return Ok(None),
            },
        }
    }
}
