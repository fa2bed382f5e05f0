//! Networks: what they are, how they are made and removed, and who is on them.
//!
//! A network is one JSON file, written durably. Who is connected is what the containers say; a network only counts
//! addresses and names of those that run.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Engine;
use crate::error::{Error, Result, conflict, forbidden, invalid, not_found, system};
use crate::filters::Filters;
use crate::model::{EndpointSettings, Ipam, IpamPool, Map, NetworkCreate};

/// The names of the networks that always exist.
pub(crate) const PREDEFINED: [&str; 3] = ["bridge", "host", "none"];

/// What is kept of a network.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub id: String,
    pub name: String,
    pub created: Timestamp,
    pub driver: String,
    pub internal: bool,
    pub attachable: bool,
    pub enable_ipv6: bool,
    pub ipam: Ipam,
    pub options: Map,
    pub labels: Map,
    /// The bridge's interface name; empty for `host` and `none`.
    pub bridge: String,
}

/// A network and what of it is in use.
#[derive(Debug)]
pub(crate) struct Net {
    pub record: Record,
    pub pools: Vec<Pool>,
    /// Names (lower case) of running containers and their addresses; for user networks only.
    names: Mutex<HashMap<String, Vec<(String, IpAddr)>>>,
    /// Whether the bridge stands.
    ready: tokio::sync::OnceCell<()>,
}

/// One subnet with its addresses.
#[derive(Debug)]
pub(crate) struct Pool {
    pub subnet: IpNet,
    pub gateway: IpAddr,
    pub addresses: network::Ipam,
}

impl Net {
    fn new(record: Record) -> Result<Arc<Net>> {
        let mut pools = Vec::new();
        for pool in &record.ipam.config {
            let subnet: IpNet = parse(&pool.subnet, "subnet")?;
            let gateway: IpAddr =
                if pool.gateway.is_empty() { first(subnet) } else { parse(&pool.gateway, "gateway")? };
            let range = if pool.ip_range.is_empty() { subnet } else { parse(&pool.ip_range, "ip-range")? };
            let mut reserved = vec![gateway];
            for address in pool.aux_addresses.values() {
                reserved.push(parse(address, "auxiliary address")?);
            }
            pools.push(Pool {
                subnet,
                gateway,
                addresses: network::Ipam::with_range(subnet, range, reserved),
            });
        }
        Ok(Arc::new(Net { record, pools, names: Mutex::default(), ready: tokio::sync::OnceCell::new() }))
    }

    /// Whether names resolve on it: on every network but the predefined ones.
    pub(crate) fn user_defined(&self) -> bool {
        !PREDEFINED.contains(&self.record.name.as_str())
    }

    pub(crate) fn v4(&self) -> Option<&Pool> {
        self.pools.iter().find(|p| matches!(p.subnet, IpNet::V4(_)))
    }

    pub(crate) fn v6(&self) -> Option<&Pool> {
        self.pools.iter().find(|p| self.record.enable_ipv6 && matches!(p.subnet, IpNet::V6(_)))
    }

    fn gateway6(&self) -> Option<ipnet::Ipv6Net> {
        let pool = self.v6()?;
        match (pool.gateway, pool.subnet) {
            (IpAddr::V6(address), IpNet::V6(subnet)) => {
                ipnet::Ipv6Net::new(address, subnet.prefix_len()).ok()
            }
            _ => None,
        }
    }

    /// The maximum packet size of its interfaces; 0 is the kernel's default.
    pub(crate) fn mtu(&self) -> u32 {
        self.record.options.get("com.docker.network.driver.mtu").and_then(|v| v.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn enter(&self, container: &str, names: &[String], address: IpAddr) {
        let mut all = self.names.lock();
        for name in names {
            let list = all.entry(name.to_ascii_lowercase()).or_default();
            if !list.iter().any(|(id, a)| id == container && *a == address) {
                list.push((container.to_owned(), address));
            }
        }
    }

    pub(crate) fn leave(&self, container: &str) {
        self.names.lock().retain(|_, list| {
            list.retain(|(id, _)| id != container);
            !list.is_empty()
        });
    }

    /// The addresses of everyone called `name` (lower case).
    pub(crate) fn lookup(&self, name: &str) -> Vec<IpAddr> {
        self.names.lock().get(name).map_or(Vec::new(), |list| list.iter().map(|(_, a)| *a).collect())
    }

    /// The container that has the address, if it is one of this network's.
    pub(crate) fn owner(&self, address: IpAddr) -> Option<String> {
        self.pools.iter().find_map(|p| p.addresses.owner(address))
    }
}

fn parse<T: std::str::FromStr>(text: &str, what: &str) -> Result<T> {
    text.parse().map_err(|_| invalid(format!("invalid {what} {text}: not an address")))
}

/// The first usable address of a subnet.
fn first(subnet: IpNet) -> IpAddr {
    match subnet {
        IpNet::V4(n) => Ipv4Addr::from(u32::from(n.network()) + 1).into(),
        IpNet::V6(n) => std::net::Ipv6Addr::from(u128::from(n.network()) + 1).into(),
    }
}

/// All networks of one engine.
#[derive(Debug)]
pub(crate) struct Networks {
    dir: PathBuf,
    instance: base::Instance,
    all: RwLock<BTreeMap<String, Arc<Net>>>,
}

impl Networks {
    /// Reads the networks of `dir` and makes the predefined ones that are missing.
    pub(crate) fn open(dir: PathBuf, instance: &base::Instance) -> Result<Networks> {
        std::fs::create_dir_all(&dir).map_err(Error::io(dir.display()))?;
        base::fsx::remove_leftovers(&dir).map_err(Error::io(dir.display()))?;
        let networks = Networks { dir: dir.clone(), instance: instance.clone(), all: RwLock::default() };
        for entry in std::fs::read_dir(&dir).map_err(Error::io(dir.display()))? {
            let path = entry.map_err(Error::io(dir.display()))?.path();
            let bytes = std::fs::read(&path).map_err(Error::io(path.display()))?;
            let mut record: Record =
                serde_json::from_slice(&bytes).map_err(|e| system(format!("{}: {e}", path.display())))?;
            if record.name == "bridge" {
                // Its range is the instance's, which may have been given anew.
                record.ipam = default_ipam(instance.bridge_ip);
                record.bridge = instance.link("0");
            }
            networks.all.write().insert(record.id.clone(), Net::new(record)?);
        }
        for name in PREDEFINED {
            if networks.by_name(name).is_none() {
                let mut record = Record {
                    id: base::rng::hex(32),
                    name: name.to_owned(),
                    created: base::clock::now(),
                    driver: if name == "none" { "null" } else { name }.to_owned(),
                    internal: false,
                    attachable: false,
                    enable_ipv6: false,
                    ipam: Ipam { driver: "default".into(), ..Ipam::default() },
                    options: Map::new(),
                    labels: Map::new(),
                    bridge: String::new(),
                };
                if name == "bridge" {
                    record.ipam = default_ipam(instance.bridge_ip);
                    record.bridge = instance.link("0");
                    for (key, value) in [
                        ("com.docker.network.bridge.default_bridge", "true"),
                        ("com.docker.network.bridge.enable_icc", "true"),
                        ("com.docker.network.bridge.enable_ip_masquerade", "true"),
                        ("com.docker.network.bridge.host_binding_ipv4", "0.0.0.0"),
                        ("com.docker.network.bridge.name", record.bridge.as_str()),
                        ("com.docker.network.driver.mtu", "1500"),
                    ] {
                        record.options.insert(key.into(), value.into());
                    }
                }
                networks.save(record)?;
            }
        }
        Ok(networks)
    }

    fn save(&self, record: Record) -> Result<Arc<Net>> {
        let bytes =
            serde_json::to_vec(&record).map_err(|e| system(format!("network {}: {e}", record.name)))?;
        let path = self.dir.join(format!("{}.json", record.id));
        base::fsx::write_atomic(&path, &bytes, 0o600).map_err(Error::io(path.display()))?;
        let net = Net::new(record)?;
        self.all.write().insert(net.record.id.clone(), net.clone());
        Ok(net)
    }

    pub(crate) fn list(&self) -> Vec<Arc<Net>> {
        self.all.read().values().cloned().collect()
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<Arc<Net>> {
        self.all.read().values().find(|n| n.record.name == name).cloned()
    }

    /// By id, name, or unique prefix of an id.
    pub(crate) fn get(&self, reference: &str) -> Result<Arc<Net>> {
        let reference = if reference == "default" { "bridge" } else { reference };
        let missing = || not_found(format!("network {reference} not found"));
        if reference.is_empty() {
            return Err(invalid("network name or ID must not be empty"));
        }
        if let Some(net) = self.all.read().get(reference) {
            return Ok(net.clone());
        }
        if let Some(net) = self.by_name(reference) {
            return Ok(net);
        }
        let all = self.all.read();
        let mut found = all.range(reference.to_owned()..).take_while(|(id, _)| id.starts_with(reference));
        match (found.next(), found.next()) {
            (Some((_, net)), None) => Ok(net.clone()),
            (Some(_), Some(_)) => {
                Err(invalid(format!("network {reference} is ambiguous (several matches found on ID prefix)")))
            }
            (None, _) => Err(missing()),
        }
    }

    fn free_subnet(&self) -> Result<Ipv4Net> {
        let mut taken: Vec<IpNet> =
            self.list().iter().flat_map(|n| n.pools.iter().map(|p| p.subnet)).collect();
        taken.extend([IpNet::V4(self.instance.cluster_cidr), IpNet::V4(self.instance.service_cidr)]);
        taken.extend(host_routes(&std::fs::read_to_string("/proc/net/route").unwrap_or_default()));
        candidates()
            .find(|c| !taken.iter().any(|t| overlap(IpNet::V4(*c), *t)))
            .ok_or_else(|| invalid("could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network: give one with --subnet"))
    }
}

fn default_ipam(bridge: Ipv4Net) -> Ipam {
    let pool = IpamPool {
        subnet: bridge.trunc().to_string(),
        gateway: bridge.addr().to_string(),
        ..IpamPool::default()
    };
    Ipam { driver: "default".into(), options: Map::new(), config: vec![pool] }
}

/// Docker's default address pools.
fn candidates() -> impl Iterator<Item = Ipv4Net> {
    let large = (17..32u8).map(|b| Ipv4Net::new_assert(Ipv4Addr::new(172, b, 0, 0), 16));
    let small = (0..16u8).map(|b| Ipv4Net::new_assert(Ipv4Addr::new(192, 168, b * 16, 0), 20));
    large.chain(small)
}

fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// The destinations of /proc/net/route, without the default route.
fn host_routes(table: &str) -> Vec<IpNet> {
    let hex = |text: &str| u32::from_str_radix(text, 16).ok().map(u32::from_be).map(Ipv4Addr::from);
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let (destination, mask) = (hex(fields.next()?)?, hex(fields.nth(5)?)?);
            Ipv4Net::with_netmask(destination, mask).ok().filter(|n| n.prefix_len() > 0).map(IpNet::V4)
        })
        .collect()
}

impl Engine {
    /// Makes a network; the answer's body.
    pub async fn network_create(&self, request: NetworkCreate) -> Result<Value> {
        let name = request.name.clone();
        if name.trim().is_empty() || name.contains(|c: char| c.is_control() || c == '/') {
            return Err(invalid(format!("invalid network name: \"{name}\"")));
        }
        if PREDEFINED.contains(&name.as_str()) || name == "default" {
            return Err(forbidden(format!("operation is not permitted on predefined {name} network")));
        }
        let driver = if request.driver.is_empty() { "bridge".to_owned() } else { request.driver.clone() };
        match driver.as_str() {
            "bridge" => {}
            "host" | "null" => {
                return Err(forbidden(format!("only one instance of \"{driver}\" network is allowed")));
            }
            other => {
                return Err(not_found(format!(
                    "could not find plugin {other} in v1 plugin registry: plugin not found"
                )));
            }
        }
        if !matches!(request.scope.as_str(), "" | "local") {
            return Err(invalid(format!(
                "scope {} needs swarm mode, which this engine does not have",
                request.scope
            )));
        }
        // Checks and reservation in one go: two creations of one name must not both succeed.
        let _one = self.network_changes.lock().await;
        if self.networks.by_name(&name).is_some() {
            return Err(conflict(format!("network with name {name} already exists")));
        }
        let mut ipam = request.ipam.clone();
        if ipam.driver.is_empty() {
            ipam.driver = "default".into();
        }
        if ipam.driver != "default" {
            return Err(not_found(format!("could not find ipam driver {}: plugin not found", ipam.driver)));
        }
        if !ipam.config.iter().any(|p| p.subnet.is_empty() || p.subnet.contains('.')) {
            ipam.config.insert(0, IpamPool::default());
        }
        for pool in &mut ipam.config {
            self.check_pool(pool)?;
        }
        let (id, bridge) = loop {
            let id = base::rng::hex(32);
            let bridge = match request.options.get("com.docker.network.bridge.name") {
                Some(name) => name.clone(),
                None => self.instance().link(&id[..4]),
            };
            let clash = self.networks.list().iter().any(|n| n.record.bridge == bridge);
            match (clash, request.options.contains_key("com.docker.network.bridge.name")) {
                (false, _) => break (id, bridge),
                (true, true) => return Err(conflict(format!("bridge {bridge} belongs to another network"))),
                (true, false) => {}
            }
        };
        let record = Record {
            id: id.clone(),
            name: name.clone(),
            created: base::clock::now(),
            driver,
            internal: request.internal,
            attachable: request.attachable,
            enable_ipv6: request.enable_ipv6.unwrap_or(false),
            ipam,
            options: request.options,
            labels: request.labels,
            bridge,
        };
        let net = Net::new(record)?;
        self.bridge_up(&net).await?;
        let net = match self.networks.save(net.record.clone()) {
            Ok(saved) => saved,
            Err(e) => {
                let _ = self.network.remove_bridge(&net.record.bridge).await;
                return Err(e);
            }
        };
        let _ = net.ready.set(());
        self.network_event(&net, "create", &[]);
        Ok(json!({"Id": id, "Warning": ""}))
    }

    fn check_pool(&self, pool: &mut IpamPool) -> Result<()> {
        if pool.subnet.is_empty() {
            if !pool.gateway.is_empty() || !pool.ip_range.is_empty() {
                return Err(invalid("invalid network config: a gateway or range needs a subnet"));
            }
            pool.subnet = self.networks.free_subnet()?.to_string();
        }
        let subnet: IpNet = parse(&pool.subnet, "subnet")?;
        if subnet.addr() != subnet.network() {
            return Err(invalid(format!(
                "invalid network config: invalid subnet {}: it should be {}",
                pool.subnet,
                subnet.trunc()
            )));
        }
        if let Some(other) =
            self.networks.list().iter().find(|n| n.pools.iter().any(|p| overlap(p.subnet, subnet)))
        {
            return Err(forbidden(format!(
                "invalid pool request: Pool overlaps with other one on this address space: {subnet} with network {}",
                other.record.name
            )));
        }
        if pool.gateway.is_empty() {
            pool.gateway = first(subnet).to_string();
        }
        let inside = |text: &str, what: &str| -> Result<()> {
            let address: IpAddr = parse(text.split('/').next().unwrap_or(text), what)?;
            if subnet.contains(&address) {
                return Ok(());
            }
            Err(invalid(format!("invalid network config: invalid {what} {text}: parent subnet is {subnet}")))
        };
        inside(&pool.gateway, "gateway")?;
        if !pool.ip_range.is_empty() {
            inside(&pool.ip_range, "ip-range")?;
        }
        for address in pool.aux_addresses.values() {
            inside(address, "auxiliary address")?;
        }
        Ok(())
    }

    /// Makes the network's bridge unless it stands.
    pub(crate) async fn bridge_up(&self, net: &Net) -> Result<()> {
        if net.record.bridge.is_empty() {
            return Ok(());
        }
        let flag = |key: &str, default: bool| {
            net.record.options.get(key).map_or(default, |v| matches!(v.as_str(), "true" | "1" | "True"))
        };
        net.ready
            .get_or_try_init(|| async {
                let Some(pool) = net.v4() else { return Ok(()) };
                let gateway = IpNet::new(pool.gateway, pool.subnet.prefix_len())
                    .map_err(|e| system(format!("network {}: {e}", net.record.name)))?;
                let spec = network::BridgeSpec {
                    gateway6: net.gateway6(),
                    mtu: Some(net.mtu()).filter(|m| *m > 0),
                    masquerade: !net.record.internal
                        && flag("com.docker.network.bridge.enable_ip_masquerade", true),
                    icc: flag("com.docker.network.bridge.enable_icc", true),
                    internal: net.record.internal,
                    ..network::BridgeSpec::new(net.record.bridge.clone(), gateway)
                };
                self.network.ensure_bridge(&spec).await?;
                Ok::<(), Error>(())
            })
            .await?;
        Ok(())
    }

    pub(crate) fn network_event(&self, net: &Net, action: &str, more: &[(&str, String)]) {
        let mut attributes: Map = more.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
        attributes.insert("name".into(), net.record.name.clone());
        attributes.insert("type".into(), net.record.driver.clone());
        self.events.publish("network", action, &net.record.id, attributes);
    }

    /// Removes a network that nobody is on.
    pub async fn network_remove(&self, reference: &str) -> Result<()> {
        let _one = self.network_changes.lock().await;
        let net = self.networks.get(reference)?;
        if !net.user_defined() {
            return Err(forbidden(format!(
                "{} is a pre-defined network and cannot be removed",
                net.record.name
            )));
        }
        let members = self.members(&net);
        if !members.is_empty() {
            let list: Vec<String> =
                members.iter().map(|(id, name, _)| format!("name:\"{name}\" id:\"{}\"", &id[..12])).collect();
            return Err(forbidden(format!(
                "error while removing network: network {} has active endpoints ({})",
                net.record.name,
                list.join(", ")
            )));
        }
        self.network.remove_bridge(&net.record.bridge).await?;
        let path = self.networks.dir.join(format!("{}.json", net.record.id));
        std::fs::remove_file(&path)
            .and_then(|()| base::fsx::fsync_dir(&self.networks.dir))
            .map_err(Error::io(path.display()))?;
        self.networks.all.write().remove(&net.record.id);
        self.network_event(&net, "destroy", &[]);
        Ok(())
    }

    /// Running containers on the network: id, name, connection.
    pub(crate) fn members(&self, net: &Net) -> Vec<(String, String, crate::container::Attached)> {
        let mut out = Vec::new();
        for container in self.all() {
            let inner = container.lock();
            if let Some(attached) = inner.life.attached.get(&net.record.name) {
                out.push((container.id.clone(), inner.asked.name.clone(), attached.clone()));
            }
        }
        out
    }

    /// One network with its members.
    pub fn network_inspect(&self, reference: &str) -> Result<Value> {
        Ok(self.network_json(&*self.networks.get(reference)?, true))
    }

    fn network_json(&self, net: &Net, members: bool) -> Value {
        let r = &net.record;
        let mut containers = serde_json::Map::new();
        if members {
            for (id, name, attached) in self.members(net) {
                containers.insert(
                    id,
                    json!({
                        "Name": name,
                        "EndpointID": attached.endpoint_id,
                        "MacAddress": attached.mac,
                        "IPv4Address": attached.address.to_string(),
                        "IPv6Address": "",
                    }),
                );
            }
        }
        json!({
            "Name": r.name, "Id": r.id, "Created": base::clock::rfc3339_nano(r.created), "Scope": "local",
            "Driver": r.driver, "EnableIPv4": true, "EnableIPv6": r.enable_ipv6, "IPAM": r.ipam,
            "Internal": r.internal, "Attachable": r.attachable, "Ingress": false,
            "ConfigFrom": {"Network": ""}, "ConfigOnly": false,
            "Containers": containers, "Options": r.options, "Labels": r.labels,
        })
    }

    /// The networks that the filters let pass.
    pub fn network_list(&self, filters: &Filters) -> Result<Value> {
        filters.only(&["dangling", "driver", "id", "label", "label!", "name", "scope", "type"])?;
        let dangling = filters.flag("dangling")?;
        let mut list = self.networks.list();
        list.sort_by(|a, b| {
            a.record.created.cmp(&b.record.created).then_with(|| a.record.name.cmp(&b.record.name))
        });
        let list: Vec<Value> = list
            .iter()
            .filter(|n| {
                let kind = if n.user_defined() { "custom" } else { "builtin" };
                filters
                    .any("name", |f| n.record.name.contains(f.trim_start_matches('^').trim_end_matches('$')))
                    && filters.any("id", |f| n.record.id.starts_with(f.as_str()))
                    && filters.exact("driver", &n.record.driver)
                    && filters.exact("scope", "local")
                    && filters.exact("type", kind)
                    && filters.labels(&n.record.labels)
                    && dangling.is_none_or(|d| d == (n.user_defined() && self.members(n).is_empty()))
            })
            .map(|n| self.network_json(n, false))
            .collect();
        Ok(Value::Array(list))
    }

    /// Removes user networks that nobody is on.
    pub async fn network_prune(&self, filters: &Filters) -> Result<Value> {
        filters.only(&["label", "label!", "until"])?;
        let until = filters.get("until").first().map(|t| crate::filters::timestamp(t)).transpose()?;
        let mut deleted = Vec::new();
        for net in self.networks.list() {
            let young = until.is_some_and(|u| net.record.created > u);
            let asked = self.all().iter().any(|c| c.lock().asked.endpoints.contains_key(&net.record.name));
            if !net.user_defined() || young || asked || !filters.labels(&net.record.labels) {
                continue;
            }
            if self.network_remove(&net.record.id).await.is_ok() {
                deleted.push(net.record.name.clone());
            }
        }
        self.events.publish("network", "prune", "", Map::from([("reclaimed".to_owned(), "0".to_owned())]));
        Ok(json!({"NetworksDeleted": deleted}))
    }
}

/// Checks what is asked of one connection.
pub(crate) fn check_endpoint(net: &Net, settings: &EndpointSettings) -> Result<()> {
    let ipam = settings.ipam_config.clone().unwrap_or_default();
    if !ipam.ipv4_address.is_empty() {
        if !net.user_defined() {
            return Err(invalid(
                "invalid endpoint settings: user specified IP address is supported on user defined networks only",
            ));
        }
        let address: IpAddr = parse(&ipam.ipv4_address, "IPv4 address")?;
        if !net.pools.iter().any(|p| p.subnet.contains(&address)) {
            return Err(invalid(format!(
                "invalid endpoint settings: no configured subnet contains IP address {address}"
            )));
        }
    }
    if !net.user_defined() && !settings.aliases.is_empty() {
        return Err(invalid(
            "invalid endpoint settings: network-scoped aliases are only supported for user-defined networks",
        ));
    }
    if !settings.mac_address.is_empty() && mac(&settings.mac_address).is_none() {
        return Err(invalid(format!("invalid MAC address: {}", settings.mac_address)));
    }
    Ok(())
}

/// `02:42:ac:11:00:02`
pub(crate) fn mac(text: &str) -> Option<[u8; 6]> {
    let mut out = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut out {
        let part = parts.next()?;
        *byte = u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2)?;
    }
    parts.next().is_none().then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_parsers() {
        assert_eq!(mac("02:42:ac:11:00:02"), Some([2, 0x42, 0xac, 0x11, 0, 2]));
        assert_eq!(mac("02:42"), None);
        assert_eq!(mac("02:42:ac:11:00:02:03"), None);
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
                     eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\n\
                     eth0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\n";
        assert_eq!(host_routes(table), ["172.17.0.0/16".parse::<IpNet>().unwrap()]);
        assert!(overlap("10.0.0.0/8".parse().unwrap(), "10.1.0.0/16".parse().unwrap()));
        assert!(!overlap("10.0.0.0/16".parse().unwrap(), "10.1.0.0/16".parse().unwrap()));
    }

    #[test]
    fn survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let instance = base::Instance::new(dir.path(), dir.path(), "n", [127, 0, 0, 1].into());
        let networks = Networks::open(dir.path().join("n"), &instance).unwrap();
        let bridge = networks.get("bridge").unwrap();
        assert_eq!(networks.get("default").unwrap().record.id, bridge.record.id);
        assert_eq!(bridge.v4().unwrap().gateway.to_string(), "172.17.0.1");
        let again = Networks::open(dir.path().join("n"), &instance).unwrap();
        assert_eq!(again.get(&bridge.record.id[..8]).unwrap().record.name, "bridge");
        assert_eq!(again.list().len(), 3);
        assert!(matches!(again.get("nope"), Err(Error::NotFound(_))));
    }
}
