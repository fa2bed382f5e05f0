//! Cluster-wide defaults and protections of storage and ingress objects.

use api::{Status, Value};
use async_trait::async_trait;
use serde_json::json;

use super::{Operation, Plugin, Review};

/// The newest object of a kind that an annotation marks as the default.
fn marked(r: &Review<'_>, group: &str, resource: &str, annotations: &[&str]) -> Option<String> {
    r.server
        .cache
        .kind(group, resource)
        .all("")
        .into_iter()
        .filter(|o| annotations.iter().any(|a| o.annotation(a) == Some("true")))
        .max_by_key(|o| (api::meta::created(o.value()), std::cmp::Reverse(o.name().to_owned())))
        .map(|o| o.name().to_owned())
}

/// DefaultStorageClass: a claim that names no class gets the default one.
pub struct DefaultStorageClass;

#[async_trait]
impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn handles(&self, r: &Review<'_>) -> bool {
        r.operation == Operation::Create && r.is("persistentvolumeclaims")
    }

    async fn mutate(&self, r: &mut Review<'_>) -> Result<(), Status> {
        let named = r.object.pointer("/spec/storageClassName").is_some_and(|v| !v.is_null())
            || api::meta::annotation(r.object, "volume.beta.kubernetes.io/storage-class").is_some();
        let marks = [
            "storageclass.kubernetes.io/is-default-class",
            "storageclass.beta.kubernetes.io/is-default-class",
        ];
        if !named && let Some(class) = marked(r, "storage.k8s.io", "storageclasses", &marks) {
            api::meta::child(r.object, "spec").insert("storageClassName".into(), json!(class));
        }
        Ok(())
    }
}

/// DefaultIngressClass: the same for an Ingress.
pub struct DefaultIngressClass;

#[async_trait]
impl Plugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn handles(&self, r: &Review<'_>) -> bool {
        let ingress = r.gvr.group == "networking.k8s.io" && r.gvr.resource == "ingresses";
        r.operation == Operation::Create && ingress && r.subresource.is_empty()
    }

    async fn mutate(&self, r: &mut Review<'_>) -> Result<(), Status> {
        let named = r.object.pointer("/spec/ingressClassName").is_some_and(|v| !v.is_null())
            || api::meta::annotation(r.object, "kubernetes.io/ingress.class").is_some();
        let marks = ["ingressclass.kubernetes.io/is-default-class"];
        if !named && let Some(class) = marked(r, "networking.k8s.io", "ingressclasses", &marks) {
            api::meta::child(r.object, "spec").insert("ingressClassName".into(), json!(class));
        }
        Ok(())
    }
}

/// StorageObjectInUseProtection: volumes and claims carry the finalizers that keep them while they are used.
pub struct StorageObjectInUse;

#[async_trait]
impl Plugin for StorageObjectInUse {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn handles(&self, r: &Review<'_>) -> bool {
        r.operation == Operation::Create && (r.is("persistentvolumeclaims") || r.is("persistentvolumes"))
    }

    async fn mutate(&self, r: &mut Review<'_>) -> Result<(), Status> {
        let finalizer = if r.gvr.resource == "persistentvolumes" {
            "kubernetes.io/pv-protection"
        } else {
            "kubernetes.io/pvc-protection"
        };
        api::meta::add_finalizer(r.object, finalizer);
        Ok(())
    }
}

/// PersistentVolumeClaimResize: a claim grows only if its class lets volumes grow.
pub struct VolumeResize;

#[async_trait]
impl Plugin for VolumeResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn handles(&self, r: &Review<'_>) -> bool {
        r.operation == Operation::Update && r.is("persistentvolumeclaims")
    }

    async fn validate(&self, r: &mut Review<'_>) -> Result<(), Status> {
        let size = |v: &Value| {
            v.pointer("/spec/resources/requests/storage")
                .and_then(|q| api::quantity::Quantity::of_value(q).ok())
        };
        let grows = match (r.old.and_then(size), size(r.object)) {
            (Some(old), Some(new)) => new > old,
            _ => false,
        };
        if !grows {
            return Ok(());
        }
        let old = r.old.unwrap_or(&Value::Null);
        if old.pointer("/status/phase").and_then(Value::as_str) != Some("Bound") {
            return Err(r.forbidden("Only bound persistent volume claims can be expanded"));
        }
        let class = api::meta::annotation(old, "volume.beta.kubernetes.io/storage-class")
            .or_else(|| old.pointer("/spec/storageClassName").and_then(Value::as_str))
            .filter(|name| !name.is_empty())
            .and_then(|name| r.server.cache.kind("storage.k8s.io", "storageclasses").get(name));
        if class.is_some_and(|c| c.value().get("allowVolumeExpansion") == Some(&Value::Bool(true))) {
            return Ok(());
        }
        Err(r.forbidden(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
        ))
    }
}
