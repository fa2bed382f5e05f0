//! Health checks: a pure state, and the task that runs the probes of one container.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::container::Container;
use crate::model::HealthConfig;
use crate::{Engine, exec};

/// How many results are kept.
const LOG: usize = 5;
/// How much of a probe's output is kept, bytes.
const OUTPUT: usize = 4096;

/// A container's health, as `inspect` shows it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Health {
    /// `starting`, `healthy` or `unhealthy`.
    pub status: String,
    /// Failures in a row.
    pub failing_streak: i64,
    /// The last results.
    pub log: Vec<ProbeResult>,
}

/// One probe's result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ProbeResult {
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// 0 healthy, 1 unhealthy, -1 it could not be run or took too long.
    pub exit_code: i32,
    /// What it wrote, at most 4096 bytes.
    pub output: String,
}

/// A health check with its defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    pub command: Vec<String>,
    pub interval: Duration,
    pub timeout: Duration,
    pub start_period: Duration,
    pub start_interval: Duration,
    pub retries: i64,
}

/// The plan of a configuration; `None` if there is nothing to check.
pub(crate) fn plan(config: Option<&HealthConfig>, shell: &[String]) -> Option<Plan> {
    let config = config?;
    let command = match config.test.split_first() {
        Some((kind, rest)) if kind == "CMD" => rest.to_vec(),
        Some((kind, rest)) if kind == "CMD-SHELL" => {
            let shell =
                if shell.is_empty() { vec!["/bin/sh".to_owned(), "-c".to_owned()] } else { shell.to_vec() };
            shell.into_iter().chain(rest.iter().cloned()).collect()
        }
        _ => return None,
    };
    let or = |nanos: i64, default: u64| match u64::try_from(nanos) {
        Ok(n) if n > 0 => Duration::from_nanos(n),
        _ => Duration::from_secs(default),
    };
    Some(Plan {
        command,
        interval: or(config.interval, 30),
        timeout: or(config.timeout, 30),
        start_period: or(config.start_period, 0),
        start_interval: or(config.start_interval, 5),
        retries: if config.retries > 0 { config.retries } else { 3 },
    })
}

impl Health {
    pub(crate) fn starting() -> Health {
        Health { status: "starting".into(), ..Health::default() }
    }

    /// Takes one more result in; true if the status has changed.
    pub(crate) fn record(&mut self, result: ProbeResult, plan: &Plan, since_start: Duration) -> bool {
        let before = self.status.clone();
        if result.exit_code == 0 {
            self.failing_streak = 0;
            self.status = "healthy".into();
        } else if self.status != "starting" || since_start >= plan.start_period {
            // Within the start period a failure does not count until the first success.
            self.failing_streak += 1;
            if self.failing_streak >= plan.retries {
                self.status = "unhealthy".into();
            }
        }
        self.log.push(result);
        if self.log.len() > LOG {
            self.log.remove(0);
        }
        self.status != before
    }
}

/// A duration as Go prints it: `1m30s`, `1.5s`, `500ms`.
pub(crate) fn go_duration(duration: Duration) -> String {
    let fraction = |value: f64, unit: &str| format!("{value}{unit}");
    let seconds = duration.as_secs();
    if duration < Duration::from_secs(1) {
        return fraction(duration.as_nanos() as f64 / 1e6, "ms");
    }
    let rest = fraction((seconds % 60) as f64 + f64::from(duration.subsec_nanos()) / 1e9, "s");
    match (seconds / 3600, seconds / 60 % 60) {
        (0, 0) => rest,
        (0, minutes) => format!("{minutes}m{rest}"),
        (hours, minutes) => format!("{hours}h{minutes}m{rest}"),
    }
}

/// Probes `container` until `stop` is cancelled.
pub(crate) async fn watch(
    engine: Arc<Engine>,
    container: Arc<Container>,
    plan: Plan,
    stop: CancellationToken,
) {
    let running_for = || {
        let started = container.lock().life.started_at;
        started.map_or(Duration::ZERO, |s| base::clock::between(s, base::clock::now()))
    };
    loop {
        let starting = container.lock().life.health.as_ref().is_some_and(|h| h.status == "starting");
        let early = starting && running_for() < plan.start_period;
        let pause = if early { plan.start_interval } else { plan.interval };
        // A timer by nature: the check is asked for at this interval.
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
        if container.phase() == crate::container::Phase::Paused {
            continue;
        }
        let start = base::clock::now();
        let since_start = running_for();
        let (exit_code, output) = tokio::select! {
            result = exec::probe(&engine, &container, &plan.command, plan.timeout, OUTPUT) => result,
            () = stop.cancelled() => return,
        };
        let result = ProbeResult { start, end: base::clock::now(), exit_code, output };
        engine.metrics.health_check(exit_code == 0, base::clock::between(result.start, result.end));
        let changed = {
            let mut inner = container.lock();
            let health = inner.life.health.get_or_insert_with(Health::starting);
            health.record(result, &plan, since_start).then(|| health.status.clone())
        };
        if let Some(status) = changed {
            container.save_life();
            engine.container_event(&container, &format!("health_status: {status}"), &[]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(exit_code: i32) -> ProbeResult {
        ProbeResult {
            start: Timestamp::UNIX_EPOCH,
            end: Timestamp::UNIX_EPOCH,
            exit_code,
            output: String::new(),
        }
    }

    #[test]
    fn plans() {
        let config = |test: &[&str]| HealthConfig {
            test: test.iter().map(|s| (*s).to_owned()).collect(),
            ..HealthConfig::default()
        };
        assert_eq!(plan(None, &[]), None);
        assert_eq!(plan(Some(&config(&["NONE"])), &[]), None);
        assert_eq!(plan(Some(&config(&[])), &[]), None);
        assert_eq!(plan(Some(&config(&["CMD", "a", "b"])), &[]).unwrap().command, ["a", "b"]);
        let shell = plan(Some(&config(&["CMD-SHELL", "x"])), &[]).unwrap();
        assert_eq!(shell.command, ["/bin/sh", "-c", "x"]);
        assert_eq!((shell.interval.as_secs(), shell.retries), (30, 3));
    }

    #[test]
    fn durations() {
        let text = |millis| go_duration(Duration::from_millis(millis));
        assert_eq!(
            [text(500), text(1500), text(90_000), text(3_600_000)],
            ["500ms", "1.5s", "1m30s", "1h0m0s"]
        );
    }

    #[test]
    fn table() {
        let config = HealthConfig {
            test: vec!["CMD".into(), "x".into()],
            start_period: 10_000_000_000,
            ..Default::default()
        };
        let plan = plan(Some(&config), &[]).unwrap();
        let mut health = Health::starting();
        assert!(
            !health.record(result(1), &plan, Duration::from_secs(1)),
            "failures in the start period do not count"
        );
        assert_eq!(health.failing_streak, 0);
        assert!(health.record(result(0), &plan, Duration::from_secs(2)));
        assert_eq!(health.status, "healthy");
        for _ in 0..2 {
            assert!(!health.record(result(1), &plan, Duration::from_secs(3)), "but after a success they do");
        }
        assert!(health.record(result(-1), &plan, Duration::from_secs(4)));
        assert_eq!((health.status.as_str(), health.failing_streak, health.log.len()), ("unhealthy", 3, 5));
        health.record(result(0), &plan, Duration::from_secs(5));
        assert_eq!((health.status.as_str(), health.log.len()), ("healthy", 5));
    }
}
