//! The checks, one file per theme, and what several of them use.

mod confinement;
mod exec;
mod filesystem;
mod hooks;
mod limits;
mod others;
mod process;
mod sandbox;
mod streams;
mod survival;

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use oci_spec::runtime::{
    LinuxMemory, LinuxNamespaceType, LinuxResources, Mount, PosixRlimit, PosixRlimitBuilder, PosixRlimitType,
    Process, User,
};
use runtime::{ContainerSpec, ExecSpec, SeccompProfile, defaults};

use crate::world::World;

type Check = for<'a> fn(&'a World) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

macro_rules! checks {
    ($($theme:ident: $($name:ident),*;)*) => {
        /// Every check and its name.
        pub fn all() -> Vec<(&'static str, Check)> {
            vec![$($((stringify!($name), |w| Box::pin($theme::$name(w)))),*),*]
        }
    };
}

checks! {
    process: echo, exit_codes, bad_commands, environment, users, setup_errors, signals, sysctls_and_names, rlimits, init_reaps;
    streams: stdin_half_close, stdin_open_once, watcher_ends_no_input, terminal, attach_twice, slow_reader_stalls_only_its_container, log_rotation_and_follow, fast_writer;
    exec: exec, exec_in_terminal, short_execs_in_terminals;
    limits: killed_for_memory, pids_limit, pause_and_stats, update, disk_limits, cgroup_namespace;
    filesystem: read_only_root, hidden_paths, devices, mounts, shared_mounts, unbindable_root, many_layers;
    confinement: capabilities, privileged, seccomp, no_new_privileges, links_cannot_lead_out, parts_of_volumes, nothing_leaks_in, null_device_is_its_own, executable_is_safe, user_namespace, user_namespace_joined;
    hooks: hooks_in_order, failing_hooks, impossible_hooks;
    survival: restart_finds_everything, killed_shim, broken_connection, strange_shim, half_made, events, delete, shim_is_small;
    sandbox: sandbox, killed_sandbox, sandbox_out_of_reach, sandbox_with_shared_pids;
    others: other_runtimes, the_same_by_other_runtimes;
}

fn process_of(spec: &mut ContainerSpec) -> &mut Process {
    spec.oci.process_mut().as_mut().unwrap()
}

fn as_user(text: &str) -> User {
    let mut user = User::default();
    user.set_username(Some(text.into()));
    user
}

fn exec_spec(w: &ContainerSpec, id: &str, script: &str) -> ExecSpec {
    let mut process = w.oci.process().clone().unwrap();
    process.set_args(Some(vec!["sh".into(), "-c".into(), script.into()]));
    ExecSpec { exec_id: id.into(), process, tty: false, stdin: false, size: None, unconfined: false }
}

fn memory(bytes: i64) -> LinuxResources {
    let mut memory = LinuxMemory::default();
    memory.set_limit(Some(bytes)).set_swap(Some(bytes));
    let mut resources = LinuxResources::default();
    resources.set_memory(Some(memory));
    resources
}

/// A cgroup namespace of its own, in which version 2's files at /sys/fs/cgroup are those of its own group.
fn with_cgroup_namespace(spec: &mut ContainerSpec) {
    let linux = spec.oci.linux_mut().as_mut().unwrap();
    linux.namespaces_mut().as_mut().unwrap().push(defaults::namespace(LinuxNamespaceType::Cgroup));
}

/// Every capability, no filter.
fn all_capabilities(spec: &mut ContainerSpec) {
    let all = defaults::all_capabilities();
    process_of(spec).set_capabilities(Some(defaults::capabilities(all.iter().map(String::as_str))));
    spec.seccomp = SeccompProfile::Unconfined;
}

fn add_mount(spec: &mut ContainerSpec, mount: Mount) {
    spec.oci.mounts_mut().as_mut().unwrap().push(mount);
}

/// Waits until something is true that has no event of its own in a test.
async fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + crate::world::patience(5);
    while tokio::time::Instant::now() < deadline {
        if is() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never happened: {what}");
}

fn alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn limit(kind: PosixRlimitType, soft: u64, hard: u64) -> PosixRlimit {
    PosixRlimitBuilder::default().typ(kind).soft(soft).hard(hard).build().unwrap()
}
