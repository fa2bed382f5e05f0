//! From what each Service needs to transactions: keeps what the table holds and yields the difference.

use std::collections::{BTreeMap, BTreeSet};

use network::nft::{Batch, Element, Op, Rule};

use crate::desired::{Desired, UdpPort};

/// A Service: namespace and name.
pub type Owner = (String, String);

/// What all Services together need, as it is in the table once every batch has been applied.
///
/// Two Services may want the same key: the same element (a pod behind both) counts once; of different ones (an
/// external address used twice) the owner that sorts first has it, and the next one when that one goes.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    elements: BTreeMap<(&'static str, Vec<u8>), BTreeMap<Owner, Element>>,
    chains: BTreeMap<String, Vec<Rule>>,
    of: BTreeMap<Owner, Desired>,
    ids: BTreeMap<u32, String>,
}

impl Plan {
    /// The number of a list of endpoints: the same in every run, so that clients find theirs again after a restart.
    pub fn id(&mut self, list: &str) -> u32 {
        let mut id = list.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
        while self.ids.get(&id).is_some_and(|other| other != list) {
            id = id.wrapping_add(1);
        }
        self.ids.entry(id).or_insert_with(|| list.to_owned());
        id
    }

    /// Replaces what `owner` needs (nothing, if its Service is gone) and adds the difference to `changes`.
    pub fn set(&mut self, owner: &Owner, new: Desired, changes: &mut Changes) {
        let old = self.of.remove(owner).unwrap_or_default();
        for place in old.elements.keys().filter(|k| !new.elements.contains_key(*k)) {
            let owners = self.elements.entry(place.clone()).or_default();
            changes.before(place, owners);
            owners.remove(owner);
            if owners.is_empty() {
                self.elements.remove(place);
            }
        }
        for (place, element) in &new.elements {
            if old.elements.get(place) == Some(element) {
                continue;
            }
            let owners = self.elements.entry(place.clone()).or_default();
            changes.before(place, owners);
            owners.insert(owner.clone(), element.clone());
        }
        for chain in old.chains.keys().filter(|c| !new.chains.contains_key(*c)) {
            changes.chains.entry(chain.clone()).or_insert_with(|| self.chains.get(chain).cloned());
            self.chains.remove(chain);
            self.ids.retain(|_, list| list != chain);
        }
        for (chain, rules) in &new.chains {
            if old.chains.get(chain) != Some(rules) {
                changes.chains.entry(chain.clone()).or_insert_with(|| self.chains.get(chain).cloned());
                self.chains.insert(chain.clone(), rules.clone());
            }
        }
        if new != Desired::default() {
            self.of.insert(owner.clone(), new);
        }
    }

    /// The transaction that brings the table from before `changes` to what is planned now.
    pub fn batch(&self, changes: Changes) -> Batch {
        let mut b = Batch::new();
        let (mut gone_elements, mut new_elements) = (grouped(), grouped());
        for (place, before) in changes.elements {
            let now = self.elements.get(&place).and_then(active);
            if before.as_ref() == now {
                continue;
            }
            if before.is_some() {
                gone_elements.entry(place.0).or_default().push(Element::new(place.1));
            }
            new_elements.entry(place.0).or_default().extend(now.cloned());
        }
        let touched: Vec<_> =
            changes.chains.iter().filter(|(name, old)| old.as_ref() != self.chains.get(*name)).collect();
        // Chains before what refers to them; and what refers to them goes before they do.
        for (name, _) in touched.iter().filter(|(_, old)| old.is_none()) {
            b.chain(name.as_str());
        }
        for (name, old) in &touched {
            if old.is_some() {
                b.op(Op::FlushChain((*name).clone()));
            }
            for rule in self.chains.get(*name).into_iter().flatten() {
                b.rule(rule.clone());
            }
        }
        for (set, elements) in gone_elements {
            b.delete(set, elements);
        }
        for (set, elements) in new_elements {
            b.add(set, elements);
        }
        for (name, _) in touched.iter().filter(|(name, _)| !self.chains.contains_key(*name)) {
            b.op(Op::DeleteChain((*name).clone()));
        }
        b
    }

    /// The transaction that makes all of it, in maps that are empty, and removes chains of `present` that no Service
    /// has any more.
    pub fn whole(&self, present: &BTreeSet<String>) -> Batch {
        let mut b = Batch::new();
        for name in self.chains.keys() {
            b.chain(name.as_str());
        }
        let ours = |c: &&String| is_ours(c);
        for name in present.iter().filter(ours) {
            b.op(Op::FlushChain(name.clone()));
        }
        for rule in self.chains.values().flatten() {
            b.rule(rule.clone());
        }
        let mut elements = grouped();
        for (place, owners) in &self.elements {
            elements.entry(place.0).or_default().extend(active(owners).cloned());
        }
        for (set, elements) in elements {
            b.add(set, elements);
        }
        for name in present.iter().filter(ours).filter(|c| !self.chains.contains_key(*c)) {
            b.op(Op::DeleteChain(name.clone()));
        }
        b
    }

    /// The UDP ports of a Service.
    pub fn udp(&self, owner: &Owner) -> &[UdpPort] {
        self.of.get(owner).map_or(&[], |d| &d.udp)
    }
}

fn is_ours(chain: &str) -> bool {
    ["service/", "external/", "everywhere/", "sources/"].iter().any(|p| chain.starts_with(p))
}

fn active(owners: &BTreeMap<Owner, Element>) -> Option<&Element> {
    owners.values().next()
}

fn grouped() -> BTreeMap<&'static str, Vec<Element>> {
    BTreeMap::new()
}

/// What was there before, for each place that may have changed.
#[derive(Debug, Default)]
pub struct Changes {
    elements: BTreeMap<(&'static str, Vec<u8>), Option<Element>>,
    chains: BTreeMap<String, Option<Vec<Rule>>>,
}

impl Changes {
    fn before(&mut self, place: &(&'static str, Vec<u8>), owners: &BTreeMap<Owner, Element>) {
        if !self.elements.contains_key(place) {
            self.elements.insert(place.clone(), active(owners).cloned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::{Node, desired};
    use crate::model::{Service, Slice};
    use crate::tables;
    use network::nft::{Firewall, RecordingFirewall};
    use serde_json::json;

    fn owner(n: u64) -> Owner {
        ("ns".into(), format!("s{n}"))
    }

    fn opened(node: &Node) -> RecordingFirewall {
        let table = RecordingFirewall::new();
        table.apply(network::rules::base()).unwrap();
        table.apply(tables::base(node)).unwrap();
        table
    }

    /// A Service and its endpoints, drawn at random; many share addresses, ports and pods.
    fn draw(draw: &mut dyn FnMut(u64) -> u64, n: u64) -> (Service, Vec<Slice>) {
        let service = json!({
            "metadata": {"namespace": "ns", "name": format!("s{n}")},
            "spec": {
                "type": (["ClusterIP", "NodePort"][draw(2) as usize]),
                "clusterIP": format!("10.96.0.{n}"),
                "sessionAffinity": (["None", "ClientIP"][draw(2) as usize]),
                "externalTrafficPolicy": (["Cluster", "Local"][draw(2) as usize]),
                "internalTrafficPolicy": (["Cluster", "Local"][draw(2) as usize]),
                "externalIPs": (0..draw(3)).map(|_| format!("192.0.2.{}", draw(3))).collect::<Vec<_>>(),
                "ports": [{"port": 80 + draw(2), "nodePort": 30000 + draw(3)}],
            },
        });
        let endpoints: Vec<_> = (0..draw(4))
            .map(|_| json!({"addresses": [format!("10.244.0.{}", draw(5))], "nodeName": (["here", "there"][draw(2) as usize])}))
            .collect();
        let slice = json!({"addressType": "IPv4", "endpoints": endpoints, "ports": [{"port": 8080}]});
        (serde_json::from_value(service).unwrap(), vec![serde_json::from_value(slice).unwrap()])
    }

    /// Whatever changes in whatever order: the differences lead to the same table as making it anew.
    #[test]
    fn differences_add_up() {
        for seed in 1..60u64 {
            let mut x = seed;
            let mut random = move |below: u64| {
                x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (x >> 33) % below
            };
            let node = Node {
                name: "here".into(),
                cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
                ..Node::default()
            };
            let table = opened(&node);
            let mut plan = Plan::default();
            for step in 0..25 {
                let mut changes = Changes::default();
                for _ in 0..=random(3) {
                    let n = random(5);
                    let new = if random(4) == 0 {
                        Desired::default()
                    } else {
                        let (service, slices) = draw(&mut random, n);
                        desired(&node, &service, &slices, &mut |list| plan.id(list))
                    };
                    plan.set(&owner(n), new, &mut changes);
                }
                table.apply(plan.batch(changes)).unwrap_or_else(|e| panic!("seed {seed}, step {step}: {e}"));
                let fresh = opened(&node);
                fresh.apply(plan.whole(&BTreeSet::new())).unwrap();
                assert_eq!(table.state(), fresh.state(), "seed {seed}, step {step}");
            }
            // A new daemon, which knows other Services, takes the table over in one transaction.
            let mut other = Plan::default();
            let (service, slices) = draw(&mut random, 3);
            let wanted = desired(&node, &service, &slices, &mut |list| other.id(list));
            other.set(&owner(3), wanted, &mut Changes::default());
            let present = table.chains().unwrap().into_iter().collect();
            let mut batch = tables::base(&node);
            batch.extend(other.whole(&present));
            table.apply(batch).unwrap();
            let fresh = opened(&node);
            fresh.apply(other.whole(&BTreeSet::new())).unwrap();
            assert_eq!(table.state(), fresh.state(), "seed {seed}, taken over");
        }
    }

    #[test]
    fn nothing_changed_is_nothing_to_do() {
        let mut plan = Plan::default();
        let mut x = 0;
        let mut count = move |below: u64| {
            x += 1;
            x % below
        };
        let (service, slices) = draw(&mut count, 1);
        let node = Node::default();
        for first in [true, false] {
            let wanted = desired(&node, &service, &slices, &mut |list| plan.id(list));
            let mut changes = Changes::default();
            plan.set(&owner(1), wanted, &mut changes);
            assert_eq!(plan.batch(changes).is_empty(), !first);
        }
    }

    #[test]
    fn numbers_are_stable_and_unique() {
        let mut plan = Plan::default();
        let a = plan.id("service/a");
        assert_eq!(plan.id("service/a"), a);
        assert_eq!(Plan::default().id("service/a"), a);
        plan.ids.insert(Plan::default().id("service/b"), "something else".into());
        assert_eq!(plan.id("service/b"), Plan::default().id("service/b").wrapping_add(1));
    }
}
