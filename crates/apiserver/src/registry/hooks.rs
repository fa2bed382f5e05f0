//! What a write needs of the cluster's state beyond the object itself: service addresses and node ports, the requester of a
//! certificate, and the rule that nobody grants more than they hold.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use api::access::Ask;
use api::{ErrorList, Kind, Path, Status, Value};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipnet::Ipv4Net;
use serde_json::json;
use tokio::sync::Mutex;

use super::Context;
use crate::ApiServer;
use crate::authz::{self, Attributes};
use crate::user::{MASTERS, UserInfo};

/// What is said to who asks for addresses of both families.
const ONE_FAMILY: &str = "this cluster is not configured for dual-stack services";
/// The node ports.
const NODE_PORTS: std::ops::RangeInclusive<i64> = 30000..=32767;

/// Service addresses and node ports. What is taken is read from the services themselves, under a lock that is held while one
/// is chosen: there is no second record that could disagree. What is chosen is reserved until its service is in the cache,
/// so that the lock is not held over admission and the write.
#[derive(Debug)]
pub struct Addresses {
    range: Ipv4Net,
    lock: Arc<Mutex<()>>,
    reserved: Arc<parking_lot::Mutex<Taken>>,
}

/// The lock that servers on one store share while they choose addresses and ports.
const LOCK: &str = "/registry/lock-of-services";
/// Before what one of them has chosen and not written yet.
const RESERVED: &str = "/registry/reserved-for-a-service-";

/// Held while a service is written: nobody else gets its addresses and ports.
pub struct Held {
    mine: Taken,
    reserved: Arc<parking_lot::Mutex<Taken>>,
    /// Against other servers on the same store.
    _everywhere: Option<store::lock::Held>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut reserved = self.reserved.lock();
        reserved.ips.retain(|ip| !self.mine.ips.contains(ip));
        reserved.ports.retain(|port| !self.mine.ports.contains(port));
    }
}

/// Addresses and ports that are in use.
#[derive(Debug, Default, Clone)]
struct Taken {
    ips: HashSet<Ipv4Addr>,
    ports: HashSet<i64>,
}

fn text<'a>(v: &'a Value, field: &str) -> &'a str {
    v.get(field).and_then(Value::as_str).unwrap_or("")
}

fn ports(spec: &Value) -> impl Iterator<Item = &Value> {
    spec.get("ports").and_then(Value::as_array).into_iter().flatten()
}

impl Taken {
    fn merge(&mut self, other: &Taken) {
        self.ips.extend(&other.ips);
        self.ports.extend(&other.ports);
    }

    /// The names under which a shared store keeps what is reserved.
    fn keys(&self) -> Vec<Vec<u8>> {
        let ips = self.ips.iter().map(|ip| format!("{RESERVED}{ip}").into_bytes());
        ips.chain(self.ports.iter().map(|port| format!("{RESERVED}{port}").into_bytes())).collect()
    }

    /// Adds what such a name stands for.
    fn add_key(&mut self, key: &[u8]) {
        let Some(rest) = std::str::from_utf8(key).ok().and_then(|k| k.strip_prefix(RESERVED)) else { return };
        match (rest.parse(), rest.parse()) {
            (Ok(ip), _) => {
                self.ips.insert(ip);
            }
            (_, Ok(port)) => {
                self.ports.insert(port);
            }
            _ => {}
        }
    }

    fn add(&mut self, spec: &Value) {
        for ip in spec.get("clusterIPs").and_then(Value::as_array).into_iter().flatten() {
            self.ips.extend(ip.as_str().and_then(|s| s.parse::<Ipv4Addr>().ok()));
        }
        self.ips.extend(text(spec, "clusterIP").parse::<Ipv4Addr>().ok());
        self.ports.extend(ports(spec).filter_map(|p| p.get("nodePort").and_then(Value::as_i64)));
        self.ports.extend(spec.get("healthCheckNodePort").and_then(Value::as_i64));
    }
}

impl Addresses {
    /// An allocator in `range`.
    pub fn new(range: Ipv4Net) -> Self {
        Self { range, lock: Arc::default(), reserved: Arc::default() }
    }

    fn free_ip(&self, taken: &Taken) -> Option<Ipv4Addr> {
        let size = 1u64 << (32 - u32::from(self.range.prefix_len()));
        let base = u32::from(self.range.network());
        // The lower part is left for addresses that are asked for by number, as upstream does.
        let reserved = (size / 16).clamp(16, 256).min(size / 2);
        let span = size.saturating_sub(reserved + 1);
        let start = if span > 0 { base::rng::below(span) } else { 0 };
        let upper = (0..span).map(|i| reserved + (start + i) % span);
        let lower = 1..reserved;
        upper
            .chain(lower)
            .filter_map(|n| u32::try_from(n).ok())
            .map(|n| Ipv4Addr::from(base.wrapping_add(n)))
            .find(|ip| !taken.ips.contains(ip))
    }

    fn free_port(taken: &Taken) -> Option<i64> {
        let size = NODE_PORTS.end() - NODE_PORTS.start() + 1;
        let start = base::rng::below(size.unsigned_abs()).cast_signed();
        (0..size).map(|i| NODE_PORTS.start() + (start + i) % size).find(|p| !taken.ports.contains(p))
    }

    /// Completes a service's spec: addresses, families, node ports. `old` is its spec before.
    fn assign(&self, object: &mut Value, old: Option<&Value>, taken: &mut Taken) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec");
        let spec = api::meta::child(object, "spec");
        let kind = spec.get("type").and_then(Value::as_str).unwrap_or("ClusterIP").to_owned();
        let before = old.cloned().unwrap_or(Value::Null);
        let was = text(&before, "type").to_owned();
        if kind == "ExternalName" {
            // Only what came with the old type goes; what the client sets itself is for validation to refuse.
            if !was.is_empty() && was != "ExternalName" && spec.get("clusterIP") == before.get("clusterIP") {
                for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                    spec.shift_remove(field);
                }
            }
        } else {
            self.assign_ip(spec, &before, &was, taken, &path, &mut errors);
        }
        let has_node_ports = kind == "NodePort"
            || kind == "LoadBalancer"
                && spec.get("allocateLoadBalancerNodePorts").and_then(Value::as_bool) != Some(false);
        assign_ports(spec, &before, has_node_ports, kind == "LoadBalancer", taken, &path, &mut errors);
        errors
    }

    fn assign_ip(
        &self,
        spec: &mut api::Map,
        before: &Value,
        was: &str,
        taken: &mut Taken,
        path: &Path,
        errors: &mut ErrorList,
    ) {
        let first = |spec: &api::Map| {
            spec.get("clusterIPs").and_then(|v| v.get(0)).and_then(Value::as_str).map(str::to_owned)
        };
        let mut ip = match spec.get("clusterIP").and_then(Value::as_str) {
            Some(ip) if !ip.is_empty() => ip.to_owned(),
            _ => first(spec).unwrap_or_default(),
        };
        if ip.is_empty() && !was.is_empty() && was != "ExternalName" {
            ip = text(before, "clusterIP").to_owned();
        }
        let field = path.child("clusterIPs");
        let shown = json!([ip]);
        let kept = !ip.is_empty() && ip == text(before, "clusterIP");
        if ip.is_empty() {
            match self.free_ip(taken) {
                Some(free) => ip = free.to_string(),
                None => errors.invalid(&field, &shown, "failed to allocate a serviceIP: range is full"),
            }
        } else if ip != "None" && !kept {
            match ip.parse::<Ipv4Addr>() {
                Ok(a)
                    if !self.range.contains(&a)
                        || a == self.range.network()
                        || a == self.range.broadcast() =>
                {
                    let why = format!(
                        "failed to allocate IP {ip}: the provided network does not match the current range: the provided IP ({ip}) is not in the valid range. The range of valid IPs is {}",
                        self.range
                    );
                    errors.invalid(&field, &shown, why);
                }
                Ok(a) if taken.ips.contains(&a) => {
                    errors.invalid(
                        &field,
                        &shown,
                        format!("failed to allocate IP {ip}: provided IP is already allocated"),
                    );
                }
                Ok(_) => {}
                Err(_) => errors.invalid(
                    &field,
                    &shown,
                    "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                ),
            }
        }
        if spec.get("clusterIPs").and_then(Value::as_array).is_some_and(|all| all.len() > 1) {
            errors.invalid(&field, &spec["clusterIPs"], format!("may hold only one value: {ONE_FAMILY}"));
        }
        if spec.get("ipFamilyPolicy").is_some_and(|p| p == "RequireDualStack") {
            errors.invalid(&path.child("ipFamilyPolicy"), &spec["ipFamilyPolicy"], ONE_FAMILY);
        }
        for (i, family) in spec.get("ipFamilies").and_then(Value::as_array).into_iter().flatten().enumerate()
        {
            if family != "IPv4" || i > 0 {
                let at = path.child("ipFamilies").index(i);
                errors.invalid(&at, family, "not configured on this cluster");
            }
        }
        taken.ips.extend(ip.parse::<Ipv4Addr>().ok());
        if !ip.is_empty() {
            spec.insert("clusterIP".into(), json!(ip));
            spec.insert("clusterIPs".into(), json!([ip]));
        }
        if spec.get("ipFamilies").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            spec.insert("ipFamilies".into(), json!(["IPv4"]));
        }
        if spec.get("ipFamilyPolicy").and_then(Value::as_str).is_none_or(str::is_empty) {
            spec.insert("ipFamilyPolicy".into(), json!("SingleStack"));
        }
    }
}

fn assign_ports(
    spec: &mut api::Map,
    before: &Value,
    wanted: bool,
    balancer: bool,
    taken: &mut Taken,
    path: &Path,
    errors: &mut ErrorList,
) {
    let same =
        |a: &Value, b: &Value| a.get("port") == b.get("port") && text(a, "protocol") == text(b, "protocol");
    let owned: HashSet<i64> =
        ports(before).filter_map(|p| p.get("nodePort").and_then(Value::as_i64)).collect();
    // A port number may serve several protocols of the same service.
    let mut mine: HashSet<(i64, String)> = HashSet::new();
    let mut list = spec.get("ports").cloned().unwrap_or(Value::Null);
    for (i, port) in list.as_array_mut().into_iter().flatten().enumerate() {
        let field = path.child("ports").index(i).child("nodePort");
        let given = port.get("nodePort").and_then(Value::as_i64).unwrap_or(0);
        let protocol = match text(port, "protocol") {
            "" => "TCP".to_owned(),
            p => p.to_owned(),
        };
        if !wanted {
            let leftover = owned.contains(&given) && !balancer;
            if leftover && let Some(p) = port.as_object_mut() {
                p.shift_remove("nodePort");
            }
            continue;
        }
        let mut number = given;
        if number == 0 {
            let kept = ports(before).find(|p| same(p, port)).and_then(|p| p.get("nodePort")?.as_i64());
            let Some(n) = kept.or_else(|| Addresses::free_port(taken)) else {
                errors.invalid(&field, &json!(0), "failed to allocate a nodePort: range is full");
                continue;
            };
            number = n;
        } else if !owned.contains(&number) && !mine.iter().any(|(n, p)| *n == number && *p != protocol) {
            if !NODE_PORTS.contains(&number) {
                let why = format!(
                    "provided port is not in the valid range. The range of valid ports is {}-{}",
                    NODE_PORTS.start(),
                    NODE_PORTS.end()
                );
                errors.invalid(&field, &json!(number), why);
                continue;
            }
            if taken.ports.contains(&number) {
                errors.invalid(&field, &json!(number), "provided port is already allocated");
                continue;
            }
        }
        taken.ports.insert(number);
        mine.insert((number, protocol));
        if let Some(p) = port.as_object_mut() {
            p.insert("nodePort".into(), json!(number));
        }
    }
    if list.is_array() {
        spec.insert("ports".into(), list);
    }
    assign_health_port(spec, before, balancer, taken, path, errors);
}

/// The port at which nodes say whether they have endpoints of a service: of balanced ones that stay on their node.
fn assign_health_port(
    spec: &mut api::Map,
    before: &Value,
    balancer: bool,
    taken: &mut Taken,
    path: &Path,
    errors: &mut ErrorList,
) {
    const FIELD: &str = "healthCheckNodePort";
    let field = path.child(FIELD);
    let number = |port: Option<&Value>| port.and_then(Value::as_i64).filter(|n| *n != 0);
    let (given, kept) = (number(spec.get(FIELD)), number(before.get(FIELD)));
    let local = balancer && spec.get("externalTrafficPolicy").is_some_and(|p| p == "Local");
    match given {
        _ if !local => {
            if given.is_some() && given != kept {
                let why =
                    "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
                errors.invalid(&field, &json!(given), why);
            }
            spec.shift_remove(FIELD);
        }
        None => match kept.or_else(|| Addresses::free_port(taken)) {
            Some(n) => {
                spec.insert(FIELD.into(), json!(n));
            }
            None => errors.invalid(&field, &json!(0), "failed to allocate a nodePort: range is full"),
        },
        Some(_) if given == kept => {}
        Some(_) if kept.is_some() => errors.forbidden(&field, "field is immutable"),
        Some(n) if !NODE_PORTS.contains(&n) => {
            let (low, high) = (NODE_PORTS.start(), NODE_PORTS.end());
            let why =
                format!("provided port is not in the valid range. The range of valid ports is {low}-{high}");
            errors.invalid(&field, &json!(n), why);
        }
        Some(n) if taken.ports.contains(&n) => {
            errors.invalid(&field, &json!(n), "provided port is already allocated");
        }
        Some(_) => {}
    }
}

impl ApiServer {
    /// Chooses a service's addresses and ports, and reserves them.
    async fn choose(&self, cx: &Context, object: &mut Value, old: Option<&Value>) -> Result<Held, Status> {
        let addresses = &self.addresses;
        let _here = addresses.lock.lock().await;
        let store = self.cache.store();
        let mut taken = Taken::default();
        let mut everywhere = None;
        if self.options.shared_store {
            let lock = store::lock::take(store, LOCK.as_bytes()).await.map_err(super::store_failure)?;
            everywhere = Some(lock);
            // Read before the services: what is no longer reserved then has been written before.
            let reserved = store.range(store::Range::prefix(RESERVED)).await.map_err(super::store_failure)?;
            for kv in reserved.items {
                taken.add_key(&kv.key);
            }
        }
        self.cache.caught_up().await.map_err(super::store_failure)?;
        let (namespace, name) = (api::meta::namespace(object).to_owned(), api::meta::name(object).to_owned());
        // In this order: what leaves the reservations is in the cache by then.
        taken.merge(&addresses.reserved.lock().clone());
        for service in self.cache.kind("", "services").all("") {
            if old.is_none() || service.name() != name || service.namespace() != namespace {
                taken.add(service.spec());
            }
        }
        let errors = addresses.assign(object, old.and_then(|o| o.get("spec")), &mut taken);
        if !errors.is_empty() {
            return Err(Status::invalid(&cx.kind.gvk(), &name, &errors));
        }
        let (mut mine, mut before) = (Taken::default(), Taken::default());
        mine.add(object.get("spec").unwrap_or(&Value::Null));
        before.add(old.and_then(|o| o.get("spec")).unwrap_or(&Value::Null));
        mine.ips.retain(|ip| !before.ips.contains(ip));
        mine.ports.retain(|port| !before.ports.contains(port));
        addresses.reserved.lock().merge(&mine);
        let mut held = Held { mine, reserved: addresses.reserved.clone(), _everywhere: None };
        if everywhere.is_some() {
            let reserved = store::lock::reserve(store, held.mine.keys()).await;
            held._everywhere = Some(reserved.map_err(super::store_failure)?);
        }
        Ok(held)
    }

    /// Fills in what only the server can know. What it returns is to be held until the write is in the cache.
    pub(super) async fn allocate(
        &self,
        cx: &Context,
        object: &mut Value,
        old: Option<&Value>,
    ) -> Result<Option<Held>, Status> {
        match (cx.kind.group.as_str(), cx.kind.plural.as_str()) {
            ("", "services") => {
                if old.is_some_and(|o| o.get("spec") == object.get("spec")) {
                    return Ok(None);
                }
                self.choose(cx, object, old).await.map(Some)
            }
            ("apiextensions.k8s.io", "customresourcedefinitions") => {
                if old.is_none() {
                    crate::crd::prepare(object);
                }
                if old.is_none_or(|o| o.get("spec") != object.get("spec")) {
                    let mut errors = crate::crd::check_schemas(object);
                    if let Some(old) = old {
                        errors.append(crate::crd::check_bundle(object, old));
                    }
                    if !errors.is_empty() {
                        return Err(Status::invalid(&cx.kind.gvk(), api::meta::name(object), &errors));
                    }
                }
                Ok(None)
            }
            ("certificates.k8s.io", "certificatesigningrequests") => {
                let Some(old) = old else {
                    asked_by(object, &cx.user);
                    let errors = check_request(object, &cx.version().version);
                    if !errors.is_empty() {
                        return Err(Status::invalid(&cx.kind.gvk(), api::meta::name(object), &errors));
                    }
                    return Ok(None);
                };
                date_conditions(object, old);
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    /// Refuses a role that holds, or a binding that gives, more than its writer may do.
    pub(super) fn check_escalation(
        &self,
        user: &UserInfo,
        kind: &Kind,
        namespace: &str,
        object: &Value,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        if kind.group != "rbac.authorization.k8s.io" || user.in_group(MASTERS) {
            return Ok(());
        }
        let gvr = kind.gvr();
        let name = api::meta::name(object);
        let ask = |verb: &str, resource: &str, name: &str| {
            let attributes = Attributes::asked(
                user,
                &Ask { verb, group: &kind.group, resource, namespace, name, ..Ask::default() },
            );
            self.authorize(&attributes).allowed()
        };
        let wanted = match kind.plural.as_str() {
            "roles" | "clusterroles" => {
                let unchanged = old.is_some_and(|o| {
                    o["rules"] == object["rules"] && o.get("aggregationRule") == object.get("aggregationRule")
                });
                if unchanged || ask("escalate", &kind.plural, name) {
                    return Ok(());
                }
                // What an aggregated role will hold nobody knows: it may be everything.
                let gathers = |o: &Value| o.get("aggregationRule").is_some_and(|r| !r.is_null());
                if gathers(object) || old.is_some_and(gathers) {
                    let held = self.rbac().rules_for(user, namespace);
                    if !authz::missing(&held, &authz::everything()).is_empty() {
                        let why = "must have cluster-admin privileges to use an aggregationRule";
                        return Err(Status::forbidden(&gvr, name, why));
                    }
                }
                authz::rules_of(object)
            }
            "rolebindings" | "clusterrolebindings" => {
                if old.is_some_and(|o| {
                    o.get("roleRef") == object.get("roleRef") && o.get("subjects") == object.get("subjects")
                }) {
                    return Ok(());
                }
                let role = object.get("roleRef").unwrap_or(&Value::Null);
                let cluster = text(role, "kind") == "ClusterRole";
                let resource = if cluster { "clusterroles" } else { "roles" };
                let role_name = text(role, "name");
                if ask("bind", resource, role_name) {
                    return Ok(());
                }
                let key = crate::cache::local_key(if cluster { "" } else { namespace }, role_name);
                let Some(role) = self.cache.kind(&kind.group, resource).get(&key) else {
                    return Err(Status::not_found(
                        &api::Gvr::owned(kind.group.clone(), "v1", resource),
                        role_name,
                    ));
                };
                authz::rules_of(role.value())
            }
            _ => return Ok(()),
        };
        let missing = authz::missing(&self.rbac().rules_for(user, namespace), &wanted);
        if missing.is_empty() {
            return Ok(());
        }
        let lines: Vec<String> = missing.iter().map(show_rule).collect();
        Err(Status::forbidden(
            &gvr,
            name,
            &format!(
                "user \"{}\" (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{}",
                user.name,
                user.groups,
                lines.join("\n")
            ),
        ))
    }
}

/// A rule as upstream prints it in this message.
fn show_rule(rule: &authz::Rule) -> String {
    let mut parts = Vec::new();
    for (name, list) in [
        ("APIGroups", &rule.groups),
        ("Resources", &rule.resources),
        ("ResourceNames", &rule.names),
        ("NonResourceURLs", &rule.urls),
        ("Verbs", &rule.verbs),
    ] {
        if !list.is_empty() {
            parts.push(format!("{name}:{list:?}"));
        }
    }
    format!("{{{}}}", parts.join(", "))
}

/// Notes in a certificate request whose it is.
fn asked_by(request: &mut Value, user: &UserInfo) {
    let spec = api::meta::child(request, "spec");
    spec.insert("username".into(), json!(user.name));
    spec.insert("groups".into(), json!(user.groups));
    for (field, value) in [("uid", json!(user.uid)), ("extra", json!(user.extra))] {
        let empty =
            value.as_str().is_some_and(str::is_empty) || value.as_object().is_some_and(api::Map::is_empty);
        if empty {
            spec.shift_remove(field);
        } else {
            spec.insert(field.into(), value);
        }
    }
}

/// What is wrong with what a certificate request asks for in a version of the API, as far as it is the certificate's own.
fn check_request(request: &Value, version: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, path) = (&request["spec"], Path::new("spec"));
    if version == "v1" && spec["signerName"] == "kubernetes.io/legacy-unknown" {
        let why = "the legacy signerName is not allowed via this API version";
        errors.invalid(&path.child("signerName"), &spec["signerName"], why);
    }
    let asked = STANDARD.decode(text(spec, "request")).unwrap_or_default();
    if let Err(error) = pki::Request::parse(&asked) {
        errors.invalid(&path.child("request"), &spec["request"], error.to_string());
    }
    for (i, usage) in spec["usages"].as_array().into_iter().flatten().enumerate() {
        if !pki::usages().any(|known| usage == known) {
            let known: Vec<&str> = pki::usages().collect();
            errors.not_supported(&path.child("usages").index(i), usage, &known);
        }
    }
    errors
}

/// Says of the conditions of a certificate request that came or changed when that was.
fn date_conditions(request: &mut Value, old: &Value) {
    let now = api::meta::time(base::clock::now());
    let before = old.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let conditions = request.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten().filter_map(Value::as_object_mut) {
        let missing = |c: &api::Map, field: &str| c.get(field).is_none_or(Value::is_null);
        if missing(condition, "lastUpdateTime") {
            condition.insert("lastUpdateTime".into(), json!(now));
        }
        if missing(condition, "lastTransitionTime") {
            let same = |c: &&Value| {
                Some(&c["type"]) == condition.get("type") && Some(&c["status"]) == condition.get("status")
            };
            let since = before.iter().find(same).map(|c| c["lastTransitionTime"].clone());
            let since = since.filter(|t| !t.is_null()).unwrap_or_else(|| json!(now));
            condition.insert("lastTransitionTime".into(), since);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocator() -> Addresses {
        Addresses::new("10.96.0.0/12".parse().unwrap())
    }

    fn assigned(spec: Value, old: Option<Value>, taken: &mut Taken) -> (Value, String) {
        let mut object = json!({"spec": spec});
        let errors = allocator().assign(&mut object, old.as_ref(), taken);
        let why = if errors.is_empty() { String::new() } else { errors.message() };
        (object["spec"].clone(), why)
    }

    #[test]
    fn addresses_are_given_kept_and_refused() {
        let mut taken = Taken::default();
        let (spec, _) = assigned(json!({"type": "ClusterIP", "ports": [{"port": 80}]}), None, &mut taken);
        let ip = spec["clusterIP"].as_str().unwrap().to_owned();
        assert_eq!(spec["clusterIPs"], json!([ip]));
        let (_, why) = assigned(json!({"type": "ClusterIP", "clusterIP": ip}), None, &mut taken);
        assert!(why.contains("provided IP is already allocated"), "{why}");
        let (_, why) = assigned(json!({"type": "ClusterIP", "clusterIP": "1.2.3.4"}), None, &mut taken);
        assert!(why.contains("not in the valid range"), "{why}");
        let (headless, why) = assigned(json!({"clusterIP": "None"}), None, &mut taken);
        assert_eq!((headless["clusterIPs"].clone(), why.as_str()), (json!(["None"]), ""));
        let (again, _) = assigned(json!({"type": "ClusterIP"}), Some(spec.clone()), &mut Taken::default());
        assert_eq!(again["clusterIP"], json!(ip));
        for (wanted, want) in [
            (json!({"ipFamilyPolicy": "PreferDualStack"}), ""),
            (
                json!({"ipFamilyPolicy": "RequireDualStack"}),
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
            ),
            (
                json!({"ipFamilies": ["IPv6"]}),
                "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster",
            ),
            (
                json!({"ipFamilies": ["IPv4", "IPv6"]}),
                "spec.ipFamilies[1]: Invalid value: \"IPv6\": not configured on this cluster",
            ),
        ] {
            assert_eq!(assigned(wanted, None, &mut Taken::default()).1, want);
        }
        let (external, _) = assigned(
            json!({"type": "ExternalName", "clusterIP": ip, "clusterIPs": [ip]}),
            Some(json!({"type": "ClusterIP", "clusterIP": ip})),
            &mut Taken::default(),
        );
        assert_eq!(external, json!({"type": "ExternalName"}));
    }

    #[test]
    fn node_ports() {
        let mut taken = Taken::default();
        let want = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30123}, {"port": 81}]});
        let (spec, why) = assigned(want.clone(), None, &mut taken);
        assert_eq!(why, "");
        let second = spec["ports"][1]["nodePort"].as_i64().unwrap();
        assert!(NODE_PORTS.contains(&second) && second != 30123);
        let (_, why) = assigned(want, None, &mut taken);
        assert_eq!(why, "spec.ports[0].nodePort: Invalid value: 30123: provided port is already allocated");
        let low = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]});
        let (_, why) = assigned(low, None, &mut taken);
        assert!(why.contains("The range of valid ports is 30000-32767"), "{why}");
        let (plain, _) = assigned(
            json!({"type": "ClusterIP", "ports": [{"port": 80, "nodePort": 30123}]}),
            Some(spec),
            &mut Taken::default(),
        );
        assert_eq!(plain["ports"][0], json!({"port": 80}));
        let local = |port: Value| {
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": port,
                "ports": [{"port": 80}]})
        };
        let (made, why) = assigned(local(json!(30200)), None, &mut Taken::default());
        assert_eq!((why.as_str(), &made["healthCheckNodePort"]), ("", &json!(30200)));
        let mut taken = Taken::default();
        taken.add(&made);
        let (_, why) = assigned(local(json!(30200)), None, &mut taken.clone());
        assert_eq!(why, "spec.healthCheckNodePort: Invalid value: 30200: provided port is already allocated");
        let (_, why) = assigned(local(json!(80)), None, &mut taken.clone());
        assert!(
            why.contains("spec.healthCheckNodePort: Invalid value: 80: provided port is not in"),
            "{why}"
        );
        let (_, why) = assigned(local(json!(30201)), Some(made.clone()), &mut taken);
        assert_eq!(why, "spec.healthCheckNodePort: Forbidden: field is immutable");
        let mut cluster = made.clone();
        cluster["externalTrafficPolicy"] = json!("Cluster");
        let (kept, why) = assigned(cluster.clone(), Some(made), &mut Taken::default());
        assert_eq!((why.as_str(), kept.get("healthCheckNodePort")), ("", None));
        let (_, why) = assigned(cluster, None, &mut Taken::default());
        assert!(why.contains("may only be set when `type` is 'LoadBalancer'"), "{why}");
        let dns = json!({"type": "NodePort", "ports": [{"port": 53, "protocol": "TCP", "nodePort": 30053},
            {"port": 53, "protocol": "UDP", "nodePort": 30053}]});
        assert_eq!(assigned(dns, None, &mut Taken::default()).1, "");
    }
}
