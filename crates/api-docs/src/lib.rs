//! Descriptions of the API's types and fields, taken from the doc comments that k8s-openapi carries as JSON schemas.
//!
//! They are wanted when an OpenAPI document is made and at no other time. The first time they are gathered from the schemas (tens of
//! milliseconds), then kept compressed (about 300 KB); [`Descriptions::texts`] unpacks them for whoever makes a document, who
//! drops them again.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::sync::OnceLock;

use api::openapi::{Docs, Texts};
use schemars::SchemaGenerator;
use serde_json::Value;

/// The descriptions, as [`Docs`].
#[derive(Debug, Default)]
pub struct Descriptions;

impl Docs for Descriptions {
    fn texts(&self) -> Texts {
        static PACKED: OnceLock<Vec<u8>> = OnceLock::new();
        unpack(PACKED.get_or_init(|| pack(&gather())))
    }
}

macro_rules! add {
    ($generator:ident: $($module:path { $($kind:ident)* })*) => {
        $($({
            use $module as module;
            let _ = $generator.subschema_for::<module::$kind>();
        })*)*
    };
}

/// `(type, field, text)`; the field of a type's own description is empty.
fn gather() -> BTreeSet<(String, String, String)> {
    use k8s_openapi::api;
    let mut generator = SchemaGenerator::default();
    add! { generator:
        api::admissionregistration::v1 {
            MutatingAdmissionPolicy MutatingAdmissionPolicyBinding MutatingWebhookConfiguration
            ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding ValidatingWebhookConfiguration
        }
        api::admissionregistration::v1alpha1 { MutatingAdmissionPolicy MutatingAdmissionPolicyBinding }
        api::admissionregistration::v1beta1 { MutatingAdmissionPolicy MutatingAdmissionPolicyBinding }
        api::apiserverinternal::v1alpha1 { StorageVersion }
        api::apps::v1 { ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet }
        api::authentication::v1 { SelfSubjectReview TokenRequest TokenReview }
        api::authorization::v1 {
            LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview SubjectAccessReview
        }
        api::autoscaling::v1 { HorizontalPodAutoscaler Scale }
        api::autoscaling::v2 { HorizontalPodAutoscaler }
        api::batch::v1 { CronJob Job }
        api::certificates::v1 { CertificateSigningRequest }
        api::certificates::v1alpha1 { ClusterTrustBundle }
        api::certificates::v1beta1 { ClusterTrustBundle PodCertificateRequest }
        api::coordination::v1 { Lease }
        api::coordination::v1alpha2 { LeaseCandidate }
        api::coordination::v1beta1 { LeaseCandidate }
        api::core::v1 {
            Binding ComponentStatus ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolume
            PersistentVolumeClaim Pod PodTemplate ReplicationController ResourceQuota Secret Service ServiceAccount
        }
        api::discovery::v1 { EndpointSlice }
        api::events::v1 { Event }
        api::flowcontrol::v1 { FlowSchema PriorityLevelConfiguration }
        api::networking::v1 { IPAddress Ingress IngressClass NetworkPolicy ServiceCIDR }
        api::networking::v1beta1 { IPAddress ServiceCIDR }
        api::node::v1 { RuntimeClass }
        api::policy::v1 { Eviction PodDisruptionBudget }
        api::rbac::v1 { ClusterRole ClusterRoleBinding Role RoleBinding }
        api::resource::v1 { DeviceClass ResourceClaim ResourceClaimTemplate ResourceSlice }
        api::resource::v1alpha3 { DeviceTaintRule ResourcePoolStatusRequest }
        api::resource::v1beta1 { DeviceClass ResourceClaim ResourceClaimTemplate ResourceSlice }
        api::resource::v1beta2 { DeviceClass DeviceTaintRule ResourceClaim ResourceClaimTemplate ResourceSlice }
        api::scheduling::v1 { PriorityClass }
        api::scheduling::v1alpha2 { PodGroup Workload }
        api::storage::v1 {
            CSIDriver CSINode CSIStorageCapacity StorageClass VolumeAttachment VolumeAttributesClass
        }
        api::storage::v1beta1 { VolumeAttributesClass }
        api::storagemigration::v1beta1 { StorageVersionMigration }
        k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 { CustomResourceDefinition }
        k8s_openapi::apimachinery::pkg::apis::meta::v1 {
            APIGroupList APIResourceList APIVersions DeleteOptions ListMeta ObjectMeta Patch Status
        }
        k8s_openapi::apimachinery::pkg::version { Info }
        k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1 { APIService }
    }
    {
        use k8s_openapi::apimachinery::pkg::{apis::meta::v1::WatchEvent, runtime::RawExtension};
        let _ = generator.subschema_for::<WatchEvent<RawExtension>>();
    }
    let mut out = BTreeSet::new();
    for (name, schema) in generator.take_definitions(true) {
        let mut add = |field: &str, value: &Value| {
            if let Some(text) = value.as_str().filter(|t| !t.is_empty()) {
                out.insert((name.clone(), field.to_owned(), text.to_owned()));
            }
        };
        add("", &schema["description"]);
        for (field, property) in schema["properties"].as_object().into_iter().flatten() {
            add(field, &property["description"]);
        }
    }
    out
}

/// Texts hold no control character but the line feed, so these can stand between them.
const BETWEEN: char = '\u{1f}';
const AFTER: char = '\u{1e}';

fn pack(rows: &BTreeSet<(String, String, String)>) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(6));
    for (name, field, text) in rows {
        // Writing to memory cannot fail; were it to, descriptions would be missing and nothing else.
        let _ = write!(encoder, "{name}{BETWEEN}{field}{BETWEEN}{text}{AFTER}");
    }
    encoder.finish().unwrap_or_default()
}

fn unpack(packed: &[u8]) -> Texts {
    let mut text = String::new();
    let _ = flate2::read::DeflateDecoder::new(packed).read_to_string(&mut text);
    let mut texts = Texts::default();
    for row in text.split(AFTER) {
        let mut parts = row.splitn(3, BETWEEN);
        if let (Some(name), Some(field), Some(text)) = (parts.next(), parts.next(), parts.next()) {
            texts.insert(name, field, text);
        }
    }
    texts
}

#[cfg(test)]
mod tests {
    use api::kinds::VersionSchema;

    use super::*;

    #[test]
    fn descriptions_reach_the_documents() {
        let document = api::openapi::v3(api::kinds::all(), "apis/apps/v1", &Descriptions).unwrap();
        let document: Value = serde_json::from_slice(&document).unwrap();
        let schemas = &document["components"]["schemas"];
        let selector = &schemas["io.k8s.api.apps.v1.DaemonSetSpec"]["properties"]["selector"]["description"];
        assert!(selector.as_str().unwrap().contains("label query"), "{selector}");
        assert!(schemas["io.k8s.api.core.v1.PodSpec"]["description"].is_string());
        let texts = Descriptions.texts();
        for kind in ["core.v1.Service", "batch.v1.CronJob", "networking.v1.Ingress"] {
            assert!(texts.of_type(&format!("io.k8s.api.{kind}")).is_some(), "{kind}");
        }
        for name in ["APIGroup", "APIResource", "APIVersions", "DeleteOptions", "Patch", "WatchEvent"] {
            let name = format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}");
            assert!(texts.of_type(&name).is_some(), "{name}");
        }
    }

    /// Kinds that the crate of types does not have: they are of the past.
    const WITHOUT: [&str; 1] = ["io.k8s.api.policy.v1beta1.PodSecurityPolicy"];

    #[test]
    fn each_kind_is_described() {
        let texts = Descriptions.texts();
        let types = api::kinds::all().iter().filter_map(|kind| match kind.storage()?.schema {
            VersionSchema::Table(t) => Some(t.name()),
            _ => None,
        });
        let without: Vec<&str> = types.filter(|name| texts.of_type(name).is_none()).collect();
        assert_eq!(without, WITHOUT);
    }
}
