//! A server and an agent in this process, on free ports and in a temporary directory.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use signet_api::identity::{CreateJoinTokenRequest, operator_client::OperatorClient};
use signet_identity::{agent, operator, server};
use signet_mtls::{Identity, IdentitySource};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// Every wait has this limit and says what it waited for.
pub(crate) const WITHIN: Duration = Duration::from_secs(20);

pub(crate) struct Cluster {
    pub name: &'static str,
    pub dir: tempfile::TempDir,
    pub server: Option<(server::Running, CancellationToken)>,
    pub agent: Option<(agent::Running, CancellationToken)>,
}

impl Cluster {
    /// A server with these entries (YAML) and these extra configuration lines.
    pub(crate) async fn start(name: &'static str, entries: &str, extra: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("entries.yaml"), entries).unwrap();
        let mut cluster = Self { name, dir, server: None, agent: None };
        cluster.start_server(extra, "127.0.0.1:0").await;
        cluster
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) async fn start_server(&mut self, extra: &str, listen: &str) {
        let dir = self.dir.path().display();
        let text = format!(
            "trust_domain: {}\ndata_dir: {dir}/server\nlisten: {listen}\n\
             bundle_endpoint: {{listen: '127.0.0.1:0', refresh_hint_seconds: 1}}\n\
             entries: {dir}/entries.yaml\noperator_socket: {dir}/operator.sock\nadmin: 127.0.0.1:0\n{extra}",
            self.name
        );
        let path = self.path("server.yaml");
        std::fs::write(&path, text).unwrap();
        let cancel = CancellationToken::new();
        let config = signet_observe::load_config(&path).unwrap();
        let running = server::start(config, cancel.clone()).await.unwrap();
        self.server = Some((running, cancel));
    }

    pub(crate) async fn stop_server(&mut self) {
        let (running, cancel) = self.server.take().unwrap();
        cancel.cancel();
        tokio::time::timeout(WITHIN, running.wait()).await.expect("the server's end");
    }

    pub(crate) fn listen(&self) -> String {
        self.server.as_ref().unwrap().0.listen.to_string()
    }

    /// The value of the server's metric without labels, as its admin listener shows it.
    pub(crate) async fn metric(&self, name: &str) -> String {
        let admin = self.server.as_ref().unwrap().0.admin.expect("an admin listener");
        let scrape = async {
            let mut stream = TcpStream::connect(admin).await.unwrap();
            let request = format!("GET /metrics HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let answer = tokio::time::timeout(WITHIN, scrape).await.expect("the metrics in time");
        let value = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no `{name}` in {answer}")).trim().to_owned()
    }

    pub(crate) async fn operator(&self) -> OperatorClient<Channel> {
        operator::connect(&self.path("operator.sock")).await.unwrap()
    }

    pub(crate) async fn write_token(&self) {
        let request = CreateJoinTokenRequest { ttl_seconds: 60 };
        let token = self.operator().await.create_join_token(request).await.unwrap().into_inner().token;
        std::fs::write(self.path("token"), token).unwrap();
    }

    pub(crate) async fn start_agent(&mut self) {
        let dir = self.dir.path().display();
        let text = format!(
            "trust_domain: {}\nserver: {}\nbootstrap_bundle: {dir}/server/bundle.pem\njoin_token_file: {dir}/token\n\
             data_dir: {dir}/agent\nsocket: {dir}/agent.sock\nworkload_socket_dir: {dir}/w\nadmin: 127.0.0.1:0\n",
            self.name,
            self.listen()
        );
        let path = self.path("agent.yaml");
        std::fs::write(&path, text).unwrap();
        let cancel = CancellationToken::new();
        let running = agent::start(signet_observe::load_config(&path).unwrap(), cancel.clone()).await.unwrap();
        self.agent = Some((running, cancel));
    }

    pub(crate) async fn stop_agent(&mut self) {
        let (running, cancel) = self.agent.take().unwrap();
        cancel.cancel();
        tokio::time::timeout(WITHIN, running.wait()).await.expect("the agent's end");
    }

    pub(crate) async fn source(&self, socket: &str) -> IdentitySource {
        let address = format!("unix:{}", self.path(socket).display());
        tokio::time::timeout(WITHIN, IdentitySource::connect(&address, CancellationToken::new()))
            .await
            .expect("a first SVID")
            .unwrap()
    }
}

/// Waits until the source's identity satisfies `check`.
pub(crate) async fn until(source: &IdentitySource, what: &str, check: impl Fn(&Identity) -> bool) -> Arc<Identity> {
    let mut watch = source.watch();
    let found = tokio::time::timeout(WITHIN, watch.wait_for(|identity| check(identity))).await;
    Arc::clone(&found.unwrap_or_else(|_| panic!("no {what} in time")).unwrap())
}

/// Polls `check` until it holds.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let waited = tokio::time::timeout(WITHIN, async {
        while !check().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "no {what} in time");
}

pub(crate) fn entry(td: &str, path: &str, selector: &str) -> String {
    format!("- spiffe_id: spiffe://{td}{path}\n  selectors: ['{selector}']\n")
}

pub(crate) fn exists(path: &Path) -> bool {
    path.exists()
}
