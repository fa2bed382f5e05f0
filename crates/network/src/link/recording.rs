//! A fake that notes what was asked, for tests without root.

use std::collections::HashMap;
use std::path::Path;

use async_trait::async_trait;
use ipnet::IpNet;
use parking_lot::Mutex;

use super::{BridgeLink, Endpoint, Link, LinkInfo, Parent, ParentKind, Route, Uplink};
use crate::error::Result;

/// Notes every request as one line and keeps the links that they lead to.
#[derive(Debug, Default)]
pub struct RecordingLink {
    lines: Mutex<Vec<String>>,
    links: Mutex<Vec<LinkInfo>>,
    sysctls: Mutex<HashMap<String, String>>,
}

impl RecordingLink {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }
    /// Takes the lines noted since the last call.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.lines.lock())
    }
    fn note(&self, line: String) {
        self.lines.lock().push(line);
    }
    fn remember(&self, name: &str, kind: &str, alias: &str) {
        let mut links = self.links.lock();
        if !links.iter().any(|l| l.name == name) {
            let index = links.len() as u32 + 1;
            links.push(LinkInfo {
                index,
                name: name.into(),
                kind: kind.into(),
                alias: alias.into(),
                up: true,
                ..LinkInfo::default()
            });
        }
    }
}

#[async_trait]
impl Link for RecordingLink {
    async fn ensure_bridge(&self, b: &BridgeLink) -> Result<()> {
        self.remember(&b.name, "bridge", &b.alias);
        self.note(format!("bridge {} {:?}", b.name, b.addresses));
        Ok(())
    }
    async fn add_parent(&self, parent: &Parent, alias: &str) -> Result<()> {
        let kind = if parent.kind == ParentKind::Nowhere { "bridge" } else { "vlan" };
        self.remember(&parent.name, kind, alias);
        self.note(format!("parent {} {kind}", parent.name));
        Ok(())
    }
    async fn attach(&self, e: &Endpoint) -> Result<[u8; 6]> {
        if let Uplink::Bridge { host, .. } = &e.uplink {
            self.remember(host, "veth", "");
        }
        self.note(format!("attach {} {} {:?}", e.netns.display(), e.ifname, e.addresses));
        Ok(e.mac.unwrap_or([2, 0, 0, 0, 0, 1]))
    }
    async fn loopback_up(&self, netns: &Path) -> Result<()> {
        self.note(format!("lo up {}", netns.display()));
        Ok(())
    }
    async fn delete(&self, name: &str) -> Result<()> {
        self.links.lock().retain(|l| l.name != name);
        self.note(format!("delete {name}"));
        Ok(())
    }
    async fn delete_in(&self, netns: &Path, name: &str) -> Result<()> {
        self.note(format!("delete {name} in {}", netns.display()));
        Ok(())
    }
    async fn addresses(&self, _name: &str) -> Result<Vec<IpNet>> {
        Ok(Vec::new())
    }
    async fn list(&self) -> Result<Vec<LinkInfo>> {
        Ok(self.links.lock().clone())
    }
    async fn ensure_route(&self, link: &str, route: &Route) -> Result<()> {
        self.note(format!("route {} dev {link}", route.destination));
        Ok(())
    }
    async fn ensure_route_in(&self, netns: &Path, link: &str, route: &Route) -> Result<()> {
        self.note(format!("route {} dev {link} in {}", route.destination, netns.display()));
        Ok(())
    }
    async fn default_mtu(&self) -> Result<Option<u32>> {
        Ok(None)
    }
    async fn sysctl(&self, name: &str, value: &str) -> Result<bool> {
        self.note(format!("{name}={value}"));
        let was = self.sysctls.lock().insert(name.into(), value.into());
        Ok(was.as_deref() != Some(value))
    }
}
