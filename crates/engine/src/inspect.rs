//! `docker inspect` of a container, and `docker port`.

use serde_json::{Map, Value, json};

use crate::Engine;
use crate::container::{Inner, Phase};
use crate::error::Result;
use crate::ports;

/// What Go writes for a time that never was.
const NEVER: &str = "0001-01-01T00:00:00Z";

fn time(t: Option<jiff::Timestamp>) -> String {
    t.map_or_else(|| NEVER.to_owned(), base::clock::rfc3339_nano)
}

/// The networks of a container: what was asked for and, while it runs, what it has got.
pub(crate) fn networks(inner: &Inner, engine: &Engine, short: &str) -> Value {
    let mut out = Map::new();
    for (name, settings) in &inner.asked.endpoints {
        let mut shown = settings.clone();
        match inner.life.attached.get(name) {
            Some(attached) => {
                shown.network_id.clone_from(&attached.network_id);
                shown.endpoint_id.clone_from(&attached.endpoint_id);
                shown.mac_address.clone_from(&attached.mac);
                if let Some(address) = attached.address4() {
                    shown.ip_address = address.addr().to_string();
                    shown.ip_prefix_len = address.prefix_len();
                }
                shown.gateway = attached.gateway.map(|g| g.to_string()).unwrap_or_default();
                if let Some(address) = attached.address6 {
                    shown.global_ipv6_address = address.addr().to_string();
                    shown.global_ipv6_prefix_len = address.prefix_len();
                }
                shown.ipv6_gateway = attached.gateway6.map(|g| g.to_string()).unwrap_or_default();
                if !crate::networks::PREDEFINED.contains(&name.as_str()) {
                    shown.dns_names = dns_names(inner, settings, short);
                }
            }
            None => {
                if let Ok(net) = engine.networks.get(name) {
                    shown.network_id.clone_from(&net.record.id);
                }
            }
        }
        out.insert(name.clone(), json!(shown));
    }
    Value::Object(out)
}

/// The names by which others on the same network find the container.
pub(crate) fn dns_names(
    inner: &Inner,
    settings: &crate::model::EndpointSettings,
    short: &str,
) -> Vec<String> {
    let mut names = vec![inner.asked.name.clone()];
    names.extend(settings.aliases.iter().cloned());
    names.push(short.to_owned());
    if !inner.asked.config.hostname.is_empty() {
        names.push(inner.asked.config.hostname.clone());
    }
    let mut seen = std::collections::HashSet::new();
    names.retain(|n| seen.insert(n.clone()));
    names
}

/// The mounts of a container.
pub(crate) fn mounts(inner: &Inner) -> Value {
    let one = |m: &crate::mounts::MountPoint| {
        let mut v = json!({
            "Type": m.kind, "Source": m.source, "Destination": m.destination, "Mode": m.mode, "RW": m.rw,
            "Propagation": m.propagation,
        });
        if m.kind == "volume" || m.kind == "image" {
            v["Name"] = json!(m.name);
        }
        if m.kind == "volume" {
            v["Driver"] = json!(m.driver);
        }
        v
    };
    // What --tmpfs made is part of HostConfig only.
    let shown = inner.asked.mounts.iter().filter(|m| !inner.asked.host.tmpfs.contains_key(&m.destination));
    Value::Array(shown.map(one).collect())
}

impl Engine {
    /// The name that a link's target has now; it may have been given by id.
    fn link_name(&self, target: &str) -> String {
        let id = self.names.lock().resolve(target).ok();
        let name = id.and_then(|id| self.names.lock().name_of(&id));
        name.unwrap_or_else(|| target.trim_start_matches('/').to_owned())
    }

    /// Everything about one container.
    pub async fn inspect(&self, reference: &str, size: bool) -> Result<Value> {
        if let Some(id) = self.pod(reference)?
            && let Some(state) = self.foreign.get(&id)
        {
            return Ok(crate::foreign::document(&state));
        }
        let container = self.find(reference)?;
        let snapshot = self.images.snapshot(&container.id).ok();
        let sizes = if size { Some(self.sizes(&container).await) } else { None };
        let inner = container.lock();
        let (asked, life) = (&inner.asked, &inner.life);
        let mut state = json!({
            "Status": life.phase.word(),
            "Running": life.phase.alive() || life.phase == Phase::Restarting,
            "Paused": life.phase == Phase::Paused,
            "Restarting": life.phase == Phase::Restarting,
            "OOMKilled": life.oom_killed,
            "Dead": life.phase == Phase::Dead,
            "Pid": life.pid,
            "ExitCode": life.exit_code,
            "Error": life.error,
            "StartedAt": time(life.started_at),
            "FinishedAt": time(life.finished_at),
        });
        if let Some(health) = &life.health {
            state["Health"] = json!(health);
        }
        let mut config = json!(asked.config);
        if let Some(first) =
            asked.endpoints.get(&asked.host.network_mode).filter(|e| !e.mac_address.is_empty())
        {
            config["MacAddress"] = json!(first.mac_address);
        }
        let mut host = json!(asked.host);
        // As Docker writes links: `/TARGET:/SELF/ALIAS`.
        if !asked.host.links.is_empty() {
            let written = |link: &String| {
                let (target, alias) = crate::create::parse_link(link).ok()?;
                Some(format!("/{}:/{}/{alias}", self.link_name(target), asked.name))
            };
            host["Links"] = json!(asked.host.links.iter().filter_map(written).collect::<Vec<_>>());
        }
        let exposed = ports::exposed(&asked.config, &asked.host)?;
        let bridge = inner.life.attached.get("bridge").cloned();
        let default =
            |pick: fn(&crate::container::Attached) -> String| bridge.as_ref().map(pick).unwrap_or_default();
        // Docker tells it for the format that anybody may read.
        let log_path = match crate::logs::log_spec(&container, asked)? {
            runtime::LogSpec::JsonFile(file) => file.path.display().to_string(),
            _ => String::new(),
        };
        let file = |name: &str| {
            if life.started_at.is_some() {
                container.dir.join(name).display().to_string()
            } else {
                String::new()
            }
        };
        let layers = snapshot.map_or(Value::Null, |s| {
            let lower: Vec<String> = s.lower.iter().map(|p| p.display().to_string()).collect();
            json!({"LowerDir": lower.join(":"), "UpperDir": s.upper, "WorkDir": s.work, "MergedDir": ""})
        });
        let mut document = json!({
            "Id": container.id,
            "Created": base::clock::rfc3339_nano(asked.created),
            "Path": asked.args.first(),
            "Args": asked.args.get(1..).unwrap_or_default(),
            "State": state,
            "Image": asked.image,
            "ResolvConfPath": file("resolv.conf"),
            "HostnamePath": file("hostname"),
            "HostsPath": file("hosts"),
            "LogPath": log_path,
            "Name": format!("/{}", asked.name),
            "RestartCount": life.restart_count,
            "Driver": "overlay2",
            "Platform": "linux",
            "MountLabel": "",
            "ProcessLabel": "",
            "AppArmorProfile": "",
            "ExecIDs": if life.execs.is_empty() { Value::Null } else { json!(life.execs) },
            "HostConfig": host,
            "GraphDriver": {"Name": "overlay2", "Data": layers},
            "Mounts": mounts(&inner),
            "Config": config,
            "NetworkSettings": {
                "Bridge": "",
                "SandboxID": if life.phase.alive() { container.id.as_str() } else { "" },
                "SandboxKey": if life.phase.alive() { format!("/proc/{}/ns/net", life.pid) } else { String::new() },
                "Ports": if life.phase.alive() { ports::settings(&exposed, &life.ports) } else { json!({}) },
                "HairpinMode": false,
                "LinkLocalIPv6Address": "", "LinkLocalIPv6PrefixLen": 0,
                "SecondaryIPAddresses": null, "SecondaryIPv6Addresses": null,
                "EndpointID": default(|a| a.endpoint_id.clone()),
                "Gateway": default(|a| a.gateway.map(|g| g.to_string()).unwrap_or_default()),
                "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0,
                "IPAddress": default(|a| a.address.addr().to_string()),
                "IPPrefixLen": bridge.as_ref().map_or(0, |a| a.address.prefix_len()),
                "IPv6Gateway": "",
                "MacAddress": default(|a| a.mac.clone()),
                "Networks": networks(&inner, self, container.short()),
            },
        });
        if let Some((own, whole)) = sizes {
            document["SizeRw"] = json!(own);
            document["SizeRootFs"] = json!(whole);
        }
        Ok(document)
    }
}
