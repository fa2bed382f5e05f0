//! The probes of one run of a container: startup first, then liveness and readiness side by side.
//!
//! Each is counted by a pure machine ([`Count`]); the loop around it is a timer because a probe is one by its nature.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::context::Context;
use crate::handler::{self, Outcome, Target};
use crate::pod::state::Unhealthy;
use crate::view::{Container, Pod, Probe};

/// What the probes found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The startup probe has succeeded.
    Started,
    /// What the readiness probe says has changed.
    Ready(bool),
    /// The container must be restarted.
    Unhealthy(Unhealthy),
}

/// Counts results up to the thresholds.
#[derive(Debug, Clone, Default)]
pub struct Count {
    run: u32,
    last: Option<bool>,
}

impl Count {
    /// Takes a result; Some once as many of its kind came in a row as the probe demands, each time.
    pub fn add(&mut self, probe: &Probe, success: bool) -> Option<bool> {
        if self.last == Some(success) {
            self.run = self.run.saturating_add(1);
        } else {
            self.last = Some(success);
            self.run = 1;
        }
        let threshold =
            if success { probe.success_threshold.unwrap_or(1) } else { probe.failure_threshold.unwrap_or(3) };
        (self.run >= threshold.max(1)).then_some(success)
    }
}

/// What is probed.
pub struct Probed {
    /// The pod.
    pub pod: Pod,
    /// The container.
    pub container: Container,
    /// The run's id.
    pub id: String,
    /// Where it is reached.
    pub ip: IpAddr,
}

/// Probes until the run ends (the caller drops this then). A `started` run skips its startup probe.
pub async fn run(context: Arc<Context>, probed: Probed, started: bool, found: mpsc::UnboundedSender<Found>) {
    let probed = &probed;
    let context = &context;
    if let Some(probe) = probed.container.startup_probe.as_ref().filter(|_| !started) {
        let good = until(context, probed, "Startup", probe, |result| result).await;
        let next = if good { Found::Started } else { unhealthy("startup", probe) };
        let _ = found.send(next);
        if !good {
            return;
        }
    }
    let liveness = async {
        if let Some(probe) = &probed.container.liveness_probe {
            until(context, probed, "Liveness", probe, |result| result.filter(|good| !good)).await;
            let _ = found.send(unhealthy("liveness", probe));
        }
    };
    let readiness = async {
        if let Some(probe) = &probed.container.readiness_probe {
            until(context, probed, "Readiness", probe, |result| {
                if let Some(ready) = result {
                    let _ = found.send(Found::Ready(ready));
                }
                None
            })
            .await;
        }
    };
    tokio::join!(liveness, readiness);
}

fn unhealthy(kind: &'static str, probe: &Probe) -> Found {
    Found::Unhealthy(Unhealthy { probe: kind, grace: probe.termination_grace_period_seconds })
}

/// Probes again and again until `enough` gives a verdict.
async fn until(
    context: &Arc<Context>,
    probed: &Probed,
    kind: &'static str,
    probe: &Probe,
    mut enough: impl FnMut(Option<bool>) -> Option<bool>,
) -> bool {
    let timeout = Duration::from_secs(probe.timeout_seconds.unwrap_or(1).max(1));
    let period = Duration::from_secs(probe.period_seconds.unwrap_or(10).max(1));
    let mut count = Count::default();
    tokio::time::sleep(Duration::from_secs(probe.initial_delay_seconds)).await;
    let mut timer = tokio::time::interval(period);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        timer.tick().await;
        let target = Target {
            runtime: &context.options.runtime,
            id: &probed.id,
            container: &probed.container,
            ip: probed.ip,
            agent: "kube-probe",
        };
        let outcome = handler::run(&target, &probe.handler, timeout).await;
        if let Outcome::Failure(why) = &outcome {
            let field = probed.pod.spec.field_path(&probed.container.name);
            let message = format!("{kind} probe failed: {why}");
            context.recorder.event_at(&probed.pod.object, &field, "Warning", "Unhealthy", message);
        }
        let success = matches!(outcome, Outcome::Success(_));
        if let Some(verdict) = enough(count.add(probe, success)) {
            return verdict;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds() {
        let probe = Probe { success_threshold: Some(2), failure_threshold: Some(3), ..Probe::default() };
        let mut count = Count::default();
        let results = [true, true, true, false, false, true, false, false, false, false];
        let got: Vec<Option<bool>> = results.iter().map(|r| count.add(&probe, *r)).collect();
        let (t, f) = (Some(true), Some(false));
        assert_eq!(got, [None, t, t, None, None, None, None, None, f, f]);
        assert_eq!(Count::default().add(&Probe::default(), true), t);
    }
}
