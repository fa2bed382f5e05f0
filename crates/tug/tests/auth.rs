//! Rights as `kubectl auth` sees them, with the controllers running: roles that gather others, and what one may do.
#![allow(clippy::unwrap_used)] // a test fails by panicking

mod common;

use std::time::Duration;

use common::{Machine, lacking};

#[test]
fn roles_gather_others_and_users_are_told() {
    if lacking(&["kubectl"]) {
        return;
    }
    let machine = Machine::new("rights", false);
    machine.tug("up");
    let roles = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: monitoring}
aggregationRule: {clusterRoleSelectors: [{matchLabels: {to: monitoring}}]}
rules: []
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: leases, labels: {to: monitoring, rbac.authorization.k8s.io/aggregate-to-view: "true"}}
rules: [{apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, list]}]
"#;
    machine.feed("kubectl", &["apply", "-f", "-"], roles.as_bytes());
    machine.kubectl(&["create", "clusterrolebinding", "ann", "--clusterrole", "monitoring", "--user", "ann"]);
    machine.kubectl(&["create", "rolebinding", "bob", "--clusterrole", "view", "--user", "bob"]);
    let may = |who: &str, arguments: &[&str]| {
        let output =
            machine.command("kubectl").args(["auth", "can-i", "--as", who]).args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim() == "yes"
    };
    let within = Duration::from_secs(20);
    machine.eventually("the role has gathered its rules", within, || {
        may("ann", &["list", "leases.coordination.k8s.io", "-A"]).then_some(())
    });
    machine.eventually("so has the stock role", within, || {
        may("bob", &["get", "leases.coordination.k8s.io"]).then_some(())
    });
    assert!(may("bob", &["list", "pods"]) && !may("bob", &["list", "pods", "-n", "kube-system"]));
    assert!(!may("bob", &["get", "secrets"]) && !may("ann", &["delete", "leases.coordination.k8s.io"]));
    let listed = machine.kubectl(&["auth", "can-i", "--list", "--as", "bob"]);
    let line = |start: &str| {
        listed.lines().find(|l| l.starts_with(start)).unwrap_or_else(|| panic!("{start} in {listed}"))
    };
    assert!(line("leases.coordination.k8s.io").ends_with("[get list]"), "{listed}");
    assert!(line("pods ").contains("[get list watch]"), "{listed}");
    assert!(line("selfsubjectrulesreviews.authorization.k8s.io").contains("[create]"), "{listed}");
    assert!(!listed.contains("incomplete") && !listed.lines().any(|l| l.starts_with("secrets")), "{listed}");
    // What is no longer gathered is no longer allowed.
    machine.kubectl(&["label", "clusterrole", "leases", "to-"]);
    machine.eventually("the rules are gone", within, || {
        (!may("ann", &["list", "leases.coordination.k8s.io", "-A"])).then_some(())
    });
    assert!(
        machine.kubectl(&["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"]).contains("admin")
    );
}
