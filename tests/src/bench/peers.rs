//! What is measured: pairs of a caller's side and a called side with mutual TLS 1.3 between them, one worker each, and the
//! app behind all of them. nginx and HAProxy have P-256 certificates, keep-alive to everything, no policy and no access log.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::pair::Facts;
use super::process::Server;
use super::space::{Host, Wire};
use super::stop;
use crate::cli;

const APP: u16 = 8080;
/// Size of the large answer.
const LARGE: u64 = 64 << 20;
/// Starting all of a role takes seconds, and several start at once.
const START: Duration = Duration::from_secs(150);

/// What is measured: an address on the caller's host that leads to the app, and the processes between.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    /// Sent as `Host`; a mesh finds the service by it.
    pub(crate) host: String,
    /// Of the caller's and the called side, each with its children; empty for the direct way.
    pub(crate) sides: Vec<i32>,
    /// Of a mesh's sidecars, whose records have to be away before their CPU time is read.
    pub(crate) sidecars: Vec<(Host, Facts)>,
    /// Where the called side takes mutual TLS.
    pub(crate) tls: Option<SocketAddr>,
    // Dropped with the contender.
    _servers: Vec<Server>,
}

/// The app: nginx, with a page of 1 KiB and a large one, on the called host.
pub(crate) fn app(wire: &Wire, dir: &Path) -> anyhow::Result<Server> {
    std::fs::File::create(dir.join("large"))?.set_len(LARGE)?;
    let conf = nginx_conf(
        dir,
        "app",
        &format!(
            "server {{ listen {APP}; location = / {{ default_type text/plain; return 200 \"{}\"; }}\n\
             location = /large {{ root {}; sendfile on; }} }}",
            "x".repeat(1024),
            dir.display()
        ),
    )?;
    let server = wire.server.start("nginx", &["-c", &conf], &dir.join("app.log"))?;
    listening(&wire.client, wire.server.at(APP))?;
    Ok(server)
}

pub(crate) fn direct(wire: &Wire) -> Contender {
    Contender {
        name: "direct",
        address: wire.server.at(APP),
        host: "app".to_owned(),
        sides: Vec::new(),
        sidecars: Vec::new(),
        tls: None,
        _servers: Vec::new(),
    }
}

/// Where the caller's side of the pair with this number listens, and the called side.
fn addresses(wire: &Wire, number: u16) -> (SocketAddr, SocketAddr) {
    (SocketAddr::from((Ipv4Addr::LOCALHOST, 8100 + number)), wire.server.at(8400 + number))
}

fn local_app() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, APP))
}

/// Waits until something listens, as seen from `host`.
fn listening(host: &Host, address: SocketAddr) -> anyhow::Result<()> {
    let started = Instant::now();
    while !host.reaches(address)? {
        ensure!(started.elapsed() < Duration::from_secs(20), "waited 20 s for a listener at {address}");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// One CA and one certificate for both sides, P-256 as SVIDs are.
pub(crate) fn certificates(dir: &Path) -> anyhow::Result<()> {
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

/// Writes a configuration of one worker around `server` and gives its path.
fn nginx_conf(dir: &Path, name: &str, server: &str) -> anyhow::Result<String> {
    let d = dir.display();
    let text = format!(
        "user root;\ndaemon off;\nworker_processes 1;\npid {d}/nginx-{name}.pid;\nerror_log {d}/nginx-{name}.err;\n\
         events {{ worker_connections 16384; }}\nhttp {{ access_log off; keepalive_requests 1000000000;\n\
         client_body_temp_path {d}/nginx-{name}-body; proxy_temp_path {d}/nginx-{name}-proxy;\n\
         fastcgi_temp_path {d}/nginx-{name}-f; uwsgi_temp_path {d}/nginx-{name}-u; scgi_temp_path {d}/nginx-{name}-s;\n\
         proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_max_temp_file_size 0;\n{server} }}\n"
    );
    let path = dir.join(format!("nginx-{name}.conf"));
    std::fs::write(&path, text)?;
    Ok(path.to_str().context("a strange temporary directory")?.to_owned())
}

pub(crate) fn nginx(wire: &Wire, dir: &Path) -> anyhow::Result<Contender> {
    let ((client, server), d, app) = (addresses(wire, 1), dir.display(), local_app());
    let caller = format!(
        "upstream peer {{ server {server}; keepalive 64; keepalive_requests 1000000000; }}\n\
         server {{ listen {client}; location / {{ proxy_pass https://peer;\n\
         proxy_ssl_certificate {d}/side.pem; proxy_ssl_certificate_key {d}/side.key; proxy_ssl_trusted_certificate {d}/ca.pem;\n\
         proxy_ssl_verify on; proxy_ssl_name side; proxy_ssl_protocols TLSv1.3; }} }}"
    );
    let called = format!(
        "upstream app {{ server {app}; keepalive 64; keepalive_requests 1000000000; }}\n\
         server {{ listen {server} ssl; ssl_certificate {d}/side.pem; ssl_certificate_key {d}/side.key; ssl_protocols TLSv1.3;\n\
         ssl_client_certificate {d}/ca.pem; ssl_verify_client on; location / {{ proxy_pass http://app; }} }}"
    );
    let called = nginx_conf(dir, "called", &called)?;
    let caller = nginx_conf(dir, "caller", &caller)?;
    let called = wire.server.start("nginx", &["-c", &called], &dir.join("nginx-called.log"))?;
    let caller = wire.client.start("nginx", &["-c", &caller], &dir.join("nginx-caller.log"))?;
    plain_pair("nginx", wire, client, vec![caller, called])
}

pub(crate) fn haproxy(wire: &Wire, dir: &Path) -> anyhow::Result<Contender> {
    let ((client, server), d, app) = (addresses(wire, 2), dir.display(), local_app());
    let head = "global\n  nbthread 1\n  maxconn 16000\n  no strict-limits\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  \
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
    let start = |host: &Host, side: &str, text: &str| {
        let path = dir.join(format!("haproxy-{side}.cfg"));
        std::fs::write(&path, text)?;
        let path = path.to_str().context("a strange temporary directory")?;
        host.start("haproxy", &["-db", "-f", path], &dir.join(format!("haproxy-{side}.log")))
    };
    let called = start(&wire.server, "called", &called)?;
    let caller = start(&wire.client, "caller", &caller)?;
    plain_pair("haproxy", wire, client, vec![caller, called])
}

fn plain_pair(name: &'static str, wire: &Wire, client: SocketAddr, servers: Vec<Server>) -> anyhow::Result<Contender> {
    listening(&wire.client, client)?;
    Ok(Contender {
        name,
        address: client,
        host: "app".to_owned(),
        sides: servers.iter().map(Server::pid).collect::<anyhow::Result<_>>()?,
        sidecars: Vec::new(),
        tls: None,
        _servers: servers,
    })
}

/// Two sidecars of `program` with all that they need, started by `pair`.
pub(crate) fn signet(
    wire: &Wire,
    dir: &Path,
    number: u16,
    name: &'static str,
    program: &Path,
) -> anyhow::Result<Contender> {
    let (client, server) = addresses(wire, number);
    let program = program.to_str().context("a strange directory")?;
    let parent = dir.join(format!("mesh-{number}"));
    let pair = crate::demo::program("pair")?;
    let start = |host: &Host, role: &str, listen: SocketAddr, other: [&str; 2]| {
        std::fs::create_dir_all(&parent)?;
        let role_dir = parent.join(role);
        let arguments = ["--role", role, "--listen", &listen.to_string(), other[0], other[1]].map(str::to_owned);
        let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let text = role_dir.to_str().context("a strange directory")?;
        arguments.extend(["--dir", text, "--sidecar", program]);
        let pair = pair.to_str().context("a strange directory")?;
        let started = host.start(pair, &arguments, &parent.join(format!("{role}.log")))?;
        anyhow::Ok((started, role_dir.join(format!("{role}.pid")), role_dir.join(format!("{role}.json"))))
    };
    let called = start(&wire.server, "server", server, ["--backend", &local_app().to_string()])?;
    let caller = start(&wire.client, "client", client, ["--peer", &server.to_string()])?;
    let facts = [&caller, &called].map(|(_, pid, json)| facts(pid, json));
    let [caller_facts, called_facts] = facts;
    let sidecars = vec![(wire.client.clone(), caller_facts?), (wire.server.clone(), called_facts?)];
    Ok(Contender {
        name,
        address: client,
        host: "app.bench.svc.cluster.local".to_owned(),
        sides: sidecars.iter().map(|(_, facts)| facts.pid).collect(),
        sidecars,
        tls: Some(server),
        _servers: vec![caller.0, called.0],
    })
}

fn facts(pid: &Path, json: &Path) -> anyhow::Result<Facts> {
    let started = Instant::now();
    while !pid.exists() {
        stop::check()?;
        ensure!(
            started.elapsed() < START,
            "waited {} s for {}; see the logs beside it",
            START.as_secs(),
            pid.display()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(serde_json::from_slice(&std::fs::read(json)?)?)
}

/// The bare rustls accept loop, with the SVID of the pair's called side.
pub(crate) fn bare(wire: &Wire, dir: &Path, workload_api: &str) -> anyhow::Result<(Server, SocketAddr)> {
    let address = wire.server.at(8490);
    let own = std::env::current_exe()?;
    let own = own.to_str().context("a strange directory")?;
    let server = wire.server.start(own, &["bare-tls", &address.to_string(), workload_api], &dir.join("bare.log"))?;
    listening(&wire.client, address)?;
    Ok((server, address))
}
