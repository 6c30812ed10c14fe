//! Asks other organisations' or clusters' witnesses to cosign this log's checkpoints.
//!
//! A witness that is away costs a checkpoint its cosignature, not its publication. A witness that holds a checkpoint of
//! ours that our database does not continue shows that the database went back: see [`Contradiction`].

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;

use super::name_digest;
use crate::config::AskedWitness;
use crate::merkle::{Hash, consistency_proof};
use crate::note::{Checkpoint, CosignerVerifier, VerifierKey, split_note};
use crate::store::guard::prove;
use crate::store::{Store, StoreError};

/// For all that one witness is asked about one checkpoint: checkpoints come each second.
const PATIENCE: Duration = Duration::from_millis(500);
/// Of an answer.
const MAX_ANSWER: usize = 16 * 1024;

/// Why a witness gave no cosignature.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("it did not answer within {} ms", PATIENCE.as_millis())]
    Late,
    #[error("it cannot be reached")]
    Io(#[from] std::io::Error),
    #[error("it does not speak HTTP")]
    Http(#[from] hyper::Error),
    #[error("it answered {0}")]
    Status(StatusCode),
    #[error("its answer holds no cosignature of the checkpoint by its key")]
    NotCosigned,
    #[error("it holds {0} records of this log, which this checkpoint does not continue")]
    Ahead(u64),
    #[error("its answer is too long or not text")]
    Answer,
    #[error("the proof for it could not be made")]
    Store(#[from] StoreError),
    #[error("tiles that the proof for it needs are not in the store")]
    NoProof,
}

/// A checkpoint that this log's key signed, shown by a witness, that the asked-about checkpoint does not continue. Whether
/// the database contradicts it is for the guard to prove: another replica may be ahead of us.
#[derive(Debug, Clone)]
pub(crate) struct Contradiction {
    pub(crate) witness: String,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) note: String,
}

/// The witnesses of this log.
#[derive(Debug)]
pub(crate) struct Witnesses {
    log: VerifierKey,
    each: Vec<Asked>,
}

#[derive(Debug)]
struct Asked {
    address: SocketAddr,
    /// Of the URL, without a slash at its end.
    path: String,
    verifier: CosignerVerifier,
    /// Size of the tree that it cosigned last, as far as we know.
    known: AtomicU64,
    /// It failed the last time, so that each change is logged once.
    failing: AtomicBool,
}

impl Witnesses {
    /// The witnesses of the log with this key.
    ///
    /// # Errors
    /// When a URL or a key is none, with its place in the configuration.
    pub(crate) fn new(log: VerifierKey, configured: &[AskedWitness]) -> anyhow::Result<Self> {
        let each = configured.iter().enumerate().map(|(number, asked)| {
            let place = || format!("witnesses[{number}]");
            Asked::new(asked).map_err(|error| error.context(place()))
        });
        Ok(Self { log, each: each.collect::<anyhow::Result<_>>()? })
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.each.len()
    }

    /// Asks those witnesses for whom there is no cosignature yet (`have` names them). Gives the new ones by name, and what
    /// contradicts the checkpoint.
    pub(crate) async fn cosign(
        &self,
        store: &Store,
        checkpoint: Checkpoint,
        note: &str,
        have: &[String],
    ) -> (Vec<(String, String)>, Vec<Contradiction>) {
        let asked = self.each.iter().filter(|asked| !have.iter().any(|name| name == asked.verifier.name()));
        let answers = asked.map(|asked| async move {
            let limited = tokio::time::timeout(PATIENCE, asked.ask(store, checkpoint, note)).await;
            (asked, limited.unwrap_or(Err(AskError::Late)))
        });
        let (mut cosigned, mut contradictions) = (Vec::new(), Vec::new());
        for (asked, answer) in futures::future::join_all(answers).await {
            let witness = asked.verifier.name();
            match answer {
                Ok(line) => {
                    if asked.failing.swap(false, Ordering::Relaxed) {
                        tracing::info!(witness, "the witness cosigns again");
                    }
                    cosigned.push((witness.to_owned(), line));
                }
                Err(error) => {
                    if matches!(error, AskError::Ahead(_)) {
                        contradictions.extend(self.shown(asked).await);
                    }
                    if !asked.failing.swap(true, Ordering::Relaxed) {
                        let error = signet_observe::error_chain(&error);
                        tracing::warn!(witness, error, "checkpoints are published without this witness");
                    }
                }
            }
        }
        (cosigned, contradictions)
    }

    /// The checkpoint of ours that a witness says to hold, if our key signed it.
    async fn shown(&self, asked: &Asked) -> Option<Contradiction> {
        let path = format!("{}/witnessed/{}", asked.path, name_digest(self.log.name()));
        let answer = tokio::time::timeout(PATIENCE, asked.call(Method::GET, path, String::new())).await.ok()?;
        let (StatusCode::OK, note) = answer.ok()? else { return None };
        let checkpoint = self.log.open_checkpoint(&note).ok()?;
        Some(Contradiction { witness: asked.verifier.name().to_owned(), checkpoint, note })
    }
}

impl Asked {
    fn new(configured: &AskedWitness) -> anyhow::Result<Self> {
        let url: Uri = configured.url.parse()?;
        // Everything that is sent or answered is signed, so that HTTP takes nothing from it.
        anyhow::ensure!(
            url.scheme_str() == Some("http"),
            "`{}` is not http://ADDRESS:PORT; put a proxy that makes TLS before a witness that wants it",
            configured.url
        );
        let authority = url.authority().map(http::uri::Authority::as_str).unwrap_or_default();
        let address = authority
            .parse()
            .map_err(|_| anyhow::anyhow!("`{}` does not name an IP address and a port", configured.url))?;
        Ok(Self {
            address,
            path: url.path().trim_end_matches('/').to_owned(),
            verifier: configured.key.parse()?,
            known: AtomicU64::new(0),
            failing: AtomicBool::new(false),
        })
    }

    /// Asks for a cosignature; when the witness is elsewhere than we thought, once more from there.
    async fn ask(&self, store: &Store, checkpoint: Checkpoint, note: &str) -> Result<String, AskError> {
        let (text, _) = split_note(note).ok_or(AskError::NotCosigned)?;
        let mut old = self.known.load(Ordering::Relaxed).min(checkpoint.size);
        for last in [false, true] {
            let proof = self.proof(store, old, checkpoint.size).await?;
            let lines: String = proof.iter().map(|hash| format!("{}\n", STANDARD.encode(hash))).collect();
            let request = format!("old {old}\n{lines}\n{note}");
            let (status, answer) = self.call(Method::POST, format!("{}/add-checkpoint", self.path), request).await?;
            match status {
                StatusCode::OK => {
                    let (line, _) = self.verifier.find(text, &answer).ok_or(AskError::NotCosigned)?;
                    self.known.store(checkpoint.size, Ordering::Relaxed);
                    return Ok(line);
                }
                StatusCode::CONFLICT => {
                    let size: u64 = answer.trim().parse().map_err(|_| AskError::Answer)?;
                    // Its tree is larger, or as large and another.
                    if size > checkpoint.size || (size == checkpoint.size && size == old) {
                        return Err(AskError::Ahead(size));
                    }
                    self.known.store(size, Ordering::Relaxed);
                    if last {
                        return Err(AskError::Status(status));
                    }
                    old = size;
                }
                StatusCode::UNPROCESSABLE_ENTITY => return Err(AskError::Ahead(old)),
                status => return Err(AskError::Status(status)),
            }
        }
        Err(AskError::NotCosigned)
    }

    async fn proof(&self, store: &Store, old: u64, size: u64) -> Result<Vec<Hash>, AskError> {
        if old == 0 || old == size {
            return Ok(Vec::new());
        }
        let mut connection = store.pool().acquire().await.map_err(StoreError::from)?;
        prove(store, &mut connection, |tiles| consistency_proof(tiles, old, size)).await?.ok_or(AskError::NoProof)
    }

    async fn call(&self, method: Method, path: String, body: String) -> Result<(StatusCode, String), AskError> {
        let stream = tokio::net::TcpStream::connect(self.address).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.address.to_string())
            .header(header::CONTENT_TYPE, "text/plain; charset=utf-8")
            .body(Full::new(Bytes::from(body)))
            .map_err(|_| AskError::Answer)?;
        let answer = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|_| AskError::Answer)?.to_bytes();
            let text = String::from_utf8(body.to_vec()).map_err(|_| AskError::Answer)?;
            Ok::<_, AskError>((status, text))
        };
        tokio::pin!(answer);
        tokio::select! {
            done = &mut answer => done,
            ended = connection => { ended?; answer.await }
        }
    }
}
