//! Names of kinds, resources and objects.

use std::borrow::Cow;
use std::fmt;

/// A name part: static for the built-in kinds, owned for custom resources.
pub type Name = Cow<'static, str>;

/// Group, version and plural resource name, as in `/apis/GROUP/VERSION/RESOURCE`. The core group is `""`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Gvr {
    /// API group, `""` for core.
    pub group: Name,
    /// API version, e.g. `v1`.
    pub version: Name,
    /// Plural, lower case, e.g. `pods`.
    pub resource: Name,
}

impl Gvr {
    /// A constant name.
    pub const fn new(group: &'static str, version: &'static str, resource: &'static str) -> Gvr {
        Gvr {
            group: Cow::Borrowed(group),
            version: Cow::Borrowed(version),
            resource: Cow::Borrowed(resource),
        }
    }

    /// A name made at run time.
    pub fn owned(group: impl Into<String>, version: impl Into<String>, resource: impl Into<String>) -> Gvr {
        Gvr {
            group: Cow::Owned(group.into()),
            version: Cow::Owned(version.into()),
            resource: Cow::Owned(resource.into()),
        }
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// The URL path of the collection: `/api/v1/namespaces/NS/pods`, `/apis/apps/v1/deployments`.
    pub fn path(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        match namespace {
            Some(ns) => format!("{root}/namespaces/{ns}/{}", self.resource),
            None => format!("{root}/{}", self.resource),
        }
    }
}

impl fmt::Display for Gvr {
    /// `deployments.v1.apps`, `pods.v1.`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.resource, self.version, self.group)
    }
}

/// Group, version and kind, as in an object's `apiVersion` and `kind`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Gvk {
    /// API group, `""` for core.
    pub group: Name,
    /// API version.
    pub version: Name,
    /// Kind, e.g. `Pod`.
    pub kind: Name,
}

impl Gvk {
    /// A constant name.
    pub const fn new(group: &'static str, version: &'static str, kind: &'static str) -> Gvk {
        Gvk { group: Cow::Borrowed(group), version: Cow::Borrowed(version), kind: Cow::Borrowed(kind) }
    }

    /// A name made at run time.
    pub fn owned(group: impl Into<String>, version: impl Into<String>, kind: impl Into<String>) -> Gvk {
        Gvk {
            group: Cow::Owned(group.into()),
            version: Cow::Owned(version.into()),
            kind: Cow::Owned(kind.into()),
        }
    }

    /// From an object's `apiVersion` (`apps/v1`, `v1`) and `kind`.
    pub fn parse(api_version: &str, kind: &str) -> Gvk {
        let (group, version) = split_api_version(api_version);
        Gvk::owned(group, version, kind)
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }
}

impl fmt::Display for Gvk {
    /// `apps/v1, Kind=Deployment`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, Kind={}", self.api_version(), self.kind)
    }
}

/// Namespace and name of an object; the namespace of a cluster-scoped one is `""`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Key {
    /// Namespace, or `""`.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// A key.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Key {
        Key { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    /// `NAMESPACE/NAME` or `NAME`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// `v1` or `apps/v1`.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// Group and version of an `apiVersion`.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

macro_rules! gvrs {
    ($($(#[$doc:meta])* $name:ident = $group:literal $version:literal $resource:literal;)*) => {
        /// The resources that the project's own components speak of.
        pub mod gvr {
            use super::Gvr;
            $(
                #[doc = concat!("`", $resource, "` of `", $group, "` ", $version)]
                pub const $name: Gvr = Gvr::new($group, $version, $resource);
            )*
        }
    };
}

gvrs! {
    PODS = "" "v1" "pods";
    NODES = "" "v1" "nodes";
    NAMESPACES = "" "v1" "namespaces";
    SERVICES = "" "v1" "services";
    ENDPOINTS = "" "v1" "endpoints";
    EVENTS = "" "v1" "events";
    CONFIG_MAPS = "" "v1" "configmaps";
    SECRETS = "" "v1" "secrets";
    SERVICE_ACCOUNTS = "" "v1" "serviceaccounts";
    PERSISTENT_VOLUMES = "" "v1" "persistentvolumes";
    PERSISTENT_VOLUME_CLAIMS = "" "v1" "persistentvolumeclaims";
    REPLICATION_CONTROLLERS = "" "v1" "replicationcontrollers";
    LIMIT_RANGES = "" "v1" "limitranges";
    RESOURCE_QUOTAS = "" "v1" "resourcequotas";
    POD_TEMPLATES = "" "v1" "podtemplates";
    DEPLOYMENTS = "apps" "v1" "deployments";
    REPLICA_SETS = "apps" "v1" "replicasets";
    DAEMON_SETS = "apps" "v1" "daemonsets";
    STATEFUL_SETS = "apps" "v1" "statefulsets";
    CONTROLLER_REVISIONS = "apps" "v1" "controllerrevisions";
    JOBS = "batch" "v1" "jobs";
    CRON_JOBS = "batch" "v1" "cronjobs";
    HORIZONTAL_POD_AUTOSCALERS = "autoscaling" "v2" "horizontalpodautoscalers";
    POD_DISRUPTION_BUDGETS = "policy" "v1" "poddisruptionbudgets";
    LEASES = "coordination.k8s.io" "v1" "leases";
    ENDPOINT_SLICES = "discovery.k8s.io" "v1" "endpointslices";
    INGRESSES = "networking.k8s.io" "v1" "ingresses";
    INGRESS_CLASSES = "networking.k8s.io" "v1" "ingressclasses";
    NETWORK_POLICIES = "networking.k8s.io" "v1" "networkpolicies";
    SERVICE_CIDRS = "networking.k8s.io" "v1" "servicecidrs";
    IP_ADDRESSES = "networking.k8s.io" "v1" "ipaddresses";
    STORAGE_CLASSES = "storage.k8s.io" "v1" "storageclasses";
    CSI_NODES = "storage.k8s.io" "v1" "csinodes";
    CSI_DRIVERS = "storage.k8s.io" "v1" "csidrivers";
    VOLUME_ATTACHMENTS = "storage.k8s.io" "v1" "volumeattachments";
    PRIORITY_CLASSES = "scheduling.k8s.io" "v1" "priorityclasses";
    RUNTIME_CLASSES = "node.k8s.io" "v1" "runtimeclasses";
    ROLES = "rbac.authorization.k8s.io" "v1" "roles";
    ROLE_BINDINGS = "rbac.authorization.k8s.io" "v1" "rolebindings";
    CLUSTER_ROLES = "rbac.authorization.k8s.io" "v1" "clusterroles";
    CLUSTER_ROLE_BINDINGS = "rbac.authorization.k8s.io" "v1" "clusterrolebindings";
    SUBJECT_ACCESS_REVIEWS = "authorization.k8s.io" "v1" "subjectaccessreviews";
    CERTIFICATE_SIGNING_REQUESTS = "certificates.k8s.io" "v1" "certificatesigningrequests";
    CUSTOM_RESOURCE_DEFINITIONS = "apiextensions.k8s.io" "v1" "customresourcedefinitions";
    API_SERVICES = "apiregistration.k8s.io" "v1" "apiservices";
    MUTATING_WEBHOOK_CONFIGURATIONS = "admissionregistration.k8s.io" "v1" "mutatingwebhookconfigurations";
    VALIDATING_WEBHOOK_CONFIGURATIONS = "admissionregistration.k8s.io" "v1" "validatingwebhookconfigurations";
}
