//! A running demo for tests: started once, asked over its real addresses, ended as a person would end it.
//!
//! What leaves out: nothing here reaches into a component; tests see what users, scripts and attackers see.

pub mod bench;
pub mod calls;
pub mod cli;
pub mod demo;
pub mod records;
pub mod soak;
pub mod tls;
pub mod wait;
