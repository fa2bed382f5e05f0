//! Pods: namespaces that several containers share.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use oci_spec::runtime::LinuxNamespaceType;
use runtime::{ContainerSpec, Error, Runtime, SandboxSpec};

use super::{alive, eventually, exec_spec};
use crate::world::{World, patience};

fn sandbox_spec(w: &World) -> SandboxSpec {
    SandboxSpec {
        id: "pod".into(),
        hostname: "pod-host".into(),
        sysctls: [("net.ipv4.ip_unprivileged_port_start".to_string(), "99".to_string())].into(),
        cgroup: w.cgroup("pod"),
        ..Default::default()
    }
}

fn join(spec: &mut ContainerSpec, w: &World, pid: u32, kinds: &[(LinuxNamespaceType, &str)]) {
    let linux = spec.oci.linux_mut().as_mut().unwrap();
    for namespace in linux.namespaces_mut().as_mut().unwrap() {
        if let Some((_, name)) = kinds.iter().find(|(k, _)| *k == namespace.typ()) {
            namespace.set_path(Some(PathBuf::from(format!("/proc/{pid}/ns/{name}"))));
        }
    }
    linux.set_cgroups_path(Some(PathBuf::from(w.cgroup(&format!("pod/{}", spec.id)))));
}

const POD: [(LinuxNamespaceType, &str); 3] = [
    (LinuxNamespaceType::Network, "net"),
    (LinuxNamespaceType::Ipc, "ipc"),
    (LinuxNamespaceType::Uts, "uts"),
];

pub async fn sandbox(w: &World) {
    let sandbox = w.runtime.sandbox_create(&sandbox_spec(w)).await.unwrap();
    let script =
        "hostname; readlink /proc/self/ns/net; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; echo $$";
    let mut spec = w.sh(script);
    join(&mut spec, w, sandbox.pid, &POD);
    let net = std::fs::read_link(&sandbox.netns).unwrap();
    assert_eq!(w.output_of(&spec).await, format!("pod-host\n{}\n99\n1\n", net.display()));
    assert_ne!(net, std::fs::read_link("/proc/self/ns/net").unwrap());
    assert!(matches!(w.runtime.sandbox_create(&sandbox_spec(w)).await, Err(Error::AlreadyExists { .. })));
    let next = w.reopened();
    assert_eq!(next.sandboxes().await.unwrap(), vec![sandbox.clone()]);
    assert_eq!(next.sandbox_spec("pod").await.unwrap(), sandbox_spec(w));
    w.runtime.delete(&spec.id, false).await.unwrap();
    next.sandbox_delete("pod").await.unwrap();
    next.sandbox_delete("pod").await.unwrap();
    assert!(next.sandboxes().await.unwrap().is_empty());
    eventually("the holder is gone", || !alive(sandbox.pid)).await;
    w.runtime.sandbox_delete("pod").await.unwrap();
}

/// The end of a sandbox is told to whoever made it and whoever found it; what is left of it is removed by its id.
pub async fn killed_sandbox(w: &World) {
    let sandbox = w.runtime.sandbox_create(&sandbox_spec(w)).await.unwrap();
    let next = w.reopened();
    let waits = async { tokio::join!(w.runtime.sandbox_wait("pod"), next.sandbox_wait("pod")) };
    tokio::pin!(waits);
    // A connection that breaks is no end.
    assert!(super::survival::break_connections(sandbox.pid as i32) >= 1);
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut waits).await.is_err());
    sys::process::kill(sandbox.pid as i32, 9).unwrap();
    let (made, found) = tokio::time::timeout(patience(10), waits).await.unwrap();
    made.and(found).unwrap();
    next.sandbox_wait("pod").await.unwrap();
    assert!(next.sandboxes().await.unwrap().is_empty());
    let bundle = w.dir.path().join("run/sandboxes/pod");
    assert!(bundle.exists());
    next.sandbox_delete("pod").await.unwrap();
    let hierarchies = sys::cgroup::Hierarchies::find().unwrap();
    let group = sys::cgroup::Cgroup::at(&hierarchies, &w.cgroup("pod")).unwrap();
    assert!(!bundle.exists() && !group.exists());
    assert!(matches!(next.sandbox_wait("pod").await, Err(Error::NotFound { .. })));
}

/// A sandbox whose shim does not answer as one is left alone, but what it was made from is told.
pub async fn sandbox_out_of_reach(w: &World) {
    let sandbox = w.runtime.sandbox_create(&sandbox_spec(w)).await.unwrap();
    let bundle = w.dir.path().join("run/sandboxes/pod");
    std::fs::rename(bundle.join("sock"), bundle.join("sock.real")).unwrap();
    let other = std::os::unix::net::UnixListener::bind(bundle.join("sock")).unwrap();
    let talk = std::thread::spawn(move || other.accept().unwrap().0.write_all(b"220 ready\r\n").unwrap());
    let next = w.reopened();
    talk.join().unwrap();
    assert_eq!(next.unreached_sandboxes(), [sandbox_spec(w)]);
    assert!(next.sandboxes().await.unwrap().is_empty() && alive(sandbox.pid));
    std::fs::remove_file(bundle.join("sock")).unwrap();
    std::fs::rename(bundle.join("sock.real"), bundle.join("sock")).unwrap();
    let again = w.reopened();
    assert_eq!(again.sandboxes().await.unwrap(), [sandbox]);
    assert!(again.unreached_sandboxes().is_empty());
    again.sandbox_delete("pod").await.unwrap();
}

pub async fn sandbox_with_shared_pids(w: &World) {
    let sandbox =
        w.runtime.sandbox_create(&SandboxSpec { share_pid: true, ..sandbox_spec(w) }).await.unwrap();
    let mut kinds = POD.to_vec();
    kinds.push((LinuxNamespaceType::Pid, "pid"));
    let mut first = w.sh("(sleep 55 &); sleep 100");
    join(&mut first, w, sandbox.pid, &kinds);
    drop(w.begin(&first).await);
    let mut second = w.sh("ps -o args; cat /proc/1/comm");
    join(&mut second, w, sandbox.pid, &kinds);
    let out = w.output_of(&second).await;
    assert!(out.contains("sleep 100") && out.contains("sleep 55") && out.ends_with("tug-pause\n"), "{out}");
    let mut io = w.runtime.exec(&first.id, &exec_spec(&first, "e", "cat /proc/1/comm")).await.unwrap().io;
    assert_eq!(&io.output.recv().await.unwrap().data[..], b"tug-pause\n");
    // Its end takes along what it has left behind.
    w.runtime.signal(&first.id, 9, false).await.unwrap();
    w.runtime.wait(&first.id).await.unwrap();
    let mut third = w.sh("ps -o args");
    join(&mut third, w, sandbox.pid, &kinds);
    let out = w.output_of(&third).await;
    assert!(!out.contains("sleep 55"), "{out}");
}
