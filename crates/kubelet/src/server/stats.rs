//! What pods and the node use: `/stats/summary` as JSON, `/metrics*` in Prometheus' text format.

use std::fmt::Write;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use runtime::Stats;
use serde_json::{Value, json};

use super::Shared;
use crate::context::Context;
use crate::machine::meminfo;
use crate::pod::registry::Known;
use crate::pod::state::RunPhase;

/// One running container's figures.
struct Used {
    known: Known,
    name: String,
    id: String,
    started: jiff::Timestamp,
    stats: Stats,
}

async fn used(context: &Context) -> Vec<Used> {
    let mut out = Vec::new();
    for handle in context.registry.all() {
        let known = handle.known.read().clone();
        for (name, container) in &known.state.containers {
            let Some(run) = container.running() else { continue };
            let RunPhase::Running { started } = run.phase else { continue };
            // It may have ended since.
            if let Ok(stats) = context.options.runtime.stats(&run.id).await {
                out.push(Used {
                    known: known.clone(),
                    name: name.clone(),
                    id: run.id.clone(),
                    started,
                    stats,
                });
            }
        }
    }
    out
}

fn memory(time: &str, stats: &Stats) -> Value {
    json!({
        "time": time,
        "usageBytes": stats.memory.usage,
        "workingSetBytes": stats.memory.working_set(),
        "rssBytes": stats.memory.stat.get("total_rss").or_else(|| stats.memory.stat.get("anon")).copied().unwrap_or(0),
        "pageFaults": stats.memory.stat.get("total_pgfault").or_else(|| stats.memory.stat.get("pgfault")).copied().unwrap_or(0),
        "majorPageFaults": stats.memory.stat.get("total_pgmajfault").or_else(|| stats.memory.stat.get("pgmajfault")).copied().unwrap_or(0),
    })
}

/// The machine's CPU time since its start, nanoseconds, without idling.
fn machine_cpu() -> u64 {
    const TICK: u64 = 10_000_000;
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    let idle = ticks.get(3).unwrap_or(&0) + ticks.get(4).unwrap_or(&0);
    // The last two are part of the first two.
    ticks.iter().take(8).sum::<u64>().saturating_sub(idle) * TICK
}

pub async fn summary(State(context): Shared) -> Response {
    let now = api::meta::time(base::clock::now());
    let disk = rustix::fs::statvfs(&context.options.instance.data_dir).ok();
    let fs = disk.map(|s| {
        json!({"time": now, "availableBytes": s.f_bavail * s.f_frsize, "capacityBytes": s.f_blocks * s.f_frsize,
            "usedBytes": (s.f_blocks - s.f_bfree) * s.f_frsize, "inodesFree": s.f_ffree, "inodes": s.f_files,
            "inodesUsed": s.f_files - s.f_ffree})
    });
    let total = meminfo("MemTotal");
    let available = meminfo("MemAvailable");
    let mut pods: Vec<(String, Value)> = Vec::new();
    for used in used(&context).await {
        let pod = &used.known.pod;
        let container = json!({
            "name": used.name,
            "startTime": api::meta::time(used.started),
            "cpu": {"time": now, "usageCoreNanoSeconds": used.stats.cpu.usage_ns},
            "memory": memory(&now, &used.stats),
        });
        let at = match pods.iter().position(|(uid, _)| *uid == pod.uid) {
            Some(at) => at,
            None => {
                pods.push((
                    pod.uid.clone(),
                    json!({
                        "podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
                        "startTime": used.known.state.start_time.map(api::meta::time),
                        "containers": [],
                        "cpu": {"time": now, "usageCoreNanoSeconds": 0},
                        "memory": {"time": now, "usageBytes": 0, "workingSetBytes": 0},
                    }),
                ));
                pods.len() - 1
            }
        };
        let whole = &mut pods[at].1;
        let add = |whole: &mut Value, part: &Value, group: &str, name: &str| {
            let sum = whole[group][name].as_u64().unwrap_or(0) + part[group][name].as_u64().unwrap_or(0);
            whole[group][name] = sum.into();
        };
        add(whole, &container, "cpu", "usageCoreNanoSeconds");
        add(whole, &container, "memory", "usageBytes");
        add(whole, &container, "memory", "workingSetBytes");
        if let Some(list) = whole["containers"].as_array_mut() {
            list.push(container);
        }
    }
    let body = json!({
        "node": {
            "nodeName": context.node(),
            "cpu": {"time": now, "usageCoreNanoSeconds": machine_cpu()},
            "memory": {"time": now, "availableBytes": available, "usageBytes": total - meminfo("MemFree"),
                "workingSetBytes": total.saturating_sub(available)},
            "fs": fs,
        },
        "pods": pods.into_iter().map(|(_, p)| p).collect::<Vec<_>>(),
    });
    ([("content-type", "application/json")], body.to_string()).into_response()
}

fn text(body: String) -> Response {
    ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], body).into_response()
}

/// A metric with its help and type, and one line for each sample.
fn metric(
    out: &mut String,
    name: &str,
    kind: &str,
    help: &str,
    samples: impl IntoIterator<Item = (String, f64)>,
) {
    base::prometheus::head(out, name, kind, help);
    for (labels, value) in samples {
        let _ = writeln!(out, "{name}{labels} {value}");
    }
}

pub async fn metrics(State(context): Shared) -> Response {
    let mut out = String::new();
    let handles = context.registry.all();
    let running = handles
        .iter()
        .map(|h| h.known.read().state.containers.values().filter(|c| c.running().is_some()).count())
        .sum::<usize>();
    metric(
        &mut out,
        "kubelet_running_pods",
        "gauge",
        "Pods that have a worker.",
        [(String::new(), handles.len() as f64)],
    );
    let label = "{container_state=\"running\"}".to_owned();
    metric(
        &mut out,
        "kubelet_running_containers",
        "gauge",
        "Containers by state.",
        [(label, running as f64)],
    );
    let label = format!("{{node=\"{}\"}}", context.node());
    metric(&mut out, "kubelet_node_name", "gauge", "The node's name.", [(label, 1.0)]);
    text(out)
}

fn labels(used: &Used, container: &str) -> String {
    let pod = &used.known.pod;
    format!("{{{container}=\"{}\",namespace=\"{}\",pod=\"{}\"}}", used.name, pod.namespace, pod.name)
}

pub async fn resource(State(context): Shared) -> Response {
    let used = used(&context).await;
    let mut out = String::new();
    let seconds = |ns: u64| ns as f64 / 1e9;
    let of = |value: &dyn Fn(&Used) -> f64| {
        used.iter().map(|u| (labels(u, "container"), value(u))).collect::<Vec<_>>()
    };
    metric(
        &mut out,
        "node_cpu_usage_seconds_total",
        "counter",
        "CPU time of the node in seconds.",
        [(String::new(), seconds(machine_cpu()))],
    );
    let set = meminfo("MemTotal").saturating_sub(meminfo("MemAvailable"));
    metric(
        &mut out,
        "node_memory_working_set_bytes",
        "gauge",
        "Working set of the node.",
        [(String::new(), set as f64)],
    );
    let cpu = of(&|u| seconds(u.stats.cpu.usage_ns));
    metric(
        &mut out,
        "container_cpu_usage_seconds_total",
        "counter",
        "CPU time of the container in seconds.",
        cpu,
    );
    let memory = of(&|u| u.stats.memory.working_set() as f64);
    metric(&mut out, "container_memory_working_set_bytes", "gauge", "Working set of the container.", memory);
    let start = of(&|u| u.started.as_millisecond() as f64 / 1e3);
    metric(&mut out, "container_start_time_seconds", "gauge", "When the container was started.", start);
    text(out)
}

pub async fn cadvisor(State(context): Shared) -> Response {
    let used = used(&context).await;
    let mut out = String::new();
    let label = |u: &Used| {
        let pod = &u.known.pod;
        let image = pod.spec.container(&u.name).map(|c| c.image.as_str()).unwrap_or_default();
        format!(
            "{{container=\"{}\",id=\"{}\",image=\"{image}\",namespace=\"{}\",pod=\"{}\"}}",
            u.name, u.id, pod.namespace, pod.name
        )
    };
    let of = |value: &dyn Fn(&Used) -> f64| used.iter().map(|u| (label(u), value(u))).collect::<Vec<_>>();
    let table = [
        (
            "container_cpu_usage_seconds_total",
            "counter",
            "CPU time in seconds.",
            of(&|u| u.stats.cpu.usage_ns as f64 / 1e9),
        ),
        (
            "container_cpu_cfs_throttled_periods_total",
            "counter",
            "Throttled periods.",
            of(&|u| u.stats.cpu.throttled_periods as f64),
        ),
        (
            "container_memory_usage_bytes",
            "gauge",
            "Memory with page cache.",
            of(&|u| u.stats.memory.usage as f64),
        ),
        (
            "container_memory_working_set_bytes",
            "gauge",
            "Working set.",
            of(&|u| u.stats.memory.working_set() as f64),
        ),
        ("container_spec_memory_limit_bytes", "gauge", "Memory limit.", of(&|u| u.stats.memory.limit as f64)),
        ("container_threads", "gauge", "Tasks.", of(&|u| u.stats.pids_current as f64)),
    ];
    for (name, kind, help, samples) in table {
        metric(&mut out, name, kind, help, samples);
    }
    text(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prometheus_text() {
        let mut out = String::new();
        metric(&mut out, "a", "gauge", "Help.", [("{x=\"1\"}".to_string(), 2.5)]);
        assert_eq!(out, "# HELP a Help.\n# TYPE a gauge\na{x=\"1\"} 2.5\n");
        assert!(machine_cpu() > 0);
    }
}
