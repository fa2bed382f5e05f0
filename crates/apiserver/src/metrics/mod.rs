//! `/metrics`, with upstream's names and labels, in Prometheus' text form.
//!
//! A request finds its counters before it is carried out, and only what this server serves has counters of its own: paths
//! are the caller's to invent, and must not take memory.

mod access;
mod admission;
mod health;
mod stored;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use base::prometheus::{Histogram, head, process, single};
use futures::StreamExt;
use http::Method;
use http_body_util::BodyExt;
use parking_lot::{Mutex, RwLock};

use crate::ApiServer;
use crate::body::Body;
use crate::path::RequestInfo;
use crate::query::Query;

pub(crate) use access::count;
pub use access::{Access, Authenticated, Uses};
pub(crate) use admission::WAITED;
pub use admission::{Admission, Called, Half};
pub use stored::Metered;

/// Upper bounds of the histograms, in seconds.
const BUCKETS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0,
];
/// Those for times without what the server is not to blame for.
const SLI_BUCKETS: [f64; 21] = [
    0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0, 60.0,
];
/// Those for how long it takes until a watch has told what there is.
const LIST_BUCKETS: [f64; 25] = [
    0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0, 60.0, 90.0, 120.0, 180.0, 300.0,
];
/// What writes can ask for as `fieldValidation`, and what they are counted as if they ask for nothing or something else.
const VALIDATIONS: [&str; 5] = ["", "Ignore", "Strict", "Warn", "invalid"];
/// The place of what a write asks for in [`VALIDATIONS`], if it is a write of an object.
pub(crate) fn validation_of(info: &RequestInfo, query: &Query) -> Option<usize> {
    if !(info.is_resource && matches!(info.verb, "create" | "update" | "patch")) {
        return None;
    }
    let asked = query.get("fieldValidation").unwrap_or("");
    VALIDATIONS.iter().position(|v| *v == asked).or(Some(VALIDATIONS.len() - 1))
}

/// Upper bounds for the sizes of answers, in bytes.
const SIZE_BUCKETS: [f64; 7] = [1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
/// Upper bounds for the sizes of watch events, in bytes.
const EVENT_BUCKETS: [f64; 8] = [1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0, 131_072.0];
/// Subresources whose requests may last as long as their callers want.
const LONG: [&str; 5] = ["attach", "exec", "proxy", "log", "portforward"];
/// Paths that are no resources and have counters of their own.
const PATHS: [&str; 5] = ["/healthz", "/livez", "/metrics", "/readyz", "/version"];

/// Whether a request lasts as long as its caller wants.
pub(crate) fn is_long(info: &RequestInfo) -> bool {
    info.verb == "watch" || info.is_resource && LONG.contains(&info.subresource.as_str())
}

/// How long requests take.
fn times() -> Histogram {
    Histogram::new(&BUCKETS)
}

/// What tells requests apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Labels<'a> {
    verb: &'static str,
    group: &'a str,
    version: &'a str,
    resource: &'a str,
    subresource: &'a str,
    scope: &'static str,
    dry_run: &'static str,
}

impl<'a> Labels<'a> {
    fn of(info: &'a RequestInfo, method: &Method, query: &Query, content_type: &str) -> Self {
        let long = info.is_resource && LONG.contains(&info.subresource.as_str());
        let verb = match info.verb {
            _ if long && info.subresource != "log" => "CONNECT",
            "create" | "post" => "POST",
            "update" | "put" => "PUT",
            "patch" if content_type.starts_with("application/apply-patch") => "APPLY",
            "patch" => "PATCH",
            "get" if *method == Method::HEAD => "HEAD",
            "get" => "GET",
            "list" => "LIST",
            "watch" => "WATCH",
            "delete" => "DELETE",
            "deletecollection" => "DELETECOLLECTION",
            _ => "other",
        };
        if !info.is_resource {
            let path = PATHS.into_iter().find(|p| *p == info.path).unwrap_or("");
            return Labels { subresource: path, ..Self::unknown(verb) };
        }
        let scope = match (info.name.is_empty(), info.namespace.is_empty()) {
            (false, _) => "resource",
            (true, false) => "namespace",
            (true, true) => "cluster",
        };
        let dry_run = if query.some("dryRun").is_some() { "All" } else { "" };
        let RequestInfo { group, version, resource, subresource, .. } = info;
        Labels { verb, group, version, resource, subresource, scope, dry_run }
    }

    /// Of what this server does not serve.
    fn unknown(verb: &'static str) -> Self {
        Labels { verb, group: "", version: "", resource: "", subresource: "", scope: "", dry_run: "" }
    }
}

/// The counters of requests with the same labels.
#[derive(Debug)]
pub struct Counters {
    verb: &'static str,
    scope: &'static str,
    dry_run: &'static str,
    /// Group, version, resource, subresource.
    names: [String; 4],
    long: bool,
    counted: Mutex<Counted>,
    running: AtomicI64,
    /// How often the server gave up on one.
    terminated: AtomicU64,
    /// The sizes of the events that a watch sends.
    events: Mutex<Histogram>,
    /// How long it took until a watch had told what there is.
    listed: Mutex<Histogram>,
}

#[derive(Debug)]
struct Counted {
    codes: Vec<(u16, u64)>,
    durations: Histogram,
    /// Without the time that webhooks took.
    own: Histogram,
    sizes: Histogram,
}

impl Counters {
    fn new(l: &Labels<'_>) -> Self {
        let names = [l.group, l.version, l.resource, l.subresource].map(str::to_owned);
        let long = l.verb == "WATCH" || !l.resource.is_empty() && LONG.contains(&l.subresource);
        Self {
            verb: l.verb,
            scope: l.scope,
            dry_run: l.dry_run,
            names,
            long,
            counted: Mutex::new(Counted {
                codes: Vec::new(),
                durations: times(),
                own: Histogram::new(&SLI_BUCKETS),
                sizes: Histogram::new(&SIZE_BUCKETS),
            }),
            running: AtomicI64::new(0),
            terminated: AtomicU64::new(0),
            events: Mutex::new(Histogram::new(if l.verb == "WATCH" { &EVENT_BUCKETS } else { &[] })),
            listed: Mutex::new(Histogram::new(if l.verb == "WATCH" { &LIST_BUCKETS } else { &[] })),
        }
    }

    fn labels(&self) -> Labels<'_> {
        let [group, version, resource, subresource] = &self.names;
        let (verb, scope, dry_run) = (self.verb, self.scope, self.dry_run);
        Labels { verb, group, version, resource, subresource, scope, dry_run }
    }

    fn render_labels(&self) -> String {
        let [group, version, resource, subresource] = &self.names;
        format!(
            "component=\"apiserver\",group=\"{group}\",resource=\"{resource}\",scope=\"{}\",subresource=\"{subresource}\",verb=\"{}\",version=\"{version}\"",
            self.scope, self.verb
        )
    }

    /// Whether the sizes of answers are counted: of those that are read, and are whole.
    fn is_sized(&self) -> bool {
        !self.long && matches!(self.verb, "GET" | "LIST")
    }

    /// The server has given up on a request.
    pub fn terminated(&self) {
        self.terminated.fetch_add(1, Ordering::Relaxed);
    }

    /// A watch has told what there is, after so long.
    pub fn listed(&self, took: Duration) {
        self.listed.lock().observe(took);
    }

    /// Counts the events in a part of a watch's answer.
    fn sent(&self, bytes: &[u8]) {
        let mut events = self.events.lock();
        // JSON's events end with a line; others come one at a time.
        if bytes.last() != Some(&b'\n') {
            return events.observe_value(bytes.len() as f64);
        }
        let mut begins = 0;
        for end in memchr::memchr_iter(b'\n', bytes) {
            events.observe_value((end + 1 - begins) as f64);
            begins = end + 1;
        }
    }

    /// Counts an answer; `waited`: how much of the time webhooks took; `size`: its length in bytes, if that is known.
    pub fn answered(&self, code: u16, took: Duration, waited: Duration, size: Option<u64>) {
        let mut counted = self.counted.lock();
        if let Some(size) = size.filter(|_| self.is_sized()) {
            counted.sizes.observe_value(size as f64);
        }
        match counted.codes.iter_mut().find(|(c, _)| *c == code) {
            Some((_, n)) => *n += 1,
            None => counted.codes.push((code, 1)),
        }
        // How long a caller wants to be answered says nothing about the server.
        if !self.long {
            counted.durations.observe(took);
            if self.dry_run.is_empty() {
                counted.own.observe(took.saturating_sub(waited));
            }
        }
    }
}

/// A request that is being answered; dropped, it no longer is.
#[derive(Debug)]
pub struct Running {
    counters: Arc<Counters>,
    /// What of the server's counts it, if it does not last as long as its caller wants.
    in_flight: Option<Arc<InFlight>>,
    mutating: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        match &self.in_flight {
            Some(in_flight) => in_flight.of(self.mutating).fetch_sub(1, Ordering::Relaxed),
            None => self.counters.running.fetch_sub(1, Ordering::Relaxed),
        };
    }
}

impl Running {
    /// The counters of the request.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether it lasts as long as its caller wants.
    pub fn is_long(&self) -> bool {
        self.in_flight.is_none()
    }

    /// A body that is counted until its end, and whose watch events are.
    pub fn follow(self: &Arc<Self>, body: Body) -> Body {
        let running = self.clone();
        match body {
            Body::Gzip(mut gzip) if running.counters.is_sized() => {
                gzip.at_end(Box::new(move |size| {
                    running.counters.counted.lock().sizes.observe_value(size as f64);
                }));
                Body::Gzip(gzip)
            }
            Body::Stream(stream) => Body::Stream(Box::pin(stream.inspect(move |chunk| {
                if let Ok(bytes) = chunk
                    && running.counters.verb == "WATCH"
                {
                    running.counters.sent(bytes);
                }
            }))),
            Body::Proxied(body) => Body::Proxied(
                body.map_frame(move |frame| {
                    let _running = &running;
                    frame
                })
                .boxed_unsync(),
            ),
            other => other,
        }
    }
}

#[derive(Debug, Default)]
struct InFlight {
    mutating: AtomicI64,
    reading: AtomicI64,
}

impl InFlight {
    fn of(&self, mutating: bool) -> &AtomicI64 {
        if mutating { &self.mutating } else { &self.reading }
    }
}

/// Counters of requests.
#[derive(Debug)]
pub struct Metrics {
    /// Who asks, and what they may.
    pub access: Access,
    /// Admission's.
    pub admission: Admission,
    /// Checks of health.
    pub health: health::Health,
    /// How often an APIService was found unavailable after it was not, by its name and the reason.
    pub unavailable: Mutex<BTreeMap<(String, &'static str), u64>>,
    /// How many connections ended before their peer and this server could agree on one.
    pub handshakes: AtomicU64,
    hasher: RandomState,
    /// By the labels' hash, so that looking takes no copy of them.
    requests: RwLock<HashMap<u64, Vec<Arc<Counters>>>>,
    in_flight: Arc<InFlight>,
    /// How long writes took, by [`VALIDATIONS`].
    validated: [Mutex<Histogram>; VALIDATIONS.len()],
}

impl Metrics {
    /// Counters that have counted nothing; those of plugins by these names ([`Admission::new`]).
    pub fn new(plugins: impl Iterator<Item = [&'static str; 2]>) -> Self {
        Self {
            access: Access::default(),
            admission: Admission::new(plugins),
            health: health::Health::default(),
            unavailable: Mutex::default(),
            handshakes: AtomicU64::new(0),
            hasher: RandomState::new(),
            requests: RwLock::default(),
            in_flight: Arc::default(),
            validated: VALIDATIONS.map(|_| Mutex::new(Histogram::new(&SLI_BUCKETS))),
        }
    }

    /// A write of an object was answered; `validation`: its place in [`VALIDATIONS`].
    pub fn validated(&self, validation: usize, took: Duration) {
        if let Some(times) = self.validated.get(validation) {
            times.lock().observe(took);
        }
    }

    /// The request has come: it is counted as running until what this returns is dropped. `served` is asked, once for
    /// each set of labels, whether there is such a resource.
    pub fn begin(
        &self,
        info: &RequestInfo,
        method: &Method,
        query: &Query,
        content_type: &str,
        served: impl FnOnce() -> bool,
    ) -> Arc<Running> {
        let labels = Labels::of(info, method, query, content_type);
        let counters = self.known(&labels).unwrap_or_else(|| {
            if !info.is_resource || served() {
                self.add(&labels)
            } else {
                let unknown = Labels::unknown(labels.verb);
                self.known(&unknown).unwrap_or_else(|| self.add(&unknown))
            }
        });
        let mutating = !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        let in_flight = if counters.long {
            counters.running.fetch_add(1, Ordering::Relaxed);
            None
        } else {
            self.in_flight.of(mutating).fetch_add(1, Ordering::Relaxed);
            Some(self.in_flight.clone())
        };
        Arc::new(Running { counters, in_flight, mutating })
    }

    fn known(&self, labels: &Labels<'_>) -> Option<Arc<Counters>> {
        let requests = self.requests.read();
        requests.get(&self.hasher.hash_one(labels))?.iter().find(|c| c.labels() == *labels).cloned()
    }

    fn add(&self, labels: &Labels<'_>) -> Arc<Counters> {
        let mut requests = self.requests.write();
        let all = requests.entry(self.hasher.hash_one(labels)).or_default();
        if let Some(known) = all.iter().find(|c| c.labels() == *labels) {
            return known.clone();
        }
        let made = Arc::new(Counters::new(labels));
        all.push(made.clone());
        made
    }
}

impl ApiServer {
    /// The text form.
    pub(crate) async fn render_metrics(&self) -> String {
        let metrics = &self.metrics;
        let mut all: Vec<Arc<Counters>> = metrics.requests.read().values().flatten().cloned().collect();
        all.sort_by(|a, b| {
            (&a.names, a.verb, a.scope, a.dry_run).cmp(&(&b.names, b.verb, b.scope, b.dry_run))
        });
        let mut out = String::new();
        head(
            &mut out,
            "apiserver_request_total",
            "counter",
            "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.",
        );
        for c in &all {
            let labels = c.render_labels();
            for (code, n) in &c.counted.lock().codes {
                let dry_run = c.dry_run;
                let _ = writeln!(
                    out,
                    "apiserver_request_total{{code=\"{code}\",dry_run=\"{dry_run}\",{labels}}} {n}"
                );
            }
        }
        let name = "apiserver_request_duration_seconds";
        head(
            &mut out,
            name,
            "histogram",
            "Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
        );
        for c in all.iter().filter(|c| !c.long) {
            let labels = format!("dry_run=\"{}\",{}", c.dry_run, c.render_labels());
            c.counted.lock().durations.write(&mut out, name, &labels);
        }
        let name = "apiserver_request_sli_duration_seconds";
        head(
            &mut out,
            name,
            "histogram",
            "Response latency distribution (not counting webhook duration and priority & fairness queue wait times) in seconds for each verb, group, version, resource, subresource, scope and component.",
        );
        for c in all.iter().filter(|c| !c.long && c.dry_run.is_empty()) {
            c.counted.lock().own.write(&mut out, name, &c.render_labels());
        }
        let name = "apiserver_response_sizes";
        head(
            &mut out,
            name,
            "histogram",
            "Response size distribution in bytes for each group, version, verb, resource, subresource, scope and component.",
        );
        for c in all.iter().filter(|c| c.is_sized()) {
            c.counted.lock().sizes.write(&mut out, name, &c.render_labels());
        }
        let name = "apiserver_current_inflight_requests";
        head(
            &mut out,
            name,
            "gauge",
            "Maximal number of currently used inflight request limit of this apiserver per request kind in last second.",
        );
        for (kind, mutating) in [("mutating", true), ("readOnly", false)] {
            let n = metrics.in_flight.of(mutating).load(Ordering::Relaxed);
            let _ = writeln!(out, "{name}{{request_kind=\"{kind}\"}} {n}");
        }
        let name = "apiserver_longrunning_requests";
        head(
            &mut out,
            name,
            "gauge",
            "Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component. Not all requests are tracked this way.",
        );
        for c in all.iter().filter(|c| c.long) {
            let n = c.running.load(Ordering::Relaxed);
            let _ = writeln!(out, "{name}{{{}}} {n}", c.render_labels());
        }
        let name = "apiserver_requested_deprecated_apis";
        head(
            &mut out,
            name,
            "gauge",
            "Gauge of deprecated APIs that have been requested, broken out by API group, version, resource, subresource, and removed_release.",
        );
        let kinds = self.kinds.load();
        let mut before = None;
        for c in &all {
            let [group, version, resource, subresource] = &c.names;
            // They are in the order of these.
            if before.replace(&c.names) == Some(&c.names) {
                continue;
            }
            let found = kinds.find(group, version, resource);
            let Some(why) = found.and_then(|f| f.kind.versions[f.version].deprecation.clone()) else {
                continue;
            };
            let removed = why.split_once("unavailable in v").and_then(|(_, rest)| rest.split('+').next());
            let removed = removed.unwrap_or("");
            let _ = writeln!(
                out,
                "{name}{{group=\"{group}\",removed_release=\"{removed}\",resource=\"{resource}\",subresource=\"{subresource}\",version=\"{version}\"}} 1"
            );
        }
        let mut sent: Vec<([&str; 3], Histogram)> = Vec::new();
        for c in all.iter().filter(|c| c.verb == "WATCH") {
            let [group, version, resource, _] = &c.names;
            let labels = [group.as_str(), resource.as_str(), version.as_str()];
            let events = c.events.lock();
            match sent.iter_mut().find(|(l, _)| *l == labels) {
                Some((_, sum)) => sum.add(&events),
                None => sent.push((labels, events.clone())),
            }
        }
        let of = |[group, resource, version]: &[&str; 3]| {
            format!("group=\"{group}\",resource=\"{resource}\",version=\"{version}\"")
        };
        let name = "apiserver_watch_events_total";
        head(&mut out, name, "counter", "Number of events sent in watch clients");
        for (labels, events) in &sent {
            let _ = writeln!(out, "{name}{{{}}} {}", of(labels), events.count());
        }
        let name = "apiserver_watch_events_sizes";
        head(&mut out, name, "histogram", "Watch event size distribution in bytes");
        for (labels, events) in &sent {
            events.write(&mut out, name, &of(labels));
        }
        let name = "apiserver_watch_list_duration_seconds";
        head(
            &mut out,
            name,
            "histogram",
            "Response latency distribution in seconds for watch list requests broken by group, version, resource and scope.",
        );
        for c in all.iter().filter(|c| c.verb == "WATCH" && c.dry_run.is_empty()) {
            let [group, version, resource, _] = &c.names;
            let listed = c.listed.lock();
            if listed.count() > 0 {
                let scope = c.scope;
                let labels = format!(
                    "group=\"{group}\",resource=\"{resource}\",scope=\"{scope}\",version=\"{version}\""
                );
                listed.write(&mut out, name, &labels);
            }
        }
        let name = "field_validation_request_duration_seconds";
        head(
            &mut out,
            name,
            "histogram",
            "Response latency distribution in seconds for each field validation value",
        );
        for (value, times) in VALIDATIONS.iter().zip(&metrics.validated) {
            let times = times.lock();
            if times.count() > 0 {
                times.write(&mut out, name, &format!("field_validation=\"{value}\""));
            }
        }
        let name = "apiserver_request_terminations_total";
        head(&mut out, name, "counter", "Number of requests which apiserver terminated in self-defense.");
        for c in &all {
            let n = c.terminated.load(Ordering::Relaxed);
            if n > 0 {
                let _ = writeln!(out, "{name}{{code=\"504\",{}}} {n}", c.render_labels());
            }
        }
        single(
            &mut out,
            "apiserver_tls_handshake_errors_total",
            "counter",
            "Number of requests dropped with 'TLS handshake error from' error",
            metrics.handshakes.load(Ordering::Relaxed),
        );
        metrics.access.render(&mut out);
        self.authenticator.uses.render(&mut out);
        metrics.admission.render(&mut out);
        metrics.health.render(&mut out);
        self.render_api_services(&mut out);
        let name = "apiserver_storage_objects";
        let counts = self.cache.counts();
        let stored = || counts.iter().filter_map(|(p, n, _)| Some((stored::resource_of(p.as_bytes())?, n)));
        head(&mut out, name, "gauge", "Number of stored objects at the time of last check split by kind.");
        for ((group, resource), n) in stored() {
            let dot = if group.is_empty() { "" } else { "." };
            let _ = writeln!(out, "{name}{{resource=\"{resource}{dot}{group}\"}} {n}");
        }
        let name = "apiserver_resource_objects";
        head(&mut out, name, "gauge", "Number of stored objects at the time of last check split by kind.");
        for ((group, resource), n) in stored() {
            let _ = writeln!(out, "{name}{{group=\"{group}\",resource=\"{resource}\"}} {n}");
        }
        let name = "apiserver_storage_events_received_total";
        head(&mut out, name, "counter", "Number of etcd events received split by kind.");
        for (prefix, _, n) in counts.iter().filter(|(_, _, received)| *received > 0) {
            if let Some((group, resource)) = stored::resource_of(prefix.as_bytes()) {
                let _ = writeln!(out, "{name}{{group=\"{group}\",resource=\"{resource}\"}} {n}");
            }
        }
        // A store that is away must not keep its figures' reader.
        let size = tokio::time::timeout(Duration::from_secs(1), self.cache.store().size()).await;
        if let Ok(Ok(size)) = size {
            let name = "apiserver_storage_size_bytes";
            head(&mut out, name, "gauge", "Size of the storage database file physically allocated in bytes.");
            let _ = writeln!(out, "{name}{{storage_cluster_id=\"etcd-0\"}} {size}");
        }
        self.stored.render(&mut out);
        let (name, version, release) = ("kubernetes_build_info", self.version(), self.options.release);
        head(
            &mut out,
            name,
            "gauge",
            "A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.",
        );
        let _ = writeln!(
            out,
            "{name}{{compiler=\"rustc\",git_version=\"{version}\",major=\"{}\",minor=\"{}\"}} 1",
            release.major(),
            release.minor()
        );
        client::metrics::render(&mut out);
        process(&mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(metrics: &Metrics, method: Method, path: &str, query: &str, served: bool) -> Arc<Running> {
        let query = Query::parse(Some(query));
        let (_, info) = RequestInfo::parse(&method, path, query.flag("watch"));
        metrics.begin(&info, &method, &query, "application/apply-patch+yaml", || served)
    }

    #[test]
    fn requests_are_told_apart_as_upstream_does() {
        for (method, path, query, want) in [
            (Method::GET, "/api/v1/pods", "", ("LIST", "pods", "", "cluster", "")),
            (Method::GET, "/api/v1/namespaces/a/pods", "watch=1", ("WATCH", "pods", "", "namespace", "")),
            (Method::GET, "/api/v1/namespaces/a/pods/p", "", ("GET", "pods", "", "resource", "")),
            (Method::GET, "/api/v1/namespaces/a/pods/p/log", "", ("GET", "pods", "log", "resource", "")),
            (
                Method::POST,
                "/api/v1/namespaces/a/pods/p/exec",
                "",
                ("CONNECT", "pods", "exec", "resource", ""),
            ),
            (
                Method::PATCH,
                "/api/v1/namespaces/a/pods/p",
                "dryRun=All",
                ("APPLY", "pods", "", "resource", "All"),
            ),
            (Method::DELETE, "/api/v1/nodes", "", ("DELETECOLLECTION", "nodes", "", "cluster", "")),
            (Method::GET, "/healthz", "", ("GET", "", "/healthz", "", "")),
            (Method::GET, "/invented", "", ("GET", "", "", "", "")),
        ] {
            let metrics = Metrics::new(std::iter::empty());
            let running = begin(&metrics, method, path, query, true);
            let l = running.counters().labels();
            assert_eq!((l.verb, l.resource, l.subresource, l.scope, l.dry_run), want, "{path}");
        }
    }

    #[test]
    fn what_is_not_served_has_one_set_of_counters() {
        let metrics = Metrics::new(std::iter::empty());
        for i in 0..100 {
            let path = format!("/apis/g{i}/v1/things{i}");
            begin(&metrics, Method::GET, &path, "", false).counters().answered(
                403,
                Duration::ZERO,
                Duration::ZERO,
                None,
            );
        }
        let all: Vec<_> = metrics.requests.read().values().flatten().cloned().collect();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].counted.lock().codes, [(403, 100)]);
    }

    #[test]
    fn running_requests_are_counted_while_they_run() {
        let metrics = Metrics::new(std::iter::empty());
        let read = begin(&metrics, Method::GET, "/api/v1/pods", "", true);
        let watch = begin(&metrics, Method::GET, "/api/v1/pods", "watch=1", true);
        assert!(watch.is_long() && !read.is_long());
        assert_eq!(metrics.in_flight.reading.load(Ordering::Relaxed), 1);
        assert_eq!(watch.counters().running.load(Ordering::Relaxed), 1);
        let counters = watch.counters.clone();
        drop((read, watch));
        assert_eq!(metrics.in_flight.reading.load(Ordering::Relaxed), 0);
        assert_eq!(counters.running.load(Ordering::Relaxed), 0);
    }
}
