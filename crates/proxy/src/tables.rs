//! The sets, maps and fixed rules that Services are elements of.

use network::nft::{Batch, Family, Op, Reg, Rule, SetSpec, field, state::NEW};
use network::rules::hooks;

use crate::desired::Node;

/// The families we route.
pub(crate) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// The maps of one family.
pub(crate) struct Names {
    /// (address, protocol, port) → chain.
    pub services: &'static str,
    /// (protocol, port) → chain.
    pub node_ports: &'static str,
    /// (list, index) → endpoint.
    pub endpoints: &'static str,
    /// (list, endpoint): the endpoints that a client may stay with.
    pub live: &'static str,
    /// (list, client) → endpoint, made by rules, expiring.
    pub affinity: &'static str,
    /// (endpoint, endpoint): a pod that was led to itself.
    pub hairpin: &'static str,
    /// (address, protocol, port) → refusal.
    pub refusals: &'static str,
    /// (protocol, port) → refusal.
    pub node_refusals: &'static str,
}

/// The names of a family's maps.
pub(crate) fn names(family: Family) -> &'static Names {
    match family {
        Family::V4 => &Names {
            services: "services",
            node_ports: "node-ports",
            endpoints: "endpoints",
            live: "live-endpoints",
            affinity: "affinity",
            hairpin: "hairpin-services",
            refusals: "refusals",
            node_refusals: "refusals-node-ports",
        },
        Family::V6 => &Names {
            services: "services6",
            node_ports: "node-ports6",
            endpoints: "endpoints6",
            live: "live-endpoints6",
            affinity: "affinity6",
            hairpin: "hairpin-services6",
            refusals: "refusals6",
            node_refusals: "refusals-node-ports6",
        },
    }
}

/// The chain that refuses.
pub(crate) const REFUSE: &str = "refuse";

/// How many clients each family's affinity map remembers.
const CLIENTS: u32 = 65536;

/// Makes what is always there, and empties what a former daemon filled (but not the memory of clients).
pub(crate) fn base(node: &Node) -> Batch {
    let mut b = Batch::new();
    let (proto, port, number) = (field::PROTO, field::PORT, field::NUMBER);
    for family in FAMILIES {
        let (n, ip) = (names(family), field::ip(family));
        b.set(SetSpec::vmap(n.services, &[ip, proto, port]));
        b.set(SetSpec::vmap(n.node_ports, &[proto, port]));
        b.set(SetSpec::map(n.endpoints, &[number, number], &[ip, port]));
        b.set(SetSpec::set(n.live, &[number, ip, port]));
        b.set(SetSpec::map(n.affinity, &[number, ip], &[ip, port]).dynamic(CLIENTS));
        b.set(SetSpec::set(n.hairpin, &[ip, ip]));
        b.set(SetSpec::vmap(n.refusals, &[ip, proto, port]));
        b.set(SetSpec::vmap(n.node_refusals, &[proto, port]));
        for set in [n.services, n.node_ports, n.endpoints, n.live, n.hairpin, n.refusals, n.node_refusals] {
            b.op(Op::FlushSet(set.into()));
        }
    }
    b.replace_chain(REFUSE, vec![Rule::new(REFUSE).reject()]);

    let (mut choose, mut refuse, mut leave) = (Vec::new(), Vec::new(), Vec::new());
    for family in FAMILIES {
        let (n, words) = (names(family), if family == Family::V4 { 1 } else { 4 });
        let by_address = |rule: Rule, map: &str| {
            rule.family(family)
                .load_daddr(family, Reg(4))
                .load_l4proto(Reg(4 + words))
                .load_dport(Reg(5 + words))
                .vmap(map, Reg(4))
        };
        let by_port = |rule: Rule, map: &str| {
            rule.family(family).to_local(true).load_l4proto(Reg(4)).load_dport(Reg(5)).vmap(map, Reg(4))
        };
        choose.push(by_address(Rule::new(hooks::SERVICES), n.services));
        choose.push(by_port(Rule::new(hooks::SERVICES), n.node_ports));
        refuse.push(by_address(Rule::new(hooks::REFUSALS).ct_state(NEW), n.refusals));
        refuse.push(by_port(Rule::new(hooks::REFUSALS).ct_state(NEW), n.node_refusals));
        leave.push(
            Rule::new(hooks::LEAVING)
                .family(family)
                .load_saddr(family, Reg(4))
                .load_daddr(family, Reg(4 + words))
                .lookup(n.hairpin, Reg(4))
                .masquerade()
                .comment("a pod that was led to itself"),
        );
    }
    for range in &node.service_cidrs {
        let nobody = Rule::new(hooks::REFUSALS).ct_state(NEW).daddr(true, *range).to_local(false);
        refuse.push(nobody.goto(REFUSE).comment("no such Service"));
    }
    b.replace_chain(hooks::SERVICES, choose);
    b.replace_chain(hooks::REFUSALS, refuse);
    b.replace_chain(hooks::LEAVING, leave);
    b
}
