//! `cargo xtask bench-api`: how fast and how large an API server is, ours or any other, by the kubeconfig that names it.
//!
//! Each client has a connection of its own, over TLS, with the kubeconfig's certificate. The clients and the server share
//! the machine, so rates are those of both together; with `--pid` the server's own processor time per request is told too.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use client::{Endpoint, Https, Kubeconfig, Transport};
use futures::StreamExt;
use futures::future::try_join_all;
use serde_json::{Value, json};
use tokio::time::Instant;

/// The flags of `cargo xtask bench-api`.
#[derive(Debug, Args)]
pub struct Options {
    /// The API server to measure.
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: PathBuf,
    /// The server's process, whose processor time and memory are read.
    #[arg(long)]
    pid: Option<u32>,
    /// How many clients ask at once.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// How many requests make up a row.
    #[arg(long, default_value_t = 20_000)]
    requests: usize,
    /// Pods in the largest list.
    #[arg(long, default_value_t = 10_000)]
    pods: usize,
    /// Watchers of the latency row.
    #[arg(long, default_value_t = 100)]
    watchers: usize,
    /// How many connections they share; as many as there are watchers if it is not given. Clients written in Go have one
    /// for each process, whatever the number of their watches.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    watch_connections: Option<u32>,
    /// Only rows whose name contains this.
    #[arg(long)]
    only: Option<String>,
}

type Request = http::Request<bytes::Bytes>;
const NAMESPACE: &str = "bench-api";

struct Bench {
    options: Options,
    endpoint: Endpoint,
    clients: Vec<Arc<Https>>,
}

/// Runs the benchmarks.
pub fn run(options: Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let endpoint = Kubeconfig::load(&options.kubeconfig)?.current()?;
        let clients = (0..options.clients.max(1)).map(|_| Https::new(&endpoint).map(Arc::new));
        let clients = clients.collect::<Result<Vec<_>, _>>()?;
        let bench = Bench { options, endpoint, clients };
        bench.prepare().await?;
        let outcome = bench.rows().await;
        bench
            .send(&bench.clients[0], request("DELETE", &format!("/api/v1/namespaces/{NAMESPACE}"), None)?)
            .await?;
        outcome
    })
}

fn request(method: &str, path: &str, body: Option<&Value>) -> Result<Request> {
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let body = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
    let builder = http::Request::builder().method(method).uri(path).header("content-type", kind);
    Ok(builder.header("accept", "application/json").body(body.into())?)
}

fn config_map(name: &str, round: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": NAMESPACE},
        "data": {"round": round.to_string(), "text": "x".repeat(900)}})
}

/// A pod that nobody runs, of which the server, with its defaults and managed fields, makes the 1.76 kB of the promise.
fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": "bench", "pod-template-hash": "5d4f8c7b9"}},
        "spec": {"schedulerName": "nobody", "automountServiceAccountToken": false,
            "containers": [{"name": "main", "image": "registry.example.com/team/app:1.2.3"}]}})
}

/// A figure, what was promised of it, and whether that is kept.
fn judged(value: f64, unit: &str, decimals: usize, promise: Promise) -> String {
    let (sign, limit, kept) = match promise {
        Promise::AtMost(limit) => ("<=", limit, value <= limit),
        Promise::AtLeast(limit) => (">=", limit, value >= limit),
    };
    let verdict = if kept { "kept" } else { "NOT KEPT" };
    format!("{value:.decimals$}{unit} ({sign} {limit}: {verdict})")
}

#[derive(Clone, Copy)]
enum Promise {
    AtMost(f64),
    AtLeast(f64),
}
use Promise::{AtLeast, AtMost};

/// What is promised of a row of requests.
#[derive(Default)]
struct Promised {
    /// How many a second.
    rate: Option<u64>,
    /// How long one takes in the middle, in milliseconds.
    p50: Option<f64>,
    /// The server's processor time for one, in microseconds.
    cpu: Option<f64>,
}

impl Bench {
    async fn send(&self, client: &Https, request: Request) -> Result<bytes::Bytes> {
        let what = format!("{} {}", request.method(), request.uri());
        let response = client.call(request).await.with_context(|| what.clone())?;
        if !response.status().is_success() {
            bail!("{what}: {}: {}", response.status(), String::from_utf8_lossy(response.body()));
        }
        Ok(response.into_body())
    }

    /// Reads an answer to its last byte and keeps nothing of it; how long it is.
    async fn drain(&self, client: &Https, request: Request) -> Result<usize> {
        let what = format!("{} {}", request.method(), request.uri());
        let response = client.open(request).await.with_context(|| what.clone())?;
        if !response.status().is_success() {
            bail!("{what}: {}", response.status());
        }
        let (mut body, mut length) = (response.into_body(), 0);
        while let Some(frame) = http_body_util::BodyExt::frame(&mut body).await {
            length += frame?.data_ref().map_or(0, bytes::Bytes::len);
        }
        Ok(length)
    }

    async fn prepare(&self) -> Result<()> {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        self.send(&self.clients[0], request("POST", "/api/v1/namespaces", Some(&namespace))?).await?;
        // A connection of each client is there before anything is measured.
        try_join_all(
            self.clients.iter().map(|c| async { self.send(c, request("GET", "/version", None)?).await }),
        )
        .await?;
        Ok(())
    }

    fn wanted(&self, name: &str) -> bool {
        self.options.only.as_deref().is_none_or(|only| name.contains(only))
    }

    async fn rows(&self) -> Result<()> {
        let collection = format!("/api/v1/namespaces/{NAMESPACE}/configmaps");
        let n = self.options.requests;
        if self.wanted("configmap") {
            let name = |i: usize| format!("c-{i:06}");
            let object = |i: usize| format!("{collection}/{}", name(i));
            let all = self.options.clients;
            let rate = |rate: u64| Promised { rate: Some(rate), ..Promised::default() };
            let create = Promised { cpu: Some(80.0), ..rate(6000) };
            self.rate("configmap create", create, n, all, |i| {
                request("POST", &collection, Some(&config_map(&name(i), 0)))
            })
            .await?;
            let get = Promised { cpu: Some(20.0), ..rate(12_000) };
            self.rate("configmap get", get, n, all, |i| request("GET", &object(i), None)).await?;
            self.rate("configmap update", rate(5000), n, all, |i| {
                request("PUT", &object(i), Some(&config_map(&name(i), 1)))
            })
            .await?;
            let patch = |i: usize| json!({"data": {"round": format!("p{i}")}});
            self.rate("configmap merge patch", rate(5000), n, all, |i| {
                request("PATCH", &object(i), Some(&patch(i)))
            })
            .await?;
            self.rate("configmap delete", rate(6000), n, all, |i| request("DELETE", &object(i), None))
                .await?;
            let alone = |i: usize| request("POST", &collection, Some(&config_map(&format!("alone-{i}"), 0)));
            let promised = Promised { p50: Some(0.5), ..Promised::default() };
            self.rate("configmap create, 1 client", promised, n / 10, 1, alone).await?;
        }
        if self.wanted("watch") {
            self.latency(&collection).await?;
        }
        if self.wanted("list") {
            self.lists().await?;
        }
        Ok(())
    }

    /// `n` requests by `clients` at once: their rate, how long one takes, and what each costs the server.
    async fn rate(
        &self,
        name: &str,
        promised: Promised,
        n: usize,
        clients: usize,
        make: impl Fn(usize) -> Result<Request>,
    ) -> Result<()> {
        let before = self.cpu()?;
        let started = Instant::now();
        let lanes = self.clients.iter().take(clients).enumerate().map(|(lane, client)| {
            let make = &make;
            async move {
                let mut took = Vec::with_capacity(n / clients + 1);
                for i in (lane..n).step_by(clients) {
                    let request = make(i)?;
                    let one = Instant::now();
                    self.send(client, request).await?;
                    took.push(one.elapsed());
                }
                Ok::<_, anyhow::Error>(took)
            }
        });
        let mut took: Vec<Duration> = try_join_all(lanes).await?.into_iter().flatten().collect();
        let elapsed = started.elapsed().as_secs_f64();
        let cost = self.cpu()?.zip(before).map(|(now, before)| (now - before) / n as f64 * 1e6);
        took.sort_unstable();
        let (per_second, p50) = (n as f64 / elapsed, ms(&took, 50));
        let rate = match promised.rate {
            Some(least) => judged(per_second, "/s", 0, AtLeast(least as f64)),
            None => format!("{per_second:.0}/s"),
        };
        let p50 = match promised.p50 {
            Some(most) => judged(p50, " ms", 3, AtMost(most)),
            None => format!("{p50:.3} ms"),
        };
        let cost = match (cost, promised.cpu) {
            (Some(cost), Some(most)) => judged(cost, " us", 0, AtMost(most)),
            (Some(cost), None) => format!("{cost:.0} us"),
            (None, _) => "?".into(),
        };
        println!("{name:<28} {rate:<28}  p50 {p50}  p99 {:.3} ms  server {cost}", ms(&took, 99));
        Ok(())
    }

    /// From the moment a creation is asked for to its event at each of the watchers.
    async fn latency(&self, collection: &str) -> Result<()> {
        const RATE: u64 = 50;
        const EVENTS: usize = 500;
        let path = format!("{collection}?watch=true&resourceVersion=0&labelSelector=latency");
        let connections = self.options.watch_connections.map_or(self.options.watchers, |n| n as usize);
        let clients: Vec<_> =
            (0..connections).map(|_| Https::new(&self.endpoint).map(Arc::new)).collect::<Result<_, _>>()?;
        let mut watchers = Vec::new();
        for client in clients.iter().cycle().take(self.options.watchers) {
            let client = client.clone();
            let mut body = client.open(request("GET", &path, None)?).await?.into_body();
            // What has come is looked at afterwards: a client that works while it measures measures itself.
            watchers.push(tokio::spawn(async move {
                let _client = client;
                let (mut came, mut seen) = (Vec::new(), 0);
                while let Some(Ok(frame)) = http_body_util::BodyExt::frame(&mut body).await {
                    let now = Instant::now();
                    if let Ok(data) = frame.into_data() {
                        came.push((now, data));
                    }
                    seen += came.last().map_or(0, |(_, data)| data.iter().filter(|b| **b == b'\n').count());
                    if seen >= EVENTS {
                        break;
                    }
                }
                came
            }));
        }
        let (mut sent, mut answered) = (Vec::new(), Vec::new());
        let mut timer = tokio::time::interval(Duration::from_millis(1000 / RATE));
        for i in 0..EVENTS {
            timer.tick().await;
            let mut object = config_map(&format!("latency-{i}"), 0);
            object["metadata"]["labels"] = json!({"latency": "yes"});
            let request = request("POST", collection, Some(&object))?;
            let now = Instant::now();
            self.send(&self.clients[i % self.clients.len()], request).await?;
            sent.push(now);
            answered.push(now.elapsed());
        }
        let mut took = Vec::new();
        for watcher in watchers {
            let came = tokio::time::timeout(Duration::from_secs(10), watcher);
            let came = came.await.context("a watcher did not see every event")??;
            took.extend(latencies(&came, &sent)?);
        }
        took.sort_unstable();
        answered.sort_unstable();
        let expected = sent.len() * self.options.watchers;
        println!(
            "watch: create -> event       {} of {expected} events, {} watchers on {connections} connections, {RATE}/s: p50 {}  p99 {}; the create is answered after {:.3} ms",
            took.len(),
            self.options.watchers,
            judged(ms(&took, 50), " ms", 3, AtMost(1.0)),
            judged(ms(&took, 99), " ms", 3, AtMost(5.0)),
            ms(&answered, 50),
        );
        if took.len() != expected {
            bail!("{} of {expected} events arrived", took.len());
        }
        Ok(())
    }

    async fn lists(&self) -> Result<()> {
        let collection = format!("/api/v1/namespaces/{NAMESPACE}/pods");
        let mut made = 0;
        for (n, promised) in [(self.options.pods / 2, 12.0), (self.options.pods, 25.0)] {
            let make = futures::stream::iter(made..n).map(|i| {
                let client = &self.clients[i % self.clients.len()];
                let collection = &collection;
                async move {
                    self.send(client, request("POST", collection, Some(&pod(&format!("p-{i:06}"))))?).await
                }
            });
            let mut making = make.buffer_unordered(self.clients.len());
            while let Some(one) = making.next().await {
                one?;
            }
            made = n;
            let one = async || {
                let started = Instant::now();
                let size = self.drain(&self.clients[0], request("GET", &collection, None)?).await?;
                Ok::<_, anyhow::Error>((started.elapsed(), size))
            };
            let (_, size) = one().await?;
            let before = self.cpu()?;
            let mut took = Vec::new();
            for _ in 0..15 {
                took.push(one().await?.0);
            }
            let cost = self.cpu()?.zip(before).map(|(now, before)| (now - before) / 15.0 * 1e3);
            took.sort_unstable();
            let p50 = ms(&took, 50);
            let mut together = Vec::new();
            for _ in 0..5 {
                let started = Instant::now();
                let four = self.clients.iter().cycle().take(4);
                try_join_all(four.map(|c| async { self.drain(c, request("GET", &collection, None)?).await }))
                    .await?;
                together.push(started.elapsed());
            }
            together.sort_unstable();
            println!(
                "list {n} pods, {:.1} MB ({} bytes each)  p50 {}  min {:.1} ms  4 at once {}  server {} ms",
                size as f64 / 1e6,
                size / n.max(1),
                judged(p50, " ms", 1, AtMost(promised)),
                ms(&took, 0),
                judged(ms(&together, 50), " ms", 1, AtMost((p50 * 40.0).round() / 10.0)),
                cost.map_or("?".into(), |c| format!("{c:.1}")),
            );
        }
        if let Some(pid) = self.options.pid {
            let status = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            let kib = |name: &str| {
                status.lines().find_map(|l| {
                    l.strip_prefix(name)?.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok()
                })
            };
            let pss = kib("Pss:").context("smaps_rollup says no Pss")? / 1024.0;
            println!("memory with {made} pods      PSS {}", judged(pss, " MiB", 0, AtMost(120.0)));
        }
        Ok(())
    }

    /// The server's processor time so far, in seconds.
    fn cpu(&self) -> Result<Option<f64>> {
        let Some(pid) = self.options.pid else { return Ok(None) };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("--pid")?;
        // proc(5): what follows the name in parentheses starts with field 3; 14 and 15 are user and system time.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        let ticks = |i: usize| fields.get(i - 3).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
        Ok(Some((ticks(14) + ticks(15)) / rustix::param::clock_ticks_per_second() as f64))
    }
}

/// A percentile in milliseconds.
fn ms(sorted: &[Duration], percent: usize) -> f64 {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(f64::NAN, |d| d.as_secs_f64() * 1e3)
}

/// How long after its creation was asked for each event came to a watcher.
fn latencies(came: &[(Instant, bytes::Bytes)], sent: &[Instant]) -> Result<Vec<Duration>> {
    let mut out = Vec::new();
    let mut line = Vec::new();
    for (at, data) in came {
        for part in data.split_inclusive(|b| *b == b'\n') {
            line.extend_from_slice(part);
            if !line.ends_with(b"\n") {
                continue;
            }
            let event: Value = serde_json::from_slice(&line)?;
            line.clear();
            let name = event["object"]["metadata"]["name"].as_str().unwrap_or("");
            let Some(i) = name.strip_prefix("latency-").and_then(|i| i.parse::<usize>().ok()) else {
                continue;
            };
            let sent = sent.get(i).with_context(|| format!("an event of {name}, which was not made"))?;
            out.push(at.duration_since(*sent));
        }
    }
    Ok(out)
}
