//! Admission: how long its steps, its plugins and webhooks take, and what webhooks say.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use base::prometheus::{Histogram, head, quoted};
use parking_lot::Mutex;

use crate::admission::Operation;

/// Upper bounds for steps and plugins, in seconds.
const BUCKETS: [f64; 6] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5];
/// Those for webhooks.
const WEBHOOK_BUCKETS: [f64; 8] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0];
/// Codes above this are counted as this one: peers must not invent series.
const MAX_CODE: u16 = 600;

tokio::task_local! {
    /// How long the request that this task answers has waited for webhooks.
    pub(crate) static WAITED: Cell<Duration>;
}

/// The half of admission that something is done in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Half {
    /// Objects are changed.
    Admit,
    /// They are judged.
    Validate,
}

impl Half {
    fn word(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Validate => "validate",
        }
    }

    /// What upstream calls it where webhooks are concerned.
    fn of_webhooks(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Validate => "validating",
        }
    }
}

/// What came of a webhook's call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Called {
    /// It let the write pass.
    Passed,
    /// It refused it, with this code.
    Refused(u16),
    /// It could not be asked, or gave no answer to the question; `open`: the write goes on without it.
    Failed {
        /// As its failure policy says.
        open: bool,
    },
    /// It was not asked, because of what this server knows of it.
    NotAsked,
}

/// One histogram for each operation, half of admission, and answer.
#[derive(Debug)]
struct Durations([Mutex<Histogram>; 16]);

const HALVES: [Half; 2] = [Half::Admit, Half::Validate];
const OPERATIONS: [Operation; 4] =
    [Operation::Create, Operation::Update, Operation::Delete, Operation::Connect];

impl Default for Durations {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::new(Histogram::new(&BUCKETS))))
    }
}

impl Durations {
    fn note(&self, half: Half, operation: Operation, rejected: bool, took: Duration) {
        let at = (operation as usize * 2 + half as usize) * 2 + usize::from(rejected);
        if let Some(histogram) = self.0.get(at) {
            histogram.lock().observe(took);
        }
    }

    fn write(&self, out: &mut String, name: &str, half: Half, labels: &str) {
        for (at, histogram) in self.0.iter().enumerate().filter(|(at, _)| at / 2 % 2 == half as usize) {
            let histogram = histogram.lock();
            if histogram.count() == 0 {
                continue;
            }
            let labels = format!(
                "{labels}operation=\"{}\",rejected=\"{}\",type=\"{}\"",
                OPERATIONS[at / 4].word(),
                at % 2 == 1,
                half.word()
            );
            histogram.write(out, name, &labels);
        }
    }
}

/// A webhook's name, the half it belongs to, and the operation.
type Asked = (String, Half, &'static str);

#[derive(Debug, Default)]
struct Webhooks {
    /// By whether the write was refused for it.
    took: BTreeMap<(Asked, bool), Histogram>,
    /// By the code it was answered with, and whether the write was refused for it.
    requests: BTreeMap<(Asked, u16, bool), u64>,
    /// By what went wrong, and the code of a refusal.
    rejections: BTreeMap<(Asked, &'static str, u16), u64>,
    open: BTreeMap<(String, Half), u64>,
}

/// The counters of admission.
#[derive(Debug)]
pub struct Admission {
    steps: Durations,
    /// In the order of the plugins.
    plugins: Vec<([&'static str; 2], Durations)>,
    webhooks: Mutex<Webhooks>,
}

impl Admission {
    /// For plugins by these names, one for each half.
    pub fn new(plugins: impl Iterator<Item = [&'static str; 2]>) -> Self {
        Self {
            steps: Durations::default(),
            plugins: plugins.map(|names| (names, Durations::default())).collect(),
            webhooks: Mutex::default(),
        }
    }

    /// A half of admission has ended.
    pub fn step(&self, half: Half, operation: Operation, rejected: bool, took: Duration) {
        self.steps.note(half, operation, rejected, took);
    }

    /// The plugin at this place has.
    pub fn plugin(&self, at: usize, half: Half, operation: Operation, rejected: bool, took: Duration) {
        if let Some((_, durations)) = self.plugins.get(at) {
            durations.note(half, operation, rejected, took);
        }
    }

    /// A webhook was called.
    pub fn webhook(&self, name: &str, half: Half, operation: Operation, called: Called, took: Duration) {
        let asked: Asked = (name.to_owned(), half, operation.word());
        let mut all = self.webhooks.lock();
        // A peer that gave no answer counts as one that is not available.
        let (code, rejected, error) = match called {
            Called::Passed => (200, false, None),
            Called::Refused(code) => (code.min(MAX_CODE), true, Some("no_error")),
            Called::Failed { open: true } => (503, false, None),
            Called::Failed { open: false } => (503, true, Some("calling_webhook_error")),
            Called::NotAsked => (0, true, Some("apiserver_internal_error")),
        };
        if called == (Called::Failed { open: true }) {
            *all.open.entry((name.to_owned(), half)).or_default() += 1;
        }
        if let Some(error) = error {
            *all.rejections.entry((asked.clone(), error, code)).or_default() += 1;
        }
        *all.requests.entry((asked.clone(), code, rejected)).or_default() += 1;
        let histogram = all.took.entry((asked, rejected));
        histogram.or_insert_with(|| Histogram::new(&WEBHOOK_BUCKETS)).observe(took);
    }

    /// The text form.
    pub(super) fn render(&self, out: &mut String) {
        let name = "apiserver_admission_step_admission_duration_seconds";
        head(
            out,
            name,
            "histogram",
            "Admission sub-step latency histogram in seconds, broken out for each operation and API resource and step type (validate or admit).",
        );
        for half in HALVES {
            self.steps.write(out, name, half, "");
        }
        let name = "apiserver_admission_controller_admission_duration_seconds";
        head(
            out,
            name,
            "histogram",
            "Admission controller latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).",
        );
        for (names, durations) in &self.plugins {
            for (half, plugin) in HALVES.into_iter().zip(names) {
                durations.write(out, name, half, &format!("name=\"{plugin}\","));
            }
        }
        let all = self.webhooks.lock();
        let labels = |(name, half, operation): &Asked| {
            format!("name={},operation=\"{operation}\",type=\"{}\"", quoted(name), half.of_webhooks())
        };
        let name = "apiserver_admission_webhook_admission_duration_seconds";
        head(
            out,
            name,
            "histogram",
            "Admission webhook latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).",
        );
        for ((asked, rejected), histogram) in &all.took {
            histogram.write(out, name, &format!("{},rejected=\"{rejected}\"", labels(asked)));
        }
        let name = "apiserver_admission_webhook_request_total";
        head(
            out,
            name,
            "counter",
            "Admission webhook request total, identified by name and broken out for each admission type (validating or admit) and operation. Additional labels specify whether the request was rejected or not and an HTTP status code.",
        );
        for ((asked, code, rejected), n) in &all.requests {
            let _ = writeln!(out, "{name}{{code=\"{code}\",{},rejected=\"{rejected}\"}} {n}", labels(asked));
        }
        let name = "apiserver_admission_webhook_rejection_count";
        head(
            out,
            name,
            "counter",
            "Admission webhook rejection count, identified by name and broken out for each admission type (validating or admit) and operation. Additional labels specify an error type (calling_webhook_error or apiserver_internal_error if an error occurred; no_error otherwise) and the code that the request is rejected with.",
        );
        for ((asked, error, code), n) in &all.rejections {
            let _ = writeln!(
                out,
                "{name}{{error_type=\"{error}\",{},rejection_code=\"{code}\"}} {n}",
                labels(asked)
            );
        }
        let name = "apiserver_admission_webhook_fail_open_count";
        head(
            out,
            name,
            "counter",
            "Admission webhook fail open count, identified by name and broken out for each admission type (validating or admit).",
        );
        for ((webhook, half), n) in &all.open {
            let _ = writeln!(out, "{name}{{name={},type=\"{}\"}} {n}", quoted(webhook), half.of_webhooks());
        }
    }
}
