//! Other OCI runtimes behind the same shim.

use std::path::PathBuf;

use oci_spec::runtime::PosixRlimitType;
use runtime::{Error, ExecErrorKind, Runtime, StdinMode, defaults};
use tokio::io::AsyncWriteExt;

use super::{as_user, exec_spec, limit, memory, process_of};
use crate::world::{World, collect};

/// The same container by other runtimes looks the same from inside.
pub async fn other_runtimes(w: &World) {
    for binary in ["/usr/sbin/runc", "/usr/bin/crun"].map(PathBuf::from) {
        if !binary.exists() {
            println!("skipped: {} is not installed", binary.display());
            continue;
        }
        let script = "id; pwd; env | sort; hostname; grep -E 'Cap|Seccomp:|NoNewPrivs' /proc/self/status; \
             ls /dev | sort | tr '\\n' ' '; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; \
             awk '{print $5, $9}' /proc/self/mountinfo | grep -v -e cgroup -e /proc/interrupts -e /proc/keys -e /proc/timer | sort -u; \
             for p in /proc/kcore /proc/keys; do head -c 1 $p | wc -c; done; \
             ulimit -n; cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; \
             touch /proc/sys/x 2>&1; exit 7";
        let make = |runtime: Option<PathBuf>| {
            let mut spec = w.sh(script);
            spec.runtime = runtime;
            process_of(&mut spec).set_user(as_user("app:audio")).set_cwd("/home/app".into());
            process_of(&mut spec).set_rlimits(Some(vec![limit(PosixRlimitType::RlimitNofile, 99, 100)]));
            let mut resources = memory(64 << 20);
            resources.set_devices(Some(defaults::device_rules()));
            let linux = spec.oci.linux_mut().as_mut().unwrap();
            linux.set_resources(Some(resources));
            let port = ("net.ipv4.ip_unprivileged_port_start".to_string(), "77".to_string());
            linux.set_sysctl(Some([port].into()));
            spec.oci.set_hostname(Some("same".into()));
            spec
        };
        let mut spec = w.spec(&["nope"]);
        spec.runtime = Some(binary.clone());
        let failed = match w.runtime.create(&spec).await {
            // crun, of version 1 and version 2 side by side.
            Err(Error::Create { message }) if message.contains("hybrid mode not supported") => {
                println!("skipped: {}: {message}", binary.display());
                continue;
            }
            Ok(_) => w.runtime.start(&spec.id).await.unwrap_err(),
            Err(e) => e,
        };
        assert!(matches!(failed, Error::Exec { kind: ExecErrorKind::NotFound, .. }), "{failed:?}");
        let (ours, theirs) = (w.run(&make(None)).await, w.run(&make(Some(binary.clone()))).await);
        assert_eq!(ours.0.code, theirs.0.code);
        assert_eq!(ours.1, theirs.1, "{}", binary.display());
        let mut spec = w.sh("stty size; read x; echo got $x");
        spec.runtime = Some(binary.clone());
        spec.io.tty = true;
        spec.io.stdin = StdinMode::Open;
        spec.io.size = Some((22, 66));
        let mut io = w.begin(&spec).await;
        let mut exec = exec_spec(&spec, "e", "id -u; echo $$; exit 4");
        exec.process.set_user(as_user("app"));
        let mut started = w.runtime.exec(&spec.id, &exec).await.unwrap().io;
        let exit = started.exit.take().unwrap();
        assert!(collect(started).await.stdout.starts_with("1000\n"));
        assert_eq!(exit.await.unwrap().code, 4);
        io.stdin.as_mut().unwrap().write_all(b"it\n").await.unwrap();
        let out = collect(io).await.stdout;
        assert!(out.contains("22 66\r\n") && out.contains("got it\r\n"), "{out:?}");
        let mut spec = w.sh("sleep 100");
        spec.runtime = Some(binary.clone());
        drop(w.begin(&spec).await);
        w.runtime.pause(&spec.id).await.unwrap();
        w.runtime.resume(&spec.id).await.unwrap();
        assert!(w.runtime.stats(&spec.id).await.unwrap().memory.usage > 0);
        w.runtime.delete(&spec.id, true).await.unwrap();
    }
}
