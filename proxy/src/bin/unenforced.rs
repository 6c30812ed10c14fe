//! A sidecar that decides nothing and records nothing, to measure what deciding and recording cost. Never shipped: it needs
//! the feature `bench-unenforced`, with which the sidecar itself does not compile, and its name says what it is.

use std::path::Path;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let config = match (arguments.next().as_deref(), arguments.next(), arguments.next()) {
        (Some("--config"), Some(path), None) => signet_observe::load_config(Path::new(&path)),
        _ => {
            eprintln!("signet-proxy-unenforced: usage: --config FILE");
            return ExitCode::from(2);
        }
    };
    eprintln!("signet-proxy-unenforced: NOTHING IS DECIDED OR RECORDED; this program is for benchmarks alone");
    match config.map_err(anyhow::Error::from).and_then(signet_proxy::runtime::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("signet-proxy-unenforced: {error:#}");
            ExitCode::FAILURE
        }
    }
}
