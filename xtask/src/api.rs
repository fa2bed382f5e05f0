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

/// A pod of 1.7 kB that nobody runs: it asks for a node that is not there.
fn pod(name: &str) -> Value {
    let variables: Vec<Value> =
        (0..12).map(|i| json!({"name": format!("VARIABLE_{i}"), "value": "value of a variable"})).collect();
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": "bench", "pod-template-hash": "5d4f8c7b9"}},
        "spec": {"nodeSelector": {"bench": "nowhere"}, "schedulerName": "nobody", "automountServiceAccountToken": false,
            "containers": [{"name": "main", "image": "registry.example.com/team/app:1.2.3", "env": variables,
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}]}})
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
            self.rate("configmap create", 6000, n, all, |i| {
                request("POST", &collection, Some(&config_map(&name(i), 0)))
            })
            .await?;
            self.rate("configmap get", 12_000, n, all, |i| request("GET", &object(i), None)).await?;
            self.rate("configmap update", 5000, n, all, |i| {
                request("PUT", &object(i), Some(&config_map(&name(i), 1)))
            })
            .await?;
            let patch = |i: usize| json!({"data": {"round": format!("p{i}")}});
            self.rate("configmap merge patch", 5000, n, all, |i| {
                request("PATCH", &object(i), Some(&patch(i)))
            })
            .await?;
            self.rate("configmap delete", 6000, n, all, |i| request("DELETE", &object(i), None)).await?;
            let alone = |i: usize| request("POST", &collection, Some(&config_map(&format!("alone-{i}"), 0)));
            self.rate("configmap create, 1 client", 0, n / 10, 1, alone).await?;
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
        promised: u64,
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
        let target = if promised > 0 { format!("(promised {promised}/s)") } else { String::new() };
        println!(
            "{name:<28} {:>8.0}/s {target:<20} p50 {:>7.3} ms  p99 {:>7.3} ms  server {}",
            n as f64 / elapsed,
            ms(&took, 50),
            ms(&took, 99),
            cost.map_or("?".into(), |c| format!("{c:.0} us/request")),
        );
        Ok(())
    }

    /// From the moment a creation is asked for to its event at each of the watchers.
    async fn latency(&self, collection: &str) -> Result<()> {
        const RATE: u64 = 50;
        const SECONDS: u64 = 10;
        let path = format!("{collection}?watch=true&resourceVersion=0&labelSelector=latency");
        let seen: Arc<parking_lot::Mutex<Vec<(usize, Instant)>>> = Arc::default();
        let mut watchers = Vec::new();
        for _ in 0..self.options.watchers {
            let client = Https::new(&self.endpoint)?;
            let mut body = client.open(request("GET", &path, None)?).await?.into_body();
            let seen = seen.clone();
            watchers.push(tokio::spawn(async move {
                let _client = client;
                let mut buffer = Vec::new();
                while let Some(Ok(frame)) = http_body_util::BodyExt::frame(&mut body).await {
                    let now = Instant::now();
                    let Ok(data) = frame.into_data() else { continue };
                    buffer.extend_from_slice(&data);
                    while let Some(end) = buffer.iter().position(|b| *b == b'\n') {
                        let line: Vec<u8> = buffer.drain(..=end).collect();
                        let event: Value = serde_json::from_slice(&line).unwrap_or_default();
                        let name = event["object"]["metadata"]["name"].as_str().unwrap_or("");
                        if let Some(i) = name.strip_prefix("latency-").and_then(|i| i.parse().ok()) {
                            seen.lock().push((i, now));
                        }
                    }
                }
            }));
        }
        let mut sent = Vec::new();
        let mut timer = tokio::time::interval(Duration::from_millis(1000 / RATE));
        for i in 0..usize::try_from(RATE * SECONDS)? {
            timer.tick().await;
            let mut object = config_map(&format!("latency-{i}"), 0);
            object["metadata"]["labels"] = json!({"latency": "yes"});
            sent.push(Instant::now());
            self.send(&self.clients[i % self.clients.len()], request("POST", collection, Some(&object))?)
                .await?;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        for watcher in &watchers {
            watcher.abort();
        }
        let seen = std::mem::take(&mut *seen.lock());
        let mut took: Vec<Duration> = seen.iter().map(|(i, at)| at.duration_since(sent[*i])).collect();
        took.sort_unstable();
        let expected = sent.len() * self.options.watchers;
        println!(
            "watch: create -> event        {} of {expected} events, {} watchers, {RATE}/s: p50 {:.3} ms (promised 1)  p99 {:.3} ms (promised 5)",
            took.len(),
            self.options.watchers,
            ms(&took, 50),
            ms(&took, 99)
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
                let size = self.send(&self.clients[0], request("GET", &collection, None)?).await?.len();
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
            let started = Instant::now();
            try_join_all(
                self.clients
                    .iter()
                    .take(4)
                    .map(|c| async { self.send(c, request("GET", &collection, None)?).await }),
            )
            .await?;
            println!(
                "list {n} pods, {:.1} MB       p50 {:.1} ms (promised {promised})  min {:.1} ms  4 at once {:.1} ms  server {} ms",
                size as f64 / 1e6,
                ms(&took, 50),
                ms(&took, 0),
                started.elapsed().as_secs_f64() * 1e3,
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
            println!(
                "memory with {made} pods         PSS {:.0} MiB (promised 120)",
                kib("Pss:").unwrap_or(0.0) / 1024.0
            );
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
