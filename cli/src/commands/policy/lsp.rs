//! `signet policy lsp`: a language server for a policy repository, over standard input and output (LSP 3.17).
//!
//! It says of an edited repository what `signet policy check` says of a saved one, completes and explains names from the
//! schema, from `signet.yaml` and from recorded traffic, leads from a name to its declaration, and formats. It runs
//! nothing of the repository and writes no file.

mod completion;
mod definition;
mod diagnostics;
mod hover;
mod text;
mod vocabulary;
mod workspace;

use std::fs::File;
use std::io::BufReader;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use lsp_server::{Connection, ErrorCode, Message, Notification, Request, Response};
use lsp_types::notification::{self as notes, Notification as _};
use lsp_types::request::{self as asks, Request as _};
use lsp_types::{
    CompletionOptions, CompletionResponse, GotoDefinitionResponse, HoverProviderCapability, InitializeParams,
    MessageType, OneOf, Position, ServerCapabilities, ShowMessageParams, TextDocumentSyncCapability,
    TextDocumentSyncKind, Uri,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use signet_policy::{split_id, split_spiffe_id};
use signet_policy_analysis::{self as analysis, JsonLines, RecordsError, Seen, Traffic, Used};

use crate::failure::{Failure, ResultExt};
use hover::OwnedName;
use vocabulary::Vocabulary;
use workspace::Workspace;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The policy repository's root; without it the folder that the editor opens.
    #[arg(long, value_name = "DIR")]
    repository: Option<PathBuf>,
    /// Recorded traffic, whose use of a name is shown with it: an export of the audit log as JSON Lines.
    #[arg(long, value_name = "FILE")]
    records: Option<PathBuf>,
}

/// Serves until the editor says that it ends.
pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let served = tokio::task::spawn_blocking(move || serve(&arguments)).await;
    served.failed("the language server ended early", "report this as a bug")?
}

fn serve(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let broken = "the editor has to speak the Language Server Protocol on standard input and output";
    let vocabulary = Vocabulary::new().map_err(|why| Failure::failed(why).next("report this as a bug"))?;
    let (connection, threads) = Connection::stdio();
    let (id, asked) = connection.initialize_start().failed("no `initialize` came", broken)?;
    let asked: InitializeParams = serde_json::from_value(asked).failed("`initialize` is not understood", broken)?;
    let answer = serde_json::json!({
        "capabilities": capabilities(),
        "serverInfo": { "name": "signet", "version": env!("CARGO_PKG_VERSION") },
    });
    connection.initialize_finish(id, answer).failed("the editor ended early", broken)?;
    let traffic = Arc::new(OnceLock::new());
    if let Some(path) = arguments.records.clone() {
        let sender = connection.sender.clone();
        // Nobody is left to read it where sending fails.
        read_traffic(path, Arc::clone(&traffic), move |message| drop(sender.send(message)));
    }
    let root = arguments.repository.clone().or_else(|| workspace::root_of(&asked)).unwrap_or_else(|| ".".into());
    let mut server = Server { workspace: Workspace::new(root), vocabulary, traffic, connection: &connection };
    server.diagnose();
    let ended = server.run().failed("the editor ended early", broken);
    drop(connection);
    ended?;
    threads.join().failed("the connection to the editor broke", broken)?;
    Ok(ExitCode::SUCCESS)
}

fn capabilities() -> ServerCapabilities {
    ServerCapabilities {
        text_document_sync: Some(TextDocumentSyncCapability::Kind(TextDocumentSyncKind::FULL)),
        completion_provider: Some(CompletionOptions {
            trigger_characters: Some([".", ":", "\"", "@"].map(str::to_owned).into()),
            ..CompletionOptions::default()
        }),
        hover_provider: Some(HoverProviderCapability::Simple(true)),
        definition_provider: Some(OneOf::Left(true)),
        document_formatting_provider: Some(OneOf::Left(true)),
        ..ServerCapabilities::default()
    }
}

/// Counts recorded use beside the server, because an export may be large; says so where it cannot be read.
fn read_traffic(path: PathBuf, into: Arc<OnceLock<Traffic>>, tell: impl FnOnce(Message) + Send + 'static) {
    std::thread::spawn(move || {
        let read = File::open(&path).map_err(RecordsError::from);
        let why = match read.and_then(|file| Traffic::of(JsonLines(BufReader::new(file)))) {
            Ok(traffic) => return drop(into.set(traffic)),
            Err(error) => signet_observe::error_chain(&error),
        };
        tell(warning(format!("{}: {why}", path.display())));
    });
}

fn warning(message: String) -> Message {
    let params = ShowMessageParams { typ: MessageType::WARNING, message };
    Message::Notification(Notification::new(notes::ShowMessage::METHOD.to_owned(), params))
}

struct Server<'c> {
    workspace: Workspace,
    vocabulary: Vocabulary,
    traffic: Arc<OnceLock<Traffic>>,
    connection: &'c Connection,
}

/// What features look at.
struct Knowledge<'s> {
    workspace: &'s Workspace,
    vocabulary: &'s Vocabulary,
    traffic: Option<&'s Traffic>,
}

impl Knowledge<'_> {
    /// The name at a place of a policy file or a decision table, with the text that it stands in and its bytes there.
    fn name_at(&self, uri: &Uri, at: Position) -> Option<(String, OwnedName, Range<usize>)> {
        let path = self.workspace.relative(uri)?;
        let text = self.workspace.text(uri)?;
        let offset = text::offset(&text, at);
        let (name, bytes) = match path.ends_with(".cedar") {
            true => text::name_in_policy(&text, offset)?,
            false => text::name_in_test(&text, offset)?,
        };
        let name = OwnedName::from(name);
        Some((text, name, bytes))
    }

    /// The recorded use of an entity, of a value of the `context`, or, without a kind, of a policy.
    fn used(&self, kind: &str, id: &str) -> Option<Seen> {
        let traffic = self.traffic?;
        match kind {
            "" => traffic.seen(Used::Policy, id),
            "Workload" => traffic.seen(Used::Caller, &workload_id(id)),
            "Service" => traffic.seen(Used::Service, id),
            "Action" => traffic.seen(Used::Action, id),
            // Records name claims `jwt.sub` and network facts `src_ip`.
            "context" => {
                let name = id.strip_prefix("context.").unwrap_or(id);
                traffic.seen(Used::Value, name.strip_prefix("net.").unwrap_or(name))
            }
            _ => None,
        }
    }
}

/// The SPIFFE ID of a workload that is named as `<trust domain>/<namespace>/<service account>`; any other text as it is.
fn workload_id(id: &str) -> String {
    match split_id(id) {
        Some((td, ns, sa)) => format!("spiffe://{td}/ns/{ns}/sa/{sa}"),
        None => id.to_owned(),
    }
}

/// The opposite of [`workload_id`].
fn account_of(id: &str) -> Option<String> {
    let (td, (ns, sa)) = split_spiffe_id(id).and_then(|(td, account)| Some((td, account?)))?;
    Some(format!("{td}/{ns}/{sa}"))
}

type Ended = Result<(), Box<dyn std::error::Error + Send + Sync>>;

impl Server<'_> {
    fn run(&mut self) -> Ended {
        let mut is_stale = false;
        for message in &self.connection.receiver {
            match message {
                Message::Request(request) => {
                    if self.connection.handle_shutdown(&request)? {
                        return Ok(());
                    }
                    let response = self.answer(request);
                    self.connection.sender.send(Message::Response(response))?;
                }
                Message::Notification(note) => is_stale |= self.hear(note),
                Message::Response(_) => {}
            }
            // Whoever types fast is told once, at the end.
            if is_stale && self.connection.receiver.is_empty() {
                self.diagnose();
                is_stale = false;
            }
        }
        Ok(())
    }

    /// Takes a change in; whether anything changed.
    fn hear(&mut self, note: Notification) -> bool {
        match note.method.as_str() {
            notes::DidOpenTextDocument::METHOD => read::<notes::DidOpenTextDocument>(note.params)
                .is_some_and(|p| self.workspace.set(p.text_document.uri, p.text_document.text)),
            notes::DidChangeTextDocument::METHOD => {
                let Some(mut params) = read::<notes::DidChangeTextDocument>(note.params) else { return false };
                // Each change is the full text: nothing else was offered.
                let last = params.content_changes.pop();
                last.is_some_and(|change| self.workspace.set(params.text_document.uri, change.text))
            }
            notes::DidCloseTextDocument::METHOD => read::<notes::DidCloseTextDocument>(note.params)
                .is_some_and(|params| self.workspace.close(&params.text_document.uri)),
            notes::DidSaveTextDocument::METHOD | notes::DidChangeWatchedFiles::METHOD => true,
            _ => false,
        }
    }

    fn answer(&self, request: Request) -> Response {
        let known = Knowledge { workspace: &self.workspace, vocabulary: &self.vocabulary, traffic: self.traffic.get() };
        match request.method.as_str() {
            asks::Completion::METHOD => respond::<asks::Completion>(request, |params| {
                let at = params.text_document_position;
                let items = completion::complete(&known, &at.text_document.uri, at.position);
                Some(CompletionResponse::Array(items))
            }),
            asks::HoverRequest::METHOD => respond::<asks::HoverRequest>(request, |params| {
                let at = params.text_document_position_params;
                hover::hover(&known, &at.text_document.uri, at.position)
            }),
            asks::GotoDefinition::METHOD => respond::<asks::GotoDefinition>(request, |params| {
                let at = params.text_document_position_params;
                definition::definition(&known, &at.text_document.uri, at.position).map(GotoDefinitionResponse::Scalar)
            }),
            asks::Formatting::METHOD => respond::<asks::Formatting>(request, |params| {
                let uri: Uri = params.text_document.uri;
                let text = self.workspace.text(&uri)?;
                let is_cedar =
                    workspace::path_of(&uri).is_some_and(|path| path.extension().is_some_and(|e| e == "cedar"));
                let formatted = analysis::format(&text).ok().filter(|_| is_cedar)?;
                Some(text::replace_all(&text, formatted))
            }),
            method => {
                let why = format!("`{method}` is not offered");
                Response::new_err(request.id, ErrorCode::MethodNotFound as i32, why)
            }
        }
    }

    fn diagnose(&mut self) {
        let found = self.workspace.check();
        for params in found {
            let note = Notification::new(notes::PublishDiagnostics::METHOD.to_owned(), params);
            // A connection that is gone ends the loop by itself.
            let _ = self.connection.sender.send(Message::Notification(note));
        }
    }
}

/// The parameters of a notification; nothing when they are not what the protocol says.
fn read<N: notes::Notification>(params: serde_json::Value) -> Option<N::Params>
where
    N::Params: DeserializeOwned,
{
    serde_json::from_value(params).ok()
}

fn respond<R: asks::Request>(request: Request, answer: impl FnOnce(R::Params) -> R::Result) -> Response
where
    R::Params: DeserializeOwned,
    R::Result: Serialize,
{
    match serde_json::from_value(request.params) {
        Ok(params) => Response::new_ok(request.id, answer(params)),
        Err(error) => Response::new_err(request.id, ErrorCode::InvalidParams as i32, error.to_string()),
    }
}
