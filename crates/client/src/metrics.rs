//! What the components of this process do, counted: `workqueue_*` and `rest_client_*`, with upstream's names and labels, in
//! Prometheus' text form. One set for the process, as upstream's registry is.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Weak;
use std::time::Duration;

use base::prometheus::{Histogram, head};
use parking_lot::Mutex;

/// Upper bounds of how long keys wait and are worked on, in seconds.
const QUEUE_BUCKETS: [f64; 10] = [1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0];
/// Upper bounds of how long requests take, in seconds.
const REQUEST_BUCKETS: [f64; 10] = [0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 15.0, 60.0];

/// How long keys of a queue wait or are worked on.
pub(crate) fn times_of_queue() -> Histogram {
    Histogram::new(&QUEUE_BUCKETS)
}

/// A work queue's figures.
#[derive(Debug, Clone)]
pub(crate) struct QueueFigures {
    pub(crate) depth: usize,
    pub(crate) adds: u64,
    pub(crate) retries: u64,
    pub(crate) waited: Histogram,
    pub(crate) worked: Histogram,
    /// Of what is being worked on: the sum of the times, and the longest.
    pub(crate) unfinished: Duration,
    pub(crate) longest: Duration,
}

/// Something with a work queue's figures.
pub(crate) trait Figures: Send + Sync {
    fn figures(&self) -> QueueFigures;
}

#[derive(Default)]
struct Registry {
    queues: Vec<(String, Weak<dyn Figures>)>,
    /// By code, host and method.
    requests: BTreeMap<(String, String, String), u64>,
    /// By host and verb.
    durations: BTreeMap<(String, String), Histogram>,
}

static REGISTRY: Mutex<Registry> =
    Mutex::new(Registry { queues: Vec::new(), requests: BTreeMap::new(), durations: BTreeMap::new() });

/// Counts a queue, as long as it lives.
pub(crate) fn register(name: &str, queue: Weak<dyn Figures>) {
    let mut registry = REGISTRY.lock();
    registry.queues.retain(|(_, q)| q.strong_count() > 0);
    registry.queues.push((name.to_owned(), queue));
}

/// Counts a request to an API server: where it went, by which method, how it was answered (nothing: it was not) and how
/// soon.
pub fn requested(host: &str, method: &http::Method, code: Option<http::StatusCode>, took: Duration) {
    let code = code.map_or_else(|| "<error>".to_owned(), |c| c.as_str().to_owned());
    let mut registry = REGISTRY.lock();
    *registry.requests.entry((code, host.to_owned(), method.to_string())).or_default() += 1;
    let durations = registry.durations.entry((host.to_owned(), method.to_string()));
    durations.or_insert_with(|| Histogram::new(&REQUEST_BUCKETS)).observe(took);
}

/// A metric of a queue: its name, its type, what it says, and its value.
type OfQueue = (&'static str, &'static str, &'static str, fn(&QueueFigures) -> f64);
/// The histograms of a queue.
type TimesOfQueue = (&'static str, &'static str, fn(&QueueFigures) -> &Histogram);

/// Writes the text form.
pub fn render(out: &mut String) {
    let registry = REGISTRY.lock();
    let name = "rest_client_requests_total";
    head(out, name, "counter", "Number of HTTP requests, partitioned by status code, method, and host.");
    for ((code, host, method), n) in &registry.requests {
        let _ = writeln!(out, "{name}{{code=\"{code}\",host=\"{host}\",method=\"{method}\"}} {n}");
    }
    let name = "rest_client_request_duration_seconds";
    head(out, name, "histogram", "Request latency in seconds. Broken down by verb, and host.");
    for ((host, verb), histogram) in &registry.durations {
        histogram.write(out, name, &format!("host=\"{host}\",verb=\"{verb}\""));
    }
    let queues = registry.queues.iter().filter_map(|(name, q)| Some((name.clone(), q.upgrade()?)));
    let queues: Vec<_> = queues.collect();
    drop(registry);
    let queues: Vec<(String, QueueFigures)> = queues.into_iter().map(|(n, q)| (n, q.figures())).collect();
    let numbers: [OfQueue; 5] = [
        ("workqueue_adds_total", "counter", "Total number of adds handled by workqueue", |q| q.adds as f64),
        ("workqueue_depth", "gauge", "Current depth of workqueue", |q| q.depth as f64),
        ("workqueue_retries_total", "counter", "Total number of retries handled by workqueue", |q| {
            q.retries as f64
        }),
        (
            "workqueue_unfinished_work_seconds",
            "gauge",
            "How many seconds of work has done that is in progress and hasn't been observed by work_duration.",
            |q| q.unfinished.as_secs_f64(),
        ),
        (
            "workqueue_longest_running_processor_seconds",
            "gauge",
            "How many seconds has the longest running processor for workqueue been running.",
            |q| q.longest.as_secs_f64(),
        ),
    ];
    for (name, kind, help, value) in numbers {
        head(out, name, kind, help);
        for (queue, figures) in &queues {
            let _ = writeln!(out, "{name}{{name=\"{queue}\"}} {}", value(figures));
        }
    }
    let times: [TimesOfQueue; 2] = [
        (
            "workqueue_queue_duration_seconds",
            "How long in seconds an item stays in workqueue before being requested.",
            |q| &q.waited,
        ),
        (
            "workqueue_work_duration_seconds",
            "How long in seconds processing an item from workqueue takes.",
            |q| &q.worked,
        ),
    ];
    for (name, help, value) in times {
        head(out, name, "histogram", help);
        for (queue, figures) in &queues {
            value(figures).write(out, name, &format!("name=\"{queue}\""));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted() {
        let host = "metrics.example:6443";
        requested(host, &http::Method::GET, Some(http::StatusCode::OK), Duration::from_millis(30));
        requested(host, &http::Method::GET, None, Duration::from_secs(100));
        let mut out = String::new();
        render(&mut out);
        for line in [
            "rest_client_requests_total{code=\"200\",host=\"metrics.example:6443\",method=\"GET\"} 1",
            "rest_client_requests_total{code=\"<error>\",host=\"metrics.example:6443\",method=\"GET\"} 1",
            "rest_client_request_duration_seconds_bucket{host=\"metrics.example:6443\",verb=\"GET\",le=\"0.1\"} 1",
            "rest_client_request_duration_seconds_bucket{host=\"metrics.example:6443\",verb=\"GET\",le=\"60\"} 1",
            "rest_client_request_duration_seconds_bucket{host=\"metrics.example:6443\",verb=\"GET\",le=\"+Inf\"} 2",
        ] {
            assert!(out.lines().any(|l| l == line), "{line} in {out}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn queues_are_counted_while_they_live() {
        let of = |name: &str| {
            let mut out = String::new();
            render(&mut out);
            let found = out.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix("{name=\"counted\"} "));
            found.map(str::to_owned)
        };
        let queue = crate::WorkQueue::named("counted");
        queue.add("a");
        queue.add("a");
        queue.add("b");
        tokio::time::advance(Duration::from_secs(2)).await;
        let key = queue.next().await.unwrap();
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(of("workqueue_adds_total").as_deref(), Some("2"), "what waits already is not added");
        assert_eq!(of("workqueue_depth").as_deref(), Some("1"));
        assert_eq!(of("workqueue_unfinished_work_seconds").as_deref(), Some("3"));
        assert_eq!(of("workqueue_longest_running_processor_seconds").as_deref(), Some("3"));
        assert_eq!(of("workqueue_queue_duration_seconds_sum").as_deref(), Some("2"));
        queue.add_failed(key);
        queue.done(&key);
        assert_eq!(of("workqueue_retries_total").as_deref(), Some("1"));
        assert_eq!(of("workqueue_work_duration_seconds_sum").as_deref(), Some("3"));
        assert_eq!(of("workqueue_unfinished_work_seconds").as_deref(), Some("0"));
        drop(queue);
        assert_eq!(of("workqueue_depth"), None);
    }
}
