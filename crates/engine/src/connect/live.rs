//! Networks of a container that changes them while it runs, or while it does not: connecting and disconnecting.

use std::sync::Arc;

use ipnet::IpNet;

use super::{netns, owner};
use crate::container::{Attached, Container, Phase};
use crate::error::{Error, Result, forbidden, invalid, not_found, system};
use crate::model::{EndpointSettings, NetworkConnect};
use crate::networks::{Driver, Net};
use crate::{Engine, networks};

impl Engine {
    /// `docker network connect`.
    pub async fn network_connect(self: &Arc<Self>, reference: &str, request: NetworkConnect) -> Result<()> {
        let container = self.find(&request.container)?;
        let _op = container.op.lock().await;
        let net = self.networks.get(reference)?;
        let settings = request.endpoint_config;
        let name = net.record.name.clone();
        let (mode, phase, asked) = {
            let inner = container.lock();
            let asked: Vec<String> = inner.asked.endpoints.keys().cloned().collect();
            (inner.asked.host.network_mode.clone(), inner.life.phase, asked)
        };
        not_removed(&container, phase)?;
        if mode.starts_with("container:") {
            return Err(invalid(SHARED));
        }
        networks::check_endpoint(&name, Some(&net), &settings)?;
        if net.record.config_only {
            return Err(forbidden(format!("cannot connect container to configuration network {name}")));
        }
        if mode != "host" && name == "host" {
            return Err(invalid(
                "cannot connect container to host network - container must be created in host network mode",
            ));
        }
        if asked.contains(&name) {
            if !phase.alive() {
                // As the original: it keeps what was asked for before. Who wants something else disconnects it first.
                return Ok(());
            }
            return Err(forbidden(format!(
                "endpoint with name {} already exists in network {name}",
                container.name()
            )));
        }
        if mode == "host" || name == "host" {
            return Err(invalid(SHARED));
        }
        if !asked.is_empty() && (name == "none" || asked.iter().any(|n| n == "none")) {
            return Err(invalid(
                "container cannot be connected to multiple networks with one of the networks in private (none) mode",
            ));
        }
        // The default routes may lead elsewhere with it, which depends on what is asked of it.
        container.lock().asked.endpoints.insert(name.clone(), settings.clone());
        if phase.alive() {
            if let Err(error) = self.connect_live(&container, &net, &settings).await {
                container.lock().asked.endpoints.shift_remove(&name);
                return Err(error);
            }
        } else {
            self.network_event(&net, "connect", &[("container", container.id.clone())]);
            let mut inner = container.lock();
            if inner.asked.endpoints.len() == 1 {
                inner.asked.host.network_mode.clone_from(&name);
            }
        }
        container.save_life();
        container.save_asked()
    }

    async fn connect_live(
        self: &Arc<Self>,
        container: &Arc<Container>,
        net: &Arc<Net>,
        settings: &EndpointSettings,
    ) -> Result<()> {
        let name = &net.record.name;
        let attached = net.when_free(|| self.allocate(container, net, settings, None)).await?;
        let pid = {
            let mut inner = container.lock();
            inner.life.attached.insert(name.clone(), attached.clone());
            inner.life.pid
        };
        let made = match self.plug(container, net, settings, pid, [false; 2]).await {
            Ok(()) => self.reroute(container).await,
            Err(error) => Err(error),
        };
        if let Err(error) = made {
            let made = container.lock().life.attached.shift_remove(name);
            net.leave(&container.id);
            if let Some(made) = made.filter(|a| a.made) {
                self.unplug(net, &made, pid).await?;
                self.reroute(container).await?;
            }
            net.release(&owner(container, &attached.endpoint_id));
            return Err(error);
        }
        if net.user_defined() && container.resolver.lock().is_none() {
            // Its resolv.conf is the file that it has mounted: written in place it is seen at once.
            let asked = container.lock().asked.clone();
            let text = crate::files::resolv(&asked.host, true);
            crate::files::write(&container.dir, "resolv.conf", &text, asked.ids.as_ref())?;
            self.serve_names(container, pid).await;
        }
        self.own_hosts(container, &attached, true)
    }

    /// Removes one interface of a running container.
    async fn unplug(&self, net: &Net, attached: &Attached, pid: u32) -> Result<()> {
        if matches!(net.driver, Driver::Vlan(_)) {
            return Ok(self.network.detach_in(&netns(pid), &attached.ifname).await?);
        }
        Ok(self.network.detach(&attached.host_ifname).await?)
    }

    /// Leads the default routes of a running container, and its published ports, where they belong by now.
    async fn reroute(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let new = self.gateways(container);
        let (old, pid, attached) = {
            let mut inner = container.lock();
            let old = std::mem::replace(&mut inner.life.gateways, new.clone());
            (old, inner.life.pid, inner.life.attached.clone())
        };
        if new == old {
            return Ok(());
        }
        for v6 in [0, 1] {
            let Some(name) = new[v6].as_ref().filter(|_| new[v6] != old[v6]) else { continue };
            let Some(one) = attached.get(name) else { continue };
            let via = if v6 == 1 { one.gateway6 } else { one.gateway };
            let itself = matches!(&self.networks.get(name)?.driver, Driver::Vlan(o) if o.routes_itself());
            if via.is_some() || itself {
                let destination =
                    if v6 == 1 { IpNet::V6(Default::default()) } else { IpNet::V4(Default::default()) };
                let route = network::link::Route { destination, via, source: None };
                self.network.link().ensure_route_in(&netns(pid), &one.ifname, &route).await?;
            }
        }
        self.network.ports().unpublish(&container.id)?;
        container.lock().life.ports.clear();
        self.publish(container)
    }

    /// The container's own names in its hosts file, for one connection.
    fn own_hosts(&self, container: &Container, attached: &Attached, add: bool) -> Result<()> {
        let path = container.dir.join("hosts");
        let text = std::fs::read_to_string(&path).map_err(Error::io(path.display()))?;
        let own: Vec<String> = attached.addresses().map(|a| a.addr().to_string()).collect();
        let of = |line: &str| own.iter().any(|a| line.split_whitespace().next() == Some(a));
        let mut new: String = text.lines().filter(|l| !of(l)).map(|l| format!("{l}\n")).collect();
        if add {
            let names = crate::files::own_names(&container.lock().asked.config);
            for address in own {
                new.push_str(&format!("{address}\t{}\n", names.join(" ")));
            }
        }
        let ids = container.lock().asked.ids.clone();
        crate::files::write(&container.dir, "hosts", &new, ids.as_ref())
    }

    /// `docker network disconnect`.
    pub async fn network_disconnect(
        self: &Arc<Self>,
        reference: &str,
        container: &str,
        force: bool,
    ) -> Result<()> {
        let container = match self.find(container) {
            Err(Error::NotFound(_)) if force => {
                self.networks.get(reference)?;
                return Err(not_found(format!("endpoint {container} not found")));
            }
            other => other?,
        };
        let _op = container.op.lock().await;
        let net = self.networks.get(reference);
        let phase = container.phase();
        not_removed(&container, phase)?;
        let name = match &net {
            Ok(net) => net.record.name.clone(),
            // What is gone can still be taken off the list.
            Err(_) if force || !phase.alive() => reference.to_owned(),
            Err(error) => return Err(error.clone()),
        };
        if phase.alive() && container.lock().asked.host.network_mode == "host" && name == "host" {
            return Err(invalid(
                "cannot disconnect container from host network - container was created in host network mode",
            ));
        }
        let (known, attached, pid) = {
            let inner = container.lock();
            let known = inner.asked.endpoints.contains_key(&name);
            (known, inner.life.attached.get(&name).cloned(), inner.life.pid)
        };
        if !known {
            let article = if phase.alive() { "" } else { "the " };
            return Err(system(format!(
                "container {} is not connected to {article}network {name}",
                container.id
            )));
        }
        // The interface first: while it is there, the container is connected.
        if let (Some(one), Ok(net)) = (&attached, &net) {
            self.unplug(net, one, pid).await?;
        }
        {
            let mut inner = container.lock();
            inner.asked.endpoints.shift_remove(&name);
            inner.life.attached.shift_remove(&name);
        }
        // From here on it is disconnected, whatever becomes of the rest: that is what is saved and told.
        let mut rest = Ok(());
        if let (Some(one), Ok(net)) = (&attached, &net) {
            net.leave(&container.id);
            net.release(&owner(&container, &one.endpoint_id));
            rest = self.own_hosts(&container, one, false);
            rest = rest.and(self.reroute(&container).await);
        }
        if let Ok(net) = &net {
            self.network_event(net, "disconnect", &[("container", container.id.clone())]);
        }
        container.save_life();
        container.save_asked().and(rest)
    }
}

const SHARED: &str = "container sharing network namespace with another container or host cannot be connected to any other network";

fn not_removed(container: &Container, phase: Phase) -> Result<()> {
    if matches!(phase, Phase::Removing | Phase::Dead) {
        return Err(system(format!(
            "Container {} is marked for removal and cannot be connected or disconnected to the network",
            container.id
        )));
    }
    Ok(())
}
