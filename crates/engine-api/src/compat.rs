//! What older versions of the API mean otherwise, and what they do not show.
//!
//! The engine knows the newest version only. Requests of older ones are brought into its form here, and answers are
//! taken back, so that a client of 2016 sees what it saw then.

use engine::model::{CreateBody, EndpointSettings};
use serde_json::{Value, json};

use crate::{Error, Result};

/// An API version.
pub(crate) type Version = (u32, u32);

/// A request to make a container; the warnings are for the answer.
pub(crate) fn create(version: Version, body: &mut CreateBody) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    let host = &mut body.host_config;
    if matches!(host.network_mode.as_str(), "" | "default") {
        host.network_mode = "bridge".into();
        if let Some(settings) = body.networking_config.endpoints_config.shift_remove("default") {
            body.networking_config.endpoints_config.insert("bridge".into(), settings);
        }
    }
    if version < (1, 40) {
        for options in host.mounts.iter_mut().filter_map(|m| m.bind_options.as_mut()) {
            options.non_recursive = false;
        }
        if host.ipc_mode.is_empty() {
            host.ipc_mode = "shareable".into();
        }
    }
    if version < (1, 42) {
        for mount in &mut host.mounts {
            // Not checked then.
            mount.volume_options = mount.volume_options.take().filter(|_| mount.kind == "volume");
            mount.tmpfs_options = mount.tmpfs_options.take().filter(|_| mount.kind == "tmpfs");
            if let Some(options) = &mut mount.bind_options {
                options.create_mountpoint = false;
            }
        }
        host.console_size = [0, 0];
    }
    if version < (1, 43) {
        host.annotations.clear();
    }
    if version < (1, 44) {
        if let Some(check) = &mut body.config.healthcheck {
            check.start_interval = 0;
        }
        body.read_only_top = true;
        if host.mounts.iter().filter_map(|m| m.bind_options.as_ref()).any(|o| o.read_only_force_recursive) {
            return Err(Error::invalid("BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer"));
        }
        let names: Vec<&str> = body.networking_config.endpoints_config.keys().map(String::as_str).collect();
        if names.len() > 1 {
            return Err(Error::invalid(format!(
                "Container cannot be created with multiple network endpoints: {}",
                names.join(", ")
            )));
        }
    }
    if version < (1, 45)
        && host.mounts.iter().filter_map(|m| m.volume_options.as_ref()).any(|o| !o.subpath.is_empty())
    {
        return Err(Error::invalid("VolumeOptions.Subpath needs API v1.45 or newer"));
    }
    if version < (1, 48) {
        for settings in body.networking_config.endpoints_config.values_mut() {
            settings.gw_priority = 0;
        }
        if host.mounts.iter().any(|m| m.kind == "image") {
            return Err(Error::invalid("Mount type \"Image\" needs API v1.48 or newer"));
        }
    } else if !host.volume_driver.is_empty()
        && host.mounts.iter().any(|m| {
            let driver = m.volume_options.as_ref().and_then(|o| o.driver_config.as_ref());
            m.kind == "volume" && driver.is_none_or(|d| d.name.is_empty())
        })
    {
        warnings.push("WARNING: the container-wide volume-driver configuration is ignored for volumes specified via 'mount'. Use '--mount type=volume,volume-driver=...' instead".to_owned());
    }
    mac_address(version, body, &mut warnings)?;
    for bindings in body.host_config.port_bindings.values_mut().filter(|b| b.is_empty()) {
        bindings.push(Default::default());
    }
    Ok(warnings)
}

/// Until API 1.44 a container had one hardware address, since then each of its connections has its own.
fn mac_address(version: Version, body: &mut CreateBody, warnings: &mut Vec<String>) -> Result<()> {
    let mode = body.host_config.network_mode.clone();
    let connected = mode != "host" && mode != "none" && !mode.starts_with("container:");
    let wide = body.config.mac_address.take().filter(|m| !m.is_empty());
    let endpoints = &mut body.networking_config.endpoints_config;
    if version < (1, 44) {
        match wide {
            None => endpoints.values_mut().for_each(|e| e.mac_address.clear()),
            Some(_) if !connected => {
                return Err(Error::invalid("conflicting options: mac-address and the network mode"));
            }
            Some(mac) => match endpoints.values_mut().next() {
                Some(settings) => settings.mac_address = mac,
                None => {
                    endpoints.insert(mode, EndpointSettings { mac_address: mac, ..Default::default() });
                }
            },
        }
        return Ok(());
    }
    let Some(mac) = wide else { return Ok(()) };
    if connected {
        if endpoints.is_empty() {
            endpoints.insert(mode.clone(), EndpointSettings::default());
        }
        let settings = endpoints.get_mut(&mode).ok_or_else(|| {
            Error::invalid(
                "unable to migrate container-wide MAC address to a specific network: HostConfig.NetworkMode must match the identity of a network in NetworkSettings.Networks",
            )
        })?;
        if settings.mac_address.is_empty() {
            settings.mac_address = mac;
        } else if settings.mac_address != mac {
            return Err(Error::invalid(
                "the container-wide MAC address must match the endpoint-specific MAC address for the main network, or be left empty",
            ));
        }
    }
    warnings.push("The container-wide MacAddress field is now deprecated. It should be specified in EndpointsConfig instead.".to_owned());
    Ok(())
}

/// The networks of a container's document.
fn networks(document: &mut Value) -> Option<&mut serde_json::Map<String, Value>> {
    document.pointer_mut("/NetworkSettings/Networks").and_then(Value::as_object_mut)
}

/// One container's document. What it has not, none of this makes.
pub(crate) fn inspect(version: Version, document: &mut Value) {
    if version < (1, 45) {
        let hostname = document["Config"]["Hostname"].clone();
        let short = document["Id"].as_str().map(|id| id.get(..12).unwrap_or(id).to_owned());
        if let Some(networks) = networks(document) {
            let user = |name: &str| !matches!(name, "bridge" | "host" | "none");
            for (_, settings) in networks.iter_mut().filter(|(name, _)| user(name)) {
                let Some(settings) = settings.as_object_mut() else { continue };
                let aliases = settings.get("Aliases").and_then(Value::as_array);
                let mut aliases: Vec<Value> = aliases.cloned().unwrap_or_default();
                for more in [short.clone().map(Value::from), Some(hostname.clone())].into_iter().flatten() {
                    if more.as_str().is_some_and(|m| !m.is_empty()) && !aliases.contains(&more) {
                        aliases.push(more);
                    }
                }
                settings.insert("Aliases".to_owned(), json!(aliases));
            }
        }
    }
    if version < (1, 44)
        && let Some(networks) = networks(document)
    {
        networks.values_mut().filter_map(Value::as_object_mut).for_each(|settings| {
            settings.remove("DNSNames");
        });
    }
    if version < (1, 48)
        && let Some(networks) = networks(document)
    {
        networks.values_mut().filter_map(Value::as_object_mut).for_each(|settings| {
            settings.remove("GwPriority");
        });
    }
    if version < (1, 43)
        && let Some(host) = document.get_mut("HostConfig").and_then(Value::as_object_mut)
    {
        host.remove("Annotations");
    }
}

/// An image's document.
pub(crate) fn image(version: Version, document: &mut Value) {
    if version < (1, 45) {
        // What made the image's last step, which nobody keeps any more; docker-compose 1 reads its volumes.
        document["ContainerConfig"] = document["Config"].clone();
    }
    let Some(document) = document.as_object_mut() else { return };
    if version >= (1, 44) {
        document.remove("VirtualSize");
    }
    if version >= (1, 45) {
        document.remove("Container");
    }
}

/// The lines of `docker ps`.
pub(crate) fn list(version: Version, lines: &mut Value) {
    for line in lines.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        if version < (1, 46)
            && let Some(host) = line.get_mut("HostConfig").and_then(Value::as_object_mut)
        {
            host.remove("Annotations");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::model::decode;

    fn body(value: Value) -> CreateBody {
        decode(value.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn old_requests() {
        let mut old =
            body(json!({"Image": "x", "HostConfig": {"Annotations": {"a": "b"}, "ConsoleSize": [1, 2]},
            "MacAddress": "02:00:00:00:00:01", "Healthcheck": {"Test": ["NONE"], "StartInterval": 5}}));
        assert!(create((1, 39), &mut old).unwrap().is_empty());
        assert_eq!(old.host_config.ipc_mode, "shareable");
        assert!(old.host_config.annotations.is_empty() && old.read_only_top);
        assert_eq!(old.host_config.console_size, [0, 0]);
        assert_eq!(old.networking_config.endpoints_config["bridge"].mac_address, "02:00:00:00:00:01");
        assert_eq!(old.config.healthcheck.unwrap().start_interval, 0);

        let two = json!({"Image": "x", "NetworkingConfig": {"EndpointsConfig": {"a": {}, "b": {}}}});
        assert!(create((1, 43), &mut body(two.clone())).is_err());
        assert!(create((1, 44), &mut body(two)).is_ok());
        let image = json!({"Image": "x", "HostConfig": {"Mounts": [{"Type": "image", "Source": "i", "Target": "/i"}]}});
        assert!(create((1, 47), &mut body(image.clone())).is_err());
        assert!(create((1, 48), &mut body(image)).is_ok());
    }

    #[test]
    fn documents_keep_their_shape() {
        for strange in [
            json!(22),
            json!({}),
            json!({"NetworkSettings": 1}),
            json!({"Id": "ünfönfzehnn", "HostConfig": [], "NetworkSettings": {"Networks": {"a": "b"}}}),
        ] {
            let mut document = strange.clone();
            inspect((1, 24), &mut document);
            assert_eq!(document, strange);
        }
        let mut document = json!({"Id": "0123456789abcdef", "Config": {"Hostname": "h"},
            "NetworkSettings": {"Networks": {"a": {"Aliases": null, "DNSNames": ["x"]}, "bridge": {}}}});
        inspect((1, 40), &mut document);
        let networks = json!({"a": {"Aliases": ["0123456789ab", "h"]}, "bridge": {}});
        assert_eq!(document["NetworkSettings"]["Networks"], networks);
    }

    #[test]
    fn hardware_addresses() {
        let wide = json!({"Image": "x", "MacAddress": "02:00:00:00:00:01"});
        let mut new = body(wide.clone());
        assert_eq!(create((1, 51), &mut new).unwrap().len(), 1, "it is deprecated");
        assert_eq!(new.networking_config.endpoints_config["bridge"].mac_address, "02:00:00:00:00:01");
        let mut other = wide;
        other["NetworkingConfig"] =
            json!({"EndpointsConfig": {"bridge": {"MacAddress": "02:00:00:00:00:02"}}});
        assert!(create((1, 51), &mut body(other)).is_err());
        let mut host = body(
            json!({"Image": "x", "MacAddress": "02:00:00:00:00:01", "HostConfig": {"NetworkMode": "host"}}),
        );
        assert!(create((1, 43), &mut host).is_err());
    }

    #[test]
    fn old_images() {
        let document =
            json!({"Config": {"Volumes": {"/v": {}}}, "Container": "", "VirtualSize": 7, "Size": 7});
        let at = |minor: u32| {
            let mut document = document.clone();
            image((1, minor), &mut document);
            document
        };
        assert_eq!(at(38)["ContainerConfig"], json!({"Volumes": {"/v": {}}}));
        assert_eq!(at(43)["VirtualSize"], 7);
        assert_eq!(at(44).get("VirtualSize"), None);
        assert_eq!(at(45), json!({"Config": {"Volumes": {"/v": {}}}, "Size": 7}));
    }

    #[test]
    fn old_answers() {
        let document = json!({"Id": "0123456789abcdef", "Config": {"Hostname": "h"}, "HostConfig": {"Annotations": {}},
            "NetworkSettings": {"Networks": {"n": {"Aliases": ["a"], "DNSNames": ["x"]}, "bridge": {"Aliases": null}}}});
        let mut old = document.clone();
        inspect((1, 42), &mut old);
        assert_eq!(old["NetworkSettings"]["Networks"]["n"], json!({"Aliases": ["a", "0123456789ab", "h"]}));
        assert_eq!(old["NetworkSettings"]["Networks"]["bridge"]["Aliases"], Value::Null);
        assert!(old["HostConfig"].get("Annotations").is_none());
        let mut new = document.clone();
        inspect((1, 51), &mut new);
        assert_eq!(new, document);
    }
}
