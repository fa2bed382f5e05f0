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
        "cgroup-parent": "/box", "default-ipc-mode": "shareable", "runtimes": {"crun": {"path": "/usr/bin/crun"}},
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
        ("/box", "shareable", "/usr/bin/crun")
    );
    assert_eq!(host.security_opt, ["no-new-privileges"]);
    let mut own = HostConfig { shm_size: 7, init: Some(false), ..HostConfig::default() };
    own.log_config.driver = "json-file".into();
    settings.fill(&mut own).unwrap();
    assert_eq!((own.shm_size, own.init, own.log_config.config.len()), (7, Some(false), 0));
}

#[test]
fn a_reload_changes_what_it_can() {
    let old = Settings::parse(r#"{"log-driver": "local", "labels": ["a=1"]}"#).unwrap();
    let new = Settings::parse(r#"{"log-driver": "none", "labels": ["a=2"], "debug": true}"#).unwrap();
    let now = old.reloaded(&new);
    assert_eq!((now.log_driver.as_str(), now.debug), ("local", true));
    assert_eq!(now.labels, ["a=2"]);
}
