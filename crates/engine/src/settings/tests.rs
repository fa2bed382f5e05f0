//! What is refused, what a container is given, what a reload changes.

use super::*;

#[test]
fn refusals() {
    let refused = |text: &str| Settings::parse(text).unwrap_err();
    assert_eq!(
        refused(r#"{"debug": true, "colour": 1}"#),
        "the following directives don't match any configuration option: colour"
    );
    assert!(refused(r#"{"iptables": false}"#).contains("must be true"));
    assert!(refused(r#"{"selinux-enabled": true}"#).contains("SELinux"));
    assert!(refused(r#"{"log-driver": "splunk"}"#).contains("no log driver named 'splunk'"));
    assert!(refused(r#"{"log-opts": {"x": "1"}}"#).contains("unknown log opt 'x' for json-file"));
    assert!(
        refused(r#"{"default-runtime": "kata"}"#).contains("specified default runtime 'kata' does not exist")
    );
    assert!(refused(r#"{"labels": ["a"]}"#).contains("bad attribute format: a"));
    assert!(refused(r#"{"labels": ["a=1", "a=2"]}"#).contains("conflict labels"));
    let pool = r#"{"default-address-pools": [{"base": "10.0.0.0/16", "size": 8}]}"#;
    assert!(refused(pool).contains("cannot be cut into subnets"));
    assert!(refused(r#"{"exec-opts": ["native.cgroupdriver=systemd"]}"#).contains("cgroupfs"));
    assert!(refused(r#"{"registry-mirrors": ["mirror"]}"#).contains("invalid mirror"));
    assert!(refused("[]").contains("object"));
    assert!(refused(r#"{"debug": "yes"}"#).contains("invalid type"));
    assert_eq!(refused(r#"{"max-concurrent-downloads": -1}"#), "invalid max concurrent downloads: -1");
    assert_eq!(refused(r#"{"exec-opts": ["x"]}"#), "invalid exec-opt (x): must be formatted 'opt=value'");
    assert_eq!(refused(r#"{"exec-opts": ["x=1"]}"#), "invalid exec-opt (x=1): unknown option: 'x'");
    assert_eq!(refused(r#"{"storage-opts": ["x=1"]}"#), "overlay2: unknown option x");
    assert_eq!(refused(r#"{"log-format": "xml"}"#), "invalid log format: xml");
    for fine in
        ["", "{}", r#"{"live-restore": false, "iptables": true, "selinux-enabled": false, "dns": null}"#]
    {
        Settings::parse(fine).unwrap();
    }
}

#[test]
fn what_a_container_is_given() {
    let text = r#"{"log-driver": "local", "log-opts": {"max-size": "1m"}, "default-shm-size": "1M", "init": true,
        "default-ulimits": {"nofile": {"Name": "nofile", "Hard": 64000, "Soft": 64000}}, "no-new-privileges": true,
        "cgroup-parent": "/box", "default-ipc-mode": "shareable", "runtimes": {"crun": {"path": "/bin/sh", "runtimeArgs": ["--debug"]}},
        "default-runtime": "crun"}"#;
    let settings = Settings::parse(text).unwrap();
    let mut host = HostConfig::default();
    settings.fill(&mut host).unwrap();
    assert_eq!(
        (host.log_config.driver.as_str(), host.log_config.config["max-size"].as_str()),
        ("local", "1m")
    );
    assert_eq!((host.shm_size, host.init, host.ulimits[0].hard), (1 << 20, Some(true), 64000));
    assert_eq!(
        (host.cgroup_parent.as_str(), host.ipc_mode.as_str(), host.runtime.as_str()),
        ("/box", "shareable", "crun")
    );
    assert_eq!(settings.runtime("crun").unwrap(), Some(("/bin/sh".into(), vec!["--debug".to_owned()])));
    assert_eq!(host.security_opt, ["no-new-privileges"]);
    let mut own = HostConfig { shm_size: 7, init: Some(false), ..HostConfig::default() };
    own.log_config.driver = "json-file".into();
    settings.fill(&mut own).unwrap();
    assert_eq!((own.shm_size, own.init, own.log_config.config.len()), (7, Some(false), 0));
}

#[test]
fn a_reload_changes_what_it_can() {
    let old = Settings::parse(r#"{"log-driver": "local", "labels": ["a=1"]}"#).unwrap();
    let new = Settings::parse(
        r#"{"log-driver": "none", "labels": ["a=2"], "debug": true, "max-concurrent-downloads": 7}"#,
    )
    .unwrap();
    let now = old.reloaded(&new);
    assert_eq!((now.log_driver.as_str(), now.debug), ("local", true));
    assert_eq!(now.labels, ["a=2"]);
    assert_eq!((now.transfers().downloads, now.transfers().uploads), (7, 5));
    let told = now.reload_attributes();
    assert_eq!((told["max-concurrent-downloads"].as_str(), told["features"].as_str()), ("7", "map[]"));
    let now = now.reloaded(&Settings::parse("{}").unwrap());
    assert_eq!(now.labels, ["a=2"], "what the file does not say any more stays");
    assert_eq!(now.transfers().downloads, 3, "but of the limits");
}

#[test]
fn bridges_of_others() {
    let bridge = |text: &str| Settings::parse(text).map(|s| s.own_bridge().map(|b| b.map(str::to_owned)));
    assert_eq!(bridge(r#"{"bridge": "br7"}"#), Ok(Ok(Some("br7".to_owned()))));
    assert_eq!(bridge(r#"{"bridge": "none"}"#), Ok(Ok(None)));
    assert!(bridge(r#"{"bridge": "br7", "bip": "10.0.0.1/24"}"#).unwrap_err().contains("-b & --bip"));
    let mark = |text: &str| Settings { bridge_accept_fwmark: text.into(), ..Settings::default() }.admitted();
    assert_eq!((mark("0x10/0xff"), mark("3"), mark("x")), (Some((16, 255)), Some((3, u32::MAX)), None));
}
