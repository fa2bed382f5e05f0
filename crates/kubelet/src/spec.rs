//! From a pod's container to what the runtime runs. Pure but for the paths it is given.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use image::{Image, Snapshot};
use oci_spec::runtime::{
    Capability, LinuxCapabilities, LinuxNamespace, LinuxNamespaceType, Mount, Process, Spec, User,
};
use runtime::{ContainerSpec, IoSpec, LogSpec, Rootfs, SeccompProfile, StdinMode};

use crate::env::{Env, Room};
use crate::pod::state::ReadySandbox;
use crate::qos;
use crate::view::{Container, Pod, Profile};
use crate::volumes::{self, Source};

/// The label keys by which the containers of pods are known.
pub mod label {
    /// The container's name.
    pub const CONTAINER: &str = "io.kubernetes.container.name";
    /// The pod's name.
    pub const POD: &str = "io.kubernetes.pod.name";
    /// The pod's namespace.
    pub const NAMESPACE: &str = "io.kubernetes.pod.namespace";
    /// The pod's UID.
    pub const UID: &str = "io.kubernetes.pod.uid";
    /// The image as the pod has it.
    pub const IMAGE: &str = "io.kubernetes.container.image";
    /// The image's id.
    pub const IMAGE_ID: &str = "io.kubernetes.container.imageID";
    /// How often the container had been run before.
    pub const ATTEMPT: &str = "io.kubernetes.container.restartCount";
}

/// The annotation keys under which the kubelet finds again what it knew of a container or sandbox.
pub mod annotation {
    /// How often the container had been run before.
    pub const ATTEMPT: &str = "io.kubernetes.container.restartCount";
    /// The path of the termination message inside.
    pub const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    /// Whether the log is the message of a failure.
    pub const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    /// The sandbox's id.
    pub const SANDBOX: &str = "io.tug.sandbox";
    /// The image's id.
    pub const IMAGE: &str = "io.tug.image";
    /// A sandbox's addresses, separated by commas.
    pub const IPS: &str = "io.tug.ips";
}

/// The longest log file, in bytes, and how many there are.
const LOG_SIZE: u64 = 10 << 20;
const LOG_FILES: u32 = 5;

/// The longest seccomp profile, in bytes.
const SECCOMP_SIZE: usize = 1 << 20;

/// What a container is made from.
pub struct Input<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// Its id.
    pub id: &'a str,
    /// How often it has been run before.
    pub attempt: u32,
    /// Its image.
    pub image: &'a Image,
    /// Its writable layer.
    pub snapshot: Snapshot,
    /// The pod's namespaces.
    pub sandbox: &'a ReadySandbox,
    /// The pod's environment for it.
    pub env: Vec<(String, String)>,
    /// The pod's volumes.
    pub volumes: &'a BTreeMap<String, Source>,
    /// The pod's folder with `hosts`, `hostname` and `resolv.conf`.
    pub etc: &'a Path,
    /// The file of the termination message.
    pub message: &'a Path,
    /// The log.
    pub log: PathBuf,
    /// The cgroup that everything lies below.
    pub cgroup_parent: &'a str,
    /// The machine's memory, in bytes.
    pub memory: u64,
    /// Where `Localhost` seccomp profiles are.
    pub seccomp_root: &'a Path,
}

/// The specification. An error is what is wrong with the pod.
pub fn container(input: Input<'_>) -> Result<ContainerSpec, String> {
    let Input { pod, container, image, .. } = input;
    let config = image.run_config();
    let security = &container.security_context;
    let privileged = security.privileged;
    let mut oci = runtime::defaults::spec();
    let env = environment(pod, &config.env, &input.env);
    let lookup: BTreeMap<&str, &str> = env.iter().filter_map(|e| e.split_once('=')).collect();
    let mut room = Room::default();
    let mut expand = |text: &String| room.expand(text, |name| lookup.get(name).copied());

    let mut args: Vec<String> = if container.command.is_empty() {
        config.entrypoint.clone().unwrap_or_default()
    } else {
        container.command.iter().map(&mut expand).collect::<Result<_, _>>()?
    };
    if !container.args.is_empty() {
        let more = container.args.iter().map(&mut expand).collect::<Result<Vec<_>, _>>()?;
        args.extend(more);
    } else if container.command.is_empty() {
        args.extend(config.cmd.clone().unwrap_or_default());
    }
    if args.is_empty() {
        return Err("no command specified: neither the image nor the container has one".into());
    }
    let cwd = [&container.working_dir, &config.working_dir].into_iter().find(|d| !d.is_empty());

    let mut process = oci.process().clone().unwrap_or_default();
    process.set_args(Some(args));
    process.set_cwd(cwd.map_or_else(|| PathBuf::from("/"), PathBuf::from));
    process.set_env(Some(env.clone()));
    process.set_terminal(Some(container.tty));
    process.set_user(user(pod, container, &config.user)?);
    process.set_no_new_privileges(Some(security.allow_privilege_escalation == Some(false) && !privileged));
    let class = qos::class(pod);
    process.set_oom_score_adj(Some(qos::oom_score_adj(class, container, input.memory)));
    capabilities(&mut process, container)?;
    oci.set_process(Some(process));
    oci.set_hostname(None);

    let mut mounts = oci.mounts().clone().unwrap_or_default();
    if privileged {
        for mount in &mut mounts {
            if mount.destination() == Path::new("/sys") || mount.destination() == Path::new("/sys/fs/cgroup")
            {
                let options = mount.options().clone().unwrap_or_default();
                mount.set_options(Some(options.into_iter().filter(|o| o != "ro").collect()));
            }
        }
    }
    mounts.extend(files(&input));
    for wanted in &container.volume_mounts {
        let source = input.volumes.get(&wanted.name).ok_or_else(|| {
            format!("volume \"{}\" of volumeMount {} not found", wanted.name, wanted.mount_path)
        })?;
        let sub = if wanted.sub_path_expr.is_empty() {
            wanted.sub_path.clone()
        } else {
            expand(&wanted.sub_path_expr)?
        };
        let propagation = match wanted.mount_propagation.as_str() {
            "HostToContainer" => "rslave",
            "Bidirectional" => "rshared",
            _ => "rprivate",
        };
        let read_only = wanted.read_only || source.read_only;
        let mut mount = bind(&source.path, &wanted.mount_path, read_only, propagation);
        if !sub.is_empty() {
            volumes::sub_path(&source.path, &sub).map_err(|e| {
                format!(
                    "failed to prepare subPath for volumeMount \"{}\" of container \"{}\": {e}",
                    wanted.name, container.name
                )
            })?;
            let mut options = mount.options().clone().unwrap_or_default();
            options.push(format!("{}{sub}", runtime::SUBPATH));
            mount.set_options(Some(options));
        }
        mounts.push(mount);
    }
    // A mount must come after those that it lies in; equal depths keep their order.
    mounts.sort_by_key(|m| m.destination().components().count());
    oci.set_mounts(Some(mounts));

    let mut linux = oci.linux().clone().unwrap_or_default();
    linux.set_namespaces(Some(namespaces(pod, input.sandbox, privileged)));
    let mut resources = qos::limits(&container.resources);
    let defaults = linux.resources().as_ref();
    resources.set_devices(defaults.and_then(|r| r.devices().clone()));
    if privileged {
        resources.set_devices(Some(runtime::defaults::all_devices()));
        linux.set_masked_paths(None);
        linux.set_readonly_paths(None);
    } else if security.proc_mount == "Unmasked" {
        linux.set_masked_paths(None);
        linux.set_readonly_paths(None);
    }
    linux.set_resources(Some(resources));
    linux.set_cgroups_path(Some(
        format!("{}/{}", class.cgroup(input.cgroup_parent, &pod.uid), input.id).into(),
    ));
    oci.set_linux(Some(linux));

    let stdin = match (container.stdin, container.stdin_once) {
        (false, _) => StdinMode::Closed,
        (true, false) => StdinMode::Open,
        (true, true) => StdinMode::OpenOnce,
    };
    Ok(ContainerSpec {
        id: input.id.to_owned(),
        oci,
        rootfs: Rootfs::Overlay {
            lower: input.snapshot.lower,
            upper: input.snapshot.upper,
            work: input.snapshot.work,
            readonly: security.read_only_root_filesystem,
        },
        io: IoSpec {
            tty: container.tty,
            stdin,
            log: LogSpec::json_file(input.log, Some(LOG_SIZE), LOG_FILES),
            size: None,
        },
        runtime: None,
        runtime_args: Vec::new(),
        init: false,
        seccomp: seccomp(pod, container, input.seccomp_root)?,
        annotations: [
            (annotation::ATTEMPT, input.attempt.to_string()),
            (annotation::MESSAGE_PATH, input.message.to_string_lossy().into_owned()),
            (annotation::MESSAGE_POLICY, container.termination_message_policy.clone()),
            (annotation::SANDBOX, input.sandbox.id.clone()),
            (annotation::IMAGE, image.id.clone()),
        ]
        .map(|(k, v)| (k.to_owned(), v))
        .into(),
        labels: [
            (label::CONTAINER, &container.name),
            (label::POD, &pod.name),
            (label::NAMESPACE, &pod.namespace),
            (label::UID, &pod.uid),
            (label::IMAGE, &container.image),
            (label::IMAGE_ID, &image.id),
            (label::ATTEMPT, &input.attempt.to_string()),
        ]
        .map(|(k, v)| (k.to_owned(), v.clone()))
        .into(),
    })
}

/// The image's variables under the pod's, with what every container has.
fn environment(pod: &Pod, image: &[String], own: &[(String, String)]) -> Vec<String> {
    let mut out = Env::default();
    let mut set = |name: &str, value: &str| out.set(name.to_owned(), value.to_owned());
    set("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    set("HOSTNAME", &pod.hostname());
    for entry in image {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        set(name, value);
    }
    for (name, value) in own {
        set(name, value);
    }
    out.list.into_iter().map(|(n, v)| format!("{n}={v}")).collect()
}

fn user(pod: &Pod, container: &Container, image: &str) -> Result<User, String> {
    let (own, all) = (&container.security_context, &pod.spec.security_context);
    let uid = own.run_as_user.or(all.run_as_user);
    let gid = own.run_as_group.or(all.run_as_group);
    if own.run_as_non_root.or(all.run_as_non_root) == Some(true) {
        let name = image.split(':').next().unwrap_or_default();
        let pod =
            format!("(pod: \"{}_{}({})\", container: {})", pod.name, pod.namespace, pod.uid, container.name);
        match uid {
            Some(0) => return Err(format!("container's runAsUser breaks non-root policy {pod}")),
            Some(_) => {}
            None if name.is_empty() || name == "root" || name.parse::<u32>() == Ok(0) => {
                return Err(format!("container has runAsNonRoot and image will run as root {pod}"));
            }
            None if name.parse::<u32>().is_err() => {
                return Err(format!(
                    "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {pod}"
                ));
            }
            None => {}
        }
    }
    let expression = match (uid, gid) {
        (Some(uid), Some(gid)) => format!("{uid}:{gid}"),
        (Some(uid), None) => uid.to_string(),
        (None, Some(gid)) => {
            format!("{}:{gid}", image.split(':').next().filter(|u| !u.is_empty()).unwrap_or("0"))
        }
        (None, None) => image.to_owned(),
    };
    let mut user = User::default();
    user.set_username((!expression.is_empty()).then_some(expression));
    let extra: Vec<u32> =
        all.supplemental_groups.iter().chain(&all.fs_group).filter_map(|g| u32::try_from(*g).ok()).collect();
    user.set_additional_gids((!extra.is_empty()).then_some(extra));
    Ok(user)
}

fn capabilities(process: &mut Process, container: &Container) -> Result<(), String> {
    let security = &container.security_context;
    let parse = |names: &[String]| -> Result<Vec<Capability>, String> {
        names
            .iter()
            .filter(|n| !n.eq_ignore_ascii_case("ALL"))
            .map(|n| {
                let name = n.to_ascii_uppercase();
                let short = name.strip_prefix("CAP_").unwrap_or(&name);
                short.parse().map_err(|_| format!("unknown capability {n:?}"))
            })
            .collect()
    };
    let every = |names: &[String]| names.iter().any(|n| n.eq_ignore_ascii_case("ALL"));
    let mut set: HashSet<Capability> = if security.privileged || every(&security.capabilities.add) {
        parse(&runtime::defaults::all_capabilities())?.into_iter().collect()
    } else if every(&security.capabilities.drop) {
        HashSet::new()
    } else {
        process.capabilities().as_ref().and_then(|c| c.bounding().clone()).unwrap_or_default()
    };
    if !security.privileged {
        for capability in parse(&security.capabilities.drop)? {
            set.remove(&capability);
        }
        set.extend(parse(&security.capabilities.add)?);
    }
    let mut all = LinuxCapabilities::default();
    all.set_bounding(Some(set.clone()));
    all.set_effective(Some(set.clone()));
    all.set_permitted(Some(set));
    all.set_inheritable(Some(HashSet::new()));
    all.set_ambient(Some(HashSet::new()));
    process.set_capabilities(Some(all));
    Ok(())
}

fn seccomp(pod: &Pod, container: &Container, root: &Path) -> Result<SeccompProfile, String> {
    if container.security_context.privileged {
        return Ok(SeccompProfile::Unconfined);
    }
    let chosen = container.security_context.seccomp_profile.as_ref().or(pod
        .spec
        .security_context
        .seccomp_profile
        .as_ref());
    match chosen {
        // Upstream's default is none at all; what Docker's users have is safer and breaks nothing that ran under Docker.
        None => Ok(SeccompProfile::Default),
        Some(Profile { kind, localhost_profile }) => match kind.as_str() {
            "RuntimeDefault" => Ok(SeccompProfile::Default),
            "Localhost" => {
                let failed =
                    |e| format!("cannot load seccomp profile {}/{localhost_profile}: {e}", root.display());
                localhost_seccomp(root, localhost_profile).map(SeccompProfile::Docker).map_err(failed)
            }
            "Unconfined" => Ok(SeccompProfile::Unconfined),
            other => Err(format!(
                "seccompProfile.type {other:?} is unknown: it is one of RuntimeDefault, Localhost and Unconfined"
            )),
        },
    }
}

/// A profile that the node's owner laid into the folder for them; what is elsewhere is none.
fn localhost_seccomp(root: &Path, name: &str) -> io::Result<String> {
    let folder = File::open(root)?;
    let profile = sys::rooted::read(folder.as_fd(), Path::new(name), SECCOMP_SIZE + 1)?;
    let profile = profile.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    if profile.len() > SECCOMP_SIZE {
        return Err(io::Error::other(format!("it is larger than {} MiB", SECCOMP_SIZE >> 20)));
    }
    String::from_utf8(profile).map_err(io::Error::other)
}

fn namespaces(pod: &Pod, sandbox: &ReadySandbox, privileged: bool) -> Vec<LinuxNamespace> {
    use runtime::defaults::{namespace, namespace_at};
    let spec = &pod.spec;
    let join = |kind, name: &str| namespace_at(kind, Path::new(&format!("/proc/{}/ns/{name}", sandbox.pid)));
    let mut out = vec![namespace(LinuxNamespaceType::Mount), join(LinuxNamespaceType::Uts, "uts")];
    if !spec.host_network {
        out.push(join(LinuxNamespaceType::Network, "net"));
    }
    if !spec.host_ipc {
        out.push(join(LinuxNamespaceType::Ipc, "ipc"));
    }
    if spec.share_process_namespace {
        out.push(join(LinuxNamespaceType::Pid, "pid"));
    } else if !spec.host_pid {
        out.push(namespace(LinuxNamespaceType::Pid));
    }
    // In version 1 a container sees its own groups only; in version 2 it needs the namespace for that.
    if !privileged && runtime::defaults::unified_cgroups() {
        out.push(namespace(LinuxNamespaceType::Cgroup));
    }
    out
}

/// The files that the node writes for the pod, unless a volume is mounted over them.
fn files(input: &Input<'_>) -> Vec<Mount> {
    let taken =
        |path: &str| input.container.volume_mounts.iter().any(|m| m.mount_path.trim_end_matches('/') == path);
    let mut out = Vec::new();
    for name in ["hosts", "hostname", "resolv.conf"] {
        let target = format!("/etc/{name}");
        if !taken(&target) {
            out.push(bind(&input.etc.join(name), &target, false, "rprivate"));
        }
    }
    let target = match input.container.termination_message_path.as_str() {
        "" => "/dev/termination-log",
        path => path,
    };
    if !taken(target) {
        out.push(bind(input.message, target, false, "rprivate"));
    }
    out
}

fn bind(source: &Path, target: &str, read_only: bool, propagation: &str) -> Mount {
    let mut mount = Mount::default();
    mount.set_destination(target.into());
    mount.set_typ(Some("bind".into()));
    mount.set_source(Some(source.into()));
    let options = ["rbind", propagation, if read_only { "ro" } else { "rw" }];
    mount.set_options(Some(options.map(str::to_owned).to_vec()));
    mount
}

/// The process of an exec: the container's own with another command.
pub fn exec_process(spec: &Spec, command: &[String], tty: bool) -> Process {
    let mut process = spec.process().clone().unwrap_or_default();
    process.set_args(Some(command.to_vec()));
    process.set_terminal(Some(tty));
    if tty && !process.env().iter().flatten().any(|e| e.starts_with("TERM=")) {
        let mut env = process.env().clone().unwrap_or_default();
        env.push("TERM=xterm".into());
        process.set_env(Some(env));
    }
    process
}

/// The cgroup of a pod.
pub fn pod_cgroup(pod: &Pod, parent: &str) -> String {
    qos::class(pod).cgroup(parent, &pod.uid)
}
