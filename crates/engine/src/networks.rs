//! Networks: what they are, and who is on them.
//!
//! A network is one JSON file, written durably. Who is connected is what the containers say; a network only counts
//! addresses and names of those that run. `lifecycle` makes and removes them, `pools` knows about addresses, `options`
//! about drivers.

mod endpoint;
mod lifecycle;
mod options;
mod pools;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub(crate) use endpoint::{check_endpoint, interface_name, interface_parameters, mac};
pub(crate) use options::{Bridge, Driver, GatewayMode};
pub use pools::AddressPools;

use crate::container::Attached;
use crate::error::{Error, Result, invalid, not_found, system};
use crate::model::{Ipam, Map};
use crate::settings::{DefaultBridge, Settings};

/// The names of the networks that always exist.
pub(crate) const PREDEFINED: [&str; 3] = ["bridge", "host", "none"];

/// Whether names resolve on a network: on every one but the predefined ones.
pub(crate) fn user_defined(name: &str) -> bool {
    !PREDEFINED.contains(&name) && name != "default"
}

/// What is kept of a network.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub id: String,
    pub name: String,
    pub created: Timestamp,
    pub driver: String,
    pub internal: bool,
    pub attachable: bool,
    #[serde(default = "yes")]
    pub enable_ipv4: bool,
    pub enable_ipv6: bool,
    /// It is a configuration for other networks, and none itself.
    #[serde(default)]
    pub config_only: bool,
    /// The configuration that it follows.
    #[serde(default)]
    pub config_from: String,
    pub ipam: Ipam,
    pub options: Map,
    pub labels: Map,
    /// The link on this machine: the bridge, or what macvlans hang on; empty for `host` and `none`.
    pub bridge: String,
}

fn yes() -> bool {
    true
}

/// A network and what of it is in use.
#[derive(Debug)]
pub(crate) struct Net {
    pub record: Record,
    pub driver: Driver,
    pub pools: Vec<Pool>,
    /// Names (lower case) of running containers and their addresses; for user networks only.
    names: Mutex<HashMap<String, Vec<(String, IpAddr)>>>,
    /// Whether the link stands.
    ready: tokio::sync::OnceCell<()>,
    /// How many connections have ended whose addresses are not free yet.
    leaving: watch::Sender<usize>,
}

/// A connection that has ended: its addresses are free once its interface is gone and this is dropped.
pub(crate) struct Leaving {
    net: Arc<Net>,
    owner: String,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.net.release(&self.owner);
        self.net.leaving.send_modify(|n| *n -= 1);
    }
}

/// One subnet with its addresses.
#[derive(Debug)]
pub(crate) struct Pool {
    pub subnet: IpNet,
    /// The router of its containers; of a macvlan only where one was named.
    pub gateway: Option<IpAddr>,
    /// What the bridge itself has; differs from `gateway` where an auxiliary address says so.
    pub own: Option<IpAddr>,
    pub addresses: network::Ipam,
}

impl Net {
    fn new(record: Record) -> Result<Arc<Net>> {
        let driver = options::parse(&record.driver, &record.options)?
            .ok_or_else(|| system(format!("network {}: no driver {}", record.name, record.driver)))?;
        let mut pools = Vec::new();
        for pool in record.ipam.config.iter().filter(|_| !record.config_only) {
            let parsed = pools::parse(pool)?;
            let Some(subnet) = parsed.subnet else { continue };
            let own = parsed.gateway;
            let reserved = own.into_iter().chain(parsed.aux.iter().copied());
            let key = if subnet.addr().is_ipv4() { "DefaultGatewayIPv4" } else { "DefaultGatewayIPv6" };
            let router = pool.aux_addresses.get(key).and_then(|a| a.parse().ok());
            let addresses =
                network::Ipam::with_range(subnet, parsed.range.unwrap_or(subnet), reserved).lowest_first();
            pools.push(Pool { subnet, gateway: router.or(own), own, addresses });
        }
        Ok(Arc::new(Net {
            record,
            driver,
            pools,
            names: Mutex::default(),
            ready: Default::default(),
            leaving: watch::Sender::new(0),
        }))
    }

    /// Whether names resolve on it.
    pub(crate) fn user_defined(&self) -> bool {
        user_defined(&self.record.name)
    }

    /// Its subnets of one family.
    pub(crate) fn family(&self, v6: bool) -> impl Iterator<Item = &Pool> {
        self.pools.iter().filter(move |p| matches!(p.subnet, IpNet::V6(_)) == v6)
    }

    /// The pool that an address belongs to.
    pub(crate) fn pool_of(&self, address: IpAddr) -> Option<&Pool> {
        self.pools.iter().find(|p| p.subnet.contains(&address))
    }

    /// What a bridge's options say.
    pub(crate) fn bridge(&self) -> Option<&Bridge> {
        match &self.driver {
            Driver::Bridge(options) => Some(options),
            _ => None,
        }
    }

    /// Enters a container's names for its addresses.
    pub(crate) fn enter(&self, container: &str, names: &[String], attached: &Attached) {
        let mut all = self.names.lock();
        for name in names {
            let list = all.entry(name.to_ascii_lowercase()).or_default();
            for address in attached.addresses() {
                if !list.iter().any(|(id, a)| id == container && *a == address.addr()) {
                    list.push((container.to_owned(), address.addr()));
                }
            }
        }
    }

    pub(crate) fn leave(&self, container: &str) {
        self.names.lock().retain(|_, list| {
            list.retain(|(id, _)| id != container);
            !list.is_empty()
        });
    }

    /// The addresses of everyone called `name` (lower case); `None` if nobody is.
    pub(crate) fn lookup(&self, name: &str) -> Option<Vec<IpAddr>> {
        self.names.lock().get(name).map(|list| list.iter().map(|(_, a)| *a).collect())
    }

    /// Frees every address of an owner.
    pub(crate) fn release(&self, owner: &str) {
        self.pools.iter().for_each(|p| p.addresses.release(owner));
    }

    /// An owner's connection has ended.
    pub(crate) fn leaves(self: &Arc<Self>, owner: String) -> Leaving {
        self.leaving.send_modify(|n| *n += 1);
        Leaving { net: self.clone(), owner }
    }

    /// Takes addresses that are free, or become so by those who are leaving: for a client, they have left.
    pub(crate) async fn when_free<T>(&self, take: impl Fn() -> Result<T>) -> Result<T> {
        let mut leaving = self.leaving.subscribe();
        loop {
            let waiting_helps = *leaving.borrow_and_update() > 0;
            match take() {
                Err(Error::Forbidden(_) | Error::Unavailable(_)) if waiting_helps => {
                    let _ = leaving.changed().await; // the sender is this network's
                }
                answer => return answer,
            }
        }
    }

    /// The container that has the address, if it is one of this network's.
    pub(crate) fn owner(&self, address: IpAddr) -> Option<String> {
        self.pools.iter().find_map(|p| p.addresses.owner(address))
    }
}

/// All networks of one engine.
#[derive(Debug)]
pub(crate) struct Networks {
    dir: PathBuf,
    pools: AddressPools,
    all: RwLock<BTreeMap<String, Arc<Net>>>,
}

impl Networks {
    /// Reads the networks of `dir` and makes the predefined ones that are missing. `own` is the address of the bridge that
    /// somebody else has made for the default network, if it has one.
    pub(crate) fn open(
        dir: PathBuf,
        instance: &base::Instance,
        pools: AddressPools,
        settings: &Settings,
        own: Option<Ipv4Net>,
    ) -> Result<Networks> {
        std::fs::create_dir_all(&dir).map_err(Error::io(dir.display()))?;
        base::fsx::remove_leftovers(&dir).map_err(Error::io(dir.display()))?;
        let networks = Networks { dir: dir.clone(), pools, all: RwLock::default() };
        let address = own.or(settings.bridge_address()).unwrap_or(instance.bridge_ip);
        let addresses = DefaultBridge::of(settings, address);
        let mut bridge = None;
        for entry in std::fs::read_dir(&dir).map_err(Error::io(dir.display()))? {
            let path = entry.map_err(Error::io(dir.display()))?.path();
            let read = std::fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice::<Record>(&bytes)?));
            let record = match read {
                Ok(record) => record,
                Err(error) => {
                    tracing::error!(file = %path.display(), %error, "a network cannot be read and is left alone");
                    continue;
                }
            };
            if record.name == "bridge" {
                bridge = Some(record);
                continue;
            }
            match Net::new(record) {
                Ok(net) => drop(networks.all.write().insert(net.record.id.clone(), net)),
                Err(error) => {
                    tracing::error!(file = %path.display(), %error, "a network makes no sense and is left alone");
                }
            }
        }
        // Its addresses are those of the settings, which may have been given anew.
        let mut record = bridge.unwrap_or_else(|| predefined("bridge"));
        record.bridge =
            settings.own_bridge().ok().flatten().map_or_else(|| instance.link("0"), str::to_owned);
        record.enable_ipv6 = addresses.ipv6();
        record.ipam = addresses.ipam(&record.ipam, || {
            let taken: Vec<IpNet> =
                networks.list().iter().flat_map(|n| n.pools.iter().map(|p| p.subnet)).collect();
            networks.pools.free(true, None, &taken)
        })?;
        let options = [
            ("com.docker.network.bridge.default_bridge", "true".to_owned()),
            ("com.docker.network.bridge.name", record.bridge.clone()),
        ];
        let options = options.into_iter().chain(settings.bridge_options());
        record.options.extend(options.map(|(k, v)| (k.to_owned(), v)));
        let net = networks.save(record)?;
        if settings.without_bridge() {
            // What is kept of it stays, for the day when there is one again.
            networks.all.write().remove(&net.record.id);
        }
        for name in PREDEFINED {
            if name != "bridge" && networks.by_name(name).is_none() {
                networks.save(predefined(name))?;
            }
        }
        Ok(networks)
    }

    fn save(&self, record: Record) -> Result<Arc<Net>> {
        let net = Net::new(record)?;
        self.keep(net.clone())?;
        Ok(net)
    }

    fn keep(&self, net: Arc<Net>) -> Result<()> {
        let record = &net.record;
        let bytes =
            serde_json::to_vec(record).map_err(|e| system(format!("network {}: {e}", record.name)))?;
        let path = self.dir.join(format!("{}.json", record.id));
        base::fsx::write_atomic(&path, &bytes, 0o600).map_err(Error::io(path.display()))?;
        self.all.write().insert(record.id.clone(), net);
        Ok(())
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
        let found: Vec<_> =
            all.range(reference.to_owned()..).take_while(|(id, _)| id.starts_with(reference)).collect();
        match found.as_slice() {
            [(_, net)] => Ok((*net).clone()),
            [] => Err(not_found(format!("network {reference} not found"))),
            several => Err(invalid(format!(
                "network {reference} is ambiguous ({} matches found based on ID prefix)",
                several.len()
            ))),
        }
    }
}

fn predefined(name: &str) -> Record {
    Record {
        id: base::rng::hex(32),
        name: name.to_owned(),
        created: base::clock::now(),
        driver: if name == "none" { "null" } else { name }.to_owned(),
        internal: false,
        attachable: false,
        enable_ipv4: true,
        enable_ipv6: false,
        config_only: false,
        config_from: String::new(),
        ipam: Ipam { driver: "default".into(), ..Ipam::default() },
        options: Map::new(),
        labels: Map::new(),
        bridge: String::new(),
    }
}

/// Reads what a request says of a network.
#[cfg(any(test, fuzzing))]
pub(crate) fn try_out(create: &crate::model::NetworkCreate) {
    for driver in ["bridge", "macvlan", "ipvlan"] {
        let _ = options::parse(driver, &create.options);
    }
    for pool in &create.ipam.config {
        let _ = pools::parse(pool);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let instance = base::Instance::new(dir.path(), dir.path(), "n", [127, 0, 0, 1].into());
        let open = |settings: &str| {
            let pools = AddressPools::standard().with_local6("id");
            let settings = Settings::parse(settings).unwrap();
            Networks::open(dir.path().join("n"), &instance, pools, &settings, None).unwrap()
        };
        let networks = open("{}");
        let bridge = networks.get("bridge").unwrap();
        assert_eq!(networks.get("default").unwrap().record.id, bridge.record.id);
        assert_eq!(bridge.pools[0].gateway.unwrap().to_string(), "172.17.0.1");
        let again = open("{}");
        assert_eq!(again.get(&bridge.record.id[..8]).unwrap().record.name, "bridge");
        assert_eq!(again.list().len(), 3);
        assert!(matches!(again.get("nope"), Err(Error::NotFound(_))));
        let six = open(r#"{"ipv6": true, "bip": "10.3.0.1/24"}"#).get("bridge").unwrap();
        assert_eq!(six.record.id, bridge.record.id, "the network stays, whatever its addresses");
        assert_eq!(six.family(false).next().unwrap().subnet.to_string(), "10.3.0.0/24");
        assert!(six.family(true).next().unwrap().subnet.to_string().starts_with("fd"));
        let none = open(r#"{"bridge": "none"}"#);
        assert!(matches!(none.get("bridge"), Err(Error::NotFound(_))));
        assert_eq!(none.list().len(), 2);
        let own = open(r#"{"bridge": "br7"}"#).get("bridge").unwrap();
        assert_eq!((own.record.bridge.as_str(), &own.record.id), ("br7", &bridge.record.id));
    }

    #[test]
    fn records_of_older_versions_are_read() {
        let text = r#"{"id":"ab","name":"n","created":"2026-01-01T00:00:00Z","driver":"bridge","internal":false,
            "attachable":false,"enable_ipv6":false,"ipam":{"Driver":"default","Config":[{"Subnet":"10.1.0.0/16",
            "Gateway":"10.1.0.1","AuxiliaryAddresses":{"DefaultGatewayIPv4":"10.1.0.9"}}]},
            "options":{},"labels":{},"bridge":"b0"}"#;
        let net = Net::new(serde_json::from_str(text).unwrap()).unwrap();
        assert!(net.record.enable_ipv4 && !net.record.config_only);
        let pool = net.family(false).next().unwrap();
        assert_eq!(pool.gateway.unwrap().to_string(), "10.1.0.9", "another router than the bridge");
        assert_eq!(pool.own.unwrap().to_string(), "10.1.0.1");
        assert!(pool.addresses.allocate("c", pool.gateway).is_err(), "reserved");
    }
}
