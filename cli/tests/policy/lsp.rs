//! `signet policy lsp`, spoken to as an editor speaks to it: frames over the real program's standard input and output.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::place::Place;

const FILE: &str = "policies/ledger.cedar";
/// A message that does not come by then never will.
const PATIENCE: Duration = Duration::from_secs(60);

struct Editor<'p> {
    place: &'p Place,
    server: Child,
    input: ChildStdin,
    messages: Receiver<Value>,
    asked: i64,
}

impl<'p> Editor<'p> {
    fn open(place: &'p Place, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_signet"));
        command.args(["policy", "lsp"]).args(arguments).current_dir(place.path("")).stdin(Stdio::piped());
        let mut server = command.stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (server.stdin.take().unwrap(), server.stdout.take().unwrap());
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            let mut output = BufReader::new(output);
            while let Some(message) = frame(&mut output) {
                let _ = sender.send(message);
            }
        });
        let mut editor = Self { place, server, input, messages, asked: 0 };
        let capabilities = json!({ "capabilities": {}, "rootUri": editor.uri("") });
        let answer = editor.ask("initialize", capabilities);
        assert_eq!(answer["serverInfo"]["name"], "signet", "{answer}");
        editor.tell("initialized", json!({}));
        editor
    }

    fn uri(&self, file: &str) -> String {
        format!("file://{}", self.place.path(file).display()).trim_end_matches('/').to_owned()
    }

    fn send(&mut self, message: &Value) {
        let text = message.to_string();
        write!(self.input, "Content-Length: {}\r\n\r\n{text}", text.len()).unwrap();
        self.input.flush().unwrap();
    }

    fn tell(&mut self, method: &str, params: Value) {
        self.send(&json!({ "jsonrpc": "2.0", "method": method, "params": params }));
    }

    /// The whole response to a request.
    fn response(&mut self, method: &str, params: Value) -> Value {
        self.asked += 1;
        let id = self.asked;
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }));
        self.wait(method, |message| message["id"] == id)
    }

    fn ask(&mut self, method: &str, params: Value) -> Value {
        let response = self.response(method, params);
        assert!(response.get("error").is_none(), "{method}: {response}");
        response["result"].clone()
    }

    fn wait(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let message = self.messages.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("{what}: {error}"));
            if wanted(&message) {
                return message;
            }
        }
    }

    /// The next findings of a file.
    fn findings(&self, file: &str) -> Vec<Value> {
        let uri = self.uri(file);
        let note = self.wait(&format!("findings of {file}"), |message| {
            message["method"] == "textDocument/publishDiagnostics" && message["params"]["uri"] == uri
        });
        note["params"]["diagnostics"].as_array().unwrap().clone()
    }

    fn set(&mut self, file: &str, text: &str, version: i64) {
        let uri = self.uri(file);
        match version {
            1 => self.tell(
                "textDocument/didOpen",
                json!({ "textDocument": { "uri": uri, "languageId": "cedar", "version": 1, "text": text } }),
            ),
            _ => self.tell(
                "textDocument/didChange",
                json!({ "textDocument": { "uri": uri, "version": version }, "contentChanges": [{ "text": text }] }),
            ),
        }
    }

    /// Asks about the place right after `before` in `text`, which the file has.
    fn ask_at(&mut self, method: &str, file: &str, text: &str, before: &str) -> Value {
        let at = text.find(before).unwrap_or_else(|| panic!("`{before}` is not in {text}")) + before.len();
        let line = text[..at].matches('\n').count();
        let character = text[..at].rsplit('\n').next().unwrap().encode_utf16().count();
        let position = json!({ "line": line, "character": character });
        let uri = self.uri(file);
        self.ask(method, json!({ "textDocument": { "uri": uri }, "position": position }))
    }

    fn labels(&mut self, text: &str, before: &str) -> Vec<String> {
        let items = self.ask_at("textDocument/completion", FILE, text, before);
        items.as_array().unwrap().iter().map(|item| item["label"].as_str().unwrap().to_owned()).collect()
    }

    fn close(mut self) {
        assert_eq!(self.ask("shutdown", Value::Null), Value::Null);
        self.tell("exit", Value::Null);
        drop(self.input);
        assert!(self.server.wait().unwrap().success());
    }
}

fn frame(output: &mut impl BufRead) -> Option<Value> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if output.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim() {
            "" => break,
            header => length = header.strip_prefix("Content-Length: ").map_or(length, |n| n.parse().unwrap()),
        }
    }
    let mut body = vec![0; length];
    output.read_exact(&mut body).ok()?;
    serde_json::from_slice(&body).ok()
}

#[test]
fn findings_follow_what_is_typed_and_go_when_it_is_mended() {
    let place = Place::new();
    let saved = std::fs::read_to_string(place.path(FILE)).unwrap();
    let mut editor = Editor::open(&place, &[]);
    // \u{1f600} counts twice in UTF-16, once in characters.
    let broken = format!(
        "{saved}\n@id(\"new\") /* \u{1f600} */ permit(principal, action, resource) when {{ context.nowhere == 1 }};\n"
    );
    editor.set(FILE, &broken.replace("/* \u{1f600} */", "@reason(\"\u{1f600}\")"), 1);
    let found = editor.findings(FILE);
    let codes: Vec<_> = found.iter().map(|f| (f["code"].as_str().unwrap(), f["severity"].as_i64().unwrap())).collect();
    assert!(codes.contains(&("validation", 1)), "{found:?}");
    let line = broken.lines().count() - 1;
    let at = found.iter().find(|f| f["code"] == "validation").unwrap();
    assert_eq!(at["range"]["start"]["line"], line, "{at}");
    let text = broken.lines().last().unwrap().replace("/* \u{1f600} */", "@reason(\"\u{1f600}\")");
    let units = text[..text.find("context.nowhere").unwrap()].encode_utf16().count();
    assert_eq!(at["range"]["start"]["character"], units, "{at}");
    // A policy that breaks a case of the decision tables is said where the case stands.
    editor.set(FILE, &saved.replacen("permit", "forbid", 1), 2);
    assert_eq!(editor.findings(FILE), [] as [Value; 0]);
    let failed = editor.findings("tests/bank.yaml");
    assert!(failed.iter().any(|f| f["code"] == "tests_failed"), "{failed:?}");
    // The lints of `signet policy check`, with their help.
    editor.set(FILE, &format!("{saved}\n@id(\"open\") permit(principal, action, resource);\n"), 3);
    let found = editor.findings(FILE);
    let open = found.iter().find(|f| f["code"] == "allows_everything").unwrap_or_else(|| panic!("{found:?}"));
    assert_eq!((&open["severity"], &open["source"]), (&json!(2), &json!("signet")));
    editor.set(FILE, &saved, 4);
    assert_eq!(editor.findings(FILE), [] as [Value; 0]);
    editor.close();
    assert_eq!(place.git(&["status", "--porcelain"]), "", "the server writes nothing");
}

#[test]
fn names_are_completed_explained_and_led_to_their_declaration() {
    let place = Place::new();
    let record = json!({
        "kind": "decision", "time": "2026-11-25T10:00:00.000000Z", "destination_service": "east.bank.example/bank/ledger",
        "source_spiffe_id": "spiffe://east.bank.example/ns/bank/sa/web", "action": "http:GET", "path": "/accounts/1",
        "decision": "allow", "reason": "permitted", "policy_ids": ["web-reads-accounts"], "count": 41,
        "context": {"src_ip": "10.0.0.1", "dst_port": "80"},
    });
    // Beside the repository: its own files stay as they were.
    let records = place.path("../").join(format!("{}.jsonl", place.path("").file_name().unwrap().to_str().unwrap()));
    std::fs::write(&records, format!("{record}\n")).unwrap();
    let mut editor = Editor::open(&place, &["--records", records.to_str().unwrap()]);
    let text = "@id(\"web-reads-accounts\")\n@owner(\"x\")\npermit(\n  principal == Mesh::Workload::\"spiffe://east.bank.example/ns/bank/sa/web\",\n  \
                action == Mesh::Action::\"http:GET\",\n  resource in Mesh::Service::\"east.bank.example/bank/ledger\"\n)\n\
                when { context.net.src_ip.isLoopback() };\n";
    editor.set(FILE, text, 1);
    editor.findings(FILE);
    let actions = editor.labels(text, "Mesh::Action::\"");
    assert!(actions.iter().any(|id| id == "grpc:call"), "{actions:?}");
    let services = editor.labels(text, "Mesh::Service::\"");
    assert!(services.iter().any(|id| id == "east.bank.example/bank/payments"), "{services:?}");
    let network = editor.labels(text, "context.net.");
    assert_eq!(network, ["dst_cluster", "dst_port", "src_cluster", "src_ip"]);
    let annotations = editor.labels(text, "\n@");
    assert!(annotations.iter().any(|name| name == "control"), "{annotations:?}");

    let hover = |editor: &mut Editor<'_>, before: &str| {
        editor.ask_at("textDocument/hover", FILE, text, before)["contents"]["value"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    // The records are read beside the server.
    let begin = Instant::now();
    while !hover(&mut editor, "bank/led").contains("recorded call") {
        assert!(begin.elapsed() < PATIENCE, "the records are never read");
    }
    let attribute = hover(&mut editor, "context.net.src");
    assert!(attribute.contains("**ipaddr**") && attribute.contains("41 recorded calls"), "{attribute}");
    let service = hover(&mut editor, "bank/led");
    assert!(
        service.contains("data class: ") && service.contains("41 recorded calls, last 2026-11-25T10:00"),
        "{service}"
    );
    assert!(hover(&mut editor, "@id(\"web").contains("41 recorded calls"));
    assert!(hover(&mut editor, "sa/we").contains("41 recorded calls"));
    assert_eq!(hover(&mut editor, "per"), "");

    let found = editor.ask_at("textDocument/definition", FILE, text, "bank/led");
    let line = found["range"]["start"]["line"].as_u64().unwrap();
    let settings = std::fs::read_to_string(place.path("signet.yaml")).unwrap();
    assert_eq!(found["uri"], editor.uri("signet.yaml"));
    assert!(
        settings.lines().nth(usize::try_from(line).unwrap()).unwrap().contains("east.bank.example/bank/ledger"),
        "{found}"
    );
    let tests = std::fs::read_to_string(place.path("tests/bank.yaml")).unwrap();
    let found = editor.ask_at("textDocument/definition", "tests/bank.yaml", &tests, "policy: web-reads");
    assert_eq!((&found["uri"], &found["range"]["start"]["line"]), (&editor.uri(FILE).into(), &0.into()));

    let uri = editor.uri(FILE);
    let options = json!({ "tabSize": 2, "insertSpaces": true });
    let edits = editor.ask("textDocument/formatting", json!({ "textDocument": { "uri": uri }, "options": options }));
    let formatted = edits[0]["newText"].as_str().unwrap();
    assert!(formatted.contains("permit (\n  principal =="), "{formatted}");
    editor.close();
    std::fs::remove_file(records).unwrap();
}

#[test]
fn what_is_not_understood_is_answered_and_ends_nothing() {
    let place = Place::new();
    let mut editor = Editor::open(&place, &["--records", "nowhere.jsonl"]);
    let warning = editor.wait("a warning", |message| message["method"] == "window/showMessage");
    assert!(warning["params"]["message"].as_str().unwrap().contains("nowhere.jsonl"), "{warning}");
    let refused = editor.response("textDocument/rename", json!({}));
    assert_eq!(refused["error"]["code"], -32601, "{refused}");
    let refused = editor.response("textDocument/hover", json!({ "textDocument": 3 }));
    assert_eq!(refused["error"]["code"], -32602, "{refused}");
    editor.tell("textDocument/didChange", json!([]));
    // Outside of the repository, past every end, and with an id that is no path.
    for (uri, line) in
        [("file:///etc/passwd".to_owned(), 0), (editor.uri(FILE), 4_000_000_000_u32), ("untitled:a".to_owned(), 0)]
    {
        let at = json!({ "textDocument": { "uri": uri }, "position": { "line": line, "character": u32::MAX } });
        assert_eq!(editor.ask("textDocument/hover", at.clone()), Value::Null);
        editor.ask("textDocument/completion", at);
    }
    editor.close();
}
