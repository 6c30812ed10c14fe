//! hyper, as the sidecar's general server runs it: the other reader that everything is compared with.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::mpsc;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A request that hyper took.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) host: String,
    /// `None`: it broke off, or was not what was announced.
    pub(crate) body: Option<Vec<u8>>,
}

thread_local! {
    static RUNTIME: std::io::Result<tokio::runtime::Runtime> =
        tokio::runtime::Builder::new_current_thread().enable_all().build();
}

/// All requests that hyper reads from a connection on which `bytes` come and nothing else.
pub(crate) fn requests(bytes: &[u8]) -> Result<Vec<Seen>, String> {
    RUNTIME.with(|runtime| match runtime {
        Ok(runtime) => Ok(runtime.block_on(serve(bytes))),
        Err(error) => Err(format!("no runtime: {error}")),
    })
}

async fn serve(bytes: &[u8]) -> Vec<Seen> {
    let (client, server) = tokio::io::duplex(1 << 16);
    let (sender, receiver) = mpsc::channel();
    let sender = Arc::new(sender);
    let service = service_fn(move |request: http::Request<Incoming>| {
        let sender = Arc::clone(&sender);
        async move {
            let (parts, body) = request.into_parts();
            let host = match (parts.uri.authority(), parts.headers.get(http::header::HOST)) {
                (Some(authority), _) => authority.as_str().to_owned(),
                (None, Some(host)) => String::from_utf8_lossy(host.as_bytes()).into_owned(),
                (None, None) => String::new(),
            };
            let target = parts.uri.path_and_query().map_or("", |both| both.as_str()).to_owned();
            let body = body.collect().await.ok().map(|body| body.to_bytes().to_vec());
            // Nobody listens any more once the connection is given up.
            let _ = sender.send(Seen { method: parts.method.as_str().to_owned(), target, host, body });
            Ok::<_, Infallible>(http::Response::new(String::new()))
        }
    });
    let mut builder = signet_proxy::untrusted::general_server();
    let serving = builder.half_close(true).serve_connection(TokioIo::new(server), service);
    let (mut from, mut to) = tokio::io::split(client);
    let talking = async {
        // hyper may end first.
        let _ = to.write_all(bytes).await;
        let _ = to.shutdown().await;
        let _ = from.read_to_end(&mut Vec::new()).await;
    };
    let _ = tokio::join!(serving, talking);
    receiver.try_iter().collect()
}
