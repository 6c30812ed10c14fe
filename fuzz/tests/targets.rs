//! Every target, for a moment: the same inputs in each run, and those that once failed.

#![allow(clippy::expect_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use signet_fuzz::targets::named;
use signet_fuzz::{Session, regressions};

/// `shapes`: so many different things the reader must have made of the inputs, or the mutations say nothing.
#[track_caller]
fn keeps_its_promises(name: &str, inputs: u64, shapes: usize) {
    let target = named(name).expect("a target of that name");
    let session = Session { seed: 1, inputs, time: Duration::from_secs(60) };
    let report = session.run(target, regressions(name).expect("the inputs that once failed"));
    let report = report
        .unwrap_or_else(|failure| panic!("{name}: {}\n{:?}", failure.why, String::from_utf8_lossy(&failure.input)));
    assert!(report.shapes >= shapes, "{name}: only {report:?}");
}

#[test]
fn heads_are_read_as_hyper_reads_them_and_never_name_two_framings() {
    keeps_its_promises("http1-heads", 4_000, 12);
}

#[test]
fn chunked_bodies_end_where_hyper_sees_their_end() {
    keeps_its_promises("http1-chunks", 15_000, 12);
}

#[test]
fn answers_say_nothing_that_only_the_mesh_may_say() {
    keeps_its_promises("http1-answers", 30_000, 12);
}

#[test]
fn an_authority_is_read_in_one_way() {
    keeps_its_promises("connect", 50_000, 4);
}

#[test]
fn what_first_bytes_are_does_not_change_with_more_of_them() {
    keeps_its_promises("detection", 15_000, 6);
}

#[test]
fn snapshots_are_valid_or_refused() {
    keeps_its_promises("snapshots", 15_000, 12);
}

#[test]
fn only_what_was_encoded_is_a_record() {
    keeps_its_promises("records", 30_000, 12);
}
