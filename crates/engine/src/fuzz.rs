//! What fuzz targets call: requests, settings and texts from outside, each with what is done with the result.

use crate::attach::DetachKeys;
use crate::filters::{self, Filters};
use crate::model::{self, CreateBody, ExecConfig, NetworkCreate, UpdateBody, VolumeCreate};
use crate::settings::Settings;
use crate::{create, files, limits, mounts, networks, ports, resolver, spec, validate, volumes};

/// A request to make a container, as far as it can be judged without making one.
pub fn create(bytes: &[u8]) {
    let Ok(mut body) = model::decode::<CreateBody>(bytes) else { return };
    let (config, host) = (&body.config, &body.host_config);
    let _ = validate::config(config);
    let _ = validate::together(config, host);
    let _ = ports::exposed(config, host);
    for text in host.binds.iter().take(8) {
        let _ = mounts::bind(text, &host.volume_driver);
    }
    for text in &host.volumes_from {
        let _ = mounts::volumes_from(text);
    }
    for mount in &host.mounts {
        let _ = mounts::mount(mount);
    }
    for text in &host.links {
        let _ = create::parse_link(text);
    }
    for text in &host.extra_hosts {
        let _ = validate::extra_host(text);
    }
    for text in &host.device_cgroup_rules {
        let _ = spec::parse_rule(text);
    }
    let _ = spec::number_list(&host.cpuset_cpus);
    let _ = spec::capabilities(host);
    let _ = config.stop_signal.as_deref().map(validate::parse_signal);
    if validate::host(&mut body.host_config).is_ok() {
        let _ = spec::resources(&body.host_config);
    }
}

/// A request to make a network.
pub fn network(bytes: &[u8]) {
    if let Ok(create) = model::decode::<NetworkCreate>(bytes) {
        networks::try_out(&create);
    }
}

/// Requests to make a volume, to run something in a container, and to change one.
pub fn smaller(bytes: &[u8]) {
    if let Ok(create) = model::decode::<VolumeCreate>(bytes) {
        volumes::try_out(&create);
    }
    if let Ok(exec) = model::decode::<ExecConfig>(bytes) {
        let _ = DetachKeys::parse(&exec.detach_keys);
    }
    if let Ok(update) = model::decode::<UpdateBody>(bytes) {
        let mut host = update.as_host();
        if limits::check(&mut host, true).is_ok() && validate::restart_policy(&host.restart_policy).is_ok() {
            let _ = spec::resources(&host);
        }
    }
}

/// The text of a daemon.json.
pub fn settings(text: &str) {
    if let Ok(settings) = Settings::parse(text) {
        let _ = settings.oldest_api();
        let _ = settings.reloaded(&Settings::default());
        let mut host = Default::default();
        let _ = settings.fill(&mut host);
    }
}

/// The filters of a list, and other texts of a query.
pub fn texts(text: &str) {
    if let Ok(filters) = Filters::parse(text) {
        let _ = filters.matches("name", "web-1");
        let _ = filters.labels(&Default::default());
        let _ = filters.flag("dangling");
    }
    let _ = filters::timestamp(text);
    if let Ok(mut keys) = DetachKeys::parse(text) {
        let _ = keys.feed(text.as_bytes());
    }
    let resolv = files::Resolv::parse(text);
    let again = files::Resolv::parse(&resolv.text());
    assert_eq!(again.text(), resolv.text(), "what is written down means the same");
    if let Some(address) = resolver::reverse(text) {
        assert!(text.ends_with(".arpa"), "{address}");
    }
}
