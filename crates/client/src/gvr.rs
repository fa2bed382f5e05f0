//! The resources that the cluster's own parts work with, by name.

use api::Gvr;

macro_rules! resources {
    ($($name:ident = $group:literal $version:literal $resource:literal;)*) => {
        $(#[doc = concat!("`", $resource, "` of `", $group, "` ", $version, ".")]
        pub const $name: Gvr = Gvr::new($group, $version, $resource);)*
    };
}

resources! {
    PODS = "" "v1" "pods";
    NODES = "" "v1" "nodes";
    NAMESPACES = "" "v1" "namespaces";
    SERVICES = "" "v1" "services";
    ENDPOINTS = "" "v1" "endpoints";
    EVENTS = "" "v1" "events";
    CONFIG_MAPS = "" "v1" "configmaps";
    SECRETS = "" "v1" "secrets";
    SERVICE_ACCOUNTS = "" "v1" "serviceaccounts";
    REPLICATION_CONTROLLERS = "" "v1" "replicationcontrollers";
    PERSISTENT_VOLUMES = "" "v1" "persistentvolumes";
    PERSISTENT_VOLUME_CLAIMS = "" "v1" "persistentvolumeclaims";
    RESOURCE_QUOTAS = "" "v1" "resourcequotas";
    LIMIT_RANGES = "" "v1" "limitranges";
    POD_TEMPLATES = "" "v1" "podtemplates";
    DEPLOYMENTS = "apps" "v1" "deployments";
    REPLICA_SETS = "apps" "v1" "replicasets";
    DAEMON_SETS = "apps" "v1" "daemonsets";
    STATEFUL_SETS = "apps" "v1" "statefulsets";
    CONTROLLER_REVISIONS = "apps" "v1" "controllerrevisions";
    JOBS = "batch" "v1" "jobs";
    CRON_JOBS = "batch" "v1" "cronjobs";
    ENDPOINT_SLICES = "discovery.k8s.io" "v1" "endpointslices";
    LEASES = "coordination.k8s.io" "v1" "leases";
    PRIORITY_CLASSES = "scheduling.k8s.io" "v1" "priorityclasses";
    STORAGE_CLASSES = "storage.k8s.io" "v1" "storageclasses";
    POD_DISRUPTION_BUDGETS = "policy" "v1" "poddisruptionbudgets";
    HORIZONTAL_POD_AUTOSCALERS = "autoscaling" "v2" "horizontalpodautoscalers";
    NETWORK_POLICIES = "networking.k8s.io" "v1" "networkpolicies";
    INGRESSES = "networking.k8s.io" "v1" "ingresses";
    CLUSTER_ROLES = "rbac.authorization.k8s.io" "v1" "clusterroles";
}
