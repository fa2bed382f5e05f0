//! Rights as `kubectl auth` sees them, with the controllers running: roles that gather others, what one may do, and the
//! certificates by which one is somebody.
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

/// A request for a certificate of this subject, as openssl makes it; its key lies beside it.
fn request(machine: &Machine, name: &str, subject: &str, more: &str) -> String {
    let file = |kind: &str| machine.folder().join(format!("{name}.{kind}")).display().to_string();
    let output = std::process::Command::new("openssl")
        .args(["req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", subject])
        .args(["-keyout", &file("key"), "-out", &file("csr")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let encoded = machine.feed("base64", &["-w0"], &std::fs::read(file("csr")).unwrap());
    format!(
        "apiVersion: certificates.k8s.io/v1
kind: CertificateSigningRequest
metadata: {{name: {name}}}
spec: {{request: {encoded}, {more}}}
"
    )
}

#[test]
fn certificates_are_requested_approved_and_used() {
    if lacking(&["kubectl", "openssl", "base64"]) {
        return;
    }
    let machine = Machine::new("certs", false);
    machine.tug("up");
    let within = Duration::from_secs(20);
    let field = |name: &str, template: &str| {
        machine.kubectl(&["get", "csr", name, "-o", &format!("go-template={template}")])
    };
    let conditions = "{{range .status.conditions}}{{.type}} {{.reason}};{{end}}";
    let certificate = "{{with .status.certificate}}{{.|base64decode}}{{end}}";
    let issued = |name: &str| {
        machine.eventually("the certificate is there", within, || {
            Some(field(name, certificate)).filter(|pem| !pem.is_empty())
        })
    };
    let client =
        "signerName: kubernetes.io/kube-apiserver-client, usages: [client auth], expirationSeconds: 3600";
    let asked = request(&machine, "ann", "/O=dev/O=ops/CN=ann", client);
    machine.feed("kubectl", &["create", "-f", "-"], asked.as_bytes());
    assert!(machine.kubectl(&["get", "csr", "ann"]).contains("Pending"));
    machine.kubectl(&["certificate", "approve", "ann"]);
    let file = |kind: &str| machine.folder().join(format!("ann.{kind}"));
    std::fs::write(file("crt"), issued("ann")).unwrap();
    assert!(machine.kubectl(&["get", "csr", "ann"]).contains("Approved,Issued"));
    // Who shows it is who was asked for, for as long as was asked for.
    let flag = |name: &str, kind: &str| format!("--client-{name}={}", file(kind).display());
    let shows = [flag("certificate", "crt"), flag("key", "key")];
    machine.kubectl(&["config", "set-credentials", "ann", &shows[0], &shows[1]]);
    let who = "jsonpath={.status.userInfo.username} {.status.userInfo.groups}";
    let whoami = machine.kubectl(&["auth", "whoami", "--user", "ann", "-o", who]);
    assert_eq!(whoami, r#"ann ["dev","ops","system:authenticated"]"#);
    let lasts = |seconds: &str| {
        let path = file("crt").display().to_string();
        let check = std::process::Command::new("openssl")
            .args(["x509", "-noout", "-checkend", seconds, "-in", &path])
            .output();
        check.unwrap().status.success()
    };
    assert!(lasts("3000") && !lasts("4000"));

    // What breaks the rules of its signer fails, whoever approved it.
    let kubelet =
        "signerName: kubernetes.io/kube-apiserver-client-kubelet, usages: [digital signature, client auth]";
    let wrong = request(&machine, "wrong", "/O=dev/CN=system:node:n", kubelet);
    machine.feed("kubectl", &["create", "-f", "-"], wrong.as_bytes());
    machine.kubectl(&["certificate", "approve", "wrong"]);
    machine.eventually("the request has failed", within, || {
        field("wrong", conditions).contains("Failed SignerValidationFailure").then_some(())
    });
    assert_eq!(field("wrong", certificate), "");
    let denied = request(&machine, "denied", "/CN=bob", client);
    machine.feed("kubectl", &["create", "-f", "-"], denied.as_bytes());
    machine.kubectl(&["certificate", "deny", "denied"]);
    let refused = machine.command("kubectl").args(["certificate", "approve", "denied"]).output().unwrap();
    assert!(!refused.status.success() || field("denied", conditions).starts_with("Denied"));
    assert_eq!(field("denied", certificate), "");

    // A kubelet gets its own for the asking, when it may.
    let own = request(&machine, "own", "/O=system:nodes/CN=system:node:n", kubelet);
    let as_node = ["create", "-f", "-", "--as", "system:node:n", "--as-group", "system:nodes"];
    machine.feed("kubectl", &as_node, own.as_bytes());
    assert_eq!(field("own", conditions), "");
    let role = "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient";
    let arguments =
        ["create", "clusterrolebinding", "renewal", "--clusterrole", role, "--group", "system:nodes"];
    machine.kubectl(&arguments);
    assert!(issued("own").contains("BEGIN CERTIFICATE"));
    assert_eq!(field("own", conditions), "Approved AutoApproved;");
}
