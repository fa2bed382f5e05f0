//! The folder of one container: made before its shim, removed after it.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, RootBuilder, Spec};
use serde::Serialize;
use sys::cgroup::Cgroup;

use super::ShimRuntime;
use crate::protocol::{ContainerConfig, HookConfig, ShimConfig, ShimKind};
use crate::{ContainerSpec, Error, Result, defaults};

/// A bundle that is complete and has no shim yet.
pub(super) struct Prepared {
    pub path: PathBuf,
    pub spec: Arc<ContainerSpec>,
    pub cgroup: Option<Cgroup>,
    pub created_at: jiff::Timestamp,
}

/// Where the exit of a container is recorded.
pub(super) fn record_path(state_dir: &Path, id: &str) -> PathBuf {
    state_dir.join(format!("{id}.json"))
}

fn invalid(field: &'static str, message: impl Into<String>) -> Error {
    Error::Invalid { field, message: message.into() }
}

/// Another runtime has no reaper built in: this binary is mounted into the container, and its command runs under it.
fn add_init(oci: &mut Spec, runtime: &ShimRuntime) {
    const PATH: &str = "/sbin/docker-init";
    let command = oci.process().as_ref().and_then(|p| p.args().clone()).unwrap_or_default();
    let own = runtime.args.iter().cloned();
    let args = [PATH.to_owned()].into_iter().chain(own).chain(["--init".into(), "--".into()]).chain(command);
    if let Some(process) = oci.process_mut() {
        process.set_args(Some(args.collect()));
    }
    let mount = defaults::bind(&runtime.exe.origin, Path::new(PATH), &["ro", "nosuid", "nodev"]);
    oci.mounts_mut().get_or_insert_default().push(mount);
}

/// Checks the specification and writes the bundle.
pub(super) fn prepare(runtime: &ShimRuntime, spec: &ContainerSpec) -> Result<Prepared> {
    let linux = spec.oci.linux().as_ref().ok_or_else(|| invalid("oci.linux", "is missing"))?;
    let process = spec.oci.process().as_ref().ok_or_else(|| invalid("oci.process", "is missing"))?;
    if !spec.oci.version().starts_with("1.") {
        let message = format!("version {:?} of the specification is not 1.x", spec.oci.version());
        return Err(invalid("oci.ociVersion", message));
    }
    if process.args().as_deref().unwrap_or_default().is_empty() {
        return Err(invalid("oci.process.args", "no command specified"));
    }
    if let Some(m) = spec.oci.mounts().iter().flatten().find(|m| !m.destination().is_absolute()) {
        return Err(invalid(
            "oci.mounts",
            format!("mount point {:?} is not absolute", m.destination().display()),
        ));
    }
    let cgroup_path = linux.cgroups_path().as_ref().map(|p| p.to_string_lossy().into_owned());
    let cgroup = runtime.cgroup_of(cgroup_path.as_deref())?;
    let (seccomp, seccomp_flags) = match runtime.filters.program(spec)? {
        Some((path, flags)) => (Some(path), flags),
        None => (None, 0),
    };
    let mut namespaces = nix::sched::CloneFlags::CLONE_NEWNS.bits() as u64;
    let mut pid_namespace = None;
    let (mut user, mut user_namespace, mut cgroup_namespace) = (false, None, false);
    for namespace in linux.namespaces().iter().flatten() {
        match (namespace.typ(), namespace.path()) {
            (LinuxNamespaceType::Pid, Some(path)) => pid_namespace = Some(path.clone()),
            (LinuxNamespaceType::Mount, Some(_)) => {
                return Err(invalid("oci.linux.namespaces", "joining a mount namespace is not supported"));
            }
            // Its root is the group that the child will be in: the child makes it itself.
            (LinuxNamespaceType::Cgroup, None) => cgroup_namespace = true,
            (LinuxNamespaceType::User, Some(path)) => {
                if linux.uid_mappings().is_none() || linux.gid_mappings().is_none() {
                    return Err(invalid("oci.linux.uidMappings", "are needed to join a user namespace"));
                }
                user = true;
                user_namespace = Some(path.clone());
            }
            (_, Some(_)) => {}
            (kind, None) => {
                user |= kind == LinuxNamespaceType::User;
                namespaces |= kind as u64;
            }
        }
    }
    if user {
        // Made by the first process once it is root of its user namespace: what is in it then belongs to that root.
        namespaces &= !(LinuxNamespaceType::Ipc as u64);
    }
    let maps = |maps: &Option<Vec<LinuxIdMapping>>| -> Vec<(u32, u32, u32)> {
        let entry = |m: &LinuxIdMapping| (m.container_id(), m.host_id(), m.size());
        maps.iter().flatten().filter(|_| user).map(entry).collect()
    };
    let created_at = base::clock::now();
    let path = runtime.run_dir.join("containers").join(&spec.id);
    let hooks = hooks(spec, &path)?;
    let with_hooks = hooks.is_some();
    let config = ShimConfig {
        id: spec.id.clone(),
        kind: ShimKind::Container(Box::new(ContainerConfig {
            namespaces,
            cgroup_namespace,
            pid_namespace,
            external: spec.runtime.clone(),
            seccomp,
            seccomp_flags,
            io: spec.io.clone(),
            resources: linux.resources().clone(),
            uid_map: maps(linux.uid_mappings()),
            gid_map: maps(linux.gid_mappings()),
            user_namespace,
            hooks,
            exit_record: record_path(&runtime.state_dir, &spec.id),
        })),
        hierarchies: runtime.hierarchies.clone(),
        cgroup: cgroup_path,
        created_at,
    };
    let external = match &spec.runtime {
        Some(_) => {
            let mut oci = spec.oci.clone();
            if spec.init {
                add_init(&mut oci, runtime);
            }
            let filter = runtime.filters.profile(spec)?;
            if let Some(linux) = oci.linux_mut() {
                linux.set_seccomp(filter);
            }
            oci.set_annotations(annotations(spec));
            Some(oci)
        }
        None => None,
    };
    let mut kept = spec.clone();
    if let Some(linux) = kept.oci.linux_mut() {
        // Compiled already; a profile is by far the largest part of a specification.
        linux.set_seccomp(None);
    }
    if let crate::SeccompProfile::Docker(_) = kept.seccomp {
        kept.seccomp = crate::SeccompProfile::Spec;
    }
    make(&path, "container", &spec.id)?;
    let write = || -> io::Result<()> {
        if external.is_some() && user {
            // The other runtime goes to the root by its path, as somebody who is not root of the machine. What lies
            // beside it stays unreadable.
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o711))?;
        }
        write_json(&path.join("container.json"), &kept)?;
        if let Some(oci) = &external {
            write_json(&path.join("oci.json"), oci)?;
        }
        if with_hooks {
            write_json(&path.join("config.json"), &for_hooks(&kept, &path)?)?;
        }
        std::fs::create_dir(path.join("rootfs"))?;
        // Last: a bundle without it never had a shim.
        write_json(&path.join("shim.json"), &config)
    };
    write().map_err(|e| {
        let _ = remove(&path);
        Error::io(format!("write {}", path.display()))(e)
    })?;
    // An exit record of an earlier life of this id would be taken for this one's.
    let _ = std::fs::remove_file(record_path(&runtime.state_dir, &spec.id));
    Ok(Prepared { path, spec: Arc::new(kept), cgroup, created_at })
}

/// The specification's annotations and the container's own.
fn annotations(spec: &ContainerSpec) -> Option<HashMap<String, String>> {
    let mut all = spec.oci.annotations().clone().unwrap_or_default();
    all.extend(spec.annotations.clone());
    (!all.is_empty()).then_some(all)
}

/// What the built-in runtime has to know to run hooks, if there are any; another runtime runs them itself.
#[allow(deprecated)] // prestart, which descriptions of devices still name
fn hooks(spec: &ContainerSpec, bundle: &Path) -> Result<Option<Box<HookConfig>>> {
    let Some(hooks) = spec.oci.hooks().clone().filter(|_| spec.runtime.is_none()) else { return Ok(None) };
    let lists = [
        hooks.prestart(),
        hooks.create_runtime(),
        hooks.create_container(),
        hooks.start_container(),
        hooks.poststart(),
        hooks.poststop(),
    ];
    let mut all = lists.into_iter().flatten().flatten().peekable();
    if all.peek().is_none() {
        return Ok(None);
    }
    for hook in all {
        let bad = |why: &str| invalid("oci.hooks", format!("hook {}: {why}", hook.path().display()));
        if !hook.path().is_absolute() {
            return Err(bad("its path is not absolute"));
        }
        if hook.timeout().is_some_and(|t| t <= 0) {
            return Err(bad("its timeout is not greater than zero"));
        }
    }
    Ok(Some(Box::new(HookConfig {
        hooks,
        oci_version: spec.oci.version().clone(),
        bundle: bundle.to_owned(),
        annotations: annotations(spec).unwrap_or_default(),
    })))
}

/// What a hook finds as `config.json` in the bundle, where it looks for the root.
fn for_hooks(spec: &ContainerSpec, bundle: &Path) -> io::Result<Spec> {
    let mut oci = spec.oci.clone();
    let root = RootBuilder::default().path(bundle.join("rootfs")).readonly(spec.rootfs.readonly()).build();
    oci.set_root(Some(root.map_err(io::Error::other)?)).set_annotations(annotations(spec));
    Ok(oci)
}

/// Makes the folder; that it is new is what makes an id unique.
pub(super) fn make(path: &Path, what: &'static str, id: &str) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            Err(Error::AlreadyExists { what, id: id.into() })
        }
        Err(e) => Err(Error::io(format!("make {}", path.display()))(e)),
    }
}

/// Not atomic and not durable: nobody reads it before the shim is spawned, and it goes with a reboot.
pub(super) fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    crate::protocol::write_private(path, &serde_json::to_vec(value)?)
}

/// What the shim of a bundle was given; none if it never had one.
pub(super) fn config(path: &Path) -> Result<Option<ShimConfig>> {
    let failed = |e: io::Error| Error::io(format!("{}", path.display()))(e);
    match std::fs::read(path.join("shim.json")) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).map_err(|e| failed(e.into()))?)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed(e)),
    }
}

/// Removes a bundle; nothing to do if it is not there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
