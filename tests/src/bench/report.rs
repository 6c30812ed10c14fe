//! Medians over rounds, as a Markdown table.

use std::fmt::Write;

use super::{CONNECTIONS, Measurement, Plan, RATE, RATE_CONNECTIONS};

/// The table that `docs/performance.md` shows.
pub fn report(plan: &Plan, results: &[Measurement]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for result in results {
        if !names.contains(&result.name) {
            names.push(result.name);
        }
    }
    names.sort_by_key(|name| ["direct", "nginx", "haproxy", "signet"].iter().position(|known| known == name));
    let mut text = format!(
        "\nMedians of {} rounds of {} s each; requests/s at {CONNECTIONS} keep-alive connections, latencies at {RATE} \
         requests/s over {RATE_CONNECTIONS} connections, open loop.\n\n\
         | pair | requests/s | p50 us | p99 us | CPU ms per 1,000 requests | resident MiB |\n|---|---|---|---|---|---|\n",
        plan.rounds, plan.seconds
    );
    for name in names {
        let of = |value: fn(&Measurement) -> f64| {
            median(results.iter().filter(|result| result.name == name).map(value).collect())
        };
        let pair = name != "direct";
        let cell = |value: f64| if pair { format!("{value:.1}") } else { "-".to_owned() };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {name} | {:.0} | {:.0} | {:.0} | {} | {} |",
            of(|result| result.requests_per_second),
            of(|result| result.p50_us),
            of(|result| result.p99_us),
            cell(of(|result| result.cpu_seconds_per_1000) * 1000.0),
            cell(of(|result| result.resident_mib)),
        );
    }
    text
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_for_each_pair_with_its_median() {
        let result = |round, requests_per_second| Measurement {
            name: "signet",
            round,
            requests_per_second,
            cpu_seconds_per_1000: 0.05,
            p50_us: 100.0,
            p99_us: 200.0,
            resident_mib: 20.0,
            failed: 0,
        };
        let table = report(&Plan::default(), &[result(0, 1.0), result(1, 900.0), result(2, 30.0)]);
        assert!(table.contains("| signet | 30 | 100 | 200 | 50.0 | 20.0 |"), "{table}");
    }
}
