//! Leader election among several servers, through a Lease object as client-go does it: at most one of those that use the
//! same lease leads, as long as their clocks run equally fast (they need not show the same time).

use std::pin::pin;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{Client, Result, gvr};

/// How long a lease counts after it was last renewed.
const DURATION: Duration = Duration::from_secs(15);
/// How long a leader tries to renew before it steps down: well before others may think it is gone.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often a leader renews and the others look.
const RETRY: Duration = Duration::from_secs(2);

/// What is contended for, and by whom.
#[derive(Debug, Clone)]
pub struct Election {
    /// The lease's namespace.
    pub namespace: String,
    /// The lease's name.
    pub name: String,
    /// Who we are: different for each contender, the same after a restart, which then takes its own lease over at once.
    pub identity: String,
}

struct Contender<'a> {
    client: &'a Client,
    election: &'a Election,
    /// The lease's record as last seen, and since when it has been like that.
    seen: Option<(Value, Instant)>,
}

/// Contends until `shutdown`, and runs `role` whenever this contender leads. The role has to end when its token is
/// cancelled: that leadership was lost or that everything stops. Its error ends this too.
pub async fn lead<F, E>(
    client: &Client,
    election: &Election,
    shutdown: &CancellationToken,
    mut role: impl FnMut(CancellationToken) -> F,
) -> std::result::Result<(), E>
where
    F: Future<Output = std::result::Result<(), E>>,
{
    let mut contender = Contender { client, election, seen: None };
    while !shutdown.is_cancelled() {
        let held = async {
            // A timer: a leader that is gone says nothing.
            while !contender.tried().await {
                tokio::time::sleep(RETRY).await;
            }
        };
        if shutdown.run_until_cancelled(held).await.is_none() {
            break;
        }
        tracing::info!(lease = election.name, identity = election.identity, "leading");
        let token = shutdown.child_token();
        let mut running = pin!(role(token.clone()));
        let ended = tokio::select! {
            outcome = &mut running => Some(outcome),
            () = shutdown.cancelled() => None,
            () = contender.keep() => {
                tracing::warn!(lease = election.name, "no longer leading");
                None
            }
        };
        token.cancel();
        let outcome = match ended {
            Some(outcome) => outcome,
            None => running.await,
        };
        if shutdown.is_cancelled() || outcome.is_err() {
            contender.release().await;
        }
        outcome?;
    }
    Ok(())
}

impl Contender<'_> {
    /// Whether we lead now.
    async fn tried(&mut self) -> bool {
        match self.acquire().await {
            Ok(held) => held,
            Err(error) => {
                tracing::debug!(lease = self.election.name, %error, "the lease was not had");
                false
            }
        }
    }

    /// Returns when the lease could not be renewed in time.
    async fn keep(&mut self) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < DEADLINE {
            // A lease is kept by renewing it in time.
            tokio::time::sleep(RETRY).await;
            // Others count from the time in the lease, which is that of asking.
            let asked = Instant::now();
            match tokio::time::timeout(DEADLINE.saturating_sub(renewed.elapsed()), self.acquire()).await {
                Ok(Ok(true)) => renewed = asked,
                // Somebody else has it.
                Ok(Ok(false)) => return,
                Ok(Err(error)) => tracing::debug!(lease = self.election.name, %error, "not renewed"),
                Err(_) => return,
            }
        }
    }

    async fn acquire(&mut self) -> Result<bool> {
        let Election { namespace, name, identity } = self.election;
        let now = api::meta::micro_time(base::clock::now());
        let lease = match self.client.get(&gvr::LEASES, namespace, name).await {
            Ok(lease) => lease,
            Err(e) if e.is_not_found() => {
                let lease = json!({
                    "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                    "metadata": {"name": name, "namespace": namespace},
                    "spec": {"holderIdentity": identity, "leaseDurationSeconds": DURATION.as_secs(),
                        "acquireTime": now, "renewTime": now, "leaseTransitions": 0},
                });
                return match self.client.create(&gvr::LEASES, namespace, &lease).await {
                    Ok(_) => Ok(true),
                    Err(e) if e.is_already_exists() => Ok(false),
                    Err(e) => Err(e),
                };
            }
            Err(e) => return Err(e),
        };
        let spec = &lease.value()["spec"];
        let holder = spec["holderIdentity"].as_str().unwrap_or("");
        if self.seen.as_ref().is_none_or(|(seen, _)| seen != spec) {
            self.seen = Some((spec.clone(), Instant::now()));
        }
        let since = self.seen.as_ref().map_or(Duration::ZERO, |(_, since)| since.elapsed());
        let ours = holder == identity;
        let lasts = spec["leaseDurationSeconds"].as_u64().map_or(DURATION, Duration::from_secs);
        if !ours && !holder.is_empty() && since < lasts {
            return Ok(false);
        }
        let mut new = lease.value().clone();
        let spec = api::meta::child(&mut new, "spec");
        if !ours {
            let transitions = spec.get("leaseTransitions").and_then(Value::as_i64).unwrap_or(0);
            spec.insert("leaseTransitions".into(), json!(transitions + 1));
            spec.insert("acquireTime".into(), json!(now));
        }
        spec.insert("holderIdentity".into(), json!(identity));
        spec.insert("leaseDurationSeconds".into(), json!(DURATION.as_secs()));
        spec.insert("renewTime".into(), json!(now));
        match self.client.update(&gvr::LEASES, &new).await {
            Ok(_) => Ok(true),
            Err(e) if e.is_conflict() && !ours => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Lets the next one in without waiting.
    async fn release(&mut self) {
        let Election { namespace, name, identity } = self.election;
        let released = async {
            let lease = self.client.get(&gvr::LEASES, namespace, name).await?;
            if lease.value()["spec"]["holderIdentity"] != json!(identity) {
                return Ok(());
            }
            let mut new = lease.value().clone();
            let spec = api::meta::child(&mut new, "spec");
            spec.insert("holderIdentity".into(), json!(""));
            spec.insert("leaseDurationSeconds".into(), json!(1));
            self.client.update(&gvr::LEASES, &new).await.map(|_| ())
        };
        // Whoever comes next waits until it has expired instead.
        if let Ok(Err(error)) = tokio::time::timeout(RETRY, released).await {
            tracing::debug!(lease = name, %error, "not released");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::fake::Fake;

    fn election(identity: &str) -> Election {
        Election { namespace: "kube-system".into(), name: "l".into(), identity: identity.into() }
    }

    /// A contender that adds its number to `leaders` while it leads.
    fn contend(
        client: &Client,
        identity: &'static str,
        n: usize,
        leaders: &Arc<AtomicUsize>,
    ) -> CancellationToken {
        let stop = CancellationToken::new();
        let (client, leaders, token) = (client.clone(), leaders.clone(), stop.clone());
        tokio::spawn(async move {
            let role = |token: CancellationToken| {
                let leaders = leaders.clone();
                async move {
                    leaders.fetch_add(n, Ordering::SeqCst);
                    token.cancelled().await;
                    leaders.fetch_sub(n, Ordering::SeqCst);
                    Ok::<_, Infallible>(())
                }
            };
            lead(&client, &election(identity), &token, role).await.unwrap();
        });
        stop
    }

    #[tokio::test(start_paused = true)]
    async fn one_leads_and_the_next_follows() {
        let (fake, client) = Fake::new();
        let leaders = Arc::new(AtomicUsize::new(0));
        let seconds = |n| tokio::time::sleep(Duration::from_secs(n));
        let a = contend(&client, "a", 1, &leaders);
        seconds(1).await;
        let b = contend(&client, "b", 10, &leaders);
        seconds(60).await;
        assert_eq!(leaders.load(Ordering::SeqCst), 1, "renewed for as long as it lives");
        a.cancel();
        seconds(5).await;
        assert_eq!(
            leaders.load(Ordering::SeqCst),
            10,
            "released, so the next does not wait until it expires"
        );
        let lease = fake.get(&gvr::LEASES, "kube-system", "l").unwrap();
        assert_eq!(lease.value()["spec"]["leaseTransitions"], 1);
        b.cancel();
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_nobody_renews_is_taken_over_when_it_expires() {
        let (fake, client) = Fake::new();
        fake.put(
            &gvr::LEASES,
            json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": "l", "namespace": "kube-system"},
                "spec": {"holderIdentity": "gone", "leaseDurationSeconds": 15,
                    // By its own clock, which is wrong, it was renewed in the far future.
                    "renewTime": "2100-01-01T00:00:00.000000Z", "leaseTransitions": 0}}),
        );
        let leaders = Arc::new(AtomicUsize::new(0));
        let stop = contend(&client, "a", 1, &leaders);
        tokio::time::sleep(Duration::from_secs(13)).await;
        assert_eq!(leaders.load(Ordering::SeqCst), 0);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(leaders.load(Ordering::SeqCst), 1);
        stop.cancel();
    }

    #[tokio::test(start_paused = true)]
    async fn who_loses_the_lease_stops() {
        let (fake, client) = Fake::new();
        let leaders = Arc::new(AtomicUsize::new(0));
        let stop = contend(&client, "a", 1, &leaders);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(leaders.load(Ordering::SeqCst), 1);
        let mut stolen = fake.get(&gvr::LEASES, "kube-system", "l").unwrap().value().clone();
        stolen["spec"]["holderIdentity"] = json!("thief");
        fake.put(&gvr::LEASES, stolen);
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(leaders.load(Ordering::SeqCst), 0);
        stop.cancel();
    }
}
