//! Medians over rounds, as Markdown tables: one of what was measured, one of what is to be reached.

use std::fmt::Write;

use super::{CONNECTIONS, HELD, Idle, Measurement, Plan, RATE, RATE_CONNECTIONS, Results};

/// The tables that `docs/performance.md` shows.
#[must_use]
pub fn report(plan: &Plan, results: &Results) -> String {
    let medians = Medians(results);
    let mut text = format!(
        "\nMedians of {} rounds of {} s each; requests/s at {CONNECTIONS} keep-alive connections with 1 KiB; latencies at {RATE} \
         requests/s over {RATE_CONNECTIONS} connections, open loop.\n\n\
         | pair | requests/s | CPU ms per 1,000 | added p50 us | added p99 us | connections/s | one stream MB/s | MiB at rest | MiB with {} |\n\
         |---|---|---|---|---|---|---|---|---|\n",
        plan.rounds, plan.seconds, HELD[0]
    );
    for idle in &results.idle {
        let name = idle.name;
        let of = |value| medians.of(name, value);
        let pair = name != "direct";
        let cell = |value: f64, digits: usize| if pair { format!("{value:.digits$}") } else { "-".to_owned() };
        let latency = |value: fn(&Measurement) -> f64| match pair {
            true => format!("{:.0}", medians.added(name, value)),
            false => format!("({:.0})", medians.of(name, value)),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {name} | {:.0} | {} | {} | {} | {:.0} | {:.0} | {} | {} |",
            of(|m| m.requests_per_second),
            cell(of(|m| m.cpu_ms_per_1000), 1),
            latency(|m| m.p50_us),
            latency(|m| m.p99_us),
            of(|m| m.connections_per_second),
            of(|m| m.stream_mb_per_second),
            cell(idle.at_rest_mib, 1),
            cell(idle.held_mib, 1),
        );
    }
    text.push_str("\n| measure | reach | measured | |\n|---|---|---|---|\n");
    for goal in goals(&medians, &results.idle) {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} |",
            goal.what,
            goal.reach,
            goal.measured,
            if goal.reached { "reached" } else { "**not reached**" }
        );
    }
    text
}

struct Medians<'a>(&'a Results);

impl Medians<'_> {
    fn of(&self, name: &str, value: fn(&Measurement) -> f64) -> f64 {
        // 0 is what was not measured there.
        median(self.0.rounds.iter().filter(|m| m.name == name).map(value).filter(|value| *value > 0.0).collect())
    }

    /// Above the direct way of the same round.
    fn added(&self, name: &str, value: fn(&Measurement) -> f64) -> f64 {
        let of = |name: &str, round: usize| {
            self.0.rounds.iter().find(|m| m.name == name && m.round == round && value(m) > 0.0).map(value)
        };
        let rounds = 0..self.0.rounds.iter().map(|m| m.round + 1).max().unwrap_or_default();
        median(rounds.filter_map(|round| Some(of(name, round)? - of("direct", round)?)).collect())
    }
}

struct Goal {
    what: String,
    reach: String,
    measured: String,
    reached: bool,
}

impl Goal {
    /// `most` of HAProxy's, or at least it when `most` is false.
    fn ratio(what: &str, ours: f64, theirs: f64, factor: f64, most: bool, than: &str) -> Self {
        let ratio = ours / theirs;
        Self {
            what: what.to_owned(),
            reach: format!("at {} {factor:.1} x {than}", if most { "most" } else { "least" }),
            measured: format!("{ratio:.2} x ({ours:.0} / {theirs:.0})"),
            reached: if most { ratio <= factor } else { ratio >= factor },
        }
    }

    fn below(what: String, ours: f64, limit: f64, unit: &str) -> Self {
        Self {
            what,
            reach: format!("under {limit:.0} {unit}"),
            measured: format!("{ours:.1} {unit}"),
            reached: ours < limit,
        }
    }
}

/// The lines whose contenders were all measured.
fn goals(medians: &Medians<'_>, idle: &[Idle]) -> Vec<Goal> {
    let has = |name: &str| idle.iter().any(|idle| idle.name == name);
    let mut goals = Vec::new();
    if has("signet") && has("haproxy") {
        let both = |value| (medians.of("signet", value), medians.of("haproxy", value));
        let added = |value| (medians.added("signet", value), medians.added("haproxy", value));
        let (ours, theirs) = added(|m| m.p50_us);
        goals.push(Goal::ratio("added p50, us", ours, theirs, 1.0, true, "HAProxy's"));
        let (ours, theirs) = added(|m| m.p99_us);
        goals.push(Goal::ratio("added p99, us", ours, theirs, 1.0, true, "HAProxy's"));
        let (ours, theirs) = both(|m| m.requests_per_second);
        goals.push(Goal::ratio("requests/s", ours, theirs, 1.0, false, "HAProxy pair"));
        let (ours, theirs) = both(|m| m.cpu_ms_per_1000);
        goals.push(Goal::ratio("CPU ms per 1,000 requests", ours, theirs, 1.0, true, "HAProxy pair"));
        let (ours, theirs) = both(|m| m.connections_per_second);
        goals.push(Goal::ratio("new client connections/s", ours, theirs, 1.0, false, "HAProxy pair"));
        let (ours, theirs) = both(|m| m.stream_mb_per_second);
        goals.push(Goal::ratio("one stream, MB/s", ours, theirs, 1.8, false, "HAProxy pair"));
    }
    if has("signet") {
        let both = |value| (medians.of("signet", value), medians.of("bare rustls", value));
        let (ours, theirs) = both(|m| m.handshakes_per_second);
        goals.push(Goal::ratio("full mutual handshakes/s, X25519MLKEM768", ours, theirs, 0.9, false, "bare rustls"));
        let (ours, theirs) = both(|m| m.handshakes_per_cpu_second);
        goals.push(Goal::ratio("the same per CPU second of the server", ours, theirs, 0.9, false, "bare rustls"));
    }
    if let Some(idle) = idle.iter().find(|idle| idle.name == "signet") {
        let [some, many] = HELD;
        goals.push(Goal::below("resident memory of a sidecar at rest".to_owned(), idle.at_rest_mib, 12.0, "MiB"));
        goals.push(Goal::below(format!("the same with {some} connections"), idle.held_mib, 40.0, "MiB"));
        goals.push(Goal::below(format!("the pair with {many} idle connections"), idle.pair_mib, 100.0, "MiB"));
        let [before, during] = idle.p99_us;
        goals.push(Goal::ratio(
            &format!("others' p99 meanwhile, us, {many} idle"),
            during,
            before,
            1.1,
            true,
            "without",
        ));
    }
    if has("signet") && has("signet, off") {
        let both = |value| (medians.of("signet", value), medians.of("signet, off", value));
        let (on, off) = both(|m| m.requests_per_second);
        goals.push(Goal::below(
            "cost of policy and audit, of requests/s".to_owned(),
            100.0 * (1.0 - on / off),
            10.0,
            "%",
        ));
        let (on, off) = both(|m| m.p99_us);
        goals.push(Goal::below("the same at p99".to_owned(), on - off, 30.0, "us"));
    }
    goals
}

pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> Results {
        let result = |name, round, requests_per_second, p99_us| Measurement {
            name,
            round,
            requests_per_second,
            p99_us,
            ..Measurement::default()
        };
        let rounds = vec![
            result("direct", 0, 5_000.0, 100.0),
            result("signet", 0, 1.0, 300.0),
            result("haproxy", 0, 20.0, 350.0),
            result("direct", 1, 5_000.0, 100.0),
            result("signet", 1, 900.0, 300.0),
            result("haproxy", 1, 20.0, 350.0),
            result("direct", 2, 5_000.0, 200.0),
            result("signet", 2, 30.0, 400.0),
            result("haproxy", 2, 20.0, 450.0),
        ];
        let idle = ["direct", "haproxy", "signet"].map(|name| Idle { name, at_rest_mib: 11.0, ..Idle::default() });
        Results { rounds, idle: idle.to_vec() }
    }

    #[test]
    fn each_pair_has_a_line_with_its_medians_and_what_it_adds_to_the_direct_way_of_each_round() {
        let text = report(&Plan::default(), &results());
        assert!(text.contains("| signet | 30 | 0.0 | 0 | 200 | 0 | 0 | 11.0 | 0.0 |"), "{text}");
        assert!(text.contains("| direct | 5000 | - |"), "{text}");
    }

    #[test]
    fn a_goal_is_reached_only_on_its_side_of_the_limit() {
        let text = report(&Plan::default(), &results());
        assert!(text.contains("| added p99, us | at most 1.0 x HAProxy's | 0.80 x (200 / 250) | reached |"), "{text}");
        assert!(text.contains("| requests/s | at least 1.0 x HAProxy pair | 1.50 x (30 / 20) | reached |"), "{text}");
        let slower = Goal::ratio("x", 99.0, 100.0, 1.0, false, "them");
        assert!(!slower.reached);
        assert!(!Goal::below("x".to_owned(), 12.0, 12.0, "MiB").reached);
    }
}
