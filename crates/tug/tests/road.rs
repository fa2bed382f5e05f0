//! The whole road: an image built with docker, deployed with kubectl, reached through a Service.
#![allow(clippy::unwrap_used)] // a test fails by panicking

mod common;

use std::time::Duration;

use common::{Machine, lacking};

#[test]
fn demo() {
    if lacking(&[]) {
        return;
    }
    let machine = Machine::new("demo", true);
    let shown = machine.tug("demo");
    let pods: std::collections::BTreeSet<&str> =
        shown.lines().map(str::trim).filter(|l| l.starts_with("This is v1 running in pod kubia-")).collect();
    assert!(pods.len() >= 2, "{shown}");
    assert!(shown.contains("export DOCKER_HOST=") && shown.contains("export KUBECONFIG="), "{shown}");
    let again = machine.tug("demo");
    assert!(again.contains("deployment.apps/kubia unchanged"), "{again}");
}

#[test]
fn a_deployment_with_the_real_clients() {
    if lacking(&["docker", "kubectl", "busybox"]) {
        return;
    }
    let machine = Machine::new("road", false);
    machine.tug("up");
    machine.import_busybox();
    let app = "FROM busybox:1\nRUN echo built > /index.html\nCMD [\"httpd\", \"-f\", \"-p\", \"8080\", \"-h\", \"/\"]\n";
    std::fs::write(machine.folder().join("Dockerfile"), app).unwrap();
    machine.docker(&["build", "-q", "-t", "app:1", machine.folder().to_str().unwrap()]);

    machine.kubectl(&["create", "deployment", "app", "--image", "app:1", "--replicas", "2"]);
    machine.kubectl(&["rollout", "status", "deployment/app", "--timeout", "60s"]);
    machine.kubectl(&["expose", "deployment", "app", "--port", "80", "--target-port", "8080"]);
    let address = machine.kubectl(&["get", "service", "app", "-o", "jsonpath={.spec.clusterIP}"]);

    let from_pod = |url: &str| {
        let url = url.to_owned();
        let output = machine
            .command("kubectl")
            .args(["exec", "deployment/app", "--", "wget", "-qO-", &url])
            .output()
            .unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    };
    let within = Duration::from_secs(10);
    let page = machine
        .eventually("the cluster IP answers", within, || from_pod(&format!("http://{address}/index.html")));
    assert_eq!(page, "built\n");
    let page = machine.eventually("the name answers", within, || {
        from_pod("http://app.default.svc.cluster.local/index.html")
    });
    assert_eq!(page, "built\n");

    machine.kubectl(&["scale", "deployment/app", "--replicas", "1"]);
    machine.eventually("one pod is left", Duration::from_secs(60), || {
        (machine.kubectl(&["get", "pods", "-o", "name"]).lines().count() == 1).then_some(())
    });
    assert!(machine.docker(&["ps", "--format", "{{.Names}}"]).contains("k8s_app_app-"));
    assert!(machine.kubectl(&["get", "events"]).contains("Started"));
    assert!(machine.kubectl(&["explain", "deployment.spec.replicas"]).contains("replicas"));
    machine.kubectl(&["delete", "deployment/app", "service/app"]);
    machine.eventually("the pods are gone", Duration::from_secs(60), || {
        machine.kubectl(&["get", "pods", "-o", "name"]).is_empty().then_some(())
    });
}
