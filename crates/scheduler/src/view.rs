//! Pods and nodes, cut to what scheduling looks at. Made once for each state of an object.

use std::collections::BTreeMap;

use api::object::Encoded;
use api::quantity::Quantity;
use api::selector::Label;
use api::{Key, Object, Value, meta, podrefs};

/// What a container counts as, for spreading, if it asks for nothing: a tenth of a processor and 200 MB.
const UNASKED: (i64, i64) = (100, 200 * 1024 * 1024);

/// Amounts of resources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Resources {
    /// Thousandths of a processor.
    pub(crate) cpu: i64,
    /// Bytes.
    pub(crate) memory: i64,
    /// Bytes of local storage.
    pub(crate) ephemeral: i64,
    /// How many pods.
    pub(crate) pods: i64,
    /// Everything else, by name.
    pub(crate) other: BTreeMap<String, i64>,
}

impl Resources {
    /// From a map of names to quantities. What cannot be read counts as nothing (the API server has validated it).
    pub(crate) fn of(map: &Value) -> Resources {
        let mut out = Resources::default();
        for (name, value) in map.as_object().into_iter().flatten() {
            let Ok(q) = Quantity::of_value(value) else { continue };
            match name.as_str() {
                "cpu" => out.cpu = q.milli(),
                "memory" => out.memory = q.value(),
                "ephemeral-storage" => out.ephemeral = q.value(),
                "pods" => out.pods = q.value(),
                _ => drop(out.other.insert(name.clone(), q.value())),
            }
        }
        out
    }

    /// Adds, or with `sign` -1 subtracts.
    pub(crate) fn add(&mut self, o: &Resources, sign: i64) {
        self.cpu += sign * o.cpu;
        self.memory += sign * o.memory;
        self.ephemeral += sign * o.ephemeral;
        self.pods += sign * o.pods;
        for (name, n) in &o.other {
            *self.other.entry(name.clone()).or_default() += sign * n;
        }
    }

    fn max(&mut self, o: &Resources) {
        self.cpu = self.cpu.max(o.cpu);
        self.memory = self.memory.max(o.memory);
        self.ephemeral = self.ephemeral.max(o.ephemeral);
        for (name, n) in &o.other {
            let mine = self.other.entry(name.clone()).or_default();
            *mine = (*mine).max(*n);
        }
    }
}

/// One term of a node selector.
#[derive(Debug, Clone)]
pub(crate) struct NodeTerm {
    labels: Vec<Expression>,
    fields: Vec<Expression>,
}

#[derive(Debug, Clone)]
struct Expression {
    key: String,
    operator: String,
    values: Vec<String>,
}

impl Expression {
    fn list(value: &Value) -> Vec<Expression> {
        let strings = |v: &Value| {
            v.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(String::from)).collect()
        };
        let of = |v: &Value| Expression {
            key: v["key"].as_str().unwrap_or_default().into(),
            operator: v["operator"].as_str().unwrap_or_default().into(),
            values: strings(&v["values"]),
        };
        value.as_array().into_iter().flatten().map(of).collect()
    }

    fn holds(&self, value: Option<&str>) -> bool {
        let number = |s: &str| s.parse::<i64>().ok();
        let compare = |f: fn(&i64, &i64) -> bool| {
            let limit = self.values.first().and_then(|v| number(v));
            value.and_then(number).zip(limit).is_some_and(|(a, b)| f(&a, &b))
        };
        match self.operator.as_str() {
            "In" => value.is_some_and(|v| self.values.iter().any(|w| w == v)),
            "NotIn" => !value.is_some_and(|v| self.values.iter().any(|w| w == v)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            "Gt" => compare(i64::gt),
            "Lt" => compare(i64::lt),
            _ => false,
        }
    }
}

impl NodeTerm {
    /// The terms of a list; `None` if there is no list. An empty term matches nothing.
    pub(crate) fn list(value: &Value) -> Option<Vec<NodeTerm>> {
        let of = |t: &Value| NodeTerm {
            labels: Expression::list(&t["matchExpressions"]),
            fields: Expression::list(&t["matchFields"]),
        };
        Some(value.as_array()?.iter().map(of).collect())
    }

    /// Whether a node satisfies the term.
    pub(crate) fn matches(&self, node: &NodeView) -> bool {
        !(self.labels.is_empty() && self.fields.is_empty())
            && self.labels.iter().all(|e| e.holds(node.label(&e.key)))
            && self.fields.iter().all(|e| e.holds((e.key == "metadata.name").then_some(node.name.as_str())))
    }
}

/// One toleration.
#[derive(Debug, Clone)]
pub(crate) struct Toleration {
    key: String,
    exists: bool,
    value: String,
    effect: String,
}

/// One taint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taint {
    /// Its key.
    pub(crate) key: String,
    /// Its value.
    pub(crate) value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

impl Toleration {
    /// Whether a pod with this toleration puts up with the taint.
    pub(crate) fn tolerates(&self, taint: &Taint) -> bool {
        (self.effect.is_empty() || self.effect == taint.effect)
            && (self.key.is_empty() || self.key == taint.key)
            && (self.exists || self.value == taint.value)
    }
}

/// A term of pod affinity or anti-affinity.
#[derive(Debug, Clone)]
pub(crate) struct PodTerm {
    /// Which pods.
    pub(crate) selector: Label,
    /// In which namespaces; empty together with `namespace_selector`: none.
    pub(crate) namespaces: Vec<String>,
    /// In which namespaces besides, by their labels.
    pub(crate) namespace_selector: Option<Label>,
    /// What counts as the same place: nodes with the same value of this label.
    pub(crate) topology: String,
    /// Of preferences: how much they count.
    pub(crate) weight: i64,
}

impl PodTerm {
    fn list(value: &Value, weighted: bool, pod: &Object) -> Vec<PodTerm> {
        let of = |v: &Value| {
            let term = if weighted { &v["podAffinityTerm"] } else { v };
            let mut selector =
                Label::from_selector(&term["labelSelector"]).unwrap_or_else(|_| Label::nothing());
            let more = |f: &str, op| {
                let keys = term[f].as_array().into_iter().flatten().filter_map(Value::as_str);
                let pairs = keys.filter_map(|k| pod.labels().get(k).map(|v| (k.to_owned(), v.to_owned())));
                pairs
                    .map(move |(k, v)| serde_json::json!({"key": k, "operator": op, "values": [v]}))
                    .collect::<Vec<_>>()
            };
            let extra: Vec<Value> =
                [more("matchLabelKeys", "In"), more("mismatchLabelKeys", "NotIn")].concat();
            if !extra.is_empty() && term["labelSelector"].is_object() {
                let mut merged = term["labelSelector"].clone();
                let mut all = merged["matchExpressions"].as_array().cloned().unwrap_or_default();
                all.extend(extra);
                merged["matchExpressions"] = all.into();
                selector = Label::from_selector(&merged).unwrap_or_else(|_| Label::nothing());
            }
            let mut namespaces: Vec<String> = term["namespaces"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|n| n.as_str().map(String::from))
                .collect();
            let namespace_selector = match &term["namespaceSelector"] {
                Value::Null => None,
                s => Label::from_selector(s).ok(),
            };
            if namespaces.is_empty() && namespace_selector.is_none() {
                namespaces.push(pod.namespace().into());
            }
            PodTerm {
                selector,
                namespaces,
                namespace_selector,
                topology: term["topologyKey"].as_str().unwrap_or_default().into(),
                weight: v["weight"].as_i64().unwrap_or(0),
            }
        };
        value.as_array().into_iter().flatten().map(of).collect()
    }
}

/// A constraint on how pods spread.
#[derive(Debug, Clone)]
pub(crate) struct Spread {
    /// By how many the fullest and the emptiest place may differ.
    pub(crate) max_skew: i64,
    /// What a place is: nodes with the same value of this label.
    pub(crate) topology: String,
    /// Whether it must hold, or only should.
    pub(crate) hard: bool,
    /// Which pods are counted.
    pub(crate) selector: Label,
    /// With fewer places than this, the emptiest counts as having none.
    pub(crate) min_domains: i64,
    /// Whether only nodes are counted that the pod's node affinity allows.
    pub(crate) honor_affinity: bool,
    /// Whether only nodes are counted whose taints the pod tolerates.
    pub(crate) honor_taints: bool,
}

/// A host port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPort {
    ip: String,
    protocol: String,
    port: i64,
}

impl HostPort {
    /// Whether both cannot be had on one node.
    pub(crate) fn conflicts(&self, other: &HostPort) -> bool {
        let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0" || ip == "::";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || any(&self.ip) || any(&other.ip))
    }
}

/// A pod. See the module's documentation.
#[derive(Debug, Clone)]
pub struct PodView {
    /// Namespace and name.
    pub(crate) key: Key,
    /// UID.
    pub(crate) uid: String,
    /// The object.
    pub(crate) object: std::sync::Arc<Encoded>,
    /// The node that it is bound to; empty: none.
    pub(crate) node: String,
    /// Which scheduler is to take it.
    pub(crate) scheduler: String,
    /// Higher ones go first and may push others out.
    pub(crate) priority: i64,
    /// Whether it may push others out.
    pub(crate) may_preempt: bool,
    /// What it asks for.
    pub(crate) requests: Resources,
    /// Processor and memory, with what counts for containers that ask for none.
    pub(crate) nonzero: (i64, i64),
    /// Ports of the node that it wants.
    pub(crate) ports: Vec<HostPort>,
    /// Labels that the node must have.
    pub(crate) node_selector: Vec<(String, String)>,
    /// Terms of which the node must satisfy one; `None`: no such condition.
    pub(crate) node_required: Option<Vec<NodeTerm>>,
    /// Terms that the node should satisfy, with their weights.
    pub(crate) node_preferred: Vec<(i64, NodeTerm)>,
    /// What it puts up with.
    pub(crate) tolerations: Vec<Toleration>,
    /// Pods that it must be near.
    pub(crate) near: Vec<PodTerm>,
    /// Pods that it should be near.
    pub(crate) near_preferred: Vec<PodTerm>,
    /// Pods that it must not be near.
    pub(crate) apart: Vec<PodTerm>,
    /// Pods that it should not be near.
    pub(crate) apart_preferred: Vec<PodTerm>,
    /// How it and its like spread.
    pub(crate) spread: Vec<Spread>,
    /// Its images.
    pub(crate) images: Vec<String>,
    /// Claims in its volumes.
    pub(crate) claims: Vec<String>,
    /// Whether something keeps it from being scheduled yet.
    pub(crate) gated: bool,
}

/// Whether a pod takes up room: it has not ended.
pub(crate) fn takes_room(pod: &Object) -> bool {
    !matches!(pod.at(&["status", "phase"]).as_str(), Some("Succeeded" | "Failed"))
}

impl PodView {
    /// The view of a pod.
    pub fn new(object: &std::sync::Arc<Object>) -> PodView {
        let spec = object.spec();
        let affinity = &spec["affinity"];
        let strings = |v: &Value| -> String { v.as_str().unwrap_or_default().into() };
        let (requests, nonzero) = requests(spec);
        let containers = || spec["containers"].as_array().into_iter().flatten();
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
        let pods = |kind: &str| {
            (
                PodTerm::list(&affinity[kind][required], false, object),
                PodTerm::list(&affinity[kind][preferred], true, object),
            )
        };
        let ((near, near_preferred), (apart, apart_preferred)) =
            (pods("podAffinity"), pods("podAntiAffinity"));
        let wishes = affinity["nodeAffinity"][preferred].as_array().into_iter().flatten();
        PodView {
            key: object.key(),
            uid: object.uid().into(),
            object: object.encoded().clone(),
            node: strings(&spec["nodeName"]),
            scheduler: strings(&spec["schedulerName"]),
            priority: spec["priority"].as_i64().unwrap_or(0),
            may_preempt: spec["preemptionPolicy"] != "Never",
            requests,
            nonzero,
            ports: ports(spec),
            node_selector: pairs(&spec["nodeSelector"]),
            node_required: NodeTerm::list(&affinity["nodeAffinity"][required]["nodeSelectorTerms"]),
            node_preferred: wishes
                .filter_map(|w| {
                    let list = Value::Array(vec![w["preference"].clone()]);
                    Some((w["weight"].as_i64()?, NodeTerm::list(&list)?.pop()?))
                })
                .collect(),
            tolerations: spec["tolerations"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|t| Toleration {
                    key: strings(&t["key"]),
                    exists: t["operator"] == "Exists",
                    value: strings(&t["value"]),
                    effect: strings(&t["effect"]),
                })
                .collect(),
            near,
            near_preferred,
            apart,
            apart_preferred,
            spread: spread(spec, object),
            images: containers().map(|c| strings(&c["image"])).collect(),
            claims: podrefs::claims(object.value()).collect(),
            gated: spec["schedulingGates"].as_array().is_some_and(|g| !g.is_empty()),
        }
    }

    /// Whether it puts up with a taint.
    pub fn tolerates(&self, taint: &Taint) -> bool {
        self.tolerations.iter().any(|t| t.tolerates(taint))
    }

    /// Whether the node is one that it may be on, by selector and affinity.
    pub fn allows(&self, node: &NodeView) -> bool {
        self.node_selector.iter().all(|(k, v)| node.label(k) == Some(v))
            && self.node_required.as_ref().is_none_or(|terms| terms.iter().any(|t| t.matches(node)))
    }
}

fn pairs(map: &Value) -> Vec<(String, String)> {
    let of = |(k, v): (&String, &Value)| (k.clone(), v.as_str().unwrap_or_default().to_owned());
    map.as_object().into_iter().flatten().map(of).collect()
}

/// The sum over the containers; at least what the hungriest init container needs beside the sidecars started before it.
fn requests(spec: &Value) -> (Resources, (i64, i64)) {
    let (mut sum, mut nonzero) = (Resources::default(), (0, 0));
    for c in spec["containers"].as_array().into_iter().flatten() {
        let r = Resources::of(&c["resources"]["requests"]);
        let asks = |name: &str| !c["resources"]["requests"][name].is_null();
        nonzero.0 += if asks("cpu") { r.cpu } else { UNASKED.0 };
        nonzero.1 += if asks("memory") { r.memory } else { UNASKED.1 };
        sum.add(&r, 1);
    }
    let mut sidecars = Resources::default();
    let mut peak = Resources::default();
    for c in spec["initContainers"].as_array().into_iter().flatten() {
        let mut r = Resources::of(&c["resources"]["requests"]);
        if c["restartPolicy"] == "Always" {
            sidecars.add(&r, 1);
            peak.max(&sidecars);
        } else {
            r.add(&sidecars, 1);
            peak.max(&r);
        }
    }
    sum.add(&sidecars, 1);
    sum.max(&peak);
    if spec["resources"]["requests"].is_object() {
        // What the whole pod asks for takes the place of the sum.
        let whole = Resources::of(&spec["resources"]["requests"]);
        for (name, _) in spec["resources"]["requests"].as_object().into_iter().flatten() {
            match name.as_str() {
                "cpu" => sum.cpu = whole.cpu,
                "memory" => sum.memory = whole.memory,
                _ => {}
            }
        }
    }
    sum.add(&Resources::of(&spec["overhead"]), 1);
    sum.pods = 1;
    (sum.clone(), (nonzero.0.max(sum.cpu), nonzero.1.max(sum.memory)))
}

fn ports(spec: &Value) -> Vec<HostPort> {
    let containers =
        ["containers", "initContainers"].into_iter().flat_map(|f| spec[f].as_array().into_iter().flatten());
    let host = spec["hostNetwork"] == true;
    let of = |p: &Value| {
        let port = p["hostPort"].as_i64().filter(|p| *p > 0);
        let port = port.or_else(|| if host { p["containerPort"].as_i64() } else { None })?;
        Some(HostPort {
            ip: p["hostIP"].as_str().unwrap_or_default().into(),
            protocol: p["protocol"].as_str().unwrap_or("TCP").into(),
            port,
        })
    };
    containers.flat_map(|c| c["ports"].as_array().into_iter().flatten().filter_map(of)).collect()
}

fn spread(spec: &Value, pod: &Object) -> Vec<Spread> {
    let of = |c: &Value| {
        let mut selector = c["labelSelector"].clone();
        for key in c["matchLabelKeys"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if let Some(value) = pod.labels().get(key) {
                selector["matchLabels"][key] = value.into();
            }
        }
        Spread {
            max_skew: c["maxSkew"].as_i64().unwrap_or(1),
            topology: c["topologyKey"].as_str().unwrap_or_default().into(),
            hard: c["whenUnsatisfiable"] != "ScheduleAnyway",
            selector: Label::from_selector(&selector).unwrap_or_else(|_| Label::nothing()),
            min_domains: c["minDomains"].as_i64().unwrap_or(1),
            honor_affinity: c["nodeAffinityPolicy"] != "Ignore",
            honor_taints: c["nodeTaintsPolicy"] == "Honor",
        }
    };
    spec["topologySpreadConstraints"].as_array().into_iter().flatten().map(of).collect()
}

/// A node. See the module's documentation.
#[derive(Debug, Clone)]
pub struct NodeView {
    /// Its name.
    pub(crate) name: String,
    /// The object.
    pub(crate) object: std::sync::Arc<Encoded>,
    /// What pods may use of it.
    pub(crate) allocatable: Resources,
    /// What keeps pods away.
    pub taints: Vec<Taint>,
    /// Whether nothing new is to come.
    pub(crate) unschedulable: bool,
    /// Sizes of the images that it has, by their names.
    pub(crate) images: BTreeMap<String, i64>,
}

/// Whether they are alike in all that a pod could wait for.
impl PartialEq for NodeView {
    fn eq(&self, other: &Self) -> bool {
        // Named one by one, so that a new field is thought about here. Images only make a node better, never fit.
        let NodeView { name, object, allocatable, taints, unschedulable, images: _ } = self;
        *name == other.name
            && object.labels() == other.object.labels()
            && *allocatable == other.allocatable
            && *taints == other.taints
            && *unschedulable == other.unschedulable
    }
}

impl NodeView {
    /// The view of a node.
    pub fn new(object: &std::sync::Arc<Object>) -> NodeView {
        let text = |v: &Value| -> String { v.as_str().unwrap_or_default().into() };
        let taints = object.at(&["spec", "taints"]).as_array().into_iter().flatten();
        let mut images = BTreeMap::new();
        for image in object.at(&["status", "images"]).as_array().into_iter().flatten() {
            for name in image["names"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                images.insert(name.to_owned(), image["sizeBytes"].as_i64().unwrap_or(0));
            }
        }
        NodeView {
            name: meta::name(object.value()).into(),
            object: object.encoded().clone(),
            allocatable: Resources::of(object.at(&["status", "allocatable"])),
            taints: taints
                .map(|t| Taint { key: text(&t["key"]), value: text(&t["value"]), effect: text(&t["effect"]) })
                .collect(),
            unschedulable: object.at(&["spec", "unschedulable"]) == &Value::Bool(true),
            images,
        }
    }

    /// The value of a label.
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.object.labels().get(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn requests_count_init_containers_and_sidecars() {
        let c = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let mut sidecar = c("100m");
        sidecar["restartPolicy"] = "Always".into();
        let of = |init: Vec<Value>| {
            requests(&json!({"containers": [c("200m"), c("300m")], "initContainers": init})).0.cpu
        };
        assert_eq!(of(vec![]), 500);
        assert_eq!(of(vec![c("700m")]), 700);
        assert_eq!(of(vec![sidecar.clone()]), 600);
        assert_eq!(of(vec![sidecar, c("700m")]), 800);
    }

    #[test]
    fn expressions() {
        let e = |operator: &str, values: &[&str]| Expression {
            key: "k".into(),
            operator: operator.into(),
            values: values.iter().map(|v| v.to_string()).collect(),
        };
        for (expression, value, want) in [
            (e("In", &["a", "b"]), Some("b"), true),
            (e("In", &["a"]), None, false),
            (e("NotIn", &["a"]), None, true),
            (e("NotIn", &["a"]), Some("a"), false),
            (e("Exists", &[]), Some(""), true),
            (e("DoesNotExist", &[]), Some(""), false),
            (e("Gt", &["5"]), Some("6"), true),
            (e("Gt", &["5"]), Some("x"), false),
            (e("Lt", &["5"]), Some("4"), true),
        ] {
            assert_eq!(expression.holds(value), want, "{expression:?} {value:?}");
        }
    }

    #[test]
    fn ports_conflict_unless_their_addresses_differ() {
        let p = |ip: &str, port| HostPort { ip: ip.into(), protocol: "TCP".into(), port };
        assert!(p("", 80).conflicts(&p("10.0.0.1", 80)));
        assert!(!p("10.0.0.2", 80).conflicts(&p("10.0.0.1", 80)));
        assert!(!p("", 80).conflicts(&p("", 81)));
    }
}
