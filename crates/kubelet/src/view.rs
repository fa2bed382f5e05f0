//! The parts of a Pod that the kubelet acts on, decoded once from the shared object. Fields are Kubernetes' own; what
//! the API server defaults is not defaulted again, what it validates is not validated again.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::Object;
use serde::Deserialize;
use serde_json::Value;

/// A pod: its specification and the metadata that matter here.
#[derive(Debug, Clone)]
pub struct Pod {
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// `metadata.uid`
    pub uid: String,
    /// `metadata.labels`
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`
    pub annotations: BTreeMap<String, String>,
    /// `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// `metadata.deletionGracePeriodSeconds`
    pub deletion_grace: Option<i64>,
    /// `spec`
    pub spec: Arc<PodSpec>,
    /// `status.phase` as the API server has it.
    pub phase: String,
    /// The object itself.
    pub object: Arc<Object>,
}

impl Pod {
    /// The view of an object; an error names what cannot be understood.
    pub fn of(object: &Arc<Object>) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Metadata {
            #[serde(default)]
            labels: Option<BTreeMap<String, String>>,
            #[serde(default)]
            annotations: Option<BTreeMap<String, String>>,
            deletion_grace_period_seconds: Option<i64>,
        }
        let describe = |e: serde_json::Error| format!("pod {}/{}: {e}", object.namespace(), object.name());
        let metadata = Metadata::deserialize(object.at(&["metadata"])).map_err(describe)?;
        let spec = PodSpec::deserialize(object.spec()).map_err(describe)?;
        Ok(Self {
            namespace: object.namespace().into(),
            name: object.name().into(),
            uid: object.uid().into(),
            labels: metadata.labels.unwrap_or_default(),
            annotations: metadata.annotations.unwrap_or_default(),
            deleting: object.is_deleting(),
            deletion_grace: metadata.deletion_grace_period_seconds,
            spec: Arc::new(spec),
            phase: object.status()["phase"].as_str().unwrap_or_default().into(),
            object: object.clone(),
        })
    }

    /// The time its containers have to end, in seconds.
    pub fn grace(&self) -> i64 {
        self.deletion_grace.or(self.spec.termination_grace_period_seconds).unwrap_or(30).max(0)
    }

    /// Whether the API server counts it as ended for good.
    pub fn is_terminal(&self) -> bool {
        matches!(self.phase.as_str(), "Succeeded" | "Failed")
    }

    /// `namespace/name`, for messages.
    pub fn title(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The pod's host name: at most 63 bytes, as the kernel's and DNS' limits have it.
    pub fn hostname(&self) -> String {
        let name = if self.spec.hostname.is_empty() { &self.name } else { &self.spec.hostname };
        let cut = name.get(..63).unwrap_or(name);
        cut.trim_end_matches(['-', '.']).to_owned()
    }
}

/// When an ended container is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum RestartPolicy {
    /// Whatever happened.
    #[default]
    Always,
    /// When it failed.
    OnFailure,
    /// Never.
    Never,
}

/// `spec`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the fields are Kubernetes' own
pub struct PodSpec {
    pub node_name: String,
    pub restart_policy: RestartPolicy,
    pub termination_grace_period_seconds: Option<i64>,
    pub active_deadline_seconds: Option<i64>,
    pub init_containers: Vec<Container>,
    pub containers: Vec<Container>,
    pub ephemeral_containers: Vec<Container>,
    pub volumes: Vec<Volume>,
    pub dns_policy: String,
    pub dns_config: DnsConfig,
    pub service_account_name: String,
    pub host_network: bool,
    #[serde(rename = "hostPID")]
    pub host_pid: bool,
    #[serde(rename = "hostIPC")]
    pub host_ipc: bool,
    pub host_users: Option<bool>,
    pub runtime_class_name: Option<String>,
    pub share_process_namespace: bool,
    pub security_context: PodSecurityContext,
    pub image_pull_secrets: Vec<LocalReference>,
    pub hostname: String,
    pub subdomain: String,
    #[serde(rename = "setHostnameAsFQDN")]
    pub set_hostname_as_fqdn: bool,
    pub host_aliases: Vec<HostAlias>,
    pub enable_service_links: Option<bool>,
    pub readiness_gates: Vec<ReadinessGate>,
    pub priority: i64,
    pub overhead: BTreeMap<String, Value>,
}

impl PodSpec {
    /// Every container, with the prefix of its field path.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &Container)> {
        let init = self.init_containers.iter().map(|c| ("initContainers", c));
        let main = self.containers.iter().map(|c| ("containers", c));
        init.chain(main).chain(self.ephemeral_containers.iter().map(|c| ("ephemeralContainers", c)))
    }

    /// The ports of the machine that its running containers ask for.
    pub fn host_ports(&self) -> impl Iterator<Item = &ContainerPort> {
        let running = self.init_containers.iter().filter(|c| c.is_sidecar()).chain(&self.containers);
        running.flat_map(|c| &c.ports).filter(|p| p.host_port != 0)
    }

    /// Whether a container that has ended with this code may run again: by its own policy or the pod's, as the API server
    /// judges what is said of it. An ephemeral one never does.
    pub fn may_restart(&self, c: &Container, code: i32) -> bool {
        if self.ephemeral_containers.iter().any(|e| e.name == c.name) {
            return false;
        }
        c.restart_policy_rules.iter().any(|rule| rule.exit_codes.holds(code))
            || match c.restart_policy.unwrap_or(self.restart_policy) {
                RestartPolicy::Always => true,
                RestartPolicy::OnFailure => code != 0,
                RestartPolicy::Never => false,
            }
    }

    /// Whether it does: an init container that has succeeded has done its work.
    pub fn restarts(&self, c: &Container, code: i32) -> bool {
        let done = code == 0 && !c.is_sidecar() && self.init_containers.iter().any(|i| i.name == c.name);
        !done && self.may_restart(c, code)
    }

    /// The container of that name.
    pub fn container(&self, name: &str) -> Option<&Container> {
        self.all().map(|(_, c)| c).find(|c| c.name == name)
    }

    /// `spec.containers{name}`, as events have it.
    pub fn field_path(&self, name: &str) -> String {
        let list = self.all().find(|(_, c)| c.name == name).map_or("containers", |(list, _)| list);
        format!("spec.{list}{{{name}}}")
    }
}

/// A container.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the fields are Kubernetes' own
pub struct Container {
    pub name: String,
    pub image: String,
    pub image_pull_policy: String,
    pub command: Vec<String>,
    pub args: Vec<String>,
    pub working_dir: String,
    pub ports: Vec<ContainerPort>,
    pub env_from: Vec<EnvFrom>,
    pub env: Vec<EnvVar>,
    pub resources: Resources,
    pub restart_policy: Option<RestartPolicy>,
    pub restart_policy_rules: Vec<RestartRule>,
    pub volume_mounts: Vec<VolumeMount>,
    pub volume_devices: Vec<Value>,
    pub liveness_probe: Option<Probe>,
    pub readiness_probe: Option<Probe>,
    pub startup_probe: Option<Probe>,
    pub lifecycle: Lifecycle,
    pub termination_message_path: String,
    pub termination_message_policy: String,
    pub security_context: SecurityContext,
    pub stdin: bool,
    pub stdin_once: bool,
    pub tty: bool,
    pub target_container_name: String,
}

impl Container {
    /// An init container that goes on running beside the others.
    pub fn is_sidecar(&self) -> bool {
        self.restart_policy == Some(RestartPolicy::Always)
    }
}

/// `restartPolicyRules[]`: a container that ends so is started again, whatever the policy.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct RestartRule {
    pub exit_codes: ExitCodes,
}

/// `restartPolicyRules[].exitCodes`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ExitCodes {
    pub operator: String,
    pub values: Vec<i32>,
}

impl ExitCodes {
    /// Whether the code is one of those meant.
    pub fn holds(&self, code: i32) -> bool {
        match self.operator.as_str() {
            "In" => self.values.contains(&code),
            "NotIn" => !self.values.contains(&code),
            _ => false,
        }
    }
}

/// `ports[]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct ContainerPort {
    pub name: String,
    pub container_port: u16,
    pub host_port: u16,
    #[serde(rename = "hostIP")]
    pub host_ip: String,
    pub protocol: String,
}

/// `envFrom[]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct EnvFrom {
    pub prefix: String,
    pub config_map_ref: Option<LocalReference>,
    pub secret_ref: Option<LocalReference>,
}

/// A reference to an object of the same namespace.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct LocalReference {
    pub name: String,
    pub optional: bool,
}

/// A reference to one key of an object of the same namespace.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct KeyReference {
    pub name: String,
    pub key: String,
    pub optional: bool,
}

/// `env[]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct EnvVar {
    pub name: String,
    pub value: String,
    pub value_from: Option<EnvSource>,
}

/// `env[].valueFrom`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct EnvSource {
    pub field_ref: Option<FieldRef>,
    pub resource_field_ref: Option<ResourceFieldRef>,
    pub config_map_key_ref: Option<KeyReference>,
    pub secret_key_ref: Option<KeyReference>,
}

/// `fieldRef`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct FieldRef {
    pub field_path: String,
}

/// `resourceFieldRef`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct ResourceFieldRef {
    pub container_name: String,
    pub resource: String,
    pub divisor: Value,
}

/// `resources`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Resources {
    pub limits: BTreeMap<String, Value>,
    pub requests: BTreeMap<String, Value>,
}

impl Resources {
    fn of(map: &BTreeMap<String, Value>, name: &str) -> Option<api::quantity::Quantity> {
        map.get(name).and_then(|v| api::quantity::Quantity::of_value(v).ok())
    }
    /// A limit, none if there is none.
    pub fn limit(&self, name: &str) -> Option<api::quantity::Quantity> {
        Self::of(&self.limits, name)
    }
    /// A request, none if there is none.
    pub fn request(&self, name: &str) -> Option<api::quantity::Quantity> {
        Self::of(&self.requests, name)
    }
}

/// `volumeMounts[]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct VolumeMount {
    pub name: String,
    pub mount_path: String,
    pub sub_path: String,
    pub sub_path_expr: String,
    pub read_only: bool,
    pub mount_propagation: String,
}

/// A probe.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct Probe {
    #[serde(flatten)]
    pub handler: Handler,
    pub initial_delay_seconds: u64,
    pub timeout_seconds: Option<u64>,
    pub period_seconds: Option<u64>,
    pub success_threshold: Option<u32>,
    pub failure_threshold: Option<u32>,
    pub termination_grace_period_seconds: Option<i64>,
}

/// What a probe or a hook does.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct Handler {
    pub exec: Option<ExecAction>,
    pub http_get: Option<HttpGet>,
    pub tcp_socket: Option<TcpSocket>,
    pub grpc: Option<Grpc>,
    pub sleep: Option<Sleep>,
}

/// `exec`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ExecAction {
    pub command: Vec<String>,
}

/// `httpGet`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct HttpGet {
    pub path: String,
    pub port: Value,
    pub host: String,
    pub scheme: String,
    pub http_headers: Vec<HttpHeader>,
}

/// `httpHeaders[]`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct HttpHeader {
    pub name: String,
    pub value: String,
}

/// `tcpSocket`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct TcpSocket {
    pub host: String,
    pub port: Value,
}

/// `grpc`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Grpc {
    pub port: u16,
    pub service: Option<String>,
}

/// `sleep`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Sleep {
    pub seconds: u64,
}

/// `lifecycle`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct Lifecycle {
    pub post_start: Option<Handler>,
    pub pre_stop: Option<Handler>,
    pub stop_signal: Option<String>,
}

/// `securityContext` of a container
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct SecurityContext {
    pub run_as_user: Option<i64>,
    pub run_as_group: Option<i64>,
    pub run_as_non_root: Option<bool>,
    pub privileged: bool,
    pub read_only_root_filesystem: bool,
    pub allow_privilege_escalation: Option<bool>,
    pub capabilities: Capabilities,
    pub seccomp_profile: Option<Profile>,
    pub app_armor_profile: Option<Profile>,
    pub proc_mount: String,
}

/// `capabilities`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Capabilities {
    pub add: Vec<String>,
    pub drop: Vec<String>,
}

/// `seccompProfile`, `appArmorProfile`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct Profile {
    #[serde(rename = "type")]
    pub kind: String,
    pub localhost_profile: String,
}

/// `securityContext` of a pod
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct PodSecurityContext {
    pub run_as_user: Option<i64>,
    pub run_as_group: Option<i64>,
    pub run_as_non_root: Option<bool>,
    pub fs_group: Option<i64>,
    pub fs_group_change_policy: String,
    pub supplemental_groups: Vec<i64>,
    pub sysctls: Vec<Sysctl>,
    pub seccomp_profile: Option<Profile>,
    pub app_armor_profile: Option<Profile>,
}

/// `sysctls[]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Sysctl {
    pub name: String,
    pub value: String,
}

/// `hostAliases[]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct HostAlias {
    pub ip: String,
    pub hostnames: Vec<String>,
}

/// `readinessGates[]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct ReadinessGate {
    pub condition_type: String,
}

/// `dnsConfig`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct DnsConfig {
    pub nameservers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<DnsOption>,
}

/// `dnsConfig.options[]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct DnsOption {
    pub name: String,
    pub value: Option<String>,
}

/// `volumes[]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct Volume {
    pub name: String,
    pub empty_dir: Option<EmptyDir>,
    pub host_path: Option<HostPath>,
    pub config_map: Option<FilesFrom>,
    pub secret: Option<FilesFrom>,
    #[serde(rename = "downwardAPI")]
    pub downward_api: Option<FilesFrom>,
    pub projected: Option<Projected>,
    pub persistent_volume_claim: Option<ClaimVolume>,
    pub ephemeral: Option<Value>,
    pub image: Option<ImageVolume>,
    pub nfs: Option<Value>,
    #[serde(rename = "gitRepo")]
    pub git_repo: Option<Value>,
}

/// `emptyDir`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct EmptyDir {
    pub medium: String,
    pub size_limit: Option<Value>,
}

/// `hostPath`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct HostPath {
    pub path: String,
    #[serde(rename = "type")]
    pub kind: String,
}

/// `image`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct ImageVolume {
    pub reference: String,
    pub pull_policy: String,
}

/// `persistentVolumeClaim`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct ClaimVolume {
    pub claim_name: String,
    pub read_only: bool,
}

/// `configMap`, `secret` and `downwardAPI`, as volumes and as sources of projected ones.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct FilesFrom {
    #[serde(alias = "secretName")]
    pub name: String,
    pub items: Option<Vec<Item>>,
    pub default_mode: Option<u32>,
    pub optional: bool,
}

/// `items[]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct Item {
    pub key: String,
    pub path: String,
    pub mode: Option<u32>,
    pub field_ref: Option<FieldRef>,
    pub resource_field_ref: Option<ResourceFieldRef>,
}

/// `projected`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct Projected {
    pub sources: Vec<ProjectedSource>,
    pub default_mode: Option<u32>,
}

/// `projected.sources[]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct ProjectedSource {
    pub config_map: Option<FilesFrom>,
    pub secret: Option<FilesFrom>,
    #[serde(rename = "downwardAPI")]
    pub downward_api: Option<FilesFrom>,
    pub service_account_token: Option<TokenSource>,
    /// Whatever else it says, by field: sources that this node does not know.
    #[serde(flatten)]
    pub others: BTreeMap<String, Value>,
}

/// `serviceAccountToken`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct TokenSource {
    pub audience: String,
    pub expiration_seconds: Option<i64>,
    pub path: String,
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// A pod `ns/p` with this specification.
    pub fn pod(spec: Value) -> Pod {
        let object = Object::from_value(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "namespace": "ns", "uid": "11111111-2222-3333-4444-555555555555",
                "labels": {"app": "a"}, "annotations": {"note": "x"}},
            "spec": spec,
        }));
        Pod::of(&object).unwrap()
    }

    #[test]
    fn decodes_what_matters() {
        let p = pod(json!({
            "hostPID": true, "terminationGracePeriodSeconds": 5,
            "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "hostIP": "1.2.3.4"}],
                "livenessProbe": {"httpGet": {"path": "/", "port": "web"}, "periodSeconds": 1},
                "resources": {"limits": {"cpu": "500m"}}}],
            "initContainers": [{"name": "i", "restartPolicy": "Always"}],
            "volumes": [{"name": "v", "secret": {"secretName": "s"}}, {"name": "d", "downwardAPI": {"items": []}}],
        }));
        assert!(p.spec.host_pid && p.spec.init_containers[0].is_sidecar());
        assert_eq!(p.grace(), 5);
        let c = &p.spec.containers[0];
        assert_eq!(c.liveness_probe.as_ref().unwrap().handler.http_get.as_ref().unwrap().port, "web");
        assert_eq!(c.resources.limit("cpu").unwrap().milli(), 500);
        assert_eq!(p.spec.volumes[0].secret.as_ref().unwrap().name, "s");
        assert_eq!(p.spec.field_path("i"), "spec.initContainers{i}");
        assert_eq!(p.hostname(), "p");
    }
}
