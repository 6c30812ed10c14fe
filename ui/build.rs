//! Makes sure that the folder whose files are put into the binary exists, so that the crate compiles before the web
//! assets were built. `signet-ui` then says that they are missing instead of showing an empty page.

use std::path::Path;

fn main() {
    let dist = Path::new("web/dist");
    println!("cargo:rerun-if-changed=web/dist");
    if let Err(error) = std::fs::create_dir_all(dist) {
        println!("cargo:warning=could not create {}: {error}", dist.display());
    }
}
