//! Which addresses and node ports services have, and what is free.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use api::object::Encoded;
use api::{ErrorList, Path, Status, Value};
use ipnet::Ipv4Net;
use serde_json::json;
use tokio::sync::Mutex;

use super::Context;
use crate::ApiServer;
use crate::cache::{Cache, Change, Watcher, local_key};

/// What is said to who asks for addresses of both families.
const ONE_FAMILY: &str = "this cluster is not configured for dual-stack services";
/// The node ports.
const NODE_PORTS: std::ops::RangeInclusive<i64> = 30000..=32767;

/// Service addresses and node ports. What is taken is what the services in the cache have, under a lock that is held while one
/// is chosen: there is no second record in the store that could disagree. What is chosen is reserved until its service is in
/// the cache, so that the lock is not held over admission and the write.
#[derive(Debug)]
pub struct Addresses {
    range: Ipv4Net,
    known: Arc<Mutex<Known>>,
    reserved: Arc<parking_lot::Mutex<Taken>>,
}

/// What the services in the cache have, brought up to date by their changes whenever somebody chooses.
#[derive(Debug, Default)]
struct Known {
    /// By the service's key.
    services: HashMap<String, Taken>,
    /// How many services have an address.
    ips: HashMap<Ipv4Addr, usize>,
    /// How many services have a port.
    ports: HashMap<i64, usize>,
    /// Nothing: nobody has chosen yet.
    changes: Option<Watcher>,
}

/// Takes one off the count of what is no longer had by somebody.
fn release<T: std::hash::Hash + Eq>(counts: &mut HashMap<T, usize>, of: &T) {
    if let Some(n) = counts.get_mut(of) {
        *n -= 1;
        if *n == 0 {
            counts.remove(of);
        }
    }
}

impl Known {
    fn insert(&mut self, key: String, taken: Taken) {
        self.remove(&key);
        for ip in &taken.ips {
            *self.ips.entry(*ip).or_default() += 1;
        }
        for port in &taken.ports {
            *self.ports.entry(*port).or_default() += 1;
        }
        self.services.insert(key, taken);
    }

    fn remove(&mut self, key: &str) -> Option<Taken> {
        let taken = self.services.remove(key)?;
        taken.ips.iter().for_each(|ip| release(&mut self.ips, ip));
        taken.ports.iter().for_each(|port| release(&mut self.ports, port));
        Some(taken)
    }

    /// Takes in what has changed in the cache; everything, if that cannot be told.
    fn follow(&mut self, cache: &Arc<Cache>) {
        let of = |object: &Arc<Encoded>| {
            let object = object.object();
            let mut taken = Taken::default();
            taken.add(object.spec());
            (local_key(object.namespace(), object.name()), taken)
        };
        if let Some(Ok(events)) = self.changes.as_mut().map(Watcher::take) {
            for event in events {
                let (key, taken) = of(&event.object);
                match event.change {
                    Change::Deleted => drop(self.remove(&key)),
                    Change::Added | Change::Modified => self.insert(key, taken),
                }
            }
            return;
        }
        let (all, changes) = cache.list_and_watch(cache.kind("", "services"), "");
        *self = Self { changes: Some(changes), ..Self::default() };
        for object in &all.items {
            let (key, taken) = of(object);
            self.insert(key, taken);
        }
    }
}

/// What is not free to whoever chooses.
struct Used<'a> {
    /// What other services have.
    others: &'a Known,
    /// What is reserved, or chosen by now.
    besides: Taken,
}

impl Used<'_> {
    fn ip(&self, ip: &Ipv4Addr) -> bool {
        self.besides.ips.contains(ip) || self.others.ips.contains_key(ip)
    }

    fn port(&self, port: &i64) -> bool {
        self.besides.ports.contains(port) || self.others.ports.contains_key(port)
    }
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
        Self { range, known: Arc::default(), reserved: Arc::default() }
    }

    fn free_ip(&self, used: &Used<'_>) -> Option<Ipv4Addr> {
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
            .find(|ip| !used.ip(ip))
    }

    fn free_port(used: &Used<'_>) -> Option<i64> {
        let size = NODE_PORTS.end() - NODE_PORTS.start() + 1;
        let start = base::rng::below(size.unsigned_abs()).cast_signed();
        (0..size).map(|i| NODE_PORTS.start() + (start + i) % size).find(|p| !used.port(p))
    }

    /// Completes a service's spec: addresses, families, node ports. `old` is its spec before.
    fn assign(&self, object: &mut Value, old: Option<&Value>, used: &mut Used<'_>) -> ErrorList {
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
            self.assign_ip(spec, &before, &was, used, &path, &mut errors);
        }
        let has_node_ports = kind == "NodePort"
            || kind == "LoadBalancer"
                && spec.get("allocateLoadBalancerNodePorts").and_then(Value::as_bool) != Some(false);
        assign_ports(spec, &before, has_node_ports, kind == "LoadBalancer", used, &path, &mut errors);
        errors
    }

    fn assign_ip(
        &self,
        spec: &mut api::Map,
        before: &Value,
        was: &str,
        used: &mut Used<'_>,
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
            match self.free_ip(used) {
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
                Ok(a) if used.ip(&a) => {
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
        used.besides.ips.extend(ip.parse::<Ipv4Addr>().ok());
        if !ip.is_empty() {
            spec.insert("clusterIP".into(), json!(ip));
            // A list that contradicts the address stays as it is given: the rules of the kind refuse it.
            let given = spec.get("clusterIPs").filter(|all| Some(*all) != before.get("clusterIPs"));
            if given.and_then(|all| all.get(0)).is_none_or(|first| first == ip.as_str()) {
                spec.insert("clusterIPs".into(), json!([ip]));
            }
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
    used: &mut Used<'_>,
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
            let Some(n) = kept.or_else(|| Addresses::free_port(used)) else {
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
            if used.port(&number) {
                errors.invalid(&field, &json!(number), "provided port is already allocated");
                continue;
            }
        }
        used.besides.ports.insert(number);
        mine.insert((number, protocol));
        if let Some(p) = port.as_object_mut() {
            p.insert("nodePort".into(), json!(number));
        }
    }
    if list.is_array() {
        spec.insert("ports".into(), list);
    }
    assign_health_port(spec, before, balancer, used, path, errors);
}

/// The port at which nodes say whether they have endpoints of a service: of balanced ones that stay on their node.
fn assign_health_port(
    spec: &mut api::Map,
    before: &Value,
    balancer: bool,
    used: &mut Used<'_>,
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
        None => match kept.or_else(|| Addresses::free_port(used)) {
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
        Some(n) if used.port(&n) => {
            errors.invalid(&field, &json!(n), "provided port is already allocated");
        }
        Some(_) => {}
    }
}

impl ApiServer {
    /// Chooses a service's addresses and ports, and reserves them.
    pub(super) async fn choose(
        &self,
        cx: &Context,
        object: &mut Value,
        old: Option<&Value>,
    ) -> Result<Held, Status> {
        let addresses = &self.addresses;
        let mut known = addresses.known.lock().await;
        let store = self.cache.store();
        let mut besides = Taken::default();
        let mut everywhere = None;
        if self.options.shared_store {
            let lock = store::lock::take(store, LOCK.as_bytes()).await.map_err(super::store_failure)?;
            everywhere = Some(lock);
            // Read before the services: what is no longer reserved then has been written before.
            let reserved = store.range(store::Range::prefix(RESERVED)).await.map_err(super::store_failure)?;
            for kv in reserved.items {
                besides.add_key(&kv.key);
            }
        }
        self.cache.caught_up().await.map_err(super::store_failure)?;
        let name = api::meta::name(object).to_owned();
        // In this order: what leaves the reservations is in the cache by then.
        besides.merge(&addresses.reserved.lock().clone());
        known.follow(&self.cache);
        let key = local_key(api::meta::namespace(object), &name);
        // What a service has already is free to it.
        let own = old.and_then(|_| known.remove(&key));
        let mut used = Used { others: &known, besides };
        let errors = addresses.assign(object, old.and_then(|o| o.get("spec")), &mut used);
        if let Some(own) = own {
            known.insert(key, own);
        }
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocator() -> Addresses {
        Addresses::new("10.96.0.0/12".parse().unwrap())
    }

    fn assigned(spec: Value, old: Option<Value>, taken: &mut Taken) -> (Value, String) {
        let mut object = json!({"spec": spec});
        let mut used = Used { others: &Known::default(), besides: std::mem::take(taken) };
        let errors = allocator().assign(&mut object, old.as_ref(), &mut used);
        *taken = used.besides;
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
        let two = json!({"type": "ClusterIP", "clusterIP": "10.96.0.77", "clusterIPs": ["10.96.0.78"]});
        let (two, _) = assigned(two, None, &mut Taken::default());
        assert_eq!(
            two["clusterIPs"],
            json!(["10.96.0.78"]),
            "what contradicts itself is for validation to refuse"
        );
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

    #[tokio::test]
    async fn what_services_have_is_known_by_their_changes() {
        let shutdown = tokio_util::sync::CancellationToken::new();
        let cache = Cache::start(store::memory(), false, shutdown.clone()).await.unwrap();
        let put = async |name: &str, spec: Option<Value>| {
            let op = match spec {
                None => store::Op::Delete,
                Some(spec) => {
                    let service = json!({"kind": "Service", "apiVersion": "v1",
                        "metadata": {"name": name, "namespace": "n"}, "spec": spec});
                    store::Op::Put { value: api::object::encode_for_store(&service), lease: None }
                }
            };
            let key = format!("/registry/core/services/n/{name}").into_bytes();
            let done = cache.store().txn(store::Txn { key, expect: store::Expect::Any, op }).await.unwrap();
            cache.wait_for(done.revision).await;
        };
        let with = |ip: &str, port: i64| json!({"clusterIP": ip, "ports": [{"port": 80, "nodePort": port}]});
        let mut known = Known::default();
        put("a", Some(with("10.96.0.1", 30001))).await;
        let mut now = async |name: &str, spec: Option<Value>| {
            put(name, spec).await;
            known.follow(&cache);
            let mut ips: Vec<String> = known.ips.keys().map(ToString::to_string).collect();
            let mut ports: Vec<i64> = known.ports.keys().copied().collect();
            ips.sort();
            ports.sort_unstable();
            (ips.join(" "), ports)
        };
        assert_eq!(
            now("b", Some(with("10.96.0.2", 30002))).await,
            ("10.96.0.1 10.96.0.2".into(), vec![30001, 30002])
        );
        assert_eq!(
            now("b", Some(with("10.96.0.3", 30001))).await,
            ("10.96.0.1 10.96.0.3".into(), vec![30001])
        );
        // What two have goes with the second of them.
        assert_eq!(now("a", None).await, ("10.96.0.3".into(), vec![30001]));
        assert_eq!(now("b", Some(json!({"clusterIP": "None"}))).await, (String::new(), vec![]));
        shutdown.cancel();
    }
}
