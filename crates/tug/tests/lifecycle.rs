//! Up, down, and what survives a server that is killed.
#![allow(clippy::unwrap_used)] // a test fails by panicking

mod common;

use std::fs;
use std::time::Duration;

use common::{Machine, lacking};

#[test]
fn up_twice_down_twice() {
    if lacking(&[]) {
        return;
    }
    let machine = Machine::new("updown", true);
    let first = machine.tug("up");
    assert!(first.contains("export DOCKER_HOST=unix://") && first.contains("export KUBECONFIG="), "{first}");
    assert!(machine.tug("up").contains("already up"));
    let status = machine.tug("status");
    assert!(status.contains("Ready") && !status.contains("NotReady"), "{status}");
    assert!(machine.tug("env").contains("export DOCKER_HOST="));
    assert!(machine.tug("down").contains("tug is down"));
    assert!(machine.tug("down").contains("not running"));
    assert_eq!(machine.tug_command("status").status().unwrap().code(), Some(3));
    // Nothing of it is left but its data.
    assert!(!machine.run_dir().exists());
    assert!(machine.data_dir().join("pki/ca.crt").exists());
    let links =
        String::from_utf8(machine.command("ip").args(["-o", "link"]).output().unwrap().stdout).unwrap();
    assert!(!links.contains("tug"), "{links}");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(machine.folder().to_str().unwrap()), "{mounts}");
}

#[test]
fn containers_survive_a_killed_server() {
    if lacking(&["docker", "busybox"]) {
        return;
    }
    let machine = Machine::new("survive", true);
    machine.tug("up");
    machine.import_busybox();
    let script = "echo before; while ! test -e /go; do sleep 0.1; done; echo after; exit 7";
    machine.docker(&["run", "-d", "--name", "first", "busybox:1", "sh", "-c", script]);
    machine.docker(&["run", "-d", "--name", "other", "busybox:1", "sleep", "1000"]);
    let pid = |name: &str| machine.docker(&["inspect", "-f", "{{.State.Pid}}", name]);
    let before = pid("other");

    let server = rustix::process::Pid::from_raw(machine.server_pid()).unwrap();
    machine.docker(&["exec", "-d", "first", "sh", "-c", "sleep 1; echo > /go"]);
    rustix::process::kill_process(server, rustix::process::Signal::KILL).unwrap();
    machine.eventually("the server is gone", Duration::from_secs(10), || {
        machine.tug_command("status").output().unwrap().status.code().filter(|c| *c == 3)
    });
    machine.tug("up");

    assert_eq!(pid("other"), before, "a container was restarted");
    machine.eventually("it has ended", Duration::from_secs(10), || {
        machine.docker(&["inspect", "-f", "{{.State.Status}}", "first"]).starts_with("exited").then_some(())
    });
    assert_eq!(machine.docker(&["inspect", "-f", "{{.State.ExitCode}}", "first"]).trim(), "7");
    assert_eq!(machine.docker(&["logs", "first"]), "before\nafter\n");
    assert_eq!(machine.docker(&["exec", "other", "echo", "alive"]).trim(), "alive");
}

#[test]
fn two_instances_do_not_touch_each_other() {
    if lacking(&["docker", "busybox"]) {
        return;
    }
    let (one, two) = (Machine::new("one", true), Machine::new("two", true));
    one.tug("up");
    two.tug("up");
    one.import_busybox();
    two.import_busybox();
    one.docker(&["run", "-d", "--name", "same", "busybox:1", "sleep", "1000"]);
    two.docker(&["run", "-d", "--name", "same", "busybox:1", "sleep", "1000"]);
    two.tug("down");
    assert_eq!(one.docker(&["exec", "same", "echo", "alive"]).trim(), "alive");
    assert!(one.tug("status").contains("1 running"));
}

/// What somebody has mounted below the data folder stays; what volumes had mounted goes. And a registry that cannot start
/// keeps nothing else from it.
#[test]
fn what_is_not_ours_stays() {
    if lacking(&["docker", "busybox", "nsenter"]) {
        return;
    }
    let machine = Machine::new("mounts", true);
    let disk = machine.data_dir().join("backup");
    fs::create_dir_all(&disk).unwrap();
    fs::create_dir_all(machine.data_dir().join("registry")).unwrap();
    fs::write(machine.data_dir().join("registry/registry.db"), "this is no database, whatever its name")
        .unwrap();
    rustix::mount::mount("tmpfs", &disk, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
    fs::write(disk.join("kept"), "kept").unwrap();
    let tug = |command: &str| {
        let mut tug = machine.beside(env!("CARGO_BIN_EXE_tug"));
        tug.arg(command).arg("--data-dir").arg(machine.data_dir()).arg("--run-dir").arg(machine.run_dir());
        let output = tug.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    };
    let up = tug("up");
    let log = fs::read_to_string(machine.run_dir().join("server.log")).unwrap_or_default();
    if up.0 {
        machine.import_busybox();
        machine.docker(&["volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "mounted"]);
        machine.docker(&["run", "-d", "-v", "mounted:/m", "busybox:1", "sleep", "1000"]);
    }
    let volume = machine.data_dir().join("volumes/mounted/_data");
    let mounted = |path: &std::path::Path| {
        let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
        text.lines().any(|l| l.split(' ').nth(4) == path.to_str())
    };
    let was_mounted = mounted(&volume);
    let down = tug("down");
    let (kept, left) = (fs::read_to_string(disk.join("kept")), mounted(&volume));
    // The test's own, whatever came of it.
    let _ = rustix::mount::unmount(&disk, rustix::mount::UnmountFlags::DETACH);
    assert!(up.0, "{}\n{log}", up.1);
    assert!(log.contains("no registry of our own"), "{log}");
    assert!(was_mounted && down.0, "{}", down.1);
    assert!(!left, "what the volume had mounted is there still");
    assert_eq!(kept.unwrap(), "kept");
}
