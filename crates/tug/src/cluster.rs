//! The flags that say which parts of the cluster run in this process, and which release it behaves like.

use std::ffi::OsString;

use api::Release;
use clap::{ArgAction, Args, ValueEnum};

/// A part of the cluster that can be left to another program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Component {
    /// The controllers.
    ControllerManager,
    /// The scheduler.
    Scheduler,
    /// This machine's node.
    Kubelet,
    /// Services on this node.
    Proxy,
    /// The cluster's names.
    Dns,
}

/// What runs, and like what.
#[derive(Debug, Clone, Args)]
pub struct Cluster {
    /// Behave like this release of Kubernetes in what later ones have dropped.
    #[arg(long, default_value_t = Release::current())]
    pub emulated_version: Release,
    /// Whether requests without credentials are made as system:anonymous, which may read little: versions and health.
    #[arg(long, default_value_t = true, action = ArgAction::Set, value_name = "BOOL")]
    pub anonymous_auth: bool,
    /// Leave these to other programs, which join with the cluster's kubeconfigs.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "COMPONENT,...")]
    pub disable: Vec<Component>,
}

impl Cluster {
    /// Whether a part runs in this process.
    pub fn has(&self, component: Component) -> bool {
        !self.disable.contains(&component)
    }

    /// The flags that say the same.
    pub fn to_arguments(&self) -> Vec<OsString> {
        let mut arguments = vec!["--emulated-version".into(), self.emulated_version.to_string().into()];
        arguments.push(format!("--anonymous-auth={}", self.anonymous_auth).into());
        for component in self.disable.iter().filter_map(Component::to_possible_value) {
            arguments.extend(["--disable".into(), component.get_name().into()]);
        }
        arguments
    }
}
