//! One module for each subcommand.

pub(crate) mod audit;
pub(crate) mod can;
pub(crate) mod check;
pub(crate) mod completion;
pub(crate) mod diagnostics;
pub(crate) mod federation;
pub(crate) mod identity;
pub(crate) mod mesh;
pub(crate) mod policy;
pub(crate) mod why;
