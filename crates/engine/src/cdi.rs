//! Devices by name (`--device vendor.com/gpu=0`, `--gpus` where the vendor describes them): the Container Device
//! Interface, version 0.8 of its specification. A device is described by a JSON or YAML file in /etc/cdi or
//! /var/run/cdi; what it says is put into the container's specification.
//!
//! Files are read when a container that asks for devices is started: drivers write them at any time.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Hook, Hooks, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, Mount, Spec};
use serde::Deserialize;

use crate::error::{Result, invalid};

/// Where descriptions lie unless `cdi-spec-dirs` says otherwise; a later folder wins over an earlier one.
pub(crate) const FOLDERS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// One request of `HostConfig.DeviceRequests`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Request {
    driver: String,
    count: i64,
    #[serde(rename = "DeviceIDs", deserialize_with = "crate::model::null_default")]
    device_ids: Vec<String>,
    #[serde(deserialize_with = "crate::model::null_default")]
    capabilities: Vec<Vec<String>>,
    #[serde(deserialize_with = "crate::model::null_default")]
    options: crate::model::Map,
}

/// One file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Description {
    kind: String,
    devices: Vec<Device>,
    container_edits: Edits,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Device {
    name: String,
    container_edits: Edits,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<Bind>,
    hooks: Vec<Call>,
    #[serde(rename = "additionalGids")]
    additional_gids: Vec<u32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Node {
    path: String,
    host_path: String,
    permissions: String,
    file_mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Bind {
    host_path: String,
    container_path: String,
    #[serde(rename = "type")]
    kind: String,
    options: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Call {
    hook_name: String,
    path: PathBuf,
    args: Vec<String>,
    env: Vec<String>,
    timeout: Option<i64>,
}

/// Everything that is described on this machine.
#[derive(Debug, Default)]
struct Registry {
    /// By qualified name: the device's edits and those that its whole file asks for.
    devices: BTreeMap<String, (Edits, Edits)>,
    /// Files that cannot be read, and why.
    broken: Vec<String>,
}

impl Registry {
    fn read(folders: &[PathBuf]) -> Registry {
        let mut out = Registry::default();
        for folder in folders {
            let mut files: Vec<PathBuf> =
                std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
            files.sort();
            for file in files {
                let yaml = match file.extension().and_then(|e| e.to_str()) {
                    Some("json") => false,
                    Some("yaml" | "yml") => true,
                    _ => continue,
                };
                let parsed = std::fs::read_to_string(&file).map_err(|e| e.to_string()).and_then(|text| {
                    if yaml {
                        serde_saphyr::from_str::<Description>(&text).map_err(|e| e.to_string())
                    } else {
                        serde_json::from_str::<Description>(&text).map_err(|e| e.to_string())
                    }
                });
                match parsed {
                    Ok(description) => out.add(description),
                    Err(e) => out.broken.push(format!("{}: {e}", file.display())),
                }
            }
        }
        out
    }

    fn add(&mut self, description: Description) {
        for device in description.devices {
            let name = format!("{}={}", description.kind, device.name);
            self.devices.insert(name, (device.container_edits, description.container_edits.clone()));
        }
    }

    fn names(&self) -> impl Iterator<Item = &String> {
        self.devices.keys()
    }

    /// The names of the devices that a request for `count` GPUs means: those of a known vendor.
    fn gpus(&self, request: &Request) -> Result<Vec<String>> {
        let vendor = ["nvidia.com/gpu", "amd.com/gpu"]
            .into_iter()
            .find(|kind| self.names().any(|n| n.starts_with(&format!("{kind}="))))
            .ok_or_else(|| {
                invalid(format!(
                    "could not select device driver \"{}\" with capabilities: [{}]",
                    request.driver,
                    request
                        .capabilities
                        .iter()
                        .map(|c| format!("[{}]", c.join(" ")))
                        .collect::<Vec<_>>()
                        .join(" ")
                ))
            })?;
        if !request.device_ids.is_empty() {
            return Ok(request.device_ids.iter().map(|id| format!("{vendor}={id}")).collect());
        }
        if request.count < 0 {
            return Ok(vec![format!("{vendor}=all")]);
        }
        Ok((0..request.count.max(1)).map(|n| format!("{vendor}={n}")).collect())
    }
}

/// Puts the devices that are asked for into a specification.
pub(crate) fn inject(folders: &[PathBuf], requests: &[serde_json::Value], spec: &mut Spec) -> Result<()> {
    if requests.is_empty() {
        return Ok(());
    }
    let registry = Registry::read(folders);
    let mut names = Vec::new();
    for value in requests {
        let request: Request =
            serde_json::from_value(value.clone()).map_err(|e| invalid(format!("DeviceRequests: {e}")))?;
        match request.driver.as_str() {
            "cdi" => {
                if request.count != 0 {
                    return Err(invalid("unexpected count in CDI device request"));
                }
                if !request.options.is_empty() {
                    return Err(invalid("unexpected options in CDI device request"));
                }
                names.extend(request.device_ids);
            }
            "" | "nvidia" | "amd" => names.extend(registry.gpus(&request)?),
            other => {
                return Err(invalid(format!("could not select device driver \"{other}\"")));
            }
        }
    }
    let missing: Vec<&str> =
        names.iter().filter(|n| !registry.devices.contains_key(*n)).map(String::as_str).collect();
    if !missing.is_empty() {
        let mut text =
            format!("CDI device injection failed: unresolvable CDI devices {}", missing.join(", "));
        if !registry.broken.is_empty() {
            text.push_str(&format!("; these descriptions cannot be read: {}", registry.broken.join("; ")));
        }
        return Err(invalid(text));
    }
    let mut seen = HashSet::new();
    for name in &names {
        let Some((own, common)) = registry.devices.get(name) else { continue };
        // What a file asks for in general is done once, also for several of its devices.
        let kind = name.split('=').next().unwrap_or(name);
        if seen.insert(kind.to_owned()) {
            apply(common, spec)?;
        }
        if seen.insert(name.clone()) {
            apply(own, spec)?;
        }
    }
    Ok(())
}

fn apply(edits: &Edits, spec: &mut Spec) -> Result<()> {
    let mut process = spec.process().clone().unwrap_or_default();
    let env = process.env().clone().unwrap_or_default();
    process.set_env(Some(crate::spec::merge_environment(env, &edits.env)));
    if !edits.additional_gids.is_empty() {
        let mut user = process.user().clone();
        let mut groups = user.additional_gids().clone().unwrap_or_default();
        groups.extend(edits.additional_gids.iter().filter(|g| **g != 0));
        user.set_additional_gids(Some(groups));
        process.set_user(user);
    }
    spec.set_process(Some(process));
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for bind in &edits.mounts {
        mounts.retain(|m| m.destination() != Path::new(&bind.container_path));
        mounts.push(mount(bind));
    }
    spec.set_mounts(Some(mounts));
    let mut linux = spec.linux().clone().unwrap_or_default();
    let mut devices = linux.devices().clone().unwrap_or_default();
    let mut resources = linux.resources().clone().unwrap_or_default();
    let mut rules = resources.devices().clone().unwrap_or_default();
    for node in &edits.device_nodes {
        let device = device(node)?;
        rules.push(rule(&device, &node.permissions));
        devices.retain(|d| d.path() != device.path());
        devices.push(device);
    }
    resources.set_devices(Some(rules));
    linux.set_resources(Some(resources));
    linux.set_devices(Some(devices));
    spec.set_linux(Some(linux));
    if !edits.hooks.is_empty() {
        let mut hooks = spec.hooks().clone().unwrap_or_default();
        for call in &edits.hooks {
            add_hook(&mut hooks, call)?;
        }
        spec.set_hooks(Some(hooks));
    }
    Ok(())
}

fn mount(bind: &Bind) -> Mount {
    let options: Vec<&str> = if bind.options.is_empty() {
        vec!["rbind", "rprivate"]
    } else {
        bind.options.iter().map(String::as_str).collect()
    };
    let kind = if bind.kind.is_empty() { "bind" } else { &bind.kind };
    crate::spec::mount(&bind.container_path, kind, &bind.host_path, &options)
}

fn device(node: &Node) -> Result<LinuxDevice> {
    let source = if node.host_path.is_empty() { &node.path } else { &node.host_path };
    let mut device = crate::spec::node(Path::new(source), Path::new(&node.path)).ok_or_else(|| {
        invalid(format!("CDI device injection failed: {source} is no device file of this machine"))
    })?;
    if let Some(mode) = node.file_mode {
        device.set_file_mode(Some(mode));
    }
    if let Some(uid) = node.uid {
        device.set_uid(Some(uid));
    }
    if let Some(gid) = node.gid {
        device.set_gid(Some(gid));
    }
    Ok(device)
}

fn rule(device: &LinuxDevice, permissions: &str) -> LinuxDeviceCgroup {
    let access = if permissions.is_empty() { "rwm" } else { permissions };
    let kind = if device.typ() == LinuxDeviceType::P { LinuxDeviceType::A } else { device.typ() };
    crate::spec::rule(Some(kind), Some(device.major()), Some(device.minor()), access)
}

#[allow(deprecated)] // prestart, which descriptions still name
fn add_hook(hooks: &mut Hooks, call: &Call) -> Result<()> {
    let mut hook = Hook::default();
    hook.set_path(call.path.clone());
    hook.set_args(Some(call.args.clone()).filter(|a| !a.is_empty()));
    hook.set_env(Some(call.env.clone()).filter(|e| !e.is_empty()));
    hook.set_timeout(call.timeout);
    let with = |list: &Option<Vec<Hook>>| {
        let mut list = list.clone().unwrap_or_default();
        list.push(hook.clone());
        Some(list)
    };
    match call.hook_name.as_str() {
        "prestart" => hooks.set_prestart(with(hooks.prestart())),
        "createRuntime" => hooks.set_create_runtime(with(hooks.create_runtime())),
        "createContainer" => hooks.set_create_container(with(hooks.create_container())),
        "startContainer" => hooks.set_start_container(with(hooks.start_container())),
        "poststart" => hooks.set_poststart(with(hooks.poststart())),
        "poststop" => hooks.set_poststop(with(hooks.poststop())),
        other => return Err(invalid(format!("CDI device injection failed: unknown hook {other:?}"))),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let yaml = "cdiVersion: 0.6.0\nkind: vendor.com/thing\ncontainerEdits:\n  env: [COMMON=1]\ndevices:\n\
                    - name: a\n  containerEdits:\n    env: [A=1]\n    deviceNodes:\n    - path: /dev/thing\n      \
                    hostPath: /dev/null\n      permissions: rw\n    mounts:\n    - hostPath: /usr/lib\n      \
                    containerPath: /opt/lib\n      options: [ro, bind]\n";
        std::fs::write(dir.path().join("thing.yaml"), yaml).unwrap();
        let json = json!({"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": [
            {"name": "0", "containerEdits": {"env": ["GPU=0"]}},
            {"name": "all", "containerEdits": {"env": ["GPU=all"], "hooks": [
                {"hookName": "createContainer", "path": "/usr/bin/tool", "args": ["tool", "link"]}]}},
        ]});
        std::fs::write(dir.path().join("gpu.json"), json.to_string()).unwrap();
        std::fs::write(dir.path().join("broken.json"), "{").unwrap();
        dir
    }

    fn run(requests: serde_json::Value) -> Result<Spec> {
        let dir = folder();
        let mut spec = runtime::defaults::spec();
        inject(&[dir.path().to_owned()], requests.as_array().unwrap(), &mut spec).map(|()| spec)
    }

    fn env(spec: &Spec) -> Vec<String> {
        spec.process().as_ref().and_then(|p| p.env().clone()).unwrap_or_default()
    }

    #[test]
    fn a_device_brings_what_its_file_says() {
        let spec = run(json!([{"Driver": "cdi", "DeviceIDs": ["vendor.com/thing=a"]}])).unwrap();
        assert!(env(&spec).contains(&"A=1".to_owned()) && env(&spec).contains(&"COMMON=1".to_owned()));
        let linux = spec.linux().clone().unwrap();
        let device = linux.devices().as_ref().unwrap().iter().find(|d| d.path() == Path::new("/dev/thing"));
        assert_eq!(device.map(|d| (d.major(), d.minor())), Some((1, 3)));
        let mounts = spec.mounts().clone().unwrap();
        assert!(mounts.iter().any(|m| m.destination() == Path::new("/opt/lib")));
    }

    #[test]
    fn gpus_by_count() {
        let all = run(json!([{"Driver": "", "Count": -1, "Capabilities": [["gpu"]]}])).unwrap();
        assert!(env(&all).contains(&"GPU=all".to_owned()));
        assert_eq!(all.hooks().as_ref().unwrap().create_container().as_ref().unwrap().len(), 1);
        let one = run(json!([{"Count": 1, "Capabilities": [["gpu"]]}])).unwrap();
        assert!(env(&one).contains(&"GPU=0".to_owned()));
    }

    #[test]
    fn what_is_not_there_is_told() {
        let missing =
            run(json!([{"Driver": "cdi", "DeviceIDs": ["vendor.com/thing=b"]}])).unwrap_err().to_string();
        assert!(missing.contains("unresolvable CDI devices vendor.com/thing=b"), "{missing}");
        assert!(missing.contains("broken.json"), "{missing}");
        assert!(run(json!([{"Driver": "magic"}])).is_err());
        let mut spec = runtime::defaults::spec();
        let none = inject(&[], &[json!({"Count": -1, "Capabilities": [["gpu"]]})], &mut spec);
        assert!(none.unwrap_err().to_string().contains("could not select device driver"));
    }
}
