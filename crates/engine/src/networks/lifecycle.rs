//! Making, showing and removing networks.

use std::sync::Arc;

use ipnet::IpNet;
use network::{BridgeSpec, Parent, ParentKind, Subnet};
use serde_json::{Value, json};

use super::options::{self, Driver, GatewayMode, Vlan};
use super::{Net, PREDEFINED, Pool, Record, pools};
use crate::Engine;
use crate::container::Attached;
use crate::error::{Error, Result, conflict, forbidden, invalid, not_found, system};
use crate::filters::Filters;
use crate::model::{Map, NetworkCreate};
use crate::settings::Settings;

impl Engine {
    /// Makes a network; the answer's body.
    pub async fn network_create(&self, mut request: NetworkCreate) -> Result<Value> {
        check_name(&request.name)?;
        let driver = if request.driver.is_empty() { "bridge" } else { request.driver.as_str() };
        if let (Some(defaults), None) =
            (self.settings().default_network_opts.get(driver), &request.config_from)
        {
            for (key, value) in defaults {
                request.options.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        // Checks and reservation in one go: two creations of one name must not both succeed.
        let _one = self.network_changes.lock().await;
        if self.networks.by_name(&request.name).is_some() {
            return Err(conflict(format!("network with name {} already exists", request.name)));
        }
        let mut record = self.asked(request)?;
        if record.config_only {
            let net = self.networks.save(record)?;
            self.network_event(&net, "create", &[]);
            return Ok(json!({"Id": net.record.id, "Warning": ""}));
        }
        let driver =
            options::parse(&record.driver, &record.options)?.ok_or_else(|| no_plugin(&record.driver))?;
        match &driver {
            Driver::Host | Driver::Null => {
                return Err(forbidden(format!(
                    "only one instance of \"{}\" network is allowed",
                    record.driver
                )));
            }
            Driver::Bridge(_) | Driver::Vlan(_) => {}
        }
        self.give_addresses(&mut record, &driver)?;
        record.bridge = self.link_of(&record, &driver)?;
        let net = Net::new(record)?;
        if let Err(error) = self.link_up(&net).await {
            self.link_down(&net).await?;
            return Err(error);
        }
        if let Err(error) = self.networks.keep(net.clone()) {
            self.link_down(&net).await?;
            return Err(error);
        }
        self.network_event(&net, "create", &[]);
        Ok(json!({"Id": net.record.id, "Warning": ""}))
    }

    /// What was asked for, as it will be kept, after the checks that need no other network.
    fn asked(&self, mut request: NetworkCreate) -> Result<Record> {
        for (key, value) in [
            ("com.docker.network.enable_ipv4", &mut request.enable_ipv4),
            ("com.docker.network.enable_ipv6", &mut request.enable_ipv6),
        ] {
            if value.is_some() {
                request.options.remove(key);
            } else if let Some(text) = request.options.get(key) {
                let flag = options::truth(text);
                *value =
                    Some(flag.ok_or_else(|| invalid(format!("driver-opt \"{key}\" is not a valid bool")))?);
            }
        }
        let config_from = request.config_from.map(|c| c.network).unwrap_or_default();
        if request.config_only
            && (request.ingress || request.internal || request.attachable || !request.scope.is_empty())
        {
            return Err(forbidden(
                "configuration network can only contain network specific fields. Network operator fields like [ ingress | internal | attachable | scope ] are not supported.",
            ));
        }
        if !config_from.is_empty() {
            if request.config_only {
                return Err(forbidden(
                    "a configuration network cannot depend on another configuration network",
                ));
            }
            if request.enable_ipv4 == Some(false)
                || request.enable_ipv6 == Some(true)
                || !matches!(request.ipam.driver.as_str(), "" | "default")
                || !request.labels.is_empty()
                || request.ipam.options.as_ref().is_some_and(|o| !o.is_empty())
                || !request.ipam.config.is_empty()
            {
                return Err(forbidden(
                    "user-specified configurations are not supported if the network depends on a configuration network",
                ));
            }
            if !request.options.is_empty() {
                return Err(forbidden(
                    "network driver options are not supported if the network depends on a configuration network",
                ));
            }
        }
        if request.ingress {
            return Err(forbidden("Ingress network can only be global scope network"));
        }
        match request.scope.as_str() {
            "" | "local" => {}
            "swarm" => {
                return Err(forbidden("cannot create a swarm scoped network when swarm is not active"));
            }
            other => return Err(invalid(format!("invalid network scope: {other}"))),
        }
        let mut record = Record {
            id: base::rng::hex(32),
            name: request.name,
            created: base::clock::now(),
            driver: if request.driver.is_empty() { "bridge".into() } else { request.driver },
            internal: request.internal,
            attachable: request.attachable,
            enable_ipv4: request.enable_ipv4.unwrap_or(true),
            enable_ipv6: request.enable_ipv6.unwrap_or(false),
            config_only: request.config_only,
            config_from,
            ipam: request.ipam,
            options: request.options,
            labels: request.labels,
            bridge: String::new(),
        };
        if record.driver == "overlay" {
            return Err(forbidden(
                "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.",
            ));
        }
        if record.ipam.driver.is_empty() {
            record.ipam.driver = "default".into();
        }
        pools::check(&record.ipam, record.enable_ipv6)?;
        if record.config_only {
            record.driver = "null".into();
            return Ok(record);
        }
        if !record.config_from.is_empty() {
            let name = &record.config_from;
            let config = self.networks.by_name(name).filter(|n| n.record.config_only);
            let config = config
                .ok_or_else(|| not_found(format!("configuration network \"{name}\" does not exist")))?;
            let from = &config.record;
            (record.enable_ipv4, record.enable_ipv6) = (from.enable_ipv4, from.enable_ipv6);
            record.ipam.clone_from(&from.ipam);
            record.options.clone_from(&from.options);
            record.labels.clone_from(&from.labels);
        }
        match record.ipam.driver.as_str() {
            "default" => Ok(record),
            "null" => Err(invalid("ipv4 pool is empty")),
            other => Err(no_plugin(other)),
        }
    }

    fn give_addresses(&self, record: &mut Record, driver: &Driver) -> Result<()> {
        let gateways = match driver {
            Driver::Bridge(o) => {
                let isolated = o.modes.contains(&GatewayMode::Isolated);
                if isolated && !record.internal {
                    return Err(system("gateway mode 'isolated' can only be used for an internal network"));
                }
                [
                    o.modes[0] != GatewayMode::Isolated && !(o.inhibit_ipv4 && record.internal),
                    o.modes[1] != GatewayMode::Isolated,
                ]
            }
            // Their router is out there, if there is one.
            _ => [false; 2],
        };
        let own =
            |n: &Arc<Net>| n.pools.iter().map(|p| (p.subnet, n.record.name.clone())).collect::<Vec<_>>();
        let others: Vec<(IpNet, String)> = self.networks.list().iter().flat_map(own).collect();
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let mut reserved = pools::reserved(&read("/proc/net/route"), &read("/etc/resolv.conf"));
        let instance = self.instance();
        reserved.extend([IpNet::V4(instance.cluster_cidr), IpNet::V4(instance.service_cidr)]);
        let wanted = pools::Wanted {
            pools: &self.networks.pools,
            v4: record.enable_ipv4,
            v6: record.enable_ipv6,
            gateways,
            others: &others,
            reserved: &reserved,
        };
        pools::allocate(&mut record.ipam, &wanted)?;
        if !matches!(driver, Driver::Bridge(_)) {
            return Ok(());
        }
        if !record.enable_ipv4 && !record.enable_ipv6 {
            return Err(invalid("IPv4 or IPv6 must be enabled"));
        }
        for v6 in [false, true] {
            let many = record.ipam.config.iter().filter(|p| p.subnet.contains(':') == v6).count();
            if many > 1 {
                return Err(forbidden("bridge driver doesn't support multiple subnets"));
            }
        }
        for pool in &record.ipam.config {
            let Some(IpNet::V6(subnet)) = pools::parse(pool)?.subnet else { continue };
            let link_local = ipnet::Ipv6Net::new_assert([0xfe80, 0, 0, 0, 0, 0, 0, 0].into(), 64);
            if subnet.network().is_multicast() {
                return Err(invalid(format!("multicast subnet '{subnet}' is not allowed")));
            }
            if subnet != link_local && pools::overlap(subnet.into(), link_local.into()) {
                return Err(invalid(format!("'{subnet}' clashes with the Link-Local prefix 'fe80::/64'")));
            }
        }
        Ok(())
    }

    /// The name of the network's link on this machine; an error if another network has it for itself.
    fn link_of(&self, record: &Record, driver: &Driver) -> Result<String> {
        let name = match driver {
            Driver::Bridge(o) => o.name.clone().unwrap_or_else(|| format!("br-{}", &record.id[..12])),
            Driver::Vlan(o) => o.parent.clone().unwrap_or_else(|| format!("dm-{}", &record.id[..12])),
            Driver::Host | Driver::Null => return Ok(String::new()),
        };
        // The pods' and the Services' links.
        if [self.instance().link("p"), self.instance().link("s")].contains(&name) {
            return Err(forbidden(format!(
                "cannot create network {} ({name}): conflicts with the cluster's network: networks have same bridge name",
                record.id
            )));
        }
        for other in self.networks.list().iter().filter(|n| n.record.bridge == name) {
            match (driver, &other.driver) {
                (Driver::Vlan(mine), Driver::Vlan(theirs)) => {
                    let id = &other.record.id;
                    if matches!(theirs.kind, options::VlanKind::Ipvlan(..)) {
                        return Err(system(format!(
                            "network dm-{} is already using parent interface {name}",
                            &id[..12]
                        )));
                    }
                    if mine.exclusive() {
                        return Err(system(format!(
                            "cannot use mode passthru, macvlan network {id} is already using parent interface {name}"
                        )));
                    }
                    if theirs.exclusive() {
                        return Err(system(format!(
                            "macvlan network {id} is already using parent interface {name} in mode passthru"
                        )));
                    }
                }
                _ => {
                    return Err(forbidden(format!(
                        "cannot create network {} ({name}): conflicts with network {} ({name}): networks have same bridge name",
                        record.id, other.record.id
                    )));
                }
            }
        }
        Ok(name)
    }

    /// Makes the network's link unless it stands.
    pub(crate) async fn link_up(&self, net: &Net) -> Result<()> {
        net.ready
            .get_or_try_init(|| async {
                match &net.driver {
                    Driver::Bridge(options) => {
                        let spec = bridge_spec(net, options, &self.settings())?;
                        self.network.ensure_bridge(&spec).await?
                    }
                    Driver::Vlan(options) => self.parent_up(net, options).await?,
                    Driver::Host | Driver::Null => {}
                }
                Ok::<(), Error>(())
            })
            .await?;
        Ok(())
    }

    async fn parent_up(&self, net: &Net, options: &Vlan) -> Result<()> {
        let name = net.record.bridge.clone();
        if self.network.link_exists(&name).await? {
            return Ok(());
        }
        let kind = match &options.parent {
            None => ParentKind::Nowhere,
            Some(parent) => {
                let (of, id) = options::vlan(parent)?;
                if !self.network.link_exists(&of).await? {
                    return Err(system(format!(
                        "failed to find master interface {of} on the Docker host: Link not found"
                    )));
                }
                ParentKind::Vlan { of, id }
            }
        };
        self.network
            .ensure_parent(&Parent { name: name.clone(), kind })
            .await
            .map_err(|e| system(format!("failed to create {name} vlan link: {e}")))?;
        Ok(())
    }

    /// Removes the network's link, unless others need it or it is not ours.
    async fn link_down(&self, net: &Net) -> Result<()> {
        match &net.driver {
            Driver::Bridge(_) => self.network.remove_bridge(&net.record.bridge).await?,
            Driver::Vlan(_) => {
                let shared =
                    |n: &Arc<Net>| n.record.bridge == net.record.bridge && n.record.id != net.record.id;
                if !self.networks.list().iter().any(shared) {
                    self.network.remove_parent(&net.record.bridge).await?;
                }
            }
            Driver::Host | Driver::Null => {}
        }
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
        let name = &net.record.name;
        if !net.user_defined() {
            return Err(forbidden(format!("{name} is a pre-defined network and cannot be removed")));
        }
        let failed = |why: String| forbidden(format!("error while removing network: {why}"));
        if net.record.config_only && self.networks.list().iter().any(|n| n.record.config_from == *name) {
            return Err(failed(format!("configuration network \"{name}\" is in use")));
        }
        let members = self.members(&net);
        if !members.is_empty() {
            let list: Vec<String> = members
                .iter()
                .map(|(_, name, a)| {
                    format!("name:\"{name}\" id:\"{}\"", a.endpoint_id.get(..12).unwrap_or_default())
                })
                .collect();
            return Err(failed(format!("network {name} has active endpoints ({})", list.join(", "))));
        }
        // The file goes last: a daemon that dies before finds the network and can remove it again.
        self.link_down(&net).await?;
        let path = self.networks.dir.join(format!("{}.json", net.record.id));
        std::fs::remove_file(&path)
            .and_then(|()| base::fsx::fsync_dir(&self.networks.dir))
            .map_err(Error::io(path.display()))?;
        self.networks.all.write().remove(&net.record.id);
        if !net.record.config_only {
            self.network_event(&net, "destroy", &[]);
        }
        Ok(())
    }

    /// Running containers on the network: id, name, connection.
    pub(crate) fn members(&self, net: &Net) -> Vec<(String, String, Attached)> {
        let mut out = Vec::new();
        for container in self.all() {
            let inner = container.lock();
            let attached = inner.life.attached.get(&net.record.name);
            if let Some(attached) = attached.filter(|a| a.network_id == net.record.id) {
                out.push((container.id.clone(), inner.asked.name.clone(), attached.clone()));
            }
        }
        out
    }

    /// One network with its members; it must have the scope, if one is named.
    pub fn network_inspect(&self, reference: &str, scope: &str) -> Result<Value> {
        if !matches!(scope, "" | "local") {
            return Err(not_found(format!("network {reference} not found")));
        }
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
                        "IPv4Address": attached.address4().map(|a| a.to_string()).unwrap_or_default(),
                        "IPv6Address": attached.address6.map(|a| a.to_string()).unwrap_or_default(),
                    }),
                );
            }
        }
        json!({
            "Name": r.name, "Id": r.id, "Created": base::clock::rfc3339_nano(r.created), "Scope": "local",
            "Driver": r.driver, "EnableIPv4": r.enable_ipv4, "EnableIPv6": r.enable_ipv6, "IPAM": r.ipam,
            "Internal": r.internal, "Attachable": r.attachable, "Ingress": false,
            "ConfigFrom": {"Network": r.config_from}, "ConfigOnly": r.config_only,
            "Containers": containers, "Options": r.options, "Labels": r.labels,
        })
    }

    /// The networks that the filters let pass; with their members, if those are wanted.
    pub fn network_list(&self, filters: &Filters, members: bool) -> Result<Value> {
        filters.only(&["dangling", "driver", "id", "label", "name", "scope", "type"])?;
        let dangling = match filters.get("dangling") {
            [] => None,
            [one] => Some(match one.as_str() {
                "1" | "true" => true,
                "0" | "false" => false,
                _ => {
                    return Err(invalid(
                        "invalid value for filter 'dangling', must be \"true\" (or \"1\"), or \"false\" (or \"0\")",
                    ));
                }
            }),
            _ => return Err(invalid("got more than one value for filter key \"dangling\"")),
        };
        if let Some(kind) = filters.get("type").iter().find(|t| !matches!(t.as_str(), "builtin" | "custom")) {
            return Err(system(format!("invalid filter: 'type'='{kind}'")));
        }
        let mut list = self.networks.list();
        list.sort_by(|a, b| {
            a.record.created.cmp(&b.record.created).then_with(|| a.record.name.cmp(&b.record.name))
        });
        let list: Vec<Value> = list
            .iter()
            .filter(|n| {
                let kind = if n.user_defined() { "custom" } else { "builtin" };
                filters.matches("name", &n.record.name)
                    && filters.matches("id", &n.record.id)
                    && filters.exact("driver", &n.record.driver)
                    && filters.exact("scope", "local")
                    && filters.exact("type", kind)
                    && filters.labels(&n.record.labels)
                    && dangling.is_none_or(|d| d == (n.user_defined() && self.members(n).is_empty()))
            })
            .map(|n| self.network_json(n, members))
            .collect();
        Ok(Value::Array(list))
    }

    /// Removes user networks that nobody is on.
    pub async fn network_prune(&self, filters: &Filters) -> Result<Value> {
        filters.only(&["label", "label!", "until"])?;
        let until = match filters.get("until") {
            [] => None,
            [one] => Some(crate::filters::timestamp(one)?),
            _ => return Err(invalid("more than one until filter specified")),
        };
        let mut deleted = Vec::new();
        for net in self.networks.list() {
            let young = until.is_some_and(|u| net.record.created > u);
            if !net.user_defined() || young || !filters.labels(&net.record.labels) {
                continue;
            }
            match self.network_remove(&net.record.id).await {
                Ok(()) => deleted.push(net.record.name.clone()),
                Err(Error::Forbidden(_) | Error::NotFound(_)) => {} // somebody is on it, or it is gone
                Err(error) => tracing::warn!(network = %net.record.name, %error, "it could not be removed"),
            }
        }
        self.events.publish("network", "prune", "", Map::from([("reclaimed".to_owned(), "0".to_owned())]));
        Ok(json!({"NetworksDeleted": if deleted.is_empty() { Value::Null } else { json!(deleted) }}))
    }
}

fn check_name(name: &str) -> Result<()> {
    if name.trim().is_empty() {
        return Err(invalid("invalid name: name is empty"));
    }
    if name.contains(char::is_control) {
        return Err(invalid(format!("invalid name: {name:?} contains control characters")));
    }
    if PREDEFINED.contains(&name) || name == "default" {
        return Err(forbidden(format!("operation is not permitted on predefined {name} network ")));
    }
    Ok(())
}

fn no_plugin(name: &str) -> Error {
    not_found(format!("could not find plugin {name} in v1 plugin registry: plugin not found"))
}

/// What the kernel is told of a bridge network.
fn bridge_spec(net: &Net, options: &options::Bridge, settings: &Settings) -> Result<BridgeSpec> {
    let r = &net.record;
    let subnet = |pool: &Pool| -> Result<Subnet> {
        let v6 = usize::from(matches!(pool.subnet, IpNet::V6(_)));
        let address = pool.own.unwrap_or(pool.subnet.network());
        let gateway = IpNet::new(address, pool.subnet.prefix_len())
            .map_err(|e| system(format!("network {}: {e}", r.name)))?;
        let inhibited = options.inhibit_ipv4 && v6 == 0;
        Ok(Subnet {
            gateway,
            on_bridge: pool.own.is_some() && !inhibited && options.modes[v6] != GatewayMode::Isolated,
            mode: options.modes[v6].mode(),
            leave_as: options.leave_as[v6],
        })
    };
    Ok(BridgeSpec {
        name: r.bridge.clone(),
        subnets: net.pools.iter().map(subnet).collect::<Result<_>>()?,
        mtu: options.mtu,
        masquerade: options.masquerade && !r.internal,
        masquerade_except: Vec::new(),
        icc: options.icc,
        isolated: true,
        internal: r.internal,
        trusted: options.trusted.clone(),
        direct: settings.allow_direct_routing,
        admitted: settings.admitted(),
    })
}
