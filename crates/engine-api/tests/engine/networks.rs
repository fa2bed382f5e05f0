//! Networks, ports and names, as the docker client sees them.

use serde_json::{Value, json};

use crate::support::{Engine, which};

/// The docker client on an engine: exit code and everything it said.
struct Docker<'a>(&'a Engine);

impl Docker<'_> {
    fn run(&self, line: &str) -> (i32, String) {
        let output = self.0.docker(&line.split_whitespace().collect::<Vec<_>>());
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code().unwrap_or(-1), text.trim().to_owned())
    }

    /// What a command that must succeed prints.
    fn ok(&self, line: &str) -> String {
        let (code, text) = self.run(line);
        assert_eq!(code, 0, "docker {line}: {text}");
        text
    }

    /// What a command that must fail prints.
    fn fails(&self, line: &str) -> String {
        let (code, text) = self.run(line);
        assert_ne!(code, 0, "docker {line}: {text}");
        text
    }

    fn sh(&self, container: &str, script: &str) -> String {
        let output = self.0.docker(&["exec", container, "sh", "-c", script]);
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }
}

macro_rules! client {
    ($engine:ident) => {{
        if which("docker").is_none() {
            println!("skipped: needs the docker client (Debian: apt-get install docker-cli)");
            return;
        }
        Docker(&$engine)
    }};
}

fn serve(docker: &Docker<'_>, options: &str, name: &str) {
    let mut arguments = vec!["run", "-d", "--name", name, "--hostname", name];
    arguments.extend(options.split_whitespace());
    let script = format!("mkdir -p /tmp/w; echo {name} > /tmp/w/index.html; exec httpd -f -h /tmp/w");
    arguments.extend(["busybox:test", "sh", "-c", &script]);
    let output = docker.0.docker(&arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What the machine gets from a URL.
fn get(engine: &Engine, url: &str) -> String {
    // The server may not listen yet: its process has just been started.
    for _ in 0..100 {
        let text = engine.beside(&["busybox", "timeout", "5", "busybox", "wget", "-q", "-O", "-", url]);
        if !text.contains("refused") && !text.contains("reset") {
            return text.trim().to_owned();
        }
    }
    "refused".to_owned()
}

#[test]
fn what_cannot_be_made() {
    skip_if_lacking!();
    let engine = Engine::start();
    let make = |body: Value| {
        let answer = engine.post("/networks/create", &body);
        (answer.status, if answer.status == 201 { String::new() } else { answer.message() })
    };
    let pool = |subnet: &str| json!({"Config": [{"Subnet": subnet}]});
    assert_eq!(make(json!({"Name": ""})), (400, "invalid name: name is empty".into()));
    assert_eq!(
        make(json!({"Name": "host"})),
        (403, "operation is not permitted on predefined host network ".into())
    );
    assert_eq!(
        make(json!({"Name": "x", "Driver": "zz"})),
        (404, "could not find plugin zz in v1 plugin registry: plugin not found".into())
    );
    assert_eq!(make(json!({"Name": "x", "Driver": "host"})).0, 403);
    assert_eq!(
        make(json!({"Name": "x", "IPAM": pool("10.99.1.1/24")})),
        (400, "invalid network config:\ninvalid subnet 10.99.1.1/24: it should be 10.99.1.0/24".into())
    );
    assert_eq!(make(json!({"Name": "x", "EnableIPv4": false})), (400, "IPv4 or IPv6 must be enabled".into()));
    let two = json!({"Config": [{"Subnet": "10.99.1.0/24"}, {"Subnet": "10.99.2.0/24"}]});
    assert_eq!(
        make(json!({"Name": "x", "IPAM": two})),
        (403, "bridge driver doesn't support multiple subnets".into())
    );
    let icc = json!({"com.docker.network.bridge.enable_icc": "maybe"});
    assert_eq!(make(json!({"Name": "x", "Options": icc})).0, 400);
    assert_eq!(
        make(json!({"Name": "a", "IPAM": pool("10.99.1.0/24"), "Options": null, "Labels": null})).0,
        201
    );
    let named = engine.get("/networks/a").json()["Id"].as_str().unwrap().to_owned();
    assert!(
        make(json!({"Name": "x", "IPAM": pool("10.99.0.0/16")})).1.contains("Pool overlaps with other one")
    );
    let bridge = json!({"com.docker.network.bridge.name": format!("br-{}", &named[..12])});
    assert!(make(json!({"Name": "x", "Options": bridge})).1.ends_with("networks have same bridge name"));

    // A configuration and what follows it.
    let config =
        json!({"Name": "config", "ConfigOnly": true, "IPAM": pool("10.99.7.0/24"), "Labels": {"a": "b"}});
    assert_eq!(make(config).0, 201);
    let follow = json!({"Name": "follows", "ConfigFrom": {"Network": "config"}});
    assert_eq!(make(follow.clone()).0, 201);
    let made = engine.get("/networks/follows").json();
    assert_eq!(
        (&made["IPAM"]["Config"][0]["Subnet"], &made["Labels"]["a"]),
        (&json!("10.99.7.0/24"), &json!("b"))
    );
    let mut more = follow;
    more["EnableIPv6"] = json!(true);
    assert_eq!(make(more).0, 409, "the name comes first");
    let refused = engine.delete("/networks/config");
    assert_eq!(
        (refused.status, refused.message().as_str()),
        (403, "error while removing network: configuration network \"config\" is in use")
    );
    assert_eq!(engine.delete("/networks/follows").status, 204);
    assert_eq!(engine.delete("/networks/config").status, 204);

    let list = |filters: Value| {
        let path = format!("/networks?filters={}", filters.to_string().replace('"', "%22"));
        let answer = engine.get(&path);
        match answer.json() {
            Value::Array(all) => {
                all.iter().map(|n| n["Name"].as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
            }
            other => format!("{} {}", answer.status, other["message"].as_str().unwrap()),
        }
    };
    assert_eq!(list(json!({"type": ["custom"]})), "a");
    assert_eq!(list(json!({"dangling": ["true"]})), "a");
    assert_eq!(list(json!({"name": ["^ho"]})), "host");
    assert_eq!(list(json!({"driver": ["null"]})), "none");
    assert_eq!(list(json!({"scope": ["swarm"]})), "");
    assert_eq!(list(json!({"type": ["x"]})), "500 invalid filter: 'type'='x'");
    assert_eq!(list(json!({"what": ["x"]})), "400 invalid filter 'what'");
    let pruned = engine.post("/networks/prune", &json!(null)).json();
    assert_eq!(pruned["NetworksDeleted"], json!(["a"]));
    assert_eq!(engine.get("/networks/nope").message(), "network nope not found");
}

#[test]
fn both_families_by_name_and_by_port() {
    skip_if_lacking!();
    let mut engine = Engine::start();
    let docker = client!(engine);
    docker.ok("network create --ipv6 --subnet 10.98.0.0/24 --subnet fd98::/64 --ip-range 10.98.0.64/26 --aux-address x=10.98.0.65 n1");
    serve(&docker, "--network n1 --network-alias www -p 8080:80 -p 127.0.0.1::80/udp", "web");
    docker.ok("run -d --name c1 --network n1 --dns-option ndots:1 --link web:linked busybox:test sleep 1000");
    let shown = |what: &str| docker.ok(&format!("inspect -f {{{{{what}}}}} web"));
    assert_eq!(shown(".NetworkSettings.Networks.n1.IPAddress"), "10.98.0.66");
    assert_eq!(shown(".NetworkSettings.Networks.n1.GlobalIPv6Address"), "fd98::2");
    assert_eq!(shown(".NetworkSettings.Networks.n1.IPv6Gateway"), "fd98::1");
    assert_eq!(docker.ok("port web 80/tcp"), "0.0.0.0:8080\n[::]:8080");
    for name in ["web", "www", "linked", "web.n1"] {
        let found = docker.sh("c1", &format!("nslookup {name} 127.0.0.11"));
        assert!(found.contains("10.98.0.66") && found.contains("fd98::2"), "{name}: {found}");
    }
    let back = docker.sh("c1", "nslookup 10.98.0.66 127.0.0.11; nslookup fd98::2 127.0.0.11");
    assert_eq!(back.matches("web.n1").count(), 2, "{back}");
    for url in
        ["http://127.0.0.1:8080", "http://[::1]:8080", "http://10.98.0.64:8080", "http://[fd98::1]:8080"]
    {
        assert_eq!(get(&engine, url), "web", "{url}");
    }
    assert_eq!(docker.sh("c1", "wget -q -O - http://[fd98::2]"), "web\n");
    assert_eq!(docker.sh("web", "wget -q -O - http://10.98.0.64:8080"), "web\n", "by its own published port");
    let taken = docker.fails("run --name c2 -p 8080:80 busybox:test true");
    assert!(
        taken.contains("Bind for 0.0.0.0:8080 failed: port is already allocated (by container web)"),
        "{taken}"
    );
    let taken = docker.fails("run --rm --network n1 --ip 10.98.0.66 busybox:test true");
    assert!(taken.contains("Address already in use"), "{taken}");
    let outside = docker.fails("run --rm --network n1 --ip 10.9.0.1 busybox:test true");
    assert!(outside.contains("no configured subnet contains IP address 10.9.0.1"), "{outside}");

    engine.kill();
    engine.start_again();
    let docker = Docker(&engine);
    for url in ["http://127.0.0.1:8080", "http://[::1]:8080"] {
        assert_eq!(get(&engine, url), "web", "{url}, after the daemon was killed");
    }
    assert!(docker.sh("c1", "nslookup www 127.0.0.11").contains("10.98.0.66"));
    let members = engine.get("/networks/n1").json()["Containers"].as_object().unwrap().clone();
    let addresses: Vec<_> = members.values().map(|m| m["IPv6Address"].as_str().unwrap_or("")).collect();
    assert!(addresses.contains(&"fd98::2/64") && addresses.len() == 2, "{members:?}");
    let busy = docker.fails("network rm n1");
    assert!(
        busy.contains("has active endpoints (name:\"c1\" id:\"") || busy.contains("name:\"web\""),
        "{busy}"
    );
    docker.ok("rm -f web c1 c2");
    docker.ok("network rm n1");
}

#[test]
fn joining_and_leaving() {
    skip_if_lacking!();
    let engine = Engine::start();
    let docker = client!(engine);
    for n in 1..=3 {
        docker.ok(&format!("network create --subnet 10.97.{n}.0/24 n{n}"));
    }
    docker.ok("network create --internal --subnet 10.97.4.0/24 inner");
    docker.ok("run -d --name cc --network n2 -p 8081:80 busybox:test sleep 1000");
    serve(&docker, "--network n3", "far");
    let route = || docker.sh("cc", "ip route").lines().next().unwrap_or("").to_owned();
    assert!(route().starts_with("default via 10.97.2.1 dev eth0"), "{}", route());
    assert!(
        docker.sh("cc", "busybox timeout 1 wget -q -O - http://10.97.3.2 || echo no way").contains("no way"),
        "networks are apart"
    );
    docker.ok("network connect --alias x --ip 10.97.3.9 n3 cc");
    assert_eq!(docker.sh("cc", "wget -q -O - http://far"), "far\n");
    assert!(docker.sh("far", "nslookup x 127.0.0.11").contains("10.97.3.9"));
    assert!(route().starts_with("default via 10.97.2.1"), "n2 comes before n3");
    docker.ok("network connect n1 cc");
    assert!(route().starts_with("default via 10.97.1.1 dev eth2"), "n1 before n2: {}", route());
    docker.ok("network disconnect n1 cc");
    assert!(route().starts_with("default via 10.97.2.1 dev eth0"), "{}", route());
    docker.ok("network connect --gw-priority 1 n1 cc");
    assert!(route().starts_with("default via 10.97.1.1"), "{}", route());
    assert_eq!(docker.ok("port cc"), "80/tcp -> 0.0.0.0:8081\n80/tcp -> [::]:8081", "ports follow the route");
    assert!(docker.sh("cc", "cat /etc/hosts").contains("10.97.3.9"));
    let again = docker.fails("network connect n1 cc");
    assert!(again.contains("endpoint with name cc already exists in network n1"), "{again}");
    docker.ok("network disconnect n3 cc");
    assert!(!docker.sh("cc", "cat /etc/hosts").contains("10.97.3.9"));
    assert!(docker.sh("far", "nslookup x 127.0.0.11").contains("can't"), "its name is gone");
    let none = docker.fails("network connect none cc");
    assert!(none.contains("container cannot be connected to multiple networks"), "{none}");
    let gone = docker.fails("network disconnect n3 cc");
    assert!(gone.contains("is not connected to network n3"), "{gone}");

    docker.ok("run -d --name inner1 --network inner busybox:test sleep 1000");
    assert_eq!(docker.sh("inner1", "ip route | grep -c default"), "0\n");
    // A question for elsewhere must not leave by the engine's own way.
    assert!(docker.sh("inner1", "nslookup example.org 127.0.0.11").contains("SERVFAIL"));
    docker.ok("create --name later --network n9 busybox:test true");
    let missing = docker.fails("start later");
    assert!(missing.contains("network n9 not found"), "{missing}");
}

#[test]
fn macvlans() {
    skip_if_lacking!();
    let engine = Engine::start();
    let docker = client!(engine);
    // That the machine has a link of that name, as most have, is nothing to the containers.
    engine.beside(&["busybox", "ip", "link", "add", "eth0", "type", "bridge"]);
    docker.ok("network create -d macvlan --subnet 10.96.1.0/24 m1");
    serve(&docker, "--network m1", "aa");
    docker.ok("run -d --name bb --network m1 --mac-address 02:00:00:00:00:07 busybox:test sleep 1000");
    assert_eq!(docker.sh("bb", "wget -q -O - http://aa"), "aa\n");
    assert!(docker.sh("bb", "ip link show eth0").contains("02:00:00:00:00:07"));
    let id = docker.ok("network inspect -f {{.Id}} m1");
    let link = format!("dm-{}", &id[..12]);
    assert!(engine.beside(&["busybox", "ip", "link", "show", &link]).contains(&link));
    docker.ok("network disconnect m1 bb");
    assert!(!docker.sh("bb", "ip link").contains("eth0"));
    docker.ok("rm -f aa bb");
    docker.ok("network rm m1");
    assert!(engine.beside(&["busybox", "ip", "link", "show", &link]).contains("can't find"));
    assert!(
        docker
            .fails("network create -d macvlan -o parent=nolink m2")
            .contains("invalid subinterface vlan name nolink")
    );
    assert!(
        docker
            .fails("network create -d ipvlan -o ipvlan_mode=l9 m2")
            .contains("requested ipvlan mode 'l9' is not valid")
    );
}

#[test]
fn ipvlans() {
    skip_if_lacking!();
    let engine = Engine::start();
    let docker = client!(engine);
    let ip = |arguments: &str| {
        let command: Vec<&str> = ["busybox", "ip"].into_iter().chain(arguments.split_whitespace()).collect();
        engine.beside(&command)
    };
    ip("link add eth0 type bridge");
    if !ip("link add up0 type dummy").is_empty() || !ip("link add link up0 name iv0 type ipvlan").is_empty() {
        println!("skipped: this kernel has no dummy or no ipvlan");
        return;
    }
    ip("link del iv0");
    ip("link set up0 up");
    docker.ok("network create -d ipvlan -o parent=up0 --subnet 10.95.1.0/24 --gateway 10.95.1.1 l2");
    let second = docker.fails("network create -d ipvlan -o parent=up0 l2b");
    assert!(second.contains("is already using parent interface up0"), "{second}");
    serve(&docker, "--network l2", "aa");
    docker.ok("run -d --name bb --network l2 --ip 10.95.1.9 busybox:test sleep 1000");
    assert_eq!(docker.sh("bb", "wget -q -O - http://aa"), "aa\n");
    assert!(docker.sh("bb", "ip route").starts_with("default via 10.95.1.1 dev eth0"));
    // Its hardware address is its parent's, and nobody may choose another.
    assert_eq!(docker.ok("inspect -f {{.NetworkSettings.Networks.l2.MacAddress}} bb"), "");
    assert!(docker.ok("network inspect l2").contains("\"MacAddress\": \"\""));
    let chosen = docker.fails("run --name cc --network l2 --mac-address 02:00:00:00:00:07 busybox:test true");
    assert!(
        chosen.contains(
            "failed to create endpoint cc on network l2: ipvlan interfaces do not support custom mac address"
        ),
        "{chosen}"
    );
    docker.ok("network disconnect l2 bb");
    assert!(!docker.sh("bb", "ip link").contains("eth0"));
    docker.ok("network connect l2 bb");
    assert_eq!(docker.sh("bb", "wget -q -O - http://aa"), "aa\n");
    docker.ok("rm -f aa bb cc");
    docker.ok("network rm l2");

    docker.ok("network create -d ipvlan -o parent=up0 -o ipvlan_mode=l3 --subnet 10.95.2.0/24 --subnet 10.95.3.0/24 l3");
    serve(&docker, "--network l3 --ip 10.95.2.5", "aa");
    docker.ok("run -d --name bb --network l3 --ip 10.95.3.5 busybox:test sleep 1000");
    assert!(docker.sh("bb", "ip route").starts_with("default dev eth0"));
    assert_eq!(docker.sh("bb", "wget -q -O - http://aa"), "aa\n", "the kernel routes between its subnets");
    docker.ok("rm -f aa bb");
    docker.ok("network rm l3");
    assert!(ip("link show up0").contains("up0"), "it is the machine's");
}

/// What fails after the interface is gone is told; it is disconnected all the same, also for the next daemon.
#[test]
fn a_disconnect_that_half_fails_is_a_disconnect() {
    skip_if_lacking!();
    let mut engine = Engine::start();
    let pool = json!({"Config": [{"Subnet": "10.231.77.0/24"}]});
    for body in [json!({"Name": "n1", "IPAM": pool}), json!({"Name": "n2"})] {
        assert_eq!(engine.post("/networks/create", &body).status, 201);
    }
    let fixed = json!({"EndpointsConfig": {"n1": {"IPAMConfig": {"IPv4Address": "10.231.77.9"}}}});
    let body = |name: &str| json!({"Image": "busybox:test", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": name}, "NetworkingConfig": fixed});
    let id = engine.create("member", &body("n2"));
    assert_eq!(engine.post("/containers/member/start", &Value::Null).status, 204);
    std::fs::remove_file(engine.path().join(format!("data/engine/containers/{id}/hosts"))).unwrap();
    let told = engine.post("/networks/n1/disconnect", &json!({"Container": "member"}));
    assert!(told.status == 500 && told.message().contains("hosts"), "{told:?}");
    let networks = |engine: &Engine| {
        let shown = engine.get("/containers/member/json").json();
        shown["NetworkSettings"]["Networks"].as_object().unwrap().keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(networks(&engine), ["n2"]);
    // Its address can be had by another.
    engine.create("other", &body("n1"));
    assert_eq!(engine.post("/containers/other/start", &Value::Null).status, 204);
    engine.kill();
    engine.start_again();
    assert_eq!(networks(&engine), ["n2"], "it is saved");
    assert_eq!(engine.get("/containers/member/json").json()["State"]["Running"], true);
}

/// A restart gives a container the addresses it had, asked for or not.
#[test]
fn a_restart_keeps_the_addresses() {
    skip_if_lacking!();
    let engine = Engine::start();
    let pool = json!({"Config": [{"Subnet": "10.231.78.0/24"}]});
    assert_eq!(engine.post("/networks/create", &json!({"Name": "n1", "IPAM": pool})).status, 201);
    let asked = json!({"n1": {"IPAMConfig": {"IPv4Address": "10.231.78.9"}}});
    for (name, endpoints) in [("first", json!({"n1": {}})), ("fixed", asked), ("next", json!({"n1": {}}))] {
        let body = json!({"Image": "busybox:test", "Cmd": ["sleep", "1000"], "StopSignal": "KILL",
            "HostConfig": {"NetworkMode": "n1"}, "NetworkingConfig": {"EndpointsConfig": endpoints}});
        engine.create(name, &body);
        assert_eq!(engine.post(&format!("/containers/{name}/start"), &Value::Null).status, 204);
    }
    let address = |name: &str| {
        let shown = engine.get(&format!("/containers/{name}/json")).json();
        shown["NetworkSettings"]["Networks"]["n1"]["IPAddress"].as_str().unwrap().to_owned()
    };
    assert_eq!(address("fixed"), "10.231.78.9");
    for name in ["first", "fixed"] {
        let before = address(name);
        for _ in 0..3 {
            let answer = engine.post(&format!("/containers/{name}/restart"), &Value::Null);
            assert_eq!(answer.status, 204, "{answer:?}");
            assert_eq!(address(name), before);
        }
    }
}

/// Whoever starts after another has ended has its address: the interface that goes meanwhile is nobody's business.
#[test]
fn an_address_is_free_when_its_container_has_ended() {
    skip_if_lacking!();
    let engine = Engine::start();
    let pool = json!({"Config": [{"Subnet": "10.231.79.0/29", "IPRange": "10.231.79.4/30"}]});
    assert_eq!(engine.post("/networks/create", &json!({"Name": "n1", "IPAM": pool})).status, 201);
    let body = |endpoint: Value| {
        json!({"Image": "busybox:test", "Cmd": ["sleep", "1000"], "StopSignal": "KILL",
            "HostConfig": {"NetworkMode": "n1"}, "NetworkingConfig": {"EndpointsConfig": {"n1": endpoint}}})
    };
    let fixed = || body(json!({"IPAMConfig": {"IPv4Address": "10.231.79.5"}}));
    let start = |name: &str| engine.post(&format!("/containers/{name}/start"), &Value::Null);
    engine.create("one", &fixed());
    engine.create("other", &fixed());
    for turn in 0..6 {
        let (next, last) = if turn % 2 == 0 { ("one", "other") } else { ("other", "one") };
        let started = start(next);
        assert_eq!(started.status, 204, "{started:?}");
        let refused = start(last);
        assert!(refused.status == 403 && refused.message().contains("Address already in use"), "{refused:?}");
        assert_eq!(engine.post(&format!("/containers/{next}/kill"), &Value::Null).status, 204);
        engine.post(&format!("/containers/{next}/wait"), &Value::Null);
    }
    // So has whoever takes any address of a network that was full: the router has the first of the four.
    for name in ["third", "fourth", "late"] {
        engine.create(name, &body(json!({})));
    }
    for name in ["third", "fourth"] {
        assert_eq!(start(name).status, 204);
    }
    let refused = start("late");
    assert!(refused.status == 503 && refused.message().contains("no available addresses"), "{refused:?}");
    assert_eq!(engine.delete("/containers/fourth?force=1").status, 204);
    let started = start("late");
    assert_eq!(started.status, 204, "{started:?}");
}

/// Who shares a container's network has its name.
#[test]
fn a_shared_network_is_a_shared_name() {
    skip_if_lacking!();
    let engine = Engine::start();
    engine.create("owner", &json!({"Image": "busybox:test", "Cmd": ["sleep", "1000"], "Hostname": "boat"}));
    assert_eq!(engine.post("/containers/owner/start", &Value::Null).status, 204);
    let joined = json!({"Image": "busybox:test", "Cmd": ["cat", "/proc/sys/kernel/hostname"], "Tty": true, "HostConfig": {"NetworkMode": "container:owner"}});
    engine.create("joined", &joined);
    assert_eq!(engine.post("/containers/joined/start", &Value::Null).status, 204);
    engine.post("/containers/joined/wait", &Value::Null);
    let log = engine.get("/containers/joined/logs?stdout=1");
    assert_eq!(String::from_utf8_lossy(&log.body).trim(), "boat");
}
