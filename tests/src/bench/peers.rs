//! The pairs to compare with: nginx and HAProxy, each as a caller's side and a called side with mutual TLS 1.3 between them
//! on P-256 certificates, keep-alive connections to everything, one worker each, no access log.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::Contender;
use super::process::{Server, pin};
use crate::cli;

pub(crate) struct Peers {
    // Dropped before their directory.
    servers: Vec<(&'static str, SocketAddr, Vec<Server>)>,
    _dir: tempfile::TempDir,
}

impl Peers {
    pub(crate) fn start(app: SocketAddr) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("signet-bench-").tempdir()?;
        certificates(dir.path())?;
        let nginx = nginx(dir.path(), app)?;
        let haproxy = haproxy(dir.path(), app)?;
        let peers = Self { servers: vec![nginx, haproxy], _dir: dir };
        for (name, address, servers) in &peers.servers {
            listening(name, *address)?;
            for (server, cpu) in servers.iter().zip([0, 1]) {
                pin(&[server.pid()?], cpu)?;
            }
        }
        Ok(peers)
    }

    pub(crate) fn contenders(&self) -> Vec<Contender> {
        let contender = |(name, address, servers): &(&'static str, SocketAddr, Vec<Server>)| Contender {
            name,
            address: *address,
            host: "app".to_owned(),
            pids: servers.iter().filter_map(|server| server.pid().ok()).collect(),
        };
        self.servers.iter().map(contender).collect()
    }
}

fn free() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn listening(name: &str, address: SocketAddr) -> anyhow::Result<()> {
    let started = Instant::now();
    while std::net::TcpStream::connect(address).is_err() {
        if started.elapsed() > Duration::from_secs(10) {
            bail!("waited 10 s for {name} to listen at {address}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// One CA and one certificate for both sides, P-256 as SVIDs are.
fn certificates(dir: &Path) -> anyhow::Result<()> {
    let script = "set -eu
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=bench-ca
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout side.key -out side.csr -subj /CN=side
        printf 'subjectAltName=DNS:side\\nbasicConstraints=critical,CA:FALSE\\n' > side.ext
        openssl x509 -req -in side.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile side.ext -out side.pem
        cat side.pem side.key > side.both
        chmod 644 *";
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).current_dir(dir);
    let output = cli::run(shell)?;
    ensure!(output.code == 0, "openssl: {}", output.stderr);
    Ok(())
}

fn nginx(dir: &Path, app: SocketAddr) -> anyhow::Result<(&'static str, SocketAddr, Vec<Server>)> {
    let (client, server) = (free()?, free()?);
    let d = dir.display();
    let head = |side: &str| {
        let user = if rustix::process::geteuid().is_root() { "user root;\n" } else { "" };
        format!(
            "{user}daemon off;\nworker_processes 1;\npid {d}/nginx-{side}.pid;\nerror_log {d}/nginx-{side}.err;\n\
             events {{ worker_connections 4096; }}\nhttp {{ access_log off; keepalive_requests 1000000000;\n\
             client_body_temp_path {d}/nginx-{side}-body; proxy_temp_path {d}/nginx-{side}-proxy;\n\
             fastcgi_temp_path {d}/nginx-{side}-f; uwsgi_temp_path {d}/nginx-{side}-u; scgi_temp_path {d}/nginx-{side}-s;\n"
        )
    };
    let caller = format!(
        "{}upstream peer {{ server {server}; keepalive 64; keepalive_requests 1000000000; }}\n\
         server {{ listen {client}; location / {{ proxy_pass https://peer; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
         proxy_ssl_certificate {d}/side.pem; proxy_ssl_certificate_key {d}/side.key; proxy_ssl_trusted_certificate {d}/ca.pem;\n\
         proxy_ssl_verify on; proxy_ssl_name side; proxy_ssl_protocols TLSv1.3; }} }} }}\n",
        head("client")
    );
    let called = format!(
        "{}upstream app {{ server {app}; keepalive 64; keepalive_requests 1000000000; }}\n\
         server {{ listen {server} ssl; ssl_certificate {d}/side.pem; ssl_certificate_key {d}/side.key; ssl_protocols TLSv1.3;\n\
         ssl_client_certificate {d}/ca.pem; ssl_verify_client on;\n\
         location / {{ proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }} }}\n",
        head("server")
    );
    let mut servers = Vec::new();
    for (side, text) in [("client", caller), ("server", called)] {
        let path = dir.join(format!("nginx-{side}.conf"));
        std::fs::write(&path, text)?;
        let path = path.to_str().context("a strange temporary directory")?;
        servers.push(Server::start("nginx", &["-c", path], &dir.join(format!("nginx-{side}.log")))?);
    }
    Ok(("nginx", client, servers))
}

fn haproxy(dir: &Path, app: SocketAddr) -> anyhow::Result<(&'static str, SocketAddr, Vec<Server>)> {
    let (client, server) = (free()?, free()?);
    let d = dir.display();
    let head = "global\n  nbthread 1\n  maxconn 4096\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  \
                timeout server 60s\n  http-reuse always\n";
    let caller = format!(
        "{head}frontend in\n  bind {client}\n  default_backend peer\nbackend peer\n  \
         server s {server} ssl verify required ca-file {d}/ca.pem crt {d}/side.both sni str(side) verifyhost side \
         ssl-min-ver TLSv1.3 pool-max-conn 64\n"
    );
    let called = format!(
        "{head}frontend in\n  bind {server} ssl crt {d}/side.both ca-file {d}/ca.pem verify required ssl-min-ver TLSv1.3\n  \
         default_backend app\nbackend app\n  server s {app} pool-max-conn 64\n"
    );
    let mut servers = Vec::new();
    for (side, text) in [("client", caller), ("server", called)] {
        let path = dir.join(format!("haproxy-{side}.cfg"));
        std::fs::write(&path, text)?;
        let path = path.to_str().context("a strange temporary directory")?;
        servers.push(Server::start("haproxy", &["-db", "-f", path], &dir.join(format!("haproxy-{side}.log")))?);
    }
    Ok(("haproxy", client, servers))
}
