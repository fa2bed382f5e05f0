//! Quality of service: the class of a pod, where its cgroup lies, and the numbers that the kernel gets from requests
//! and limits.

use api::quantity::Quantity;
use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use crate::view::{Container, Pod, Resources};

/// `status.qosClass`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Every container has limits for CPU and memory, and requests equal to them.
    Guaranteed,
    /// Something is requested or limited.
    Burstable,
    /// Nothing is.
    BestEffort,
}

impl Class {
    /// As the API names it.
    pub fn name(self) -> &'static str {
        match self {
            Class::Guaranteed => "Guaranteed",
            Class::Burstable => "Burstable",
            Class::BestEffort => "BestEffort",
        }
    }

    /// The pod's cgroup, absolute below each hierarchy's root.
    pub fn cgroup(self, parent: &str, uid: &str) -> String {
        match self {
            Class::Guaranteed => format!("{parent}/kubepods/pod{uid}"),
            Class::Burstable => format!("{parent}/kubepods/burstable/pod{uid}"),
            Class::BestEffort => format!("{parent}/kubepods/besteffort/pod{uid}"),
        }
    }
}

/// The class of a pod: the API server has said it when the pod was made, and takes no other.
pub fn class(pod: &Pod) -> Class {
    let said = pod.object.status()["qosClass"].as_str().filter(|class| !class.is_empty());
    match said.unwrap_or_else(|| api::kinds::qos_class(pod.object.spec())) {
        "Guaranteed" => Class::Guaranteed,
        "Burstable" => Class::Burstable,
        _ => Class::BestEffort,
    }
}

/// The kernel's inclination to kill the container when memory runs out: -997 for guaranteed pods, 1000 for those that
/// asked for nothing, in between by the part of the machine that was requested.
pub fn oom_score_adj(class: Class, container: &Container, memory_capacity: u64) -> i32 {
    match class {
        Class::Guaranteed => -997,
        Class::BestEffort => 1000,
        Class::Burstable => {
            let requested = request(&container.resources, "memory").map_or(0, |q| q.value().max(0) as u64);
            let part = (1000 * u128::from(requested) / u128::from(memory_capacity.max(1))) as i64;
            (1000 - part).clamp(3, 999) as i32
        }
    }
}

/// What is requested; a limit without a request is one.
pub fn request(resources: &Resources, name: &str) -> Option<Quantity> {
    resources.request(name).or_else(|| resources.limit(name))
}

/// The limits of a container's cgroup.
pub fn limits(resources: &Resources) -> LinuxResources {
    const PERIOD: u64 = 100_000;
    let mut out = LinuxResources::default();
    let mut cpu = LinuxCpu::default();
    let milli = request(resources, "cpu").map_or(0, |q| q.milli().max(0) as u64);
    cpu.set_shares(Some((milli * 1024 / 1000).clamp(2, 262_144)));
    if let Some(limit) = resources.limit("cpu").filter(|q| !q.is_zero()) {
        cpu.set_period(Some(PERIOD));
        // Below a millisecond the kernel refuses.
        cpu.set_quota(Some((limit.milli() * PERIOD as i64 / 1000).max(1000)));
    }
    out.set_cpu(Some(cpu));
    if let Some(limit) = resources.limit("memory").filter(|q| !q.is_zero()) {
        let mut memory = LinuxMemory::default();
        memory.set_limit(Some(limit.value()));
        out.set_memory(Some(memory));
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pod::status::status;
    use crate::view::tests::pod;

    #[test]
    fn classes() {
        let whole = json!({"limits": {"cpu": "1", "memory": "1Mi"}});
        let table = [
            (json!({}), json!({}), Class::BestEffort),
            (json!({}), json!({"limits": {"cpu": "1"}}), Class::Burstable),
            (json!({}), whole.clone(), Class::Guaranteed),
            (whole, json!({}), Class::Guaranteed),
            (json!({"requests": {"memory": "1Mi"}}), json!({}), Class::Burstable),
        ];
        for (of_pod, resources, want) in table {
            let p = pod(json!({"resources": of_pod, "containers": [{"name": "a", "resources": resources}]}));
            assert_eq!(class(&p), want, "{of_pod} {resources}");
            // The cgroup is the one of the class that is told.
            let state = crate::pod::state::PodState::default();
            let told = status(&p, &state, &json!(null), &[], jiff::Timestamp::UNIX_EPOCH);
            assert_eq!(told["qosClass"], want.name());
        }
        assert_eq!(Class::Burstable.cgroup("/tug", "u"), "/tug/kubepods/burstable/podu");
    }

    #[test]
    fn numbers() {
        let p = pod(json!({"containers": [{"name": "a", "resources":
            {"limits": {"cpu": "500m", "memory": "64Mi"}, "requests": {"cpu": "250m", "memory": "32Mi"}}}]}));
        let got = limits(&p.spec.containers[0].resources);
        let cpu = got.cpu().as_ref().unwrap();
        assert_eq!((cpu.shares(), cpu.quota(), cpu.period()), (Some(256), Some(50_000), Some(100_000)));
        assert_eq!(got.memory().as_ref().unwrap().limit(), Some(64 << 20));
        assert_eq!(oom_score_adj(Class::Burstable, &p.spec.containers[0], 64 << 20), 500);
        assert_eq!(oom_score_adj(Class::BestEffort, &p.spec.containers[0], 1), 1000);
    }
}
