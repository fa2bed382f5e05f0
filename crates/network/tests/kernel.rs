//! Bridges, isolation, masquerading and published ports on the real kernel.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::ErrorKind;

use network::nft::{Base, Batch, Firewall, ForeignPolicy, Hook, Kind, Manager, Nft, Op, Policy, Rule};
use network::{BridgeSpec, Error, Link, Mode, Parent, ParentKind, PortMapping, Proto};
use support::{Ns, bridge, container, machine};

fn tcp(host_ip: &str, host_port: u16, to: &str, container_port: u16) -> PortMapping {
    let (host_ip, container_ip) = (host_ip.parse().unwrap(), to.parse().unwrap());
    PortMapping { proto: Proto::Tcp, host_ip, host_port, container_ip, container_port }
}

#[test]
fn containers_of_a_bridge_and_the_world() {
    machine(|m| async move {
        let net = m.network("/run/t1");
        let out = m.outside(&net).await;
        out.serve("out", 80);
        net.ensure_bridge(&bridge("b0", "172.17.0.1/16")).await.unwrap();
        let (a, at) = container(&net, "b0", "172.17.0.2/16", "172.17.0.1").await;
        let (b, _) = container(&net, "b0", "172.17.0.3/16", "172.17.0.1").await;
        assert_eq!(at.mac, [2, 0x42, 172, 17, 0, 2]);
        assert!(at.host_ifname.len() <= 15);
        a.serve("a", 80);
        assert_eq!(m.call("172.17.0.2:80").unwrap(), "a 172.17.0.1");
        assert_eq!(
            b.call("172.17.0.2:80").unwrap(),
            "a 172.17.0.3",
            "neighbours see each other's own address"
        );
        assert_eq!(
            a.call("192.168.50.2:80").unwrap(),
            "out 192.168.50.1",
            "the world sees the machine's address"
        );
        assert_eq!(
            out.call("172.17.0.2:80").unwrap_err(),
            ErrorKind::TimedOut,
            "nothing unpublished from outside"
        );

        net.detach(&at.host_ifname).await.unwrap();
        net.detach(&at.host_ifname).await.unwrap();
        assert!(b.call("172.17.0.2:80").is_err());
        net.remove_bridge("b0").await.unwrap();
        net.remove_bridge("b0").await.unwrap();
        assert_eq!(net.firewall().chains().unwrap().iter().filter(|c| c.ends_with("b0")).count(), 0);
    });
}

#[test]
fn networks_are_apart() {
    machine(|m| async move {
        let net = m.network("/run/t2");
        let out = m.outside(&net).await;
        out.serve("out", 80);
        net.ensure_bridge(&bridge("b1", "10.1.0.1/24")).await.unwrap();
        net.ensure_bridge(&bridge("b2", "10.2.0.1/24")).await.unwrap();
        let mut quiet = bridge("b3", "10.3.0.1/24");
        quiet.icc = false;
        net.ensure_bridge(&quiet).await.unwrap();
        let mut internal = bridge("b4", "10.4.0.1/24");
        internal.internal = true;
        net.ensure_bridge(&internal).await.unwrap();
        let mut pods = bridge("b5", "10.5.0.1/24");
        pods.isolated = false;
        pods.masquerade_except = vec!["10.5.0.0/16".parse().unwrap(), "192.168.50.0/25".parse().unwrap()];
        net.ensure_bridge(&pods).await.unwrap();

        let (a, _) = container(&net, "b1", "10.1.0.2/24", "10.1.0.1").await;
        let (b, _) = container(&net, "b2", "10.2.0.2/24", "10.2.0.1").await;
        let (c, _) = container(&net, "b3", "10.3.0.2/24", "10.3.0.1").await;
        let (d, _) = container(&net, "b3", "10.3.0.3/24", "10.3.0.1").await;
        let (e, _) = container(&net, "b4", "10.4.0.2/24", "10.4.0.1").await;
        let (f, _) = container(&net, "b4", "10.4.0.3/24", "10.4.0.1").await;
        let (p, _) = container(&net, "b5", "10.5.0.2/24", "10.5.0.1").await;
        for (ns, name) in [(&a, "a"), (&b, "b"), (&c, "c"), (&d, "d"), (&e, "e"), (&f, "f"), (&p, "p")] {
            ns.serve(name, 80);
        }
        assert_eq!(a.call("10.2.0.2:80").unwrap_err(), ErrorKind::TimedOut);
        assert_eq!(b.call("10.1.0.2:80").unwrap_err(), ErrorKind::TimedOut);
        assert_eq!(
            c.call("10.3.0.3:80").unwrap_err(),
            ErrorKind::TimedOut,
            "no inter-container communication"
        );
        assert_eq!(c.call("192.168.50.2:80").unwrap(), "out 192.168.50.1");
        assert_eq!(e.call("10.4.0.3:80").unwrap(), "f 10.4.0.2", "an internal network works inside");
        assert_eq!(e.call("192.168.50.2:80").unwrap_err(), ErrorKind::TimedOut, "and not outside");
        assert_eq!(e.call("10.1.0.2:80").unwrap_err(), ErrorKind::TimedOut);
        assert_eq!(a.call("10.4.0.2:80").unwrap_err(), ErrorKind::TimedOut);
        assert_eq!(m.call("10.4.0.2:80").unwrap(), "e 10.4.0.1", "the machine itself reaches it");
        assert_eq!(out.call("10.5.0.2:80").unwrap(), "p 192.168.50.2", "pods are reachable");
        assert_eq!(p.call("192.168.50.2:80").unwrap(), "out 10.5.0.2", "and keep their address where told");
    });
}

#[test]
fn published_ports() {
    machine(|m| async move {
        let net = m.network("/run/t3");
        let out = m.outside(&net).await;
        net.ensure_bridge(&bridge("b0", "172.17.0.1/16")).await.unwrap();
        net.ensure_bridge(&bridge("b9", "172.18.0.1/16")).await.unwrap();
        let (a, _) = container(&net, "b0", "172.17.0.2/16", "172.17.0.1").await;
        let (b, _) = container(&net, "b0", "172.17.0.3/16", "172.17.0.1").await;
        let (other, _) = container(&net, "b9", "172.18.0.2/16", "172.18.0.1").await;
        a.serve("a", 80);
        a.serve_udp("a", 53);
        let udp = PortMapping { proto: Proto::Udp, ..tcp("0.0.0.0", 5353, "172.17.0.2", 53) };
        let local = tcp("127.0.0.1", 8081, "172.17.0.2", 80);
        let wan = tcp("192.168.50.1", 8082, "172.17.0.2", 80);
        let chosen = net
            .ports()
            .publish(
                "a",
                &[
                    tcp("0.0.0.0", 8080, "172.17.0.2", 80),
                    udp,
                    local,
                    wan,
                    tcp("0.0.0.0", 0, "172.17.0.2", 80),
                ],
            )
            .unwrap();
        assert!(chosen[4].host_port > 0);
        for (who, to) in
            [("127.0.0.1", "172.17.0.1"), ("192.168.50.1", "192.168.50.1"), ("172.17.0.1", "172.17.0.1")]
        {
            assert_eq!(m.call(&format!("{who}:8080")).unwrap(), format!("a {to}"), "{who}");
        }
        assert_eq!(m.call(&format!("127.0.0.1:{}", chosen[4].host_port)).unwrap(), "a 172.17.0.1");
        assert_eq!(out.call("192.168.50.1:8080").unwrap(), "a 192.168.50.2", "the client's address is kept");
        assert_eq!(out.call_udp("192.168.50.1:5353").unwrap(), "a 192.168.50.2");
        assert_eq!(m.call_udp("127.0.0.1:5353").unwrap(), "a 172.17.0.1");
        assert_eq!(b.call("172.17.0.1:8080").unwrap(), "a 172.17.0.3", "a neighbour");
        assert_eq!(a.call("172.17.0.1:8080").unwrap(), "a 172.17.0.1", "the container itself");
        assert_eq!(a.call("192.168.50.1:8080").unwrap(), "a 172.17.0.1");
        assert!(
            other.call("192.168.50.1:8080").unwrap().starts_with("a "),
            "another network, by the published port"
        );
        assert_eq!(other.call("172.17.0.2:80").unwrap_err(), ErrorKind::TimedOut, "but not past it");

        // A client that keeps its port is led to the container that has the port now.
        let socket = out.run(|| std::net::UdpSocket::bind("0.0.0.0:0").unwrap());
        socket.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
        socket.connect("192.168.50.1:7000").unwrap();
        let ask = || {
            let mut buf = [0; 100];
            let n = socket.send(b"?").and_then(|_| socket.recv(&mut buf))?;
            std::io::Result::Ok(String::from_utf8_lossy(&buf[..n]).into_owned())
        };
        b.serve_udp("b", 53);
        ask().unwrap_err();
        let at = |to| PortMapping { proto: Proto::Udp, ..tcp("0.0.0.0", 7000, to, 53) };
        net.ports().publish("u1", &[at("172.17.0.2")]).unwrap();
        assert_eq!(ask().unwrap(), "a 192.168.50.2", "published after its first datagram");
        net.ports().unpublish("u1").unwrap();
        net.ports().publish("u2", &[at("172.17.0.3")]).unwrap();
        assert_eq!(ask().unwrap(), "b 192.168.50.2");

        assert_eq!(m.call("127.0.0.1:8081").unwrap(), "a 172.17.0.1");
        assert!(out.call("192.168.50.1:8081").is_err(), "published on loopback only");
        assert_eq!(out.call("192.168.50.1:8082").unwrap(), "a 192.168.50.2");
        assert!(m.call("127.0.0.1:8082").is_err());
        // A neighbour must not reach loopback by routing to it, though the bridge accepts such packets now.
        assert!(out.call("127.0.0.1:8081").is_err());

        let taken = net.ports().publish("b", &[tcp("0.0.0.0", 8080, "172.17.0.3", 80)]).unwrap_err();
        assert!(
            taken.to_string().starts_with("Bind for 0.0.0.0:8080 failed: port is already allocated"),
            "{taken}"
        );
        let overlap = net.ports().publish("b", &[tcp("127.0.0.1", 8080, "172.17.0.3", 80)]).unwrap_err();
        assert!(overlap.to_string().ends_with("(by a)"), "{overlap}");
        let holder = std::net::TcpListener::bind("127.0.0.1:9999").unwrap();
        let foreign = net.ports().publish("b", &[tcp("127.0.0.1", 9999, "172.17.0.3", 80)]).unwrap_err();
        assert!(matches!(foreign, Error::PortInUse { .. }), "{foreign}");
        drop(holder);
        assert!(std::net::TcpListener::bind("0.0.0.0:8080").is_err(), "the port is kept from others");

        net.ports().publish("b", &[tcp("0.0.0.0", 8090, "172.17.0.2", 80)]).unwrap();
        net.ports().unpublish("a").unwrap();
        assert!(m.call("127.0.0.1:8080").is_err());
        assert!(out.call("192.168.50.1:8082").is_err());
        assert_eq!(
            a.call("172.17.0.1:8090").unwrap(),
            "a 172.17.0.1",
            "the hairpin of the other owner stays"
        );
        std::net::TcpListener::bind("0.0.0.0:8080").unwrap();
    });
}

#[test]
fn a_new_daemon_takes_over_without_a_gap() {
    machine(|m| async move {
        let net = m.network("/run/t4");
        let out = m.outside(&net).await;
        net.ensure_bridge(&bridge("b0", "172.17.0.1/16")).await.unwrap();
        net.ensure_bridge(&bridge("b1", "172.18.0.1/16")).await.unwrap();
        let (a, _) = container(&net, "b0", "172.17.0.2/16", "172.17.0.1").await;
        a.serve("a", 80);
        net.ports().publish("a", &[tcp("0.0.0.0", 8080, "172.17.0.2", 80)]).unwrap();
        net.ports()
            .publish(
                "dead",
                &[tcp("0.0.0.0", 8081, "172.17.0.9", 80), tcp("127.0.0.1", 8083, "172.17.0.2", 80)],
            )
            .unwrap();
        let before = net.ports().published("a");
        drop(net);

        let net = m.network("/run/t4");
        assert_eq!(out.call("192.168.50.1:8080").unwrap(), "a 192.168.50.2", "before anyone said anything");
        assert_eq!(net.ports().published("a"), before);
        assert!(std::net::TcpListener::bind("0.0.0.0:8080").is_err(), "reserved again");
        net.ensure_bridge(&bridge("b0", "172.17.0.1/16")).await.unwrap();
        net.retain_bridges(|name| name == "b0").await.unwrap();
        net.ports().retain(|owner| owner == "a").unwrap();
        assert_eq!(net.ports().publish("a", &before).unwrap(), before, "publishing again is nothing new");
        assert!(net.ports().published("dead").is_empty());
        assert_eq!(out.call("192.168.50.1:8080").unwrap(), "a 192.168.50.2");
        assert_eq!(a.call("192.168.50.1:8080").unwrap(), "a 172.17.0.1", "hairpin still");
        let links: Vec<_> = net.link().list().await.unwrap().into_iter().map(|l| l.name).collect();
        assert!(links.contains(&"b0".into()) && !links.contains(&"b1".into()), "{links:?}");

        net.teardown().await.unwrap();
        let links: Vec<_> = net.link().list().await.unwrap().into_iter().map(|l| l.name).collect();
        assert!(
            !links.contains(&"b0".into()) && links.contains(&"wan0".into()),
            "only ours are removed: {links:?}"
        );
        assert!(net.firewall().chains().unwrap().is_empty());
        assert!(!links.iter().any(|l| l.starts_with('v') && l.len() == 15), "{links:?}");
    });
}

#[test]
fn two_instances_leave_each_other_alone() {
    machine(|m| async move {
        let (one, two) = (m.network("/run/one"), m.network("/run/two"));
        one.ensure_bridge(&bridge("x0", "10.1.0.1/24")).await.unwrap();
        two.ensure_bridge(&bridge("y0", "10.2.0.1/24")).await.unwrap();
        let (a, _) = container(&one, "x0", "10.1.0.2/24", "10.1.0.1").await;
        let (b, _) = container(&two, "y0", "10.2.0.2/24", "10.2.0.1").await;
        a.serve("a", 80);
        b.serve("b", 80);
        one.ports().publish("a", &[tcp("0.0.0.0", 8001, "10.1.0.2", 80)]).unwrap();
        two.ports().publish("b", &[tcp("0.0.0.0", 8002, "10.2.0.2", 80)]).unwrap();
        one.retain_bridges(|_| false).await.unwrap();
        one.teardown().await.unwrap();
        assert_eq!(m.call("127.0.0.1:8002").unwrap(), "b 10.2.0.1");
        assert!(m.call("127.0.0.1:8001").is_err());
        one.teardown().await.unwrap();
    });
}

#[test]
fn ipv6() {
    machine(|m| async move {
        let net = m.network("/run/t6");
        let out = m.outside(&net).await;
        out.serve6("out", 80);
        let mut spec = bridge("b0", "172.17.0.1/16");
        spec.subnets.push("fd17::1/64".parse::<ipnet::IpNet>().unwrap().into());
        net.ensure_bridge(&spec).await.unwrap();
        let ns = Ns::new();
        net.attach(&network::AttachSpec {
            netns: ns.path.clone(),
            bridge: "b0".into(),
            ifname: "eth0".into(),
            addresses: vec!["172.17.0.2/16".parse().unwrap(), "fd17::2/64".parse().unwrap()],
            gateway: Some("172.17.0.1".parse().unwrap()),
            gateway6: Some("fd17::1".parse().unwrap()),
            ..Default::default()
        })
        .await
        .unwrap();
        ns.serve6("six", 80);
        assert_eq!(ns.call("[fd50::2]:80").unwrap(), "out");
        net.ports()
            .publish("six", &[tcp("::", 8080, "fd17::2", 80), tcp("0.0.0.0", 8080, "172.17.0.2", 80)])
            .unwrap();
        assert_eq!(out.call("[fd50::1]:8080").unwrap(), "six");
        assert_eq!(out.call("192.168.50.1:8080").unwrap(), "six");
        assert_eq!(m.call("[fd50::1]:8080").unwrap(), "six");
        assert_eq!(ns.call("[fd17::1]:8080").unwrap(), "six", "hairpin");
        assert!(out.call("[fd17::2]:80").is_err());
        assert_eq!(
            m.call_while("[::1]:8080").await.unwrap(),
            "six",
            "what the kernel cannot translate is passed on"
        );
        net.ports().publish("six", &[tcp("::", 8081, "172.17.0.2", 80)]).unwrap();
        for to in ["[::1]:8081", "[fd50::1]:8081"] {
            assert_eq!(m.call_while(to).await.unwrap(), "six", "another family, by {to}");
        }
        assert!(std::net::TcpListener::bind("[::]:8081").is_err(), "kept from others");
        net.ports().unpublish("six").unwrap();
        assert!(m.call_while("[fd50::1]:8081").await.is_err());
        assert!(m.call_while("[::1]:8080").await.is_err());
    });
}

#[test]
fn ways_in_and_out() {
    machine(|m| async move {
        let net = m.network("/run/t13");
        let out = m.outside(&net).await;
        out.serve("out", 80);
        let of = |name: &str, gateway: &str, mode, leave_as: Option<&str>| {
            let mut spec = bridge(name, gateway);
            spec.subnets[0].mode = mode;
            spec.subnets[0].leave_as = leave_as.map(|a| a.parse().unwrap());
            spec
        };
        m.link
            .ensure_bridge(&network::link::BridgeLink {
                name: "wan1".into(),
                alias: "someone else's".into(),
                mac: [2, 0, 0, 0, 0, 7],
                mtu: None,
                addresses: vec!["192.168.60.1/24".parse().unwrap()],
            })
            .await
            .unwrap();
        net.ensure_bridge(&of("b1", "10.1.0.1/24", Mode::Routed, None)).await.unwrap();
        net.ensure_bridge(&of("b2", "10.2.0.1/24", Mode::Unprotected, None)).await.unwrap();
        net.ensure_bridge(&of("b3", "10.3.0.1/24", Mode::Nat, Some("192.168.60.1"))).await.unwrap();
        let trusting = BridgeSpec { trusted: vec!["wan0".into()], ..bridge("b4", "10.4.0.1/24") };
        net.ensure_bridge(&trusting).await.unwrap();
        let mut all = Vec::new();
        for n in 1..=4 {
            let (bridge, at) = (format!("b{n}"), format!("10.{n}.0.2/24"));
            let (ns, _) = container(&net, &bridge, &at, &format!("10.{n}.0.1")).await;
            ns.serve(&bridge, 80);
            ns.serve(&bridge, 81);
            all.push(ns);
        }
        assert_eq!(
            all[0].call("192.168.50.2:80").unwrap(),
            "out 10.1.0.2",
            "what is routed keeps its address"
        );
        assert_eq!(
            all[2].call("192.168.50.2:80").unwrap(),
            "out 192.168.60.1",
            "under the address that was named"
        );
        assert_eq!(out.call("10.1.0.2:80").unwrap_err(), ErrorKind::TimedOut);
        net.ports().expose("c", &[(Proto::Tcp, "10.1.0.2".parse().unwrap(), 80)]).unwrap();
        assert_eq!(out.call("10.1.0.2:80").unwrap(), "b1 192.168.50.2");
        assert_eq!(out.call("10.1.0.2:81").unwrap_err(), ErrorKind::TimedOut, "what is not published");
        assert_eq!(out.call("10.2.0.2:81").unwrap(), "b2 192.168.50.2", "unprotected");
        net.ports().publish("d", &[tcp("127.0.0.1", 8084, "10.4.0.2", 80)]).unwrap();
        assert_eq!(out.call("10.4.0.2:80").unwrap(), "b4 192.168.50.2", "from a trusted link");
        assert_eq!(out.call("10.4.0.2:81").unwrap_err(), ErrorKind::TimedOut);
        assert_eq!(all[1].call("10.4.0.2:80").unwrap_err(), ErrorKind::TimedOut, "from another");
        net.ports().unpublish("c").unwrap();
        assert_eq!(out.call("10.1.0.2:80").unwrap_err(), ErrorKind::TimedOut);
    });
}

#[test]
fn somebody_elses_bridge_is_used_and_left() {
    machine(|m| async move {
        let net = m.network("/run/t14");
        let theirs = network::link::BridgeLink {
            name: "br-own".into(),
            alias: String::new(),
            mac: [2, 0, 0, 0, 0, 9],
            mtu: None,
            addresses: vec!["10.9.0.1/24".parse().unwrap()],
        };
        m.link.ensure_bridge(&theirs).await.unwrap();
        net.ensure_bridge(&bridge("br-own", "10.8.0.1/24")).await.unwrap();
        let (a, _) = container(&net, "br-own", "10.8.0.2/24", "10.8.0.1").await;
        a.serve("a", 80);
        assert_eq!(m.call("10.8.0.2:80").unwrap(), "a 10.8.0.1");
        net.remove_bridge("br-own").await.unwrap();
        assert!(net.link_exists("br-own").await.unwrap());
        assert!(std::net::TcpListener::bind("10.9.0.1:0").is_ok(), "with its own address");
        net.teardown().await.unwrap();
        assert!(net.link_exists("br-own").await.unwrap());
    });
}

#[test]
fn parents_come_and_go() {
    machine(|m| async move {
        let net = m.network("/run/t15");
        let _out = m.outside(&net).await;
        let nowhere = Parent { name: "dm-123456789012".into(), kind: ParentKind::Nowhere };
        assert!(net.ensure_parent(&nowhere).await.unwrap());
        assert!(net.ensure_parent(&nowhere).await.unwrap(), "still ours");
        let theirs = Parent { name: "wan0".into(), kind: ParentKind::Nowhere };
        assert!(!net.ensure_parent(&theirs).await.unwrap());
        let (a, b) = (Ns::new(), Ns::new());
        for (ns, ip) in [(&a, "10.7.0.2/24"), (&b, "10.7.0.3/24")] {
            let spec = network::AttachSpec {
                netns: ns.path.clone(),
                ifname: "eth0".into(),
                addresses: vec![ip.parse().unwrap()],
                uplink: Some(network::link::Uplink::Macvlan { parent: nowhere.name.clone(), mode: 4 }),
                ..Default::default()
            };
            net.attach(&spec).await.unwrap();
        }
        b.serve("b", 80);
        assert_eq!(a.call("10.7.0.3:80").unwrap(), "b 10.7.0.2");
        net.remove_parent(&nowhere.name).await.unwrap();
        net.remove_parent("wan0").await.unwrap();
        assert!(!net.link_exists(&nowhere.name).await.unwrap());
        assert!(net.link_exists("wan0").await.unwrap());
        let vlan = Parent { name: "wan0.7".into(), kind: ParentKind::Vlan { of: "wan0".into(), id: 7 } };
        match net.ensure_parent(&vlan).await {
            Err(e) if e.errno() == Some(nix::libc::EOPNOTSUPP) => {
                println!("skipped: no VLANs in this kernel: {e}");
            }
            other => {
                assert!(other.unwrap());
                net.remove_parent("wan0.7").await.unwrap();
                assert!(!net.link_exists("wan0.7").await.unwrap());
            }
        }
    });
}

#[test]
fn a_failing_batch_names_its_operation_and_changes_nothing() {
    machine(|m| async move {
        let net = m.network("/run/t7");
        let before = net.firewall().chains().unwrap();
        let mut batch = Batch::new();
        batch.chain("new").rule(Rule::new("nowhere").accept().comment("lost")).chain("after");
        let error = net.firewall().apply(batch).unwrap_err();
        assert!(
            error.to_string().contains("add rule \"lost\" to chain nowhere: No such file or directory"),
            "{error}"
        );
        assert_eq!(net.firewall().chains().unwrap(), before);
        let mut batch = Batch::new();
        batch.op(Op::DeleteChain("published".into()));
        let error = net.firewall().apply(batch).unwrap_err();
        assert!(error.to_string().contains("delete chain published: Device or resource busy"), "{error}");
    });
}

#[test]
fn a_failed_attach_leaves_nothing() {
    machine(|m| async move {
        let net = m.network("/run/t8");
        net.ensure_bridge(&bridge("b0", "172.17.0.1/16")).await.unwrap();
        let ns = Ns::new();
        let mut spec = network::AttachSpec {
            netns: ns.path.clone(),
            bridge: "b0".into(),
            ifname: "eth0".into(),
            addresses: vec!["172.17.0.2/16".parse().unwrap()],
            sysctls: vec![("net.ipv4.conf.eth0.no_such_thing".into(), "1".into())],
            ..Default::default()
        };
        let count = net.link().list().await.unwrap().len();
        let error = net.attach(&spec).await.unwrap_err();
        assert!(error.to_string().contains("net.ipv4.conf.eth0.no_such_thing"), "{error}");
        assert_eq!(net.link().list().await.unwrap().len(), count);
        spec.sysctls.clear();
        spec.bridge = "missing".into();
        let error = net.attach(&spec).await.unwrap_err();
        assert_eq!(error.to_string(), "find link missing: No such device (os error 19)");
        spec.bridge = "b0".into();
        net.attach(&spec).await.unwrap();
    });
}

/// A container's start waits for this: SPEC.md promises the whole of it.
#[test]
fn an_interface_costs_milliseconds() {
    machine(|m| async move {
        let net = m.network("/run/t9");
        net.ensure_bridge(&bridge("b0", "172.17.0.1/16")).await.unwrap();
        let (mut attach, mut publish, mut detach, mut unpublish) = (vec![], vec![], vec![], vec![]);
        for i in 0..20 {
            let ns = Ns::new();
            let spec = network::AttachSpec {
                netns: ns.path.clone(),
                bridge: "b0".into(),
                ifname: "eth0".into(),
                addresses: vec![format!("172.17.1.{i}/16").parse().unwrap()],
                gateway: Some("172.17.0.1".parse().unwrap()),
                ..Default::default()
            };
            let clock = tokio::time::Instant::now();
            let attached = net.attach(&spec).await.unwrap();
            attach.push(clock.elapsed());
            let clock = tokio::time::Instant::now();
            net.ports().publish("x", &[tcp("0.0.0.0", 0, "172.17.1.1", 80)]).unwrap();
            publish.push(clock.elapsed());
            let clock = tokio::time::Instant::now();
            net.ports().unpublish("x").unwrap();
            unpublish.push(clock.elapsed());
            let clock = tokio::time::Instant::now();
            net.detach(&attached.host_ifname).await.unwrap();
            detach.push(clock.elapsed());
        }
        for (what, times) in [
            ("attach", &mut attach),
            ("publish", &mut publish),
            ("unpublish", &mut unpublish),
            ("detach", &mut detach),
        ] {
            times.sort();
            println!("{what}: median {:?}, worst {:?}", times[10], times[19]);
            assert!(times[10] < std::time::Duration::from_millis(60), "{what}: {times:?}");
        }
    });
}

#[test]
fn macvlan() {
    machine(|m| async move {
        let net = m.network("/run/t10");
        let out = m.outside(&net).await;
        out.serve("out", 80);
        m.link_called_eth0().await;
        let attach = |ns: &Ns, ip: &str| network::AttachSpec {
            netns: ns.path.clone(),
            ifname: "eth0".into(),
            addresses: vec![ip.parse().unwrap()],
            gateway: Some("192.168.50.2".parse().unwrap()),
            uplink: Some(network::link::Uplink::Macvlan { parent: "wan0".into(), mode: 4 }),
            ..Default::default()
        };
        let (a, b) = (Ns::new(), Ns::new());
        let attached = net.attach(&attach(&a, "192.168.50.7/24")).await.unwrap();
        assert_eq!((attached.host_ifname.as_str(), attached.mac), ("", [2, 0x42, 192, 168, 50, 7]));
        net.attach(&attach(&b, "192.168.50.8/24")).await.unwrap();
        b.serve("b", 80);
        assert_eq!(a.call("192.168.50.2:80").unwrap(), "out 192.168.50.7");
        assert_eq!(a.call("192.168.50.8:80").unwrap(), "b 192.168.50.7");
        net.detach_in(&a.path, "eth0").await.unwrap();
        net.detach_in(&a.path, "eth0").await.unwrap();
        assert!(a.call("192.168.50.2:80").is_err());
        net.attach(&attach(&a, "192.168.50.7/24")).await.unwrap();
    });
}

#[test]
fn ipvlan() {
    machine(|m| async move {
        let net = m.network("/run/t13");
        let out = m.outside(&net).await;
        out.serve("out", 80);
        m.link_called_eth0().await;
        let attach = |ns: &Ns, last: u8| network::AttachSpec {
            netns: ns.path.clone(),
            ifname: "eth0".into(),
            addresses: [format!("192.168.50.{last}/24"), format!("fd50::{last}/64")]
                .map(|a| a.parse().unwrap())
                .into(),
            gateway: Some("192.168.50.2".parse().unwrap()),
            uplink: Some(network::link::Uplink::Ipvlan { parent: "wan0".into(), mode: 0, flags: 0 }),
            ..Default::default()
        };
        let (a, b) = (Ns::new(), Ns::new());
        match net.attach(&attach(&a, 7)).await {
            Err(e) if e.errno() == Some(nix::libc::EOPNOTSUPP) => {
                println!("skipped: no ipvlan in this kernel: {e}");
                return;
            }
            attached => assert_eq!(attached.unwrap().mac, [2, 0, 0, 0, 0, 1], "it has its parent's"),
        }
        net.attach(&attach(&b, 8)).await.unwrap();
        b.serve("b", 80);
        b.serve6("b6", 81);
        assert_eq!(a.call("192.168.50.2:80").unwrap(), "out 192.168.50.7");
        assert_eq!(a.call("192.168.50.8:80").unwrap(), "b 192.168.50.7");
        assert_eq!(a.call("[fd50::8]:81").unwrap(), "b6");
        // A link has macvlans or ipvlans, never both; and a namespace has each name once.
        let c = Ns::new();
        let mut other = attach(&c, 9);
        other.uplink = Some(network::link::Uplink::Macvlan { parent: "wan0".into(), mode: 4 });
        assert_eq!(net.attach(&other).await.unwrap_err().errno(), Some(nix::libc::EBUSY));
        let again = net.attach(&attach(&a, 9)).await;
        assert_eq!(again.unwrap_err().errno(), Some(nix::libc::EEXIST));
        assert_eq!(a.links(), ["eth0", "lo"], "nothing is left of it");
        net.detach_in(&a.path, "eth0").await.unwrap();
        assert!(a.call("192.168.50.2:80").is_err());
    });
}

#[test]
fn a_container_can_join_and_leave_networks_while_it_runs() {
    machine(|m| async move {
        let net = m.network("/run/t11");
        net.ensure_bridge(&bridge("b1", "10.1.0.1/24")).await.unwrap();
        net.ensure_bridge(&bridge("b2", "10.2.0.1/24")).await.unwrap();
        let (a, _) = container(&net, "b1", "10.1.0.2/24", "10.1.0.1").await;
        let (b, _) = container(&net, "b2", "10.2.0.2/24", "10.2.0.1").await;
        b.serve("b", 80);
        assert!(a.call("10.2.0.2:80").is_err());
        let spec = network::AttachSpec {
            netns: a.path.clone(),
            bridge: "b2".into(),
            ifname: "eth1".into(),
            addresses: vec!["10.2.0.3/24".parse().unwrap()],
            ..Default::default()
        };
        let joined = net.attach(&spec).await.unwrap();
        assert_eq!(a.call("10.2.0.2:80").unwrap(), "b 10.2.0.3");
        net.detach(&joined.host_ifname).await.unwrap();
        assert!(a.call("10.2.0.2:80").is_err());
        net.attach(&spec).await.unwrap();
        assert_eq!(a.call("10.2.0.2:80").unwrap(), "b 10.2.0.3", "and again, under the same address");
    });
}

/// A firewall of the machine's owner is not bypassed, and can be named.
#[test]
fn a_foreign_policy_holds() {
    machine(|m| async move {
        let net = m.network("/run/t12");
        let out = m.outside(&net).await;
        net.ensure_bridge(&bridge("b0", "172.17.0.1/16")).await.unwrap();
        let (a, _) = container(&net, "b0", "172.17.0.2/16", "172.17.0.1").await;
        a.serve("a", 80);
        net.ports().publish("a", &[tcp("0.0.0.0", 8080, "172.17.0.2", 80)]).unwrap();
        assert_eq!(out.call("192.168.50.1:8080").unwrap(), "a 192.168.50.2");
        let nft = Nft::open("tug-test-owner").unwrap();
        assert!(nft.foreign_policies().unwrap().is_empty());
        let mut batch = Batch::new();
        let base = Base { kind: Kind::Filter, hook: Hook::Forward, priority: 10, policy: Policy::Drop };
        batch.op(Op::AddTable).op(Op::AddChain { name: "guard".into(), base: Some(base) });
        nft.apply(batch).unwrap();
        assert_eq!(out.call("192.168.50.1:8080").unwrap_err(), ErrorKind::TimedOut);
        let seen = Nft::open(&m.instance("/run/t12").name()).unwrap().foreign_policies().unwrap();
        let guard =
            ForeignPolicy { table: "inet tug-test-owner".into(), chain: "guard".into(), hook: Hook::Forward };
        assert_eq!(seen, [guard]);
        assert_eq!(nft.manager().unwrap(), None);
        for (table, chain, manager) in [
            ("filter", "ufw-before-forward", Manager::Ufw),
            ("firewalld", "filter_FORWARD", Manager::Firewalld),
        ] {
            let other = Nft::open(table).unwrap();
            let mut batch = Batch::new();
            batch.op(Op::AddTable).op(Op::AddChain { name: chain.into(), base: None });
            other.apply(batch).unwrap();
            assert_eq!(nft.manager().unwrap(), Some(manager));
            other.remove_table().unwrap();
        }
    });
}
