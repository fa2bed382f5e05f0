//! The rules of an instance's table, as pure functions: what is always there, and what each bridge adds.
//!
//! Static chains look things up in maps; a bridge or a published port is a few elements of those and chains of its own.
//! So a change never rewrites rules that others depend on, and a new daemon finds the elements still in place.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

use crate::facade::{BridgeSpec, Mode};
use crate::nft::{
    Batch, Element, Expr, Family, Hook, Kind, Op, Reg, Rule, SetSpec, Verdict, field, key,
    state::{ESTABLISHED, RELATED},
};

/// The bit of a packet's mark that asks for masquerading when it leaves.
pub const MASQUERADE_MARK: u32 = 0x2000_0000;

/// Chains that the static rules jump to and that others fill; see [`crate::Network::firewall`].
pub mod hooks {
    /// In nat prerouting and nat output, before published ports: Services choose endpoints here.
    pub const SERVICES: &str = "services";
    /// In filter input, forward and output, for new connections: Services without endpoints refuse here.
    pub const REFUSALS: &str = "refusals";
    /// In filter forward, before anything is accepted: network policies.
    pub const POLICY: &str = "policy";
    /// In nat postrouting, before anything is masqueraded.
    pub const LEAVING: &str = "leaving";
}

pub(crate) const FORWARD_FROM: &str = "forward-from";
pub(crate) const FORWARD_TO: &str = "forward-to";
pub(crate) const MASQUERADE_FROM: &str = "masquerade-from";
pub(crate) const BRIDGES: &str = "bridges";

/// The set of containers' ports of one family that are published, whatever the way.
pub(crate) fn open_set(family: Family) -> &'static str {
    if family == Family::V4 { "open" } else { "open6" }
}

/// The sets of published ports of one family: at every address of this machine, at one, and who may call itself.
pub(crate) fn port_sets(family: Family) -> (&'static str, &'static str, &'static str) {
    match family {
        Family::V4 => ("ports", "ports-at", "hairpin"),
        Family::V6 => ("ports6", "ports6-at", "hairpin6"),
    }
}

/// Makes the table and its static part, or brings that up to date, without disturbing elements and others' chains.
pub fn base() -> Batch {
    let mut b = Batch::new();
    b.op(Op::AddTable);
    let dstnat = -100;
    let srcnat = 100;
    b.base_chain("raw", Kind::Filter, Hook::Prerouting, -300);
    b.base_chain("prerouting", Kind::Nat, Hook::Prerouting, dstnat);
    b.base_chain("output", Kind::Nat, Hook::Output, dstnat);
    b.base_chain("postrouting", Kind::Nat, Hook::Postrouting, srcnat);
    b.base_chain("forward", Kind::Filter, Hook::Forward, 0);
    b.base_chain("filter-input", Kind::Filter, Hook::Input, 0);
    b.base_chain("filter-output", Kind::Filter, Hook::Output, 0);
    // Filled by `no_router`, and kept by whoever comes after.
    for family in [Family::V4, Family::V6] {
        b.chain(between_others(family));
    }
    for chain in [hooks::SERVICES, hooks::REFUSALS, hooks::POLICY, hooks::LEAVING, "published"] {
        b.chain(chain);
    }
    b.set(SetSpec::set(BRIDGES, &[field::IFNAME]));
    for map in [FORWARD_FROM, FORWARD_TO, MASQUERADE_FROM] {
        b.set(SetSpec::vmap(map, &[field::IFNAME]));
    }
    for family in [Family::V4, Family::V6] {
        let (any, at, hairpin) = port_sets(family);
        let ip = field::ip(family);
        b.set(SetSpec::map(any, &[field::PROTO, field::PORT], &[ip, field::PORT]));
        b.set(SetSpec::map(at, &[ip, field::PROTO, field::PORT], &[ip, field::PORT]));
        b.set(SetSpec::set(hairpin, &[ip, ip]));
        b.set(SetSpec::set(open_set(family), &[ip, field::PROTO, field::PORT]));
    }

    let loopback: IpNet = Ipv4Net::new_assert([127, 0, 0, 0].into(), 8).into();
    b.replace_chain(
        "raw",
        vec![
            // route_localnet makes the kernel accept these; no neighbour may reach what listens on loopback only.
            Rule::new("raw")
                .iifname(false, "lo")
                .daddr(true, loopback)
                .drop()
                .comment("loopback from outside"),
        ],
    );
    b.replace_chain(
        "prerouting",
        vec![Rule::new("prerouting").jump(hooks::SERVICES), Rule::new("prerouting").jump("published")],
    );
    b.replace_chain(
        "output",
        vec![Rule::new("output").jump(hooks::SERVICES), Rule::new("output").jump("published")],
    );
    b.replace_chain("published", [Family::V4, Family::V6].into_iter().flat_map(published).collect());
    b.replace_chain("postrouting", postrouting(loopback));
    let r = || Rule::new("forward");
    b.replace_chain(
        "forward",
        vec![
            r().jump(hooks::POLICY),
            r().ct_state(ESTABLISHED | RELATED).accept(),
            r().jump(hooks::REFUSALS),
            r().load_iifname(Reg(0)).vmap(FORWARD_FROM, Reg(0)),
            r().ct_dnat(true).accept().comment("published ports and services"),
            r().load_oifname(Reg(0)).vmap(FORWARD_TO, Reg(0)),
            r().family(Family::V4).jump(between_others(Family::V4)),
            r().family(Family::V6).jump(between_others(Family::V6)),
        ],
    );
    b.replace_chain("filter-input", vec![Rule::new("filter-input").jump(hooks::REFUSALS)]);
    b.replace_chain("filter-output", vec![Rule::new("filter-output").jump(hooks::REFUSALS)]);
    b
}

/// The chain for what comes from no bridge of ours and goes to none.
fn between_others(family: Family) -> &'static str {
    if family == Family::V4 { "others" } else { "others6" }
}

/// An empty chain that says that passing packets on was switched on by us, and is kept to our links.
pub(crate) fn switched_on(family: Family) -> &'static str {
    if family == Family::V4 { "switched-on" } else { "switched-on6" }
}

/// Drops what is passed on between links that are none of ours: for a machine that was no router before it got bridges.
pub(crate) fn no_router(family: Family) -> Batch {
    let chain = between_others(family);
    let mut b = Batch::new();
    b.chain(switched_on(family));
    b.replace_chain(
        chain,
        vec![
            Rule::new(chain).load_iifname(Reg(4)).lookup(BRIDGES, Reg(4)).back(),
            Rule::new(chain).load_oifname(Reg(4)).lookup(BRIDGES, Reg(4)).back(),
            Rule::new(chain).drop().comment("this machine is no router"),
        ],
    );
    b
}

/// Lets it pass.
pub(crate) fn passing() -> Batch {
    let mut b = Batch::new();
    for family in [Family::V4, Family::V6] {
        b.replace_chain(between_others(family), Vec::new());
        // Made first, because it may not be there. What others may use by now stays switched on.
        b.chain(switched_on(family)).op(Op::DeleteChain(switched_on(family).into()));
    }
    b
}

fn published(family: Family) -> Vec<Rule> {
    let (any, at, _) = port_sets(family);
    // Registers: the key from 4 on, the address and port found from 12 on.
    let words = if family == Family::V4 { 1 } else { 4 };
    let (k, a) = (Reg(4), Reg(10));
    let port = Some(Reg(10 + words));
    let after = Reg(4 + words);
    // No packet with ::1 leaves the loopback link, so the kernel could not bring an answer back: see `relay`.
    let begin = || match family {
        Family::V4 => Rule::new("published").family(family),
        Family::V6 => Rule::new("published").daddr(false, IpNet::from(IpAddr::V6(Ipv6Addr::LOCALHOST))),
    };
    vec![
        begin()
            .load_daddr(family, k)
            .load_l4proto(after)
            .load_dport(Reg(after.0 + 1))
            .map(at, k, a)
            .dnat(family, a, port)
            .comment("ports published at one address"),
        begin()
            .to_local(true)
            .load_l4proto(k)
            .load_dport(Reg(k.0 + 1))
            .map(any, k, a)
            .dnat(family, a, port)
            .comment("ports published at every address"),
    ]
}

/// Accepts what goes to a published port of a container, at the container's own address.
fn opened(rule: Rule, family: Family) -> Rule {
    let words = if family == Family::V4 { 1 } else { 4 };
    rule.family(family)
        .load_daddr(family, Reg(4))
        .load_l4proto(Reg(4 + words))
        .load_dport(Reg(5 + words))
        .lookup(open_set(family), Reg(4))
        .accept()
}

fn postrouting(loopback: IpNet) -> Vec<Rule> {
    let r = || Rule::new("postrouting");
    let mut rules = vec![r().jump(hooks::LEAVING)];
    rules.push(r().mark(MASQUERADE_MARK).clear_mark(MASQUERADE_MARK).masquerade());
    for family in [Family::V4, Family::V6] {
        let words = if family == Family::V4 { 1 } else { 4 };
        rules.push(
            r().family(family)
                .load_saddr(family, Reg(4))
                .load_daddr(family, Reg(4 + words))
                .lookup(port_sets(family).2, Reg(4))
                .masquerade()
                .comment("a container that calls itself by its published port"),
        );
    }
    rules.push(r().saddr(true, loopback).load_oifname(Reg(4)).lookup(BRIDGES, Reg(4)).masquerade());
    rules.push(r().load_iifname(Reg(0)).vmap(MASQUERADE_FROM, Reg(0)));
    rules
}

fn chain_from(bridge: &str) -> String {
    format!("from-{bridge}")
}
fn chain_to(bridge: &str) -> String {
    format!("to-{bridge}")
}
fn chain_masquerade(bridge: &str) -> String {
    format!("masquerade-{bridge}")
}

/// Makes a bridge's chains and elements, or replaces their rules.
pub(crate) fn bridge(spec: &BridgeSpec) -> Batch {
    let name = spec.name.as_str();
    let mut b = Batch::new();
    let (from, to, masquerade) = (chain_from(name), chain_to(name), chain_masquerade(name));

    let mut rules = Vec::new();
    if spec.internal {
        rules.push(
            Rule::new(&from).oifname(false, name).drop().comment("an internal network does not go out"),
        );
    }
    b.replace_chain(&from, rules);

    let mut rules = Vec::new();
    if spec.icc {
        rules.push(Rule::new(&to).iifname(true, name).accept());
    } else {
        rules.push(Rule::new(&to).iifname(true, name).drop().comment("containers do not talk to each other"));
    }
    if let Some((value, mask)) = spec.admitted.filter(|_| !spec.internal) {
        rules.push(Rule::new(&to).mark_is(value, mask).accept().comment("admitted by its mark"));
    }
    if !spec.internal {
        for family in [Family::V4, Family::V6].into_iter().filter(|_| spec.direct) {
            rules.push(opened(Rule::new(&to), family).comment("direct routing"));
        }
        for link in &spec.trusted {
            for family in [Family::V4, Family::V6] {
                rules.push(opened(Rule::new(&to).iifname(true, link), family).comment("trusted link"));
            }
        }
        for subnet in &spec.subnets {
            let family = Family::of(subnet.gateway.addr());
            match subnet.mode {
                Mode::Nat => {}
                Mode::Unprotected => {
                    rules.push(Rule::new(&to).daddr(true, subnet.gateway.trunc()).accept());
                }
                Mode::Routed => {
                    let icmp = if family == Family::V4 { 1 } else { 58 };
                    let into = || Rule::new(&to).daddr(true, subnet.gateway.trunc());
                    rules.push(into().l4proto(icmp).accept());
                    rules.push(
                        opened(into(), family).comment("published ports, at the containers' addresses"),
                    );
                }
            }
        }
    }
    if spec.isolated || spec.internal {
        rules.push(Rule::new(&to).drop().comment("only published ports from elsewhere"));
    }
    b.replace_chain(&to, rules);

    let mut rules = Vec::new();
    if spec.masquerade && !spec.internal {
        rules.push(Rule::new(&masquerade).oifname(true, name).back());
        rules
            .extend(spec.masquerade_except.iter().map(|net| Rule::new(&masquerade).daddr(true, *net).back()));
        for subnet in spec.subnets.iter().filter(|s| s.mode != Mode::Routed) {
            let leaving = Rule::new(&masquerade).saddr(true, subnet.gateway.trunc());
            rules.push(match subnet.leave_as {
                None => leaving.masquerade(),
                Some(address) => {
                    let family = Family::of(address);
                    leaving.load(Reg(4), key::ip(address)).expr(Expr::Snat { family, addr: Reg(4) })
                }
            });
        }
    }
    b.replace_chain(&masquerade, rules);

    let element = |chain: &str| vec![Element::verdict(key::link(name), Verdict::Jump(chain.into()))];
    b.add(BRIDGES, vec![Element::new(key::link(name))]);
    b.add(FORWARD_FROM, element(&from));
    b.add(FORWARD_TO, element(&to));
    b.add(MASQUERADE_FROM, element(&masquerade));
    b
}

/// Removes what `bridge` made.
pub(crate) fn remove_bridge(name: &str) -> Batch {
    let mut b = Batch::new();
    let gone = || vec![Element::new(key::link(name))];
    for set in [BRIDGES, FORWARD_FROM, FORWARD_TO, MASQUERADE_FROM] {
        b.delete(set, gone());
    }
    for chain in [chain_from(name), chain_to(name), chain_masquerade(name)] {
        b.op(Op::FlushChain(chain.clone())).op(Op::DeleteChain(chain));
    }
    b
}

/// The bridge whose chain this is.
pub(crate) fn bridge_of_chain(chain: &str) -> Option<&str> {
    chain.strip_prefix("from-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facade::Subnet;
    use crate::nft::{Data, Firewall, RecordingFirewall};

    fn subnet(text: &str) -> Subnet {
        text.parse::<IpNet>().unwrap().into()
    }

    fn spec(name: &str) -> BridgeSpec {
        BridgeSpec::new(name, "10.1.0.1/24".parse().unwrap())
    }

    #[test]
    fn the_static_part_is_the_same_when_applied_again() {
        let table = RecordingFirewall::new();
        table.apply(base()).unwrap();
        let once = table.state();
        table.apply(bridge(&spec("b0"))).unwrap();
        let with = table.state();
        table.apply(base()).unwrap();
        assert_eq!(table.state(), with, "a new daemon disturbs no bridge");
        table.apply(remove_bridge("b0")).unwrap();
        assert_eq!(table.state(), once, "and nothing of a removed bridge is left");
    }

    #[test]
    fn what_is_between_others_is_remembered() {
        let table = RecordingFirewall::new();
        table.apply(base()).unwrap();
        table.apply(no_router(Family::V4)).unwrap();
        let closed = table.state();
        assert_eq!((closed.chains["others"].len(), closed.chains["others6"].len()), (3, 0));
        table.apply(base()).unwrap();
        assert_eq!(
            table.state(),
            closed,
            "a new daemon finds the switch on and cannot know whose doing it was"
        );
        table.apply(passing()).unwrap();
        assert!(table.state().chains["others"].is_empty());
    }

    #[test]
    fn what_a_bridge_allows() {
        let comments = |spec: &BridgeSpec, chain: &str| {
            let table = RecordingFirewall::new();
            table.apply(base()).unwrap();
            table.apply(bridge(spec)).unwrap();
            table.state().chains[chain].len()
        };
        // (icc, isolated, internal, masquerade) → rules in from-, to-, masquerade-
        let cases = [
            ((true, true, false, true), (0, 2, 2)),
            ((false, true, false, true), (0, 2, 2)),
            ((true, false, false, true), (0, 1, 2)),
            ((true, false, true, true), (1, 2, 0)),
            ((true, true, false, false), (0, 2, 0)),
        ];
        for ((icc, isolated, internal, masquerade), (from, to, masq)) in cases {
            let spec = BridgeSpec { icc, isolated, internal, masquerade, ..spec("b0") };
            let got =
                (comments(&spec, "from-b0"), comments(&spec, "to-b0"), comments(&spec, "masquerade-b0"));
            assert_eq!(got, (from, to, masq), "{spec:?}");
        }
        let both = |mode| BridgeSpec {
            subnets: vec![
                subnet("10.1.0.1/24"),
                Subnet { mode, leave_as: Some("fd50::1".parse().unwrap()), ..subnet("fd00::1/64") },
            ],
            ..spec("b0")
        };
        assert_eq!(comments(&both(Mode::Nat), "masquerade-b0"), 3, "one for each family");
        assert_eq!(comments(&both(Mode::Routed), "masquerade-b0"), 2, "what is routed keeps its address");
        assert_eq!(comments(&both(Mode::Routed), "to-b0"), 4, "ICMP and published ports");
        assert_eq!(comments(&both(Mode::Unprotected), "to-b0"), 3);
        let direct = BridgeSpec { direct: true, admitted: Some((1, 3)), ..spec("b0") };
        assert_eq!(comments(&direct, "to-b0"), 5, "one for each family, one for the mark");
        let trusting = BridgeSpec { trusted: vec!["eth0".into()], ..spec("b0") };
        assert_eq!(comments(&trusting, "to-b0"), 4, "one for each family");
    }

    #[test]
    fn a_bridge_can_change() {
        let table = RecordingFirewall::new();
        table.apply(base()).unwrap();
        table.apply(bridge(&spec("b0"))).unwrap();
        let internal = BridgeSpec { internal: true, ..spec("b0") };
        table.apply(bridge(&internal)).unwrap();
        let fresh = RecordingFirewall::new();
        fresh.apply(base()).unwrap();
        fresh.apply(bridge(&internal)).unwrap();
        assert_eq!(table.state(), fresh.state());
        let verdict = table.state().sets[FORWARD_TO].values().next().cloned().unwrap();
        assert_eq!(verdict.data, Data::Verdict(Verdict::Jump("to-b0".into())));
    }
}
