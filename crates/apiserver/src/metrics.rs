//! `/metrics`, with upstream's names.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use parking_lot::Mutex;

use crate::cache::Cache;

/// Upper bounds of the duration histogram, in seconds.
const BUCKETS: [f64; 12] = [0.0005, 0.001, 0.005, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0, 60.0];

#[derive(Debug, Default, Clone)]
struct Durations {
    buckets: [u64; BUCKETS.len()],
    count: u64,
    sum: f64,
}

#[derive(Debug, Default)]
struct State {
    requests: BTreeMap<(&'static str, String, u16), u64>,
    durations: BTreeMap<(&'static str, String), Durations>,
}

/// Counters of requests.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<State>);

impl Metrics {
    /// Counts one request.
    pub fn count(&self, verb: &'static str, resource: &str, code: u16, took: Duration) {
        let mut state = self.0.lock();
        match state.requests.get_mut(&(verb, resource.to_owned(), code)) {
            Some(n) => *n += 1,
            None => {
                // Paths of resources that do not exist are the caller's to invent: they are not kept apart.
                let known = if code == 404 { String::new() } else { resource.to_owned() };
                *state.requests.entry((verb, known, code)).or_default() += 1;
            }
        }
        // How long a watch lasts says nothing about the server.
        if verb == "watch" || code == 404 {
            return;
        }
        let durations = state.durations.entry((verb, resource.to_owned())).or_default();
        let seconds = took.as_secs_f64();
        durations.count += 1;
        durations.sum += seconds;
        for (bound, n) in BUCKETS.iter().zip(&mut durations.buckets) {
            if seconds <= *bound {
                *n += 1;
            }
        }
    }

    /// The text form.
    pub fn render(&self, cache: &Cache) -> String {
        let state = self.0.lock();
        let mut out = String::new();
        let verb = |v: &str| v.to_uppercase();
        out.push_str("# HELP apiserver_request_total Counter of apiserver requests broken out for each verb, resource and HTTP response code.\n# TYPE apiserver_request_total counter\n");
        for ((v, resource, code), n) in &state.requests {
            let _ = writeln!(
                out,
                "apiserver_request_total{{code=\"{code}\",resource=\"{resource}\",verb=\"{}\"}} {n}",
                verb(v)
            );
        }
        out.push_str("# HELP apiserver_request_duration_seconds Response latency distribution in seconds for each verb and resource.\n# TYPE apiserver_request_duration_seconds histogram\n");
        for ((v, resource), d) in &state.durations {
            let labels = format!("resource=\"{resource}\",verb=\"{}\"", verb(v));
            for (bound, n) in BUCKETS.iter().zip(&d.buckets) {
                let _ =
                    writeln!(out, "apiserver_request_duration_seconds_bucket{{{labels},le=\"{bound}\"}} {n}");
            }
            let _ = writeln!(
                out,
                "apiserver_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} {}",
                d.count
            );
            let _ = writeln!(out, "apiserver_request_duration_seconds_sum{{{labels}}} {}", d.sum);
            let _ = writeln!(out, "apiserver_request_duration_seconds_count{{{labels}}} {}", d.count);
        }
        out.push_str("# HELP apiserver_storage_objects Number of stored objects by kind.\n# TYPE apiserver_storage_objects gauge\n");
        for (prefix, n) in cache.counts() {
            let parts: Vec<&str> = prefix.trim_matches('/').split('/').collect();
            if let [_, group, resource] = parts[..] {
                let name = if group == "core" { resource.to_owned() } else { format!("{resource}.{group}") };
                let _ = writeln!(out, "apiserver_storage_objects{{resource=\"{name}\"}} {n}");
            }
        }
        out
    }
}
