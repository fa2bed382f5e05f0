//! What a build is asked for, and what it tells while it goes on.

use std::collections::{BTreeMap, HashMap};

use image::{Auth, Platform, Progress};

/// What a build is asked for.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Path in the context; empty is `Dockerfile`.
    pub dockerfile: String,
    /// Names for the result.
    pub tags: Vec<String>,
    /// `--build-arg`; a name without a value counts as not given.
    pub build_args: BTreeMap<String, Option<String>>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// `--target`; empty is the last stage.
    pub target: String,
    /// Do every step again.
    pub no_cache: bool,
    /// Do every step of these stages again.
    pub no_cache_stages: Vec<String>,
    /// Look for newer base images.
    pub pull: bool,
    /// Say the result's id and nothing else.
    pub quiet: bool,
    /// One layer for everything above the base image.
    pub squash: bool,
    /// Network of `RUN`.
    pub network_mode: String,
    /// `name:address` lines for `RUN`.
    pub extra_hosts: Vec<String>,
    /// Bytes of /dev/shm in `RUN`.
    pub shm_size: Option<u64>,
    /// Limits of `RUN`.
    pub resources: Option<oci_spec::runtime::LinuxResources>,
    /// `--ulimit` of `RUN`.
    pub ulimits: Vec<Ulimit>,
    /// The cgroup below which those of `RUN` are made.
    pub cgroup_parent: String,
    /// Images whose steps may be taken over, as `--cache-from` names them.
    pub cache_from: Vec<String>,
    /// `--platform`.
    pub platform: Option<Platform>,
    /// Whether this is one of several platforms, so that its lines say which.
    pub of_several: bool,
    /// Credentials by registry.
    pub auths: HashMap<String, Auth>,
}

/// A limit of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ulimit {
    /// `nofile`, `nproc`, ...
    pub name: String,
    /// What it may use.
    pub soft: i64,
    /// How far it may raise that itself.
    pub hard: i64,
}

/// What a build tells while it goes on.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Text for the user.
    Stream(String),
    /// A base image being pulled.
    Progress(Progress),
    /// The id of the result.
    Built(String),
}
