//! The steps of a pod's life that take time. Each runs beside the worker and ends in one message to it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use std::sync::Arc;

use client::{DeleteOptions, gvr};
use ipnet::IpNet;
use network::{AttachSpec, PortMapping, Proto};
use runtime::{Exit, SandboxSpec};
use tokio::sync::watch;
use tokio::time::Instant;

use super::state::{Ended, ReadySandbox, Run, RunPhase, Trouble};
use super::worker::Message;
use crate::context::Context;
use crate::handler::{self, Outcome, Target};
use crate::spec::{self, annotation, label};
use crate::view::{Handler, Pod};
use crate::volumes::{self, Source};
use crate::{env, pulls, resolv};

/// When to try again to make a container that could not be made.
const RETRY: Duration = Duration::from_secs(10);
/// The same for calls to the API server.
const API_RETRY: Duration = Duration::from_secs(1);
/// The longest termination message, in bytes, as upstream has it.
const MAX_MESSAGE: usize = 4096;
/// The handlers of RuntimeClasses that the node's one runtime answers to.
const HANDLERS: [&str; 2] = ["runc", "tug"];
/// What a failed container's log may add to it: lines and bytes.
const MESSAGE_LINES: u64 = 80;
const MESSAGE_LOG: usize = 2048;

pub async fn volumes(context: Arc<Context>, pod: Pod, fresh: bool) -> Message {
    Message::Volumes(volumes::prepare(&context, &pod, fresh).await)
}

pub async fn image(context: Arc<Context>, pod: Pod, name: String) -> Message {
    let Some(container) = pod.spec.container(&name) else {
        return Message::Image(name, String::new(), super::state::ImageState::Unknown);
    };
    let state = pulls::ensure(&context, &pod, container).await;
    Message::Image(name, container.image.clone(), state)
}

/// Namespaces, address, interface, host ports.
pub async fn sandbox(context: Arc<Context>, pod: Pod) -> Message {
    let id = base::rng::hex(32);
    let result = make_sandbox(&context, &pod, &id).await;
    if result.is_err() {
        release(&context, &pod);
        if let Err(error) = context.options.runtime.sandbox_delete(&id).await {
            tracing::warn!(pod = pod.title(), %error, "half a sandbox is left");
        }
    }
    Message::Sandbox(result)
}

async fn make_sandbox(context: &Context, pod: &Pod, id: &str) -> Result<ReadySandbox, String> {
    let spec = &pod.spec;
    check_handler(context, pod).await?;
    let network = context.network.get().ok_or("the node has no pod network yet")?;
    let ips = if spec.host_network {
        context.host_ips()
    } else {
        vec![network.ipam.allocate(&pod.uid, None).map_err(|e| e.to_string())?]
    };
    let sandbox = SandboxSpec {
        id: id.to_owned(),
        hostname: pod.hostname(),
        host_network: spec.host_network,
        host_pid: spec.host_pid,
        host_ipc: spec.host_ipc,
        share_pid: spec.share_process_namespace,
        sysctls: spec.security_context.sysctls.iter().map(|s| (s.name.clone(), s.value.clone())).collect(),
        cgroup: spec::pod_cgroup(pod, &context.options.instance.cgroup_parent()),
        annotations: [
            (label::POD, pod.name.clone()),
            (label::NAMESPACE, pod.namespace.clone()),
            (label::UID, pod.uid.clone()),
            (annotation::IPS, ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",")),
        ]
        .map(|(k, v)| (k.to_owned(), v))
        .into(),
    };
    let (made, files) =
        tokio::join!(context.options.runtime.sandbox_create(&sandbox), etc(context, pod, ips.clone()));
    let made = made.map_err(|e| e.to_string())?;
    files?;
    if !spec.host_network {
        let attach = AttachSpec {
            netns: made.netns.clone(),
            bridge: context.options.instance.link("p"),
            ifname: "eth0".into(),
            addresses: ips
                .iter()
                .filter_map(|ip| IpNet::new(*ip, network.gateway.prefix_len()).ok())
                .collect(),
            gateway: Some(network.gateway.addr()),
            ..AttachSpec::default()
        };
        context.options.network.attach(&attach).await.map_err(|e| e.to_string())?;
        let ports = host_ports(pod, &ips);
        if !ports.is_empty() {
            context.options.network.ports().publish(&owner(pod), &ports).map_err(|e| e.to_string())?;
        }
    }
    fs::create_dir_all(context.volatile(&pod.uid))
        .and_then(|()| base::fsx::write_volatile(&context.sandbox_mark(&pod.uid), id.as_bytes(), 0o644))
        .map_err(|e| e.to_string())?;
    Ok(ReadySandbox { id: id.to_owned(), pid: made.pid, ips })
}

/// A pod of a class that another runtime is meant for is not run without what that one would give it.
async fn check_handler(context: &Context, pod: &Pod) -> Result<(), String> {
    let Some(name) = pod.spec.runtime_class_name.as_deref().filter(|name| !name.is_empty()) else {
        return Ok(());
    };
    let class = context.client.get(&gvr::RUNTIME_CLASSES, "", name).await;
    let class = class.map_err(|e| format!("spec.runtimeClassName: {e}"))?;
    match class.value()["handler"].as_str().unwrap_or_default() {
        handler if HANDLERS.contains(&handler) => Ok(()),
        handler => Err(format!(
            "failed to get sandbox runtime: no runtime for {handler:?} is configured; this node has {}: change \
             the handler of RuntimeClass {name}, or leave spec.runtimeClassName out",
            HANDLERS.join(" and "),
        )),
    }
}

fn host_ports(pod: &Pod, ips: &[IpAddr]) -> Vec<PortMapping> {
    let Some(container_ip) = ips.first().copied() else { return Vec::new() };
    pod.spec
        .host_ports()
        .map(|p| PortMapping {
            proto: p.protocol.parse().unwrap_or(Proto::Tcp),
            host_ip: p.host_ip.parse().unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)),
            host_port: p.host_port,
            container_ip,
            container_port: p.container_port,
        })
        .collect()
}

/// The files that tell the pod its names.
async fn etc(context: &Context, pod: &Pod, ips: Vec<IpAddr>) -> Result<(), String> {
    let dir = context.durable(&pod.uid).join("etc");
    let domain = context.options.instance.cluster_domain.clone();
    let host = context.host_resolv_conf();
    let resolv = resolv::resolv_conf(pod, &domain, context.options.dns, &host);
    let hosts = resolv::hosts(pod, &domain, &ips, &fs::read_to_string("/etc/hosts").unwrap_or_default());
    let hostname = format!("{}\n", pod.hostname());
    let work = move || -> io::Result<()> {
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("resolv.conf"), resolv)?;
        fs::write(dir.join("hosts"), hosts)?;
        fs::write(dir.join("hostname"), hostname)
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(e) => Err(e.to_string()),
    }
}

/// What a start needs to know.
pub struct Plan {
    pub name: String,
    pub attempt: u32,
    pub image: String,
    pub sandbox: ReadySandbox,
    pub volumes: BTreeMap<String, Source>,
    /// A run that is no longer of interest.
    pub old: Option<String>,
}

/// Makes a run and starts it.
pub async fn start(context: Arc<Context>, pod: Pod, plan: Plan) -> Message {
    if let Some(old) = &plan.old
        && let Err(error) = discard(&context, old).await
    {
        tracing::warn!(container = old, error, "an old run could not be removed");
    }
    let id = base::rng::hex(32);
    let result = run(&context, &pod, &plan, &id).await;
    if let Err(trouble) = &result {
        let field = pod.spec.field_path(&plan.name);
        context.recorder.event_at(
            &pod.object,
            &field,
            "Warning",
            "Failed",
            format!("Error: {}", trouble.message),
        );
        if let Err(error) = discard(&context, &id).await {
            tracing::warn!(container = id, error, "half a container is left");
        }
    }
    Message::Started(plan.name, result)
}

async fn run(context: &Context, pod: &Pod, plan: &Plan, id: &str) -> Result<Run, Trouble> {
    let trouble =
        |reason: &'static str, message: String| Trouble { reason, message, until: Instant::now() + RETRY };
    let config = |message: String| trouble("CreateContainerConfigError", message);
    let create = |message: String| trouble("CreateContainerError", message);
    let container =
        pod.spec.container(&plan.name).ok_or_else(|| config(format!("no container {}", plan.name)))?;
    let options = &context.options;
    let facts = context.facts(&plan.sandbox.ips);
    let env = env::environment(pod, container, &facts, &context.sources(&pod.namespace)).map_err(config)?;
    let image = options.images.get(&plan.image).map_err(|e| create(e.to_string()))?;
    let snapshot =
        options.images.prepare(&snapshot_key(id), &image).await.map_err(|e| create(e.to_string()))?;
    let durable = context.durable(&pod.uid);
    let message = durable.join("messages").join(&plan.name).join(plan.attempt.to_string());
    let log = context.log_path(&pod.uid, &plan.name, plan.attempt);
    touch(&message, &log).map_err(|e| create(e.to_string()))?;
    let spec = spec::container(spec::Input {
        pod,
        container,
        id,
        attempt: plan.attempt,
        image: &image,
        snapshot,
        sandbox: &plan.sandbox,
        env,
        volumes: &plan.volumes,
        etc: &durable.join("etc"),
        message: &message,
        log,
        cgroup_parent: &options.instance.cgroup_parent(),
        memory: context.machine.memory as u64,
        seccomp_root: &options.instance.data_dir.join("kubelet/seccomp"),
    })
    .map_err(config)?;
    let field = pod.spec.field_path(&plan.name);
    let event =
        |reason: &str, text: String| context.recorder.event_at(&pod.object, &field, "Normal", reason, text);
    options.runtime.create(&spec).await.map_err(|e| create(e.to_string()))?;
    event("Created", format!("Created container: {}", plan.name));
    let started = options.runtime.start(id).await;
    let now = base::clock::now();
    let phase = match started {
        Ok(()) => {
            event("Started", format!("Started container {}", plan.name));
            RunPhase::Running { started: now }
        }
        Err(error) => {
            let text = format!("failed to start container \"{}\": {error}", plan.name);
            context.recorder.event_at(&pod.object, &field, "Warning", "Failed", format!("Error: {text}"));
            let code = match &error {
                runtime::Error::Exec { kind: runtime::ExecErrorKind::NotFound, .. } => 127,
                runtime::Error::Exec { kind: runtime::ExecErrorKind::NotExecutable, .. } => 126,
                _ => 128,
            };
            RunPhase::Exited(Ended {
                code,
                signal: None,
                reason: "StartError".into(),
                message: text,
                started: now,
                finished: now,
            })
        }
    };
    Ok(Run {
        id: id.to_owned(),
        attempt: plan.attempt,
        image: container.image.clone(),
        image_id: image.id.clone(),
        sandbox: plan.sandbox.id.clone(),
        phase,
    })
}

fn touch(message: &Path, log: &Path) -> io::Result<()> {
    for path in [message, log] {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
    }
    fs::write(message, b"")?;
    // Containers of any user may say why they ended.
    fs::set_permissions(message, std::os::unix::fs::PermissionsExt::from_mode(0o666))
}

pub async fn post_start(
    context: Arc<Context>,
    pod: Pod,
    name: String,
    id: String,
    ip: IpAddr,
    hook: Handler,
) -> Message {
    let container = pod.spec.container(&name).cloned().unwrap_or_default();
    let target = Target {
        runtime: &context.options.runtime,
        id: &id,
        container: &container,
        ip,
        agent: "kube-lifecycle",
    };
    // A hook has all the time it wants; the container counts as started when it is over.
    let outcome = handler::run(&target, &hook, Duration::from_secs(u64::from(u32::MAX))).await;
    let good = match outcome {
        Outcome::Success(_) => true,
        Outcome::Failure(why) => {
            let field = pod.spec.field_path(&name);
            context.recorder.event_at(
                &pod.object,
                &field,
                "Warning",
                "FailedPostStartHook",
                format!("PostStartHook failed: {why}"),
            );
            false
        }
    };
    Message::Hooked(name, id, good)
}

/// The pre-stop hook, the stop signal, and when the time is up, the end.
pub async fn stop(
    context: Arc<Context>,
    pod: Pod,
    name: String,
    id: String,
    ip: IpAddr,
    grace: i64,
    mut limit: watch::Receiver<i64>,
) -> Message {
    let runtime = &context.options.runtime;
    let container = pod.spec.container(&name).cloned().unwrap_or_default();
    let began = Instant::now();
    let polite = async {
        if let Some(hook) = &container.lifecycle.pre_stop
            && grace > 0
        {
            let target = Target { runtime, id: &id, container: &container, ip, agent: "kube-lifecycle" };
            let outcome = handler::run(&target, hook, Duration::from_secs(grace as u64)).await;
            if let Outcome::Failure(why) = outcome {
                let field = pod.spec.field_path(&name);
                context.recorder.event_at(
                    &pod.object,
                    &field,
                    "Warning",
                    "FailedPreStopHook",
                    format!("PreStopHook failed: {why}"),
                );
            }
        }
        if grace > 0 {
            let signal = stop_signal(&context, &container, &id).await;
            if let Err(error) = runtime.signal(&id, signal, false).await {
                tracing::debug!(container = id, %error, "the stop signal did not arrive");
            }
            let _ = runtime.wait(&id).await;
        }
    };
    let out_of_time = async {
        loop {
            let allowed = grace.min(*limit.borrow_and_update());
            let end = base::clock::later(began, Duration::from_secs(allowed.max(0) as u64));
            tokio::select! {
                // The grace period itself is a timer by definition.
                () = tokio::time::sleep_until(end) => return,
                changed = limit.changed() => if changed.is_err() { return },
            }
        }
    };
    tokio::select! {
        () = polite => {}
        () = out_of_time => {}
    }
    // Everything in its cgroup, and the first process by itself, with which its pid namespace ends: where the machine
    // lacks cgroups the second is all there is.
    for all in [true, false] {
        if let Err(error) = runtime.signal(&id, 9, all).await {
            tracing::debug!(container = id, %error, "nothing was left to kill");
        }
    }
    let ended = runtime.wait(&id).await.is_ok();
    Message::Stopped(name, id, ended)
}

async fn stop_signal(context: &Context, container: &crate::view::Container, id: &str) -> i32 {
    const SIGTERM: i32 = 15;
    let named = container.lifecycle.stop_signal.clone();
    let of_image = || async {
        let state = context.options.runtime.state(id).await.ok()?;
        let image = context.options.images.get(state.spec.annotations.get(annotation::IMAGE)?).ok()?;
        Some(image.run_config().stop_signal.clone()).filter(|s| !s.is_empty())
    };
    let name = match named {
        Some(name) => Some(name),
        None => of_image().await,
    };
    name.and_then(|n| signal_number(&n)).unwrap_or(SIGTERM)
}

/// `SIGTERM`, `TERM` or `15`.
fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    full.parse::<nix::sys::signal::Signal>().ok().map(|s| s as i32)
}

/// Completes the record of how a run ended.
pub async fn ended(context: Arc<Context>, name: String, id: String, exit: Exit) -> Message {
    let state = context.options.runtime.state(&id).await.ok();
    let started = state.as_ref().and_then(|s| s.started_at).unwrap_or(exit.at);
    let (path, fallback) = match &state {
        Some(state) => {
            let of = |key: &str| state.spec.annotations.get(key).cloned().unwrap_or_default();
            let fallback = of(annotation::MESSAGE_POLICY) == "FallbackToLogsOnError" && exit.code != 0;
            (of(annotation::MESSAGE_PATH), fallback)
        }
        None => Default::default(),
    };
    let mut message = last_words(&path);
    if message.is_empty()
        && fallback
        && let Some(state) = &state
    {
        message = log_tail(&state.spec.io.log).await;
    }
    Message::Ended(name, id, describe(&exit, started, message))
}

/// How a run ended, in the API's words.
pub fn describe(exit: &Exit, started: jiff::Timestamp, message: String) -> Ended {
    let reason = match exit.code {
        _ if exit.oom_killed => "OOMKilled",
        0 => "Completed",
        _ => "Error",
    };
    Ended { code: exit.code, signal: exit.signal, reason: reason.into(), message, started, finished: exit.at }
}

/// The termination message that a container has left.
pub fn last_words(path: &str) -> String {
    let end = || -> std::io::Result<Vec<u8>> {
        let mut file = fs::File::open(path)?;
        // The container decides how long it is: no more than the end is read.
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(MAX_MESSAGE as u64)))?;
        let mut data = Vec::new();
        file.take(MAX_MESSAGE as u64).read_to_end(&mut data)?;
        Ok(data)
    };
    let data = if path.is_empty() { Vec::new() } else { end().unwrap_or_default() };
    String::from_utf8_lossy(&data).into_owned()
}

async fn log_tail(log: &runtime::LogSpec) -> String {
    use futures::StreamExt;
    let options = runtime::logs::ReadOptions { tail: Some(MESSAGE_LINES), ..Default::default() };
    let lines = runtime::logs::read(log, options, std::future::ready(()));
    let lines: Vec<_> = lines.filter_map(|l| std::future::ready(l.ok())).collect().await;
    let text: Vec<u8> = lines.iter().flat_map(|l| l.line.to_vec()).collect();
    let start = text.len().saturating_sub(MESSAGE_LOG);
    String::from_utf8_lossy(&text[start..]).into_owned()
}

/// Takes down what the pod has on the node. With `keep` its folder stays, with the logs.
pub async fn tear_down(
    context: Arc<Context>,
    pod: Pod,
    sandbox: Option<String>,
    runs: Vec<String>,
    keep: bool,
) -> Message {
    let result = try_tear_down(&context, &pod, sandbox.as_deref(), runs, keep).await;
    Message::TornDown(keep, sandbox, result)
}

/// Removes what is left of a sandbox that has ended, and of its network.
pub async fn drop_sandbox(context: Arc<Context>, pod: Pod, id: String) -> Message {
    let result = context.options.runtime.sandbox_delete(&id).await.map_err(|e| e.to_string());
    if result.is_ok() {
        release(&context, &pod);
    }
    Message::SandboxDropped(id, result)
}

async fn try_tear_down(
    context: &Context,
    pod: &Pod,
    sandbox: Option<&str>,
    runs: Vec<String>,
    keep: bool,
) -> Result<(), String> {
    for id in &runs {
        discard(context, id).await?;
    }
    let runtime = &context.options.runtime;
    // One that has ended is not among those that are listed.
    if let Some(id) = sandbox {
        runtime.sandbox_delete(id).await.map_err(|e| e.to_string())?;
    }
    for sandbox in runtime.sandboxes().await.map_err(|e| e.to_string())? {
        let Ok(spec) = runtime.sandbox_spec(&sandbox.id).await else { continue };
        if spec.annotations.get(label::UID) == Some(&pod.uid) {
            runtime.sandbox_delete(&sandbox.id).await.map_err(|e| e.to_string())?;
        }
    }
    release(context, pod);
    if keep {
        return Ok(());
    }
    let (volatile, durable) = (context.volatile(&pod.uid), context.durable(&pod.uid));
    match tokio::task::spawn_blocking(move || volumes::remove(&volatile, &durable)).await {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(e) => Err(e.to_string()),
    }
}

/// Who a pod's host ports belong to.
fn owner(pod: &Pod) -> String {
    format!("pod:{}", pod.uid)
}

/// Gives back the pod's address and ports. Its interface goes with its namespace.
fn release(context: &Context, pod: &Pod) {
    if let Err(error) = context.options.network.ports().unpublish(&owner(pod)) {
        tracing::warn!(pod = pod.title(), %error, "host ports could not be released");
    }
    if let Some(network) = context.network.get() {
        network.ipam.release(&pod.uid);
    }
}

/// What the keys of pods' writable layers begin with; the engine has those without it.
pub const SNAPSHOT_PREFIX: &str = "pod-";

/// The key of a run's writable layer.
fn snapshot_key(id: &str) -> String {
    format!("{SNAPSHOT_PREFIX}{id}")
}

/// Removes a run and its writable layer.
async fn discard(context: &Context, id: &str) -> Result<(), String> {
    context.options.runtime.delete(id, true).await.map_err(|e| e.to_string())?;
    context.options.images.discard(&snapshot_key(id)).await.map_err(|e| e.to_string())
}

/// Deletes the API object, which has nothing left here.
pub async fn delete(context: Arc<Context>, pod: Pod) -> Message {
    let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::uid(&pod.uid) };
    loop {
        match context.client.delete(&gvr::PODS, &pod.namespace, &pod.name, &options).await {
            Ok(_) => return Message::Deleted,
            Err(e) if e.is_not_found() || e.is_conflict() => return Message::Gone,
            Err(error) => {
                tracing::warn!(pod = pod.title(), %error, "the pod could not be deleted; trying again");
                // Nothing tells when a server that failed is back.
                tokio::time::sleep(API_RETRY).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::view::tests::pod;

    #[test]
    fn last_words_are_the_end_of_the_file() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("message");
        let words = || last_words(path.to_str().unwrap());
        assert_eq!(words(), "");
        fs::write(&path, "out of luck").unwrap();
        assert_eq!(words(), "out of luck");
        // However long the container makes it.
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(1 << 40).unwrap();
        std::os::unix::fs::FileExt::write_at(&file, b"the end", (1 << 40) - 7).unwrap();
        assert!(words().ends_with("the end") && words().len() == MAX_MESSAGE);
    }

    #[test]
    fn signals_by_name() {
        for (name, want) in [("SIGTERM", Some(15)), ("quit", Some(3)), ("9", Some(9)), ("SIGNONE", None)] {
            assert_eq!(signal_number(name), want, "{name}");
        }
    }

    #[test]
    fn ports_of_the_machine() {
        let p = pod(json!({"containers": [{"name": "a", "ports": [
            {"containerPort": 80, "hostPort": 8080, "protocol": "TCP"}, {"containerPort": 81}]}]}));
        let got = host_ports(&p, &[[10, 244, 0, 2].into()]);
        assert_eq!(got.len(), 1);
        assert_eq!((got[0].host_port, got[0].container_port), (8080, 80));
        assert!(got[0].host_ip.is_unspecified());
    }

    #[test]
    fn ends_have_reasons() {
        let exit =
            |code, oom_killed| Exit { code, signal: None, at: jiff::Timestamp::UNIX_EPOCH, oom_killed };
        for (exit, want) in
            [(exit(0, false), "Completed"), (exit(1, false), "Error"), (exit(137, true), "OOMKilled")]
        {
            assert_eq!(describe(&exit, exit.at, String::new()).reason, want);
        }
    }
}
