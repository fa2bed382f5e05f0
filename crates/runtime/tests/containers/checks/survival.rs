//! Daemons and shims that come and go; what is told of containers, and what is left of them.

use std::io::Write;
use std::time::Duration;

use runtime::{Error, EventKind, Runtime, Status};

use super::{alive, eventually, exec_spec};
use crate::world::World;

pub async fn restart_finds_everything(w: &World) {
    let running = w.sh("echo before; sleep 0.4; echo after; sleep 100");
    drop(w.begin(&running).await);
    let ending = w.sh("sleep 0.2; exit 6");
    drop(w.begin(&ending).await);
    let ended = w.sh("exit 3");
    w.run(&ended).await;
    let created = w.sh("exit 4");
    w.runtime.create(&created).await.unwrap();
    let old = w.runtime.state(&running.id).await.unwrap();
    // The first daemon stays, which is harder: the second must work beside it.
    let next = w.reopened();
    let states = next.list().await.unwrap();
    let status = |id: &str| states.iter().find(|s| s.id == id).map(|s| s.status);
    assert_eq!(status(&running.id), Some(Status::Running));
    assert_eq!(status(&ended.id), Some(Status::Stopped));
    assert_eq!(status(&created.id), Some(Status::Created));
    let new = next.state(&running.id).await.unwrap();
    assert_eq!((new.pid, new.started_at, new.created_at), (old.pid, old.started_at, old.created_at));
    assert_eq!(*new.spec, *old.spec);
    assert_eq!(next.wait(&ended.id).await.unwrap().code, 3);
    assert_eq!(next.wait(&ending.id).await.unwrap().code, 6);
    let third = w.reopened();
    assert_eq!(third.wait(&ending.id).await.unwrap(), next.wait(&ending.id).await.unwrap());
    next.start(&created.id).await.unwrap();
    assert_eq!(next.wait(&created.id).await.unwrap().code, 4);
    eventually("the log went on", || std::fs::read_to_string(w.log(&running.id)).unwrap().contains("after"))
        .await;
    let mut io = next.exec(&running.id, &exec_spec(&running, "e", "echo still here")).await.unwrap().io;
    assert_eq!(&io.output.recv().await.unwrap().data[..], b"still here\n");
}

pub async fn killed_shim(w: &World) {
    let spec = w.sh("sleep 100");
    drop(w.begin(&spec).await);
    let pid = w.runtime.state(&spec.id).await.unwrap().pid.unwrap();
    sys::process::kill(shim_of(pid), 9).unwrap();
    let exit = w.runtime.wait(&spec.id).await.unwrap();
    assert_eq!(exit.code, 137);
    eventually("the container ended", || !alive(pid)).await;
    eventually("its end was recorded", || w.dir.path().join(format!("state/{}.json", spec.id)).exists())
        .await;
    assert_eq!(w.reopened().wait(&spec.id).await.unwrap(), exit);
}

fn shim_of(pid: u32) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|l| l.strip_prefix("PPid:\t")).unwrap().parse().unwrap()
}

/// Breaks the connections that were made to a shim; says how many.
pub(super) fn break_connections(shim: i32) -> usize {
    let own =
        rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty()).unwrap();
    let mut broken = 0;
    for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
        let number = entry.unwrap().file_name().to_str().unwrap().parse().unwrap();
        let flags = rustix::process::PidfdGetfdFlags::empty();
        let Ok(fd) = rustix::process::pidfd_getfd(&own, number, flags) else { continue };
        // Those that were made to what the shim listens on: the second daemon's, and what is left of the first one's viewer.
        if rustix::net::sockopt::socket_peercred(&fd)
            .is_ok_and(|peer| peer.pid.as_raw_nonzero().get() == shim)
        {
            rustix::net::shutdown(&fd, rustix::net::Shutdown::Both).unwrap();
            broken += 1;
        }
    }
    broken
}

/// A connection that breaks is made anew: the container knows nothing of it.
pub async fn broken_connection(w: &World) {
    let spec = w.sh("sleep 100");
    drop(w.begin(&spec).await);
    let pid = w.runtime.state(&spec.id).await.unwrap().pid.unwrap();
    let (shim, next) = (shim_of(pid), w.reopened());
    let broken = break_connections(shim);
    assert!(broken >= 1, "the second daemon has no connection");
    let mut answered = false;
    for _ in 0..500 {
        answered = next.signal(&spec.id, 18, false).await.is_ok();
        if answered {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(answered && alive(pid), "it is there, and can be reached");
    next.signal(&spec.id, 9, false).await.unwrap();
    assert_eq!(next.wait(&spec.id).await.unwrap().code, 137);
}

/// A shim that cannot be understood is not a dead one: its container is left alone, and found when it answers again.
pub async fn strange_shim(w: &World) {
    let spec = w.sh("sleep 100");
    drop(w.begin(&spec).await);
    let pid = w.runtime.state(&spec.id).await.unwrap().pid.unwrap();
    let bundle = w.dir.path().join("run/containers").join(&spec.id);
    std::fs::rename(bundle.join("sock"), bundle.join("sock.real")).unwrap();
    let other = std::os::unix::net::UnixListener::bind(bundle.join("sock")).unwrap();
    let talk = std::thread::spawn(move || other.accept().unwrap().0.write_all(b"220 ready\r\n").unwrap());
    let next = w.reopened();
    talk.join().unwrap();
    assert_eq!(next.unreached(), std::slice::from_ref(&spec.id));
    assert!(next.list().await.unwrap().is_empty() && alive(pid));
    std::fs::rename(bundle.join("sock.real"), bundle.join("sock")).unwrap();
    let again = w.reopened();
    assert_eq!(again.state(&spec.id).await.unwrap().pid, Some(pid));
    assert!(again.unreached().is_empty());
}

pub async fn half_made(w: &World) {
    let bundle = w.dir.path().join("run/containers/half");
    std::fs::create_dir_all(bundle.join("rootfs")).unwrap();
    std::fs::write(bundle.join("container.json"), "{\"id\":").unwrap();
    let next = w.reopened();
    assert!(!bundle.exists());
    assert!(next.list().await.unwrap().is_empty());
}

pub async fn events(w: &World) {
    let mut events = w.runtime.events();
    let spec = w.sh("sleep 0.05; exit 2");
    drop(w.begin(&spec).await);
    let exit = w.runtime.wait(&spec.id).await.unwrap();
    w.runtime.delete(&spec.id, false).await.unwrap();
    let mut seen = Vec::new();
    while let Ok(event) = events.try_recv() {
        assert_eq!(event.id, spec.id);
        seen.push(event.kind);
    }
    let exited = EventKind::Exited { exec_id: None, exit };
    assert_eq!(seen, [EventKind::Created, EventKind::Started, exited, EventKind::Deleted]);
}

pub async fn delete(w: &World) {
    let spec = w.sh("sleep 100");
    drop(w.begin(&spec).await);
    assert!(matches!(w.runtime.delete(&spec.id, false).await, Err(Error::InvalidState { .. })));
    let pid = w.runtime.state(&spec.id).await.unwrap().pid.unwrap();
    w.runtime.delete(&spec.id, true).await.unwrap();
    w.runtime.delete(&spec.id, true).await.unwrap();
    assert!(!alive(pid));
    assert!(w.runtime.state(&spec.id).await.unwrap_err().is_not_found());
    // One that was never started, while somebody waits for it.
    let spec = w.sh("true");
    w.runtime.create(&spec).await.unwrap();
    let wait = w.runtime.wait(&spec.id);
    let delete = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        w.runtime.delete(&spec.id, true).await.unwrap();
    };
    let (waited, ()) = tokio::join!(wait, delete);
    assert_eq!(waited.unwrap().code, 137);
}

pub async fn shim_is_small(w: &World) {
    let spec = w.sh("sleep 100");
    drop(w.begin(&spec).await);
    let pid = w.runtime.state(&spec.id).await.unwrap().pid.unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let shim = status.lines().find_map(|l| l.strip_prefix("PPid:\t")).unwrap();
    let rollup = std::fs::read_to_string(format!("/proc/{shim}/smaps_rollup")).unwrap();
    let kib = |key: &str| -> u64 {
        let line = rollup.lines().find_map(|l| l.strip_prefix(key)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    if std::env::var_os("SMAPS").is_some() {
        println!("{}", std::fs::read_to_string(format!("/proc/{shim}/smaps")).unwrap());
    }
    println!("shim: {} KiB anonymous, {} KiB PSS (this build)", kib("Pss_Anon:"), kib("Pss:"));
    // What is its own; the binary's pages are shared by all and depend on the build.
    assert!(kib("Pss_Anon:") < 512, "{rollup}");
}
