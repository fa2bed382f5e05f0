//! The types of volumes that pods may have, and what pods refer to: one table, for everybody who judges pods by it.

use serde_json::Value;

use crate::meta::{self, items};

/// What a pod needs the node to read for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Referred {
    /// A Secret.
    Secret,
    /// A ConfigMap.
    ConfigMap,
    /// A PersistentVolumeClaim.
    Claim,
}

/// A type of volume.
#[derive(Debug)]
pub struct VolumeType {
    /// Its field in a volume.
    pub field: &'static str,
    /// What it names, by JSON pointers into it. Sources of projected volumes and claims of ephemeral ones are beside these.
    pub names: &'static [(Referred, &'static str)],
    /// May pods have it that are held to the `restricted` security standard?
    pub restricted: bool,
}

const PLAIN: VolumeType = VolumeType { field: "", names: &[], restricted: false };

const fn plain(field: &'static str) -> VolumeType {
    VolumeType { field, ..PLAIN }
}

/// Of a type that takes a secret from beside the pod, by this pointer.
const fn with_secret(field: &'static str, names: &'static [(Referred, &'static str)]) -> VolumeType {
    VolumeType { field, names, ..PLAIN }
}

const SECRET_REF: &[(Referred, &str)] = &[(Referred::Secret, "/secretRef/name")];

/// Every type.
pub const VOLUMES: [VolumeType; 30] = [
    plain("awsElasticBlockStore"),
    plain("azureDisk"),
    with_secret("azureFile", &[(Referred::Secret, "/secretName")]),
    with_secret("cephfs", SECRET_REF),
    with_secret("cinder", SECRET_REF),
    VolumeType { field: "configMap", names: &[(Referred::ConfigMap, "/name")], restricted: true },
    VolumeType { field: "csi", names: &[(Referred::Secret, "/nodePublishSecretRef/name")], restricted: true },
    VolumeType { field: "downwardAPI", restricted: true, ..PLAIN },
    VolumeType { field: "emptyDir", restricted: true, ..PLAIN },
    VolumeType { field: "ephemeral", restricted: true, ..PLAIN },
    plain("fc"),
    with_secret("flexVolume", SECRET_REF),
    plain("flocker"),
    plain("gcePersistentDisk"),
    plain("gitRepo"),
    plain("glusterfs"),
    VolumeType { field: "hostPath", ..PLAIN },
    VolumeType { field: "image", restricted: true, ..PLAIN },
    with_secret("iscsi", SECRET_REF),
    VolumeType { field: "nfs", ..PLAIN },
    VolumeType {
        field: "persistentVolumeClaim",
        names: &[(Referred::Claim, "/claimName")],
        restricted: true,
    },
    plain("photonPersistentDisk"),
    plain("portworxVolume"),
    VolumeType { field: "projected", restricted: true, ..PLAIN },
    plain("quobyte"),
    with_secret("rbd", SECRET_REF),
    with_secret("scaleIO", SECRET_REF),
    VolumeType { field: "secret", names: &[(Referred::Secret, "/secretName")], restricted: true },
    with_secret("storageos", SECRET_REF),
    plain("vsphereVolume"),
];

fn name<'a>(v: &'a Value, pointer: &str) -> Option<&'a str> {
    v.pointer(pointer).and_then(Value::as_str).filter(|s| !s.is_empty())
}

/// Everything in its namespace that a pod names for its node to read, in the order of its spec.
pub fn references(pod: &Value) -> Vec<(Referred, String)> {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let mut found = Vec::new();
    let mut note = |what: Referred, named: Option<&str>| found.extend(named.map(|n| (what, n.to_owned())));
    for secret in items(spec, "/imagePullSecrets") {
        note(Referred::Secret, name(secret, "/name"));
    }
    for container in
        ["/initContainers", "/containers", "/ephemeralContainers"].iter().flat_map(|l| items(spec, l))
    {
        for variable in items(container, "/env") {
            note(Referred::Secret, name(variable, "/valueFrom/secretKeyRef/name"));
            note(Referred::ConfigMap, name(variable, "/valueFrom/configMapKeyRef/name"));
        }
        for all in items(container, "/envFrom") {
            note(Referred::Secret, name(all, "/secretRef/name"));
            note(Referred::ConfigMap, name(all, "/configMapRef/name"));
        }
    }
    for volume in items(spec, "/volumes") {
        for kind in &VOLUMES {
            let Some(source) = volume.get(kind.field) else { continue };
            for (what, pointer) in kind.names {
                note(*what, name(source, pointer));
            }
        }
        for source in volume.get("projected").into_iter().flat_map(|p| items(p, "/sources")) {
            note(Referred::Secret, name(source, "/secret/name"));
            note(Referred::ConfigMap, name(source, "/configMap/name"));
        }
        if is_ephemeral(volume) {
            note(Referred::Claim, claim(meta::name(pod), volume).as_deref());
        }
    }
    found
}

fn is_ephemeral(volume: &Value) -> bool {
    volume.get("ephemeral").is_some_and(|e| !e.is_null())
}

/// The name of the claim that is made for an ephemeral volume of a pod.
pub fn ephemeral_claim(pod: &str, volume: &str) -> String {
    format!("{pod}-{volume}")
}

/// The claim that a volume of a pod of this name is by, if it is by one.
pub fn claim(pod: &str, volume: &Value) -> Option<String> {
    if is_ephemeral(volume) {
        return Some(ephemeral_claim(pod, name(volume, "/name").unwrap_or_default()));
    }
    name(volume, "/persistentVolumeClaim/claimName").map(str::to_owned)
}

/// The claims of a pod, in the order of its volumes.
pub fn claims(pod: &Value) -> impl Iterator<Item = String> {
    let volumes = pod.pointer("/spec/volumes").and_then(Value::as_array);
    volumes.into_iter().flatten().filter_map(|v| claim(meta::name(pod), v))
}

/// The secrets that a node needs to mount a PersistentVolume, by JSON pointers into its spec.
const VOLUME_SECRETS: [&str; 10] = [
    "/cephfs/secretRef",
    "/cinder/secretRef",
    "/csi/nodeExpandSecretRef",
    "/csi/nodePublishSecretRef",
    "/csi/nodeStageSecretRef",
    "/flexVolume/secretRef",
    "/iscsi/secretRef",
    "/rbd/secretRef",
    "/scaleIO/secretRef",
    "/storageos/secretRef",
];

/// The secrets that a node needs to mount a volume with this spec: namespace and name.
pub fn volume_secrets(spec: &Value) -> impl Iterator<Item = (&str, &str)> {
    // One that names no namespace means that of the claim.
    let claim = spec.pointer("/claimRef/namespace").and_then(Value::as_str).unwrap_or("");
    let file = spec.get("azureFile").and_then(|f| {
        let name = f.get("secretName")?.as_str()?;
        Some((f.get("secretNamespace").and_then(Value::as_str).unwrap_or(claim), name))
    });
    let of = move |reference: &&str| {
        let reference = spec.pointer(reference)?;
        let name = reference.get("name")?.as_str()?;
        let namespace = reference.get("namespace").and_then(Value::as_str).filter(|s| !s.is_empty());
        Some((namespace.unwrap_or(claim), name))
    };
    VOLUME_SECRETS.iter().filter_map(of).chain(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::TypeId;
    use serde_json::json;

    #[test]
    fn every_type_is_in_the_table() {
        let volume = TypeId::named("io.k8s.api.core.v1.Volume").unwrap();
        let fields: Vec<&str> = volume.fields().iter().map(|f| f.name).filter(|n| *n != "name").collect();
        assert_eq!(VOLUMES.each_ref().map(|v| v.field)[..], fields);
        let volume = volume.schema();
        for kind in &VOLUMES {
            let schema = volume.field(kind.field);
            let source = schema.unwrap_or_else(|| panic!("volumes have no {}", kind.field));
            for (_, pointer) in kind.names {
                let mut at = Some(source);
                for part in pointer.trim_start_matches('/').split('/') {
                    at = at.and_then(|s| s.field(part));
                }
                assert!(at.is_some(), "{} has no {pointer}", kind.field);
            }
        }
    }

    #[test]
    fn secrets_of_volumes_are_where_the_schema_has_them() {
        let of = TypeId::named("io.k8s.api.core.v1.PersistentVolumeSpec").unwrap();
        for pointer in VOLUME_SECRETS {
            let mut at = Some(of.schema());
            for part in pointer.trim_start_matches('/').split('/') {
                at = at.and_then(|s| s.field(part));
            }
            assert!(at.is_some(), "volumes have no {pointer}");
        }
        // All secrets but those that only controllers need.
        let sources = of.fields().iter().filter(|f| f.name != "capacity");
        for source in sources.filter_map(|f| Some((f.name, of.schema().field(f.name)?))) {
            for field in ["secretRef", "nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"] {
                let pointer = format!("/{}/{field}", source.0);
                let there = source.1.field(field).is_some();
                assert!(!there || VOLUME_SECRETS.contains(&pointer.as_str()), "{pointer}");
            }
        }
    }

    #[test]
    fn what_pods_name() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {
            "imagePullSecrets": [{"name": "pull"}],
            "initContainers": [{"envFrom": [{"configMapRef": {"name": "all"}}, {"secretRef": {"name": "alls"}}]}],
            "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "key"}}}, {"name": "secret", "value": "not"}]}],
            "ephemeralContainers": [{"env": [{"valueFrom": {"configMapKeyRef": {"name": "one"}}}]}],
            "volumes": [{"name": "a", "secret": {"secretName": "s"}}, {"name": "b", "iscsi": {"secretRef": {"name": "chap"}}},
                {"name": "c", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "csi"}}},
                {"name": "d", "projected": {"sources": [{"secret": {"name": "ps"}}, {"configMap": {"name": "pc"}}]}},
                {"name": "e", "ephemeral": {}}, {"name": "f", "persistentVolumeClaim": {"claimName": "cl"}},
                {"name": "g", "azureFile": {"secretName": "az"}}, {"name": "h", "hostPath": {"path": "/"}}]}});
        let of = |what: Referred| -> Vec<String> {
            references(&pod).into_iter().filter(|(w, _)| *w == what).map(|(_, n)| n).collect()
        };
        assert_eq!(of(Referred::Secret), ["pull", "alls", "key", "s", "chap", "csi", "ps", "az"]);
        assert_eq!(of(Referred::ConfigMap), ["all", "one", "pc"]);
        assert_eq!(of(Referred::Claim), ["p-e", "cl"]);
        assert_eq!(claims(&pod).collect::<Vec<_>>(), of(Referred::Claim));
        assert_eq!(references(&json!(null)), []);
    }
}
