//! `docker stats` and `docker top`.

use serde_json::{Map, Value, json};

use crate::Engine;
use crate::container::Phase;
use crate::error::{Result, conflict, invalid, system};

/// One reading of a container's counters, kept to compute the next one's differences.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    read: Option<jiff::Timestamp>,
    cpu: Value,
}

/// Nothing known of block devices; the document has every key all the same.
fn no_block() -> Value {
    json!({
        "io_service_bytes_recursive": null, "io_serviced_recursive": null, "io_queue_recursive": null,
        "io_service_time_recursive": null, "io_wait_time_recursive": null, "io_merged_recursive": null,
        "io_time_recursive": null, "sectors_recursive": null,
    })
}

impl Engine {
    /// One document of `docker stats`; `previous` becomes this reading. `None` if the container is gone.
    pub async fn stats(&self, reference: &str, previous: &mut Sample) -> Result<Option<Value>> {
        let (id, name, running) = if let Some(id) = self.pod(reference)? {
            let name = self.foreign.get(&id).map(|s| crate::foreign::summary(&s)["Names"][0].clone());
            (id, name.and_then(|n| n.as_str().map(str::to_owned)).unwrap_or_default(), true)
        } else {
            let container = self.find(reference)?;
            if container.phase() == Phase::Removing {
                return Ok(None);
            }
            (container.id.clone(), format!("/{}", container.name()), container.phase().alive())
        };
        let now = base::clock::now();
        let time = |t: Option<jiff::Timestamp>| {
            t.map_or("0001-01-01T00:00:00Z".to_owned(), base::clock::rfc3339_nano)
        };
        let reading = if running { self.runtime.stats(&id).await.ok() } else { None };
        let Some(s) = reading else {
            // A container that does not run has a document of zeroes.
            return Ok(Some(json!({
                "read": "0001-01-01T00:00:00Z", "preread": "0001-01-01T00:00:00Z", "name": name, "id": id,
                "pids_stats": {}, "blkio_stats": no_block(), "num_procs": 0, "storage_stats": {},
                "cpu_stats": {"cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0}, "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0}},
                "precpu_stats": {"cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0}, "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0}},
                "memory_stats": {},
            })));
        };
        let mut usage = json!({
            "total_usage": s.cpu.usage_ns, "usage_in_kernelmode": s.cpu.system_ns, "usage_in_usermode": s.cpu.user_ns,
        });
        if !s.cpu.per_cpu_ns.is_empty() {
            usage["percpu_usage"] = json!(s.cpu.per_cpu_ns);
        }
        let cpu = json!({
            "cpu_usage": usage,
            "system_cpu_usage": system_cpu(&std::fs::read_to_string("/proc/stat").unwrap_or_default()),
            "online_cpus": crate::spec::cpus(),
            "throttling_data": {
                "periods": s.cpu.periods, "throttled_periods": s.cpu.throttled_periods,
                "throttled_time": s.cpu.throttled_ns,
            },
        });
        // Without a limit of its own a container has the machine's memory.
        let limit = match crate::system::total_memory() {
            0 => s.memory.limit,
            total => s.memory.limit.min(total),
        };
        let mut memory = json!({"usage": s.memory.usage, "stats": s.memory.stat, "limit": limit});
        if !runtime::defaults::unified_cgroups() {
            memory["max_usage"] = json!(s.memory.max_usage);
            memory["failcnt"] = json!(s.memory.failcnt);
        }
        let block = |pick: fn(&runtime::BlockStats) -> (u64, u64)| {
            let mut list = Vec::new();
            for b in &s.block {
                let (read, write) = pick(b);
                for (op, value) in [("read", read), ("write", write)] {
                    list.push(json!({"major": b.major, "minor": b.minor, "op": op, "value": value}));
                }
            }
            list
        };
        // No limit is a number only with cgroup version 2.
        let mut pids = json!({"current": s.pids_current});
        if let Some(limit) = s.pids_limit.or_else(|| runtime::defaults::unified_cgroups().then_some(u64::MAX))
        {
            pids["limit"] = json!(limit);
        }
        let mut blocks = no_block();
        blocks["io_service_bytes_recursive"] = json!(block(|b| (b.read_bytes, b.write_bytes)));
        blocks["io_serviced_recursive"] = json!(block(|b| (b.read_ios, b.write_ios)));
        let mut document = json!({
            "read": time(Some(now)), "preread": time(previous.read), "name": name, "id": id, "num_procs": 0,
            "pids_stats": pids,
            "cpu_stats": cpu,
            "precpu_stats": if previous.cpu.is_null() {
                json!({"cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0}, "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0}})
            } else {
                previous.cpu.clone()
            },
            "memory_stats": memory,
            "blkio_stats": blocks,
            "storage_stats": {},
        });
        let pid = match self.by_id(&id) {
            Some(container) => container.lock().life.pid,
            None => self.foreign.get(&id).and_then(|s| s.pid).unwrap_or(0),
        };
        if let Ok(table) = std::fs::read_to_string(format!("/proc/{pid}/net/dev")) {
            let networks = interfaces(&table);
            if !networks.is_empty() {
                document["networks"] = Value::Object(networks);
            }
        }
        previous.cpu = document["cpu_stats"].clone();
        previous.read = Some(now);
        Ok(Some(document))
    }

    /// The container's processes, by ps(1) with the given arguments.
    pub async fn top(&self, reference: &str, arguments: &str) -> Result<Value> {
        let id = match self.pod(reference)? {
            Some(id) => id,
            None => {
                let container = self.find(reference)?;
                match container.phase() {
                    Phase::Running | Phase::Paused => {}
                    Phase::Restarting => {
                        return Err(conflict(format!(
                            "container {} is restarting, wait until the container is running",
                            container.id
                        )));
                    }
                    _ => return Err(conflict(format!("container {} is not running", container.id))),
                }
                self.container_event(&container, "top", &[]);
                container.id.clone()
            }
        };
        let pids = self.runtime.pids(&id).await?;
        let arguments = if arguments.is_empty() { "-ef" } else { arguments };
        let list = pids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let ps = |more: &[&str]| {
            let mut command = tokio::process::Command::new("ps");
            command.args(arguments.split_whitespace()).args(more).kill_on_drop(true);
            async move { command.output().await.map_err(|e| system(format!("running ps: {e}"))) }
        };
        // With -q ps shows those processes only; some arguments do not go with it, then all are read and filtered.
        let mut output = ps(&["-q", &list]).await?;
        if !output.status.success() {
            output = ps(&[]).await?;
        }
        if !output.status.success() {
            return Err(invalid(format!("ps: {}", String::from_utf8_lossy(&output.stderr).trim())));
        }
        table(&String::from_utf8_lossy(&output.stdout), &pids)
    }
}

/// Titles and rows of ps's output; only the container's processes.
fn table(text: &str, pids: &[u32]) -> Result<Value> {
    let mut lines = text.lines();
    let titles: Vec<&str> = lines.next().unwrap_or("").split_whitespace().collect();
    let at = titles
        .iter()
        .position(|t| *t == "PID")
        .ok_or_else(|| system("Couldn't find PID field in ps output"))?;
    let mut rows = Vec::new();
    for line in lines {
        let mut fields: Vec<String> = Vec::new();
        let mut rest = line.trim_start();
        // The last column is the command, which may have spaces.
        while fields.len() + 1 < titles.len() {
            let Some((field, more)) = rest.split_once(char::is_whitespace) else { break };
            fields.push(field.to_owned());
            rest = more.trim_start();
        }
        fields.push(rest.trim_end().to_owned());
        let ours = fields.get(at).and_then(|p| p.parse::<u32>().ok()).is_some_and(|p| pids.contains(&p));
        if ours {
            rows.push(fields);
        }
    }
    Ok(json!({"Titles": titles, "Processes": rows}))
}

/// All CPUs' time since boot, nanoseconds: the first line of /proc/stat, without guest time.
fn system_cpu(stat: &str) -> u64 {
    let line = stat.lines().next().unwrap_or("");
    let ticks: u64 = line.split_whitespace().skip(1).take(8).filter_map(|n| n.parse::<u64>().ok()).sum();
    ticks * 10_000_000 // USER_HZ is 100
}

/// /proc/PID/net/dev without the loopback.
fn interfaces(table: &str) -> Map<String, Value> {
    let mut out = Map::new();
    for line in table.lines().skip(2) {
        let Some((name, rest)) = line.split_once(':') else { continue };
        let n: Vec<u64> = rest.split_whitespace().filter_map(|f| f.parse().ok()).collect();
        if name.trim() == "lo" || n.len() < 12 {
            continue;
        }
        out.insert(
            name.trim().to_owned(),
            json!({
                "rx_bytes": n[0], "rx_packets": n[1], "rx_errors": n[2], "rx_dropped": n[3],
                "tx_bytes": n[8], "tx_packets": n[9], "tx_errors": n[10], "tx_dropped": n[11],
            }),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses() {
        assert_eq!(system_cpu("cpu  1 2 3 4 0 0 0 0 9 9\ncpu0 1\n"), 100_000_000);
        let dev = "Inter-|\n face |\n lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\neth0: 10 1 0 0 0 0 0 0 20 2 0 0 0 0 0 0\n";
        let found = interfaces(dev);
        assert_eq!((found.len(), &found["eth0"]["tx_bytes"]), (1, &json!(20)));
        let ps = "UID PID CMD\nroot 1 init\nroot 42 sh -c x y\n";
        assert_eq!(table(ps, &[42]).unwrap()["Processes"], json!([["root", "42", "sh -c x y"]]));
        assert!(table("A B\n", &[]).is_err());
    }
}
