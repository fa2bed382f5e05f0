//! The root, its mounts, its devices, what is hidden of it.

use std::os::fd::AsFd;
use std::path::Path;

use oci_spec::runtime::{LinuxResources, Mount};
use runtime::{Rootfs, defaults};

use super::{add_mount, all_capabilities};
use crate::world::World;

pub async fn read_only_root(w: &World) {
    let mut spec = w.sh("touch /x 2>&1; touch /dev/shm/ok && echo shm; touch /data/ok && echo data");
    if let Rootfs::Overlay { readonly, .. } = &mut spec.rootfs {
        *readonly = true;
    }
    let data = w.dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    add_mount(&mut spec, defaults::bind(&data, Path::new("/data"), &[]));
    assert_eq!(w.output_of(&spec).await, "touch: /x: Read-only file system\nshm\ndata\n");
}

pub async fn hidden_paths(w: &World) {
    let out = w
        .out("cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null | wc -c; ls /sys/firmware /proc/acpi 2>/dev/null | grep -v : | wc -w; \
              echo 1 2>/dev/null > /proc/sys/kernel/panic || echo denied; echo h 2>/dev/null > /proc/sysrq-trigger || echo denied; \
              touch /sys/x 2>/dev/null || echo denied; ls /sys/fs/cgroup | head -1")
        .await;
    let mut lines = out.lines();
    assert_eq!([lines.next(), lines.next()], [Some("0"), Some("0")], "{out}");
    assert_eq!(lines.by_ref().take(3).collect::<Vec<_>>(), ["denied"; 3], "{out}");
    assert!(lines.next().is_some(), "no cgroups in sight");
}

pub async fn devices(w: &World) {
    let out = w
        .out("for d in null zero full random urandom tty; do stat -c '%n %t:%T %a' /dev/$d; done; for l in ptmx fd stdin; do readlink /dev/$l; done; \
              head -c 3 /dev/zero | wc -c; mknod /tmp/kmsg c 1 11 && (head -c 1 /tmp/kmsg 2>&1); true")
        .await;
    assert!(
        out.starts_with("/dev/null 1:3 666\n/dev/zero 1:5 666\n/dev/full 1:7 666\n/dev/random 1:8 666\n/dev/urandom 1:9 666\n/dev/tty 5:0 666\npts/ptmx\n/proc/self/fd\n/proc/self/fd/0\n3\n"),
        "{out}"
    );
    // It may be made, as Docker lets it, and not be opened.
    assert!(out.contains("Operation not permitted"), "{out}");
    // Those that every container has are there though all are denied.
    let mut spec =
        w.sh("echo x > /dev/null && head -c 3 /dev/zero | wc -c; mknod /kmsg c 1 11; head -c 1 /kmsg 2>&1");
    let mut resources = LinuxResources::default();
    resources.set_devices(Some(vec![defaults::device_rules()[0].clone()]));
    spec.oci.linux_mut().as_mut().unwrap().set_resources(Some(resources));
    let (_, output) = w.run(&spec).await;
    assert!(output.stdout.starts_with("3\n") && output.stdout.contains("not permitted"), "{output:?}");
}

pub async fn mounts(w: &World) {
    let host = w.dir.path().join("host");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("file"), "from the machine\n").unwrap();
    let mut spec = w.sh("cat /a/b/host/file /single; touch /a/b/host/x 2>&1; echo w > /rw/made; grep -c ' /tmp/t tmpfs rw,nosuid,nodev,noexec' /proc/mounts; stat -c %a /tmp/t");
    add_mount(&mut spec, defaults::bind(&host, Path::new("/a/b/host"), &["ro"]));
    add_mount(&mut spec, defaults::bind(&host.join("file"), Path::new("/single"), &["ro"]));
    add_mount(&mut spec, defaults::bind(&host, Path::new("/rw"), &[]));
    let mut tmpfs = Mount::default();
    tmpfs
        .set_destination("/tmp/t".into())
        .set_typ(Some("tmpfs".into()))
        .set_source(Some("tmpfs".into()))
        .set_options(Some(["nosuid", "nodev", "noexec", "size=1m", "mode=751"].map(String::from).to_vec()));
    add_mount(&mut spec, tmpfs);
    assert_eq!(
        w.output_of(&spec).await,
        "from the machine\nfrom the machine\ntouch: /a/b/host/x: Read-only file system\n1\n751\n"
    );
    assert_eq!(std::fs::read_to_string(host.join("made")).unwrap(), "w\n");
    // Nothing of it is in sight on the machine.
    let here = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!here.contains(w.dir.path().to_str().unwrap()), "{here}");
}

/// What is mounted below a shared bind mount is seen on the other side of it, and only there.
pub async fn shared_mounts(w: &World) {
    let [shared, private] = ["shared", "private"].map(|n| w.dir.path().join(n));
    for folder in [&shared, &private] {
        std::fs::create_dir(folder).unwrap();
        let tree = sys::mount::new_filesystem("tmpfs", Some("test"), &[], 0).unwrap();
        sys::mount::attach(tree.as_fd(), std::fs::File::open(folder).unwrap().as_fd()).unwrap();
        sys::mount::set_attributes(tree.as_fd(), 0, 0, Some(sys::mount::Propagation::Shared), false).unwrap();
    }
    let mut spec = w.sh(
        "for d in /s /p; do mkdir $d/x && mount -t tmpfs inner $d/x && touch $d/x/made || echo failed; done",
    );
    all_capabilities(&mut spec);
    add_mount(&mut spec, defaults::bind(&shared, Path::new("/s"), &["rshared"]));
    add_mount(&mut spec, defaults::bind(&private, Path::new("/p"), &[]));
    spec.oci.linux_mut().as_mut().unwrap().set_rootfs_propagation(Some("shared".into()));
    let (_, output) = w.run(&spec).await;
    let seen = [&shared, &private].map(|f| f.join("x/made").exists());
    for folder in [&shared, &private] {
        rustix::mount::unmount(folder, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
    assert_eq!((output.stdout.as_str(), seen), ("", [true, false]), "{output:?}");
}

/// A root that may not be bound elsewhere.
pub async fn unbindable_root(w: &World) {
    for (spread, bound) in [("unbindable", false), ("private", true)] {
        let mut spec = w.sh("mkdir /at; mount -o bind / /at && echo bound; true");
        all_capabilities(&mut spec);
        spec.oci.linux_mut().as_mut().unwrap().set_rootfs_propagation(Some(spread.into()));
        let (_, output) = w.run(&spec).await;
        assert_eq!(output.stdout == "bound\n", bound, "{spread}: {output:?}");
    }
}

pub async fn many_layers(w: &World) {
    let mut spec = w.sh("cat /layer; ls /only | wc -l");
    let Rootfs::Overlay { lower, .. } = &mut spec.rootfs else { panic!() };
    for n in 0..120 {
        let layer = w.dir.path().join(format!("layers/a-rather-long-name-as-digests-have-{n:0>40}"));
        std::fs::create_dir_all(layer.join("only")).unwrap();
        std::fs::write(layer.join("layer"), format!("{n}\n")).unwrap();
        std::fs::write(layer.join(format!("only/{n}")), "").unwrap();
        lower.insert(0, layer);
    }
    assert_eq!(w.output_of(&spec).await, "119\n120\n");
}
