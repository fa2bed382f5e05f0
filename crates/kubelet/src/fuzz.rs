//! What fuzz targets call: what a pod says of its containers, as far as it can be read without running them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use api::Object;
use serde_json::Value;

use crate::env::{self, Facts, Sources};
use crate::resolv;
use crate::view::Pod;

/// What a program may have of arguments and variables together.
const MOST: usize = 8 << 20;

/// Objects of the pod's namespace, by name; texts are their data.
struct Namespace(Value);

impl Sources for Namespace {
    fn config_map(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        let data = self.0.get(name)?.as_object()?;
        Some(data.iter().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.as_bytes().to_vec()))).collect())
    }

    fn secret(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        self.config_map(name)
    }

    fn services(&self) -> Vec<Arc<Object>> {
        let of = |(name, spec): (&String, &Value)| {
            let metadata = serde_json::json!({"name": name, "namespace": "default"});
            Object::from_value(serde_json::json!({"metadata": metadata, "spec": spec}))
        };
        self.0.as_object().into_iter().flatten().map(of).collect()
    }
}

/// A pod; behind line breaks the objects that it refers to, and the machine's resolv.conf.
pub fn pod(text: &str) {
    let mut parts = text.splitn(3, '\n');
    let mut next = || parts.next().unwrap_or_default();
    let (pod, objects, resolvers) = (next(), next(), next());
    let Ok(pod) = serde_json::from_str::<Value>(pod) else { return };
    let Ok(pod) = Pod::of(&Object::from_value(pod)) else { return };
    let address = IpAddr::from(Ipv4Addr::LOCALHOST);
    let facts = Facts {
        node: "n".into(),
        host_ips: vec![address],
        pod_ips: vec![address],
        cpu_milli: 2000,
        memory: 1 << 30,
    };
    let namespace = Namespace(serde_json::from_str(objects).unwrap_or_default());
    for container in &pod.spec.containers {
        if let Ok(env) = env::environment(&pod, container, &facts, &namespace) {
            let long: usize = env.iter().map(|(name, value)| name.len() + value.len()).sum();
            assert!(long <= MOST, "{long} bytes of variables");
        }
    }
    for dns in [None, Some(address)] {
        let _ = resolv::resolv_conf(&pod, "cluster.local", dns, resolvers);
    }
    let _ = resolv::hosts(&pod, "cluster.local", &[address], resolvers);
}
