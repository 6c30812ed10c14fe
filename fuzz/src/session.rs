//! One target, fed until its time or its number of inputs is over, or until it breaks a promise.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::{Target, mutate};

/// Inputs that led to something new are kept, up to so many.
const KEPT: usize = 4_096;

/// An input that broke a promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub target: &'static str,
    pub input: Vec<u8>,
    /// The promise, or what the panic said.
    pub why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    pub inputs: u64,
    /// Different things that the target made of them.
    pub shapes: usize,
}

/// When a session ends.
#[derive(Debug, Clone, Copy)]
pub struct Session {
    pub seed: u64,
    pub inputs: u64,
    pub time: Duration,
}

impl Session {
    /// Feeds `target` its corpus, `regressions`, and mutations of both.
    ///
    /// # Errors
    /// With the first input that broke a promise, made as short as it could be.
    pub fn run(self, target: &Target, regressions: Vec<Vec<u8>>) -> Result<Report, Box<Failure>> {
        let (mut rng, started) = (Rng::with_seed(self.seed), Instant::now());
        let mut pool = (target.corpus)();
        pool.extend(regressions);
        let (mut shapes, mut report) = (HashSet::new(), Report { inputs: 0, shapes: 0 });
        for input in &pool {
            shapes.insert(attempt(target, input).map_err(|why| shortest(target, input.clone(), why))?);
            report.inputs += 1;
        }
        while report.inputs < self.inputs && started.elapsed() < self.time {
            let pick = |rng: &mut Rng| pool.get(rng.usize(0..pool.len().max(1))).map(Vec::as_slice).unwrap_or_default();
            let (one, other) = (pick(&mut rng), pick(&mut rng));
            let input = mutate::mutate(&mut rng, one, other, target.words);
            report.inputs += 1;
            match attempt(target, &input) {
                Ok(shape) => {
                    if shapes.insert(shape) && pool.len() < KEPT {
                        pool.push(input);
                    }
                }
                Err(why) => return Err(shortest(target, input, why)),
            }
        }
        report.shapes = shapes.len();
        Ok(report)
    }
}

/// A panic is a broken promise like any other.
fn attempt(target: &Target, input: &[u8]) -> Result<u64, String> {
    catch_unwind(AssertUnwindSafe(|| (target.check)(input))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panicked: {}", text.unwrap_or_default()))
    })
}

/// Takes pieces away for as long as the input still breaks a promise.
fn shortest(target: &Target, mut input: Vec<u8>, mut why: String) -> Box<Failure> {
    let mut piece = input.len() / 2;
    while piece > 0 {
        let mut at = 0;
        while at < input.len() {
            let mut shorter = input.clone();
            shorter.drain(at..(at + piece).min(input.len()));
            match attempt(target, &shorter) {
                Err(still) => (input, why) = (shorter, still),
                Ok(_) => at += piece,
            }
        }
        piece /= 2;
    }
    Box::new(Failure { target: target.name, input, why })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;
    use crate::shape;

    const SESSION: Session = Session { seed: 7, inputs: 200_000, time: Duration::from_secs(60) };

    fn target(check: fn(&[u8]) -> Result<u64, String>) -> Target {
        Target { name: "made up", corpus: || vec![b"GET / HTTP/1.1".to_vec()], words: &[b"bad"], check }
    }

    #[test]
    fn a_broken_promise_is_found_behind_several_steps_and_made_short() {
        // Each step is a shape of its own, as each branch of a parser is.
        let target = target(|bytes| {
            let steps =
                [&b"bad"[..], b"\n", b"\xff"].into_iter().filter(|step| bytes.windows(step.len()).any(|w| w == *step));
            match steps.count() {
                3 => Err("all three".to_owned()),
                some => Ok(shape(some)),
            }
        });
        let failure = SESSION.run(&target, Vec::new()).unwrap_err();
        assert_eq!((failure.input.len(), failure.why.as_str()), (5, "all three"));
    }

    #[test]
    fn a_panic_is_a_failure_and_the_same_seed_finds_the_same_input() {
        let target = target(|bytes| {
            assert!(!bytes.contains(&0xfe), "no 0xfe");
            Ok(0)
        });
        let failure = SESSION.run(&target, Vec::new()).unwrap_err();
        assert_eq!((failure.input.as_slice(), failure.why.as_str()), (&[0xfe][..], "panicked: no 0xfe"));
        assert_eq!(SESSION.run(&target, Vec::new()).unwrap_err(), failure);
    }

    #[test]
    fn what_once_failed_is_tried_first() {
        let target = target(|bytes| if bytes == b"\x00\x00old" { Err("again".to_owned()) } else { Ok(0) });
        let failure = Session { inputs: 0, ..SESSION }.run(&target, vec![b"\x00\x00old".to_vec()]).unwrap_err();
        assert_eq!(failure.why, "again");
    }
}
