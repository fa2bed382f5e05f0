//! What the engine counts and measures, and its text for Prometheus: the families that Docker's daemon has, under the
//! same names.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use base::prometheus::{Histogram, head, process, quoted, single};
use parking_lot::Mutex;

use crate::Engine;
use crate::container::Phase;

/// The upper bounds of Prometheus' default buckets, seconds.
const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Which objects an action is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// Containers.
    Container,
    /// Images.
    Image,
    /// Networks.
    Network,
    /// The machine.
    Host,
}

impl Family {
    /// Name, label, help, and the actions that are told before they have happened.
    fn text(self) -> (&'static str, &'static str, &'static str, &'static [&'static str]) {
        match self {
            Family::Container => (
                "engine_daemon_container_actions_seconds",
                "action",
                "The number of seconds it takes to process each container action",
                &["changes", "commit", "create", "delete", "start"],
            ),
            Family::Image => (
                "engine_daemon_image_actions_seconds",
                "action",
                "The number of seconds it takes to process each image action",
                &[],
            ),
            Family::Network => (
                "engine_daemon_network_actions_seconds",
                "action",
                "The number of seconds it takes to process each network action",
                &[],
            ),
            Family::Host => (
                "engine_daemon_host_info_functions_seconds",
                "function",
                "The number of seconds it takes to call functions gathering info about the host",
                &["system_info", "system_version"],
            ),
        }
    }
}

/// How long an action takes.
fn times() -> Histogram {
    Histogram::new(&BUCKETS)
}

/// The measurements.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    actions: BTreeMap<(Family, &'static str), Histogram>,
    checks: Histogram,
    failed_checks: u64,
}

impl Default for Inner {
    fn default() -> Self {
        Self { actions: BTreeMap::new(), checks: times(), failed_checks: 0 }
    }
}

impl Metrics {
    /// An action that succeeded.
    pub fn action(&self, family: Family, action: &'static str, took: Duration) {
        self.0.lock().actions.entry((family, action)).or_insert_with(times).observe(took);
    }

    /// A health check that has ended.
    pub(crate) fn health_check(&self, well: bool, took: Duration) {
        let mut inner = self.0.lock();
        inner.checks.observe(took);
        inner.failed_checks += u64::from(!well);
    }
}

impl Engine {
    /// Everything, in Prometheus' text format.
    pub fn metrics_text(&self) -> String {
        let mut out = String::new();
        let (actions, checks, failed) = {
            let inner = self.metrics.0.lock();
            (inner.actions.clone(), inner.checks.clone(), inner.failed_checks)
        };
        for family in [Family::Container, Family::Host, Family::Image, Family::Network] {
            let (name, label, help, always) = family.text();
            head(&mut out, name, "histogram", help);
            let mut all: BTreeMap<&str, Histogram> = always.iter().map(|action| (*action, times())).collect();
            all.extend(actions.iter().filter(|((f, _), _)| *f == family).map(|((_, a), h)| (*a, h.clone())));
            for (action, histogram) in all {
                histogram.write(&mut out, name, &format!("{label}={}", quoted(action)));
            }
        }
        let mut states = BTreeMap::from([("paused", 0), ("running", 0), ("stopped", 0)]);
        for container in self.all() {
            let state = match container.phase() {
                Phase::Running | Phase::Restarting => "running",
                Phase::Paused => "paused",
                _ => "stopped",
            };
            *states.entry(state).or_default() += 1;
        }
        let name = "engine_daemon_container_states_containers";
        head(&mut out, name, "gauge", "The count of containers in various states");
        for (state, count) in states {
            let _ = writeln!(out, "{name}{{state=\"{state}\"}} {count}");
        }
        let (cpus, memory, os) = Engine::machine_size();
        let uname = rustix::system::uname();
        let name = "engine_daemon_engine_info";
        head(&mut out, name, "gauge", "The information related to the engine and the OS it is running on");
        let labels = [
            ("architecture", uname.machine().to_string_lossy().into_owned()),
            ("commit", String::new()),
            ("daemon_id", self.id.clone()),
            ("graphdriver", "overlay2".to_owned()),
            ("kernel", uname.release().to_string_lossy().into_owned()),
            ("os", os),
            ("os_type", "linux".to_owned()),
            ("os_version", String::new()),
            ("version", crate::system::stands_for()),
        ];
        let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={}", quoted(v))).collect();
        let _ = writeln!(out, "{name}{{{}}} 1", labels.join(","));
        let gauge = "gauge";
        let cpu_help = "The number of cpus that the host system of the engine has";
        single(&mut out, "engine_daemon_engine_cpus_cpus", gauge, cpu_help, cpus);
        let memory_help = "The number of bytes of memory that the host system of the engine has";
        single(&mut out, "engine_daemon_engine_memory_bytes", gauge, memory_help, memory);
        let help = "The number of current subscribers to events";
        single(&mut out, "engine_daemon_events_subscribers_total", gauge, help, self.events.listeners());
        let events = self.events.count();
        single(&mut out, "engine_daemon_events_total", "counter", "The number of events logged", events);
        let help = "The total number of failed health checks";
        single(&mut out, "engine_daemon_health_checks_failed_total", "counter", help, failed);
        let help = "The total number of health checks";
        single(&mut out, "engine_daemon_health_checks_total", "counter", help, checks.count());
        let name = "engine_daemon_health_check_start_duration_seconds";
        head(&mut out, name, "histogram", "The number of seconds it takes to run a health check");
        checks.write(&mut out, name, "");
        process(&mut out);
        out
    }
}
