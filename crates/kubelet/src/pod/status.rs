//! The status of a pod, as a pure function of what is wanted and what is observed.

use std::net::IpAddr;

use api::meta;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::decide::{Verdict, verdict};
use super::state::{ContainerState, Ended, ImageState, PodState, Run, RunPhase, SandboxState};
use crate::qos;
use crate::view::{Container, Pod};

/// The scheme of container ids in the API.
pub const ID_SCHEME: &str = "tug://";

/// The conditions that are the kubelet's; others in the object belong to others and stay.
const OWN: &[&str] =
    &["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// The parts of a status that follow from what runs alone. Phase, reason and message are not among them: others may end a pod.
pub const OBSERVED: &[&str] =
    &["conditions", "containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];

/// Whether two statuses say the same of what is the kubelet's to observe.
pub fn agree(a: &Value, b: &Value) -> bool {
    OBSERVED.iter().all(|part| match *part {
        "conditions" => OWN.iter().all(|kind| condition(a, kind)["status"] == condition(b, kind)["status"]),
        part => a[part] == b[part],
    })
}

/// What of a status goes into a strategic merge patch: of the conditions the kubelet's own, since others may have written
/// theirs meanwhile; addresses as a whole.
pub fn as_patch(mut status: Value) -> Value {
    if let Some(list) = status["conditions"].as_array_mut() {
        list.retain(|c| c["type"].as_str().is_some_and(|kind| OWN.contains(&kind)));
    }
    for name in ["podIPs", "hostIPs"] {
        if let Some(list) = status.get_mut(name).and_then(Value::as_array_mut) {
            list.insert(0, json!({"$patch": "replace"}));
        }
    }
    status
}

/// Whether a container that runs counted as started and as ready when that was last reported. What probes find out is
/// asked for in vain of one whose start was never reported; without a probe it follows from its running.
pub fn as_reported(pod: &Pod, name: &str) -> (bool, bool) {
    let before = of_container(pod.object.status(), name);
    let probed = |probe: fn(&Container) -> bool| pod.spec.container(name).is_some_and(probe);
    let started = before["started"] == true || !probed(|c| c.startup_probe.is_some());
    let ready = before["ready"] == true || started && !probed(|c| c.readiness_probe.is_some());
    (started, ready)
}

/// The latest run that was reported of a container of which no record is here, as after a reboot. It has ended: what ran
/// then is lost.
pub fn recall(pod: &Pod, name: &str) -> Option<Run> {
    let before = of_container(pod.object.status(), name);
    let id = before["containerID"].as_str()?.strip_prefix(ID_SCHEME)?;
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let time = |v: &Value| v.as_str().and_then(|t| t.parse().ok()).unwrap_or_else(base::clock::now);
    let number = |v: &Value| v.as_i64().and_then(|n| i32::try_from(n).ok());
    let (state, last) = (&before["state"], &before["lastState"]["terminated"]);
    let ended = if state["running"].is_object() {
        Ended {
            code: 137,
            signal: None,
            reason: "ContainerStatusUnknown".into(),
            message: "the container ran when it was last looked at, and nothing is left of it".into(),
            started: time(&state["running"]["startedAt"]),
            finished: base::clock::now(),
        }
    } else {
        let end = [&state["terminated"], last].into_iter().find(|t| t.is_object())?;
        Ended {
            code: number(&end["exitCode"])?,
            signal: number(&end["signal"]),
            reason: text(&end["reason"]),
            message: text(&end["message"]),
            started: time(&end["startedAt"]),
            finished: time(&end["finishedAt"]),
        }
    };
    Some(Run {
        id: id.to_owned(),
        attempt: number(&before["restartCount"]).map_or(0, i32::unsigned_abs),
        image: text(&before["image"]),
        image_id: text(&before["imageID"]),
        sandbox: String::new(),
        phase: RunPhase::Exited(ended),
    })
}

/// Whether a container was last reported to wait for the run after this one.
pub fn was_waiting(pod: &Pod, name: &str, id: &str) -> bool {
    let before = of_container(pod.object.status(), name);
    let of = before["containerID"].as_str().and_then(|of| of.strip_prefix(ID_SCHEME));
    of == Some(id) && before["state"]["waiting"].is_object()
}

fn of_container<'a>(status: &'a Value, name: &str) -> &'a Value {
    let lists = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    let all = lists.into_iter().filter_map(|list| status[list].as_array()).flatten();
    all.into_iter().find(|c| c["name"] == name).unwrap_or(&Value::Null)
}

fn condition<'a>(status: &'a Value, kind: &str) -> &'a Value {
    let list = status["conditions"].as_array();
    list.and_then(|l| l.iter().find(|c| c["type"] == kind)).unwrap_or(&Value::Null)
}

/// The whole of `status`. `sent` is what was reported last: times of conditions that did not change are kept.
pub fn status(pod: &Pod, state: &PodState, sent: &Value, host_ips: &[IpAddr], now: Timestamp) -> Value {
    let phase = phase(pod, state);
    let finished = matches!(phase, "Succeeded" | "Failed");
    let mut out = Map::new();
    out.insert("phase".into(), phase.into());
    if let Some((reason, message)) = &state.failed {
        out.insert("reason".into(), reason.as_str().into());
        out.insert("message".into(), message.as_str().into());
    }
    out.insert("conditions".into(), conditions(pod, state, phase, sent, now));
    if let Some(ip) = host_ips.first() {
        out.insert("hostIP".into(), ip.to_string().into());
        out.insert("hostIPs".into(), host_ips.iter().map(|ip| json!({"ip": ip.to_string()})).collect());
    }
    // The address stays in the status after the sandbox is gone, as people look for it in logs.
    let ips: Vec<Value> = match state.ready_sandbox() {
        Some(sandbox) => sandbox.ips.iter().map(|ip| json!({"ip": ip.to_string()})).collect(),
        None if finished || pod.deleting || matches!(state.sandbox, SandboxState::Gone(_)) => {
            sent["podIPs"].as_array().cloned().unwrap_or_default()
        }
        None => Vec::new(),
    };
    if let Some(first) = ips.first() {
        out.insert("podIP".into(), first["ip"].clone());
        out.insert("podIPs".into(), Value::Array(ips));
    }
    if let Some(time) = state.start_time {
        out.insert("startTime".into(), meta::time(time).into());
    }
    out.insert("qosClass".into(), qos::class(pod).name().into());
    // Of a pod that was refused there is nothing more to say than why, which clients show then.
    if state.failed.is_some() && state.containers.values().all(|c| *c == ContainerState::default()) {
        return Value::Object(out);
    }
    let begun = initialized(pod, state);
    let list = |containers: &[Container], init: bool| -> Value {
        containers.iter().map(|c| container(pod, state, c, init, begun, sent)).collect()
    };
    let spec = &pod.spec;
    if !spec.init_containers.is_empty() {
        out.insert("initContainerStatuses".into(), list(&spec.init_containers, true));
    }
    out.insert("containerStatuses".into(), list(&spec.containers, false));
    if !spec.ephemeral_containers.is_empty() {
        out.insert("ephemeralContainerStatuses".into(), list(&spec.ephemeral_containers, false));
    }
    Value::Object(out)
}

/// `status.phase`
pub fn phase(pod: &Pod, state: &PodState) -> &'static str {
    match pod.phase.as_str() {
        "Succeeded" => return "Succeeded",
        "Failed" => return "Failed",
        _ => {}
    }
    let quiet = state.containers.values().all(ContainerState::is_quiet);
    if state.failed.is_some() {
        return "Failed";
    }
    match verdict(pod, state) {
        Verdict::Succeeded if quiet => return "Succeeded",
        Verdict::Failed if quiet => return "Failed",
        _ => {}
    }
    // A pod that was stopped because it was deleted has come to its end too.
    if pod.deleting && quiet && state.clean {
        let all: Option<Vec<i32>> =
            pod.spec.containers.iter().map(|c| state.of(&c.name).ended().map(|e| e.code)).collect();
        return match all {
            Some(codes) if codes.iter().all(|c| *c == 0) => "Succeeded",
            _ => "Failed",
        };
    }
    let run = pod.spec.containers.iter().all(|c| state.of(&c.name).run.is_some());
    if run { "Running" } else { "Pending" }
}

/// Whether the init containers are done.
fn initialized(pod: &Pod, state: &PodState) -> bool {
    incomplete(pod, state).is_empty()
}

fn incomplete<'a>(pod: &'a Pod, state: &PodState) -> Vec<&'a str> {
    if pod.spec.containers.iter().any(|c| state.of(&c.name).run.is_some()) {
        return Vec::new();
    }
    let done = |c: &Container| {
        let s = state.of(&c.name);
        if c.is_sidecar() {
            s.running().is_some() && s.started
        } else {
            s.ended().is_some_and(|e| e.code == 0)
        }
    };
    pod.spec.init_containers.iter().filter(|c| !done(c)).map(|c| c.name.as_str()).collect()
}

fn conditions(pod: &Pod, state: &PodState, phase: &str, sent: &Value, now: Timestamp) -> Value {
    let finished = match phase {
        "Succeeded" => Some("PodCompleted"),
        "Failed" => Some("PodFailed"),
        _ => None,
    };
    let unready: Vec<&str> = {
        let sidecars = pod.spec.init_containers.iter().filter(|c| c.is_sidecar());
        sidecars
            .chain(&pod.spec.containers)
            .filter(|c| !is_ready(state, c))
            .map(|c| c.name.as_str())
            .collect()
    };
    let names = |list: &[&str]| format!("[{}]", list.join(" "));
    let no = |reason: &str, message: String| (false, reason.to_owned(), message);
    let yes = || (true, String::new(), String::new());
    let init = match incomplete(pod, state) {
        _ if finished == Some("PodCompleted") => (true, "PodCompleted".into(), String::new()),
        list if list.is_empty() => yes(),
        list => {
            no("ContainersNotInitialized", format!("containers with incomplete status: {}", names(&list)))
        }
    };
    let containers = match finished {
        Some(reason) => no(reason, String::new()),
        None if unready.is_empty() => yes(),
        None => no("ContainersNotReady", format!("containers with unready status: {}", names(&unready))),
    };
    let existing = pod.object.status()["conditions"].as_array().cloned().unwrap_or_default();
    let gate = |name: &str| existing.iter().any(|c| c["type"] == name && c["status"] == "True");
    let gates: Vec<String> = pod
        .spec
        .readiness_gates
        .iter()
        .filter(|g| !gate(&g.condition_type))
        .map(|g| {
            format!("the status of pod readiness gate \"{}\" is not \"True\", but False", g.condition_type)
        })
        .collect();
    let ready = if !containers.0 {
        containers.clone()
    } else if gates.is_empty() {
        yes()
    } else {
        no("ReadinessGatesNotReady", gates.join(", "))
    };
    let sandbox = matches!(state.sandbox, SandboxState::Ready(_));
    let own = [
        ("PodReadyToStartContainers", (sandbox, String::new(), String::new())),
        ("Initialized", init),
        ("Ready", ready),
        ("ContainersReady", containers),
        ("PodScheduled", yes()),
    ];
    let before = |kind: &str| {
        let find = |list: &[Value]| list.iter().find(|c| c["type"] == kind).cloned();
        sent["conditions"].as_array().and_then(|l| find(l)).or_else(|| find(&existing))
    };
    let own = own.into_iter().map(|(kind, (status, reason, message))| {
        let status = if status { "True" } else { "False" };
        let since = match before(kind) {
            Some(c) if c["status"] == status && c["lastTransitionTime"].is_string() => {
                c["lastTransitionTime"].clone()
            }
            _ => meta::time(now).into(),
        };
        let mut c =
            json!({"type": kind, "status": status, "lastProbeTime": null, "lastTransitionTime": since});
        if !reason.is_empty() {
            c["reason"] = reason.into();
        }
        if !message.is_empty() {
            c["message"] = message.into();
        }
        c
    });
    let foreign = existing.iter().filter(|c| !OWN.contains(&c["type"].as_str().unwrap_or_default())).cloned();
    own.chain(foreign).collect()
}

fn is_ready(state: &PodState, c: &Container) -> bool {
    let s = state.of(&c.name);
    s.running().is_some() && s.started && s.ready
}

fn container(pod: &Pod, state: &PodState, c: &Container, init: bool, begun: bool, sent: &Value) -> Value {
    let s = state.of(&c.name);
    let over = pod.deleting || pod.is_terminal() || state.failed.is_some();
    let waiting = |reason: &str, message: &str| {
        let mut w = json!({"reason": reason});
        if !message.is_empty() {
            w["message"] = message.into();
        }
        json!({"waiting": w})
    };
    let trouble = || match (&s.trouble, &s.image) {
        (Some(t), _) => Some(waiting(t.reason, &t.message)),
        (_, ImageState::Failed { reason, message, .. }) => Some(waiting(reason, message)),
        _ => None,
    };
    let (now, last) = match s.run.as_ref().map(|r| (r, &r.phase)) {
        Some((_, RunPhase::Running { started })) => {
            (json!({"running": {"startedAt": meta::time(*started)}}), s.last.as_ref())
        }
        Some((run, RunPhase::Exited(ended))) => {
            let again = !over && (s.replaced || pod.spec.restarts(c, ended.code));
            let wait = if !again {
                None
            } else if s.replaced {
                Some(trouble().unwrap_or_else(|| waiting("ContainerCreating", "")))
            } else if s.backoff.is_some() {
                let message = format!(
                    "back-off {} restarting failed container={} pod={}_{}({})",
                    go_duration(s.backoff_delay),
                    c.name,
                    pod.name,
                    pod.namespace,
                    pod.uid
                );
                Some(waiting("CrashLoopBackOff", &message))
            } else {
                trouble()
            };
            match wait {
                Some(wait) => (wait, Some(run)),
                None => (terminated(run, ended), s.last.as_ref()),
            }
        }
        None => {
            let reason = if init || !begun && !pod.spec.init_containers.is_empty() {
                "PodInitializing"
            } else {
                "ContainerCreating"
            };
            (trouble().unwrap_or_else(|| waiting(reason, "")), None)
        }
    };
    // An end that the policy makes final stands, also while an init container does its work again in another sandbox: the
    // API server takes nothing else.
    let before = of_container(sent, &c.name);
    let code = before["state"]["terminated"]["exitCode"].as_i64().and_then(|code| i32::try_from(code).ok());
    if code.is_some_and(|code| !pod.spec.may_restart(c, code)) && now["terminated"].is_null() {
        return before.clone();
    }
    let last_state = match last.map(|r| (r, &r.phase)) {
        Some((run, RunPhase::Exited(ended))) => terminated(run, ended),
        _ => json!({}),
    };
    let ready =
        if init && !c.is_sidecar() { s.ended().is_some_and(|e| e.code == 0) } else { is_ready(state, c) };
    let run = s.run.as_ref();
    let mut out = json!({
        "name": c.name,
        "state": now,
        "lastState": last_state,
        "ready": ready,
        "started": s.running().is_some() && s.started,
        "restartCount": s.restarts(),
        "image": run.map_or(c.image.as_str(), |r| r.image.as_str()),
        "imageID": run.map(|r| r.image_id.as_str()).unwrap_or_default(),
    });
    if let Some(run) = run {
        out["containerID"] = format!("{ID_SCHEME}{}", run.id).into();
    }
    out
}

fn terminated(run: &Run, ended: &Ended) -> Value {
    let mut t = json!({
        "exitCode": ended.code,
        "reason": ended.reason,
        "startedAt": meta::time(ended.started),
        "finishedAt": meta::time(ended.finished),
        "containerID": format!("{ID_SCHEME}{}", run.id),
    });
    if let Some(signal) = ended.signal {
        t["signal"] = signal.into();
    }
    if !ended.message.is_empty() {
        t["message"] = ended.message.as_str().into();
    }
    json!({"terminated": t})
}

/// A duration as Go prints it: `10s`, `1m20s`, `5m0s`.
pub fn go_duration(d: std::time::Duration) -> String {
    let s = d.as_secs();
    if s < 60 { format!("{s}s") } else { format!("{}m{}s", s / 60, s % 60) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::super::state::{ReadySandbox, VolumesState};
    use super::*;
    use crate::view::tests::pod;

    const T: Timestamp = Timestamp::UNIX_EPOCH;

    fn ready() -> PodState {
        PodState {
            sandbox: SandboxState::Ready(ReadySandbox {
                id: "s".into(),
                pid: 1,
                ips: vec!["10.244.0.2".parse().unwrap()],
            }),
            volumes: VolumesState::Ready,
            start_time: Some(T),
            ..PodState::default()
        }
    }

    fn run(attempt: u32, phase: RunPhase) -> Option<Run> {
        Some(Run {
            id: format!("c{attempt}"),
            attempt,
            image: "i".into(),
            image_id: "sha256:1".into(),
            sandbox: "s".into(),
            phase,
        })
    }

    fn exit(code: i32) -> RunPhase {
        let reason = if code == 0 { "Completed" } else { "Error" };
        RunPhase::Exited(Ended {
            code,
            signal: None,
            reason: reason.into(),
            message: String::new(),
            started: T,
            finished: T,
        })
    }

    fn running() -> ContainerState {
        ContainerState {
            run: run(0, RunPhase::Running { started: T }),
            started: true,
            ready: true,
            ..Default::default()
        }
    }

    fn of(spec: Value, containers: &[(&str, ContainerState)]) -> Value {
        let mut state = ready();
        state.containers = containers.iter().map(|(n, c)| (n.to_string(), c.clone())).collect();
        status(&pod(spec), &state, &Value::Null, &["10.0.0.1".parse().unwrap()], T)
    }

    fn condition<'a>(status: &'a Value, kind: &str) -> &'a Value {
        status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == kind).unwrap()
    }

    #[test]
    fn a_running_pod() {
        let got = of(json!({"containers": [{"name": "a", "image": "i:1"}]}), &[("a", running())]);
        assert_eq!(got["phase"], "Running");
        assert_eq!(got["podIP"], "10.244.0.2");
        assert_eq!(got["hostIP"], "10.0.0.1");
        assert_eq!(condition(&got, "Ready")["status"], "True");
        let c = &got["containerStatuses"][0];
        assert_eq!(
            (&c["ready"], &c["restartCount"], &c["containerID"]),
            (&json!(true), &json!(0), &json!("tug://c0"))
        );
        assert_eq!(c["state"]["running"]["startedAt"], "1970-01-01T00:00:00Z");
    }

    #[test]
    fn waiting_and_why() {
        let spec = json!({"containers": [{"name": "a"}]});
        let reason = |c: ContainerState| {
            of(spec.clone(), &[("a", c)])["containerStatuses"][0]["state"]["waiting"]["reason"].clone()
        };
        assert_eq!(reason(ContainerState::default()), "ContainerCreating");
        let failed =
            ImageState::Failed { reason: "ErrImagePull", message: "m".into(), until: Instant::now() };
        assert_eq!(reason(ContainerState { image: failed, ..Default::default() }), "ErrImagePull");
        let loops = ContainerState {
            run: run(3, exit(1)),
            backoff: Some(Instant::now()),
            backoff_delay: Duration::from_secs(80),
            ..Default::default()
        };
        let got = of(spec.clone(), &[("a", loops)]);
        let c = &got["containerStatuses"][0];
        assert_eq!(got["phase"], "Running");
        assert_eq!(c["state"]["waiting"]["reason"], "CrashLoopBackOff");
        assert!(
            c["state"]["waiting"]["message"]
                .as_str()
                .unwrap()
                .starts_with("back-off 1m20s restarting failed container=a pod=p_ns(")
        );
        assert_eq!(c["lastState"]["terminated"]["exitCode"], 1);
        assert_eq!(c["restartCount"], 3);
        let init = of(json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}), &[]);
        assert_eq!(init["phase"], "Pending");
        assert_eq!(init["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");
        assert_eq!(condition(&init, "Initialized")["message"], "containers with incomplete status: [i]");
    }

    #[test]
    fn ends() {
        let done = |code| ContainerState { run: run(0, exit(code)), ..Default::default() };
        let got = of(json!({"restartPolicy": "Never", "containers": [{"name": "a"}]}), &[("a", done(0))]);
        assert_eq!(got["phase"], "Succeeded");
        assert_eq!(condition(&got, "Ready")["reason"], "PodCompleted");
        assert_eq!(got["containerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
        let got = of(json!({"restartPolicy": "Never", "containers": [{"name": "a"}]}), &[("a", done(3))]);
        assert_eq!(
            (&got["phase"], condition(&got, "Ready")["reason"].as_str()),
            (&json!("Failed"), Some("PodFailed"))
        );
    }

    #[test]
    fn a_refused_pod_has_no_containers() {
        let mut state = PodState { failed: Some(("NodePorts".into(), "m".into())), ..PodState::default() };
        let p = pod(json!({"containers": [{"name": "a"}]}));
        let got = status(&p, &state, &Value::Null, &[], T);
        assert_eq!((&got["phase"], &got["reason"]), (&json!("Failed"), &json!("NodePorts")));
        assert!(got["containerStatuses"].is_null(), "{got}");
        state.containers.insert("a".into(), ContainerState { run: run(0, exit(1)), ..Default::default() });
        assert!(status(&p, &state, &Value::Null, &[], T)["containerStatuses"].is_array());
    }

    #[test]
    fn the_class_is_the_one_that_was_given() {
        let spec = json!({"containers": [{"name": "a"}]});
        assert_eq!(of(spec.clone(), &[])["qosClass"], "BestEffort");
        let mut given = pod(spec).object.value().clone();
        given["status"] = json!({"qosClass": "Burstable"});
        let given = Pod::of(&api::Object::from_value(given)).unwrap();
        assert_eq!(status(&given, &ready(), &Value::Null, &[], T)["qosClass"], "Burstable");
    }

    #[test]
    fn times_of_conditions_stay_until_they_change() {
        let p = pod(json!({"containers": [{"name": "a"}]}));
        let mut state = ready();
        let first = status(&p, &state, &Value::Null, &[], T);
        let later: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let second = status(&p, &state, &first, &[], later);
        assert_eq!(first, second);
        state.containers.insert("a".into(), running());
        let third = status(&p, &state, &second, &[], later);
        assert_eq!(condition(&third, "Ready")["lastTransitionTime"], "2026-01-01T00:00:00Z");
        assert_eq!(condition(&third, "Initialized")["lastTransitionTime"], "1970-01-01T00:00:00Z");
    }

    #[test]
    fn durations() {
        for (s, want) in [(10, "10s"), (80, "1m20s"), (300, "5m0s")] {
            assert_eq!(go_duration(Duration::from_secs(s)), want);
        }
    }
}
