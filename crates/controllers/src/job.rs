//! Job: pods that run to their end, so many of them, so many at once.
//!
//! Each pod has a finalizer until it has been counted, so that none is lost and none counted twice: first its UID is
//! written into the status as not counted yet, then the finalizer goes, then the UID becomes part of the count.

mod indexes;
mod policy;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api::{Key, Object, Value, meta};
use async_trait::async_trait;
use client::{DeleteOptions, Informer, Propagation, Result, gvr};
use jiff::Timestamp;
use serde_json::json;

use crate::machine::BURST;
use crate::{Action, Announce, Controller, Decision, Machine, Source, children, view};

/// What `spec.managedBy` calls this controller.
const MANAGER: &str = "kubernetes.io/job-controller";
/// The finalizer of a pod that has not been counted.
pub(crate) const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// The annotation and label with a pod's index.
pub(crate) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// The delay after a first failure; it doubles with each further one up to [`LAST_DELAY`].
const FIRST_DELAY: Duration = Duration::from_secs(10);
/// See [`FIRST_DELAY`].
const LAST_DELAY: Duration = Duration::from_secs(600);

/// A text of indexes as it is written again.
#[cfg(any(test, fuzzing))]
pub(crate) fn indexes(text: &str) -> String {
    indexes::Indexes::parse(text).to_string()
}

/// The controller.
pub(crate) struct Jobs {
    jobs: Arc<Informer>,
    pods: Arc<Informer>,
}

impl Jobs {
    pub(crate) fn new(machine: &Machine) -> Self {
        Self { jobs: machine.informer(&gvr::JOBS), pods: machine.informer(&gvr::PODS) }
    }
}

#[async_trait]
impl Controller for Jobs {
    fn name(&self) -> &'static str {
        "job-controller"
    }

    fn sources(&self) -> Vec<Source> {
        vec![Source::own(&self.jobs), children::source(&self.pods, "Job", &self.jobs, children::selector)]
    }

    async fn reconcile(&self, key: &Key, _: Option<&str>) -> Result<Decision> {
        let Some(job) = self.jobs.get(&key.namespace, &key.name) else {
            // Its pods are let go: nobody will count them.
            let owned = |p: &Arc<Object>| {
                meta::controller_of(p.value()).is_some_and(|o| o.kind == "Job" && o.name == key.name)
            };
            let left = self.pods.list(&key.namespace).into_iter().filter(owned);
            return Ok(left.filter_map(|p| untrack(&p)).collect::<Vec<_>>().into());
        };
        // Another controller runs it, here or in another cluster.
        if !matches!(view::text(&job, &["spec", "managedBy"]), "" | MANAGER) {
            return Ok(Decision::default());
        }
        let candidates = children::of(&self.pods, &job);
        let (pods, claims) = children::claim(&gvr::PODS, &job, &children::selector(&job), &candidates);
        if !claims.is_empty() {
            return Ok(claims.into());
        }
        let mut decision = decide(&Observed { job: &job, pods, now: base::clock::now() });
        // Pods of a former Job of this name.
        let former = self.pods.list(&key.namespace).into_iter().filter(|p| {
            is_tracked(p)
                && meta::controller_of(p.value())
                    .is_some_and(|o| o.kind == "Job" && o.name == key.name && o.uid != job.uid())
        });
        decision.actions.extend(former.filter_map(|p| untrack(&p)));
        Ok(decision)
    }
}

fn is_tracked(pod: &Object) -> bool {
    meta::finalizers(pod.value()).any(|f| f == TRACKING)
}

fn untrack(pod: &Object) -> Option<Action> {
    if !is_tracked(pod) {
        return None;
    }
    let rest: Vec<&str> = meta::finalizers(pod.value()).filter(|f| *f != TRACKING).collect();
    let rest = if rest.is_empty() { Value::Null } else { json!(rest) };
    let patch = json!({"metadata": {"finalizers": rest, "uid": pod.uid(), "resourceVersion": pod.revision().to_string()}});
    Some(Action::patch(&gvr::PODS, pod, patch))
}

pub(super) struct Observed<'a> {
    job: &'a Arc<Object>,
    pods: Vec<Arc<Object>>,
    now: Timestamp,
}

/// How a Job ended: condition, reason, message.
type End = (&'static str, &'static str, String);

/// Whether a Job has ended: its condition `Complete` or `Failed`.
pub(crate) fn ended(job: &Object) -> Option<&'static str> {
    ["Complete", "Failed"].into_iter().find(|c| view::is_true(job, c))
}

/// Whether a pod has failed: its end was bad, or it is made to end before it came to one.
fn has_failed(pod: &Object) -> bool {
    view::phase(pod) == "Failed" || pod.is_deleting() && view::phase(pod) != "Succeeded"
}

/// When the last container of a pod ended, else when its condition last changed.
fn ended_at(pod: &Object) -> Option<Timestamp> {
    let states = view::list(pod, &["status", "containerStatuses"]).iter();
    let times = states.filter_map(|s| view::time(&s["state"]["terminated"]["finishedAt"]));
    times.max().or_else(|| view::time(&view::condition(pod, "Ready")?["lastTransitionTime"]))
}

struct State<'a> {
    o: &'a Observed<'a>,
    indexed: bool,
    completions: Option<i64>,
    parallelism: i64,
    succeeded: i64,
    failed: i64,
    waiting_succeeded: BTreeSet<String>,
    waiting_failed: BTreeSet<String>,
    done: indexes::Indexes,
    active: Vec<Arc<Object>>,
    conditions: Vec<Value>,
    decision: Decision,
}

fn decide(o: &Observed<'_>) -> Decision {
    if ended(o.job).is_some() {
        return after_the_end(o);
    }
    if o.job.is_deleting() {
        return o.pods.iter().filter_map(|p| untrack(p)).collect::<Vec<_>>().into();
    }
    let ids = |f: &str| {
        let list = view::list(o.job, &["status", "uncountedTerminatedPods", f]).iter();
        list.filter_map(|v| v.as_str().map(String::from)).collect::<BTreeSet<_>>()
    };
    let mut state = State {
        o,
        indexed: view::text(o.job, &["spec", "completionMode"]) == "Indexed",
        completions: o.job.at(&["spec", "completions"]).as_i64(),
        parallelism: view::int(o.job, &["spec", "parallelism"], 1),
        succeeded: view::int(o.job, &["status", "succeeded"], 0),
        failed: view::int(o.job, &["status", "failed"], 0),
        waiting_succeeded: ids("succeeded"),
        waiting_failed: ids("failed"),
        done: indexes::Indexes::parse(view::text(o.job, &["status", "completedIndexes"])),
        active: o.pods.iter().filter(|p| view::is_active(p)).cloned().collect(),
        conditions: view::list(o.job, &["status", "conditions"]).to_vec(),
        decision: Decision::default(),
    };
    state.count();
    state.run();
    state.decision
}

/// A Job that has ended is deleted when its time is up; pods that came to their end after it are let go.
fn after_the_end(o: &Observed<'_>) -> Decision {
    let mut decision: Decision = o.pods.iter().filter_map(|p| untrack(p)).collect::<Vec<_>>().into();
    let Some(ttl) = o.job.at(&["spec", "ttlSecondsAfterFinished"]).as_u64() else { return decision };
    if o.job.is_deleting() {
        return decision;
    }
    let condition = ended(o.job).and_then(|c| view::condition(o.job, c));
    let since = condition.and_then(|c| view::time(&c["lastTransitionTime"])).unwrap_or(o.now);
    let passed = base::clock::between(since, o.now);
    match Duration::from_secs(ttl).checked_sub(passed).filter(|left| !left.is_zero()) {
        Some(left) => decision.after(left),
        None => {
            let options = DeleteOptions {
                propagation: Some(Propagation::Foreground),
                ..DeleteOptions::uid(o.job.uid())
            };
            decision.actions.push(Action::Delete {
                gvr: gvr::JOBS,
                object: o.job.clone(),
                options,
                announce: None,
            });
        }
    }
    decision
}

impl State<'_> {
    fn index(&self, pod: &Object) -> Option<i64> {
        pod.annotation(INDEX)?.parse().ok().filter(|i| (0..self.completions.unwrap_or(0)).contains(i))
    }

    /// Takes what was let go into the count, and notes what is to be let go.
    fn count(&mut self) {
        let tracked: BTreeSet<&str> = self.o.pods.iter().filter(|p| is_tracked(p)).map(|p| p.uid()).collect();
        let let_go = |ids: &mut BTreeSet<String>| {
            let before = ids.len();
            ids.retain(|uid| tracked.contains(uid.as_str()));
            (before - ids.len()) as i64
        };
        let succeeded = let_go(&mut self.waiting_succeeded);
        self.failed += let_go(&mut self.waiting_failed);
        self.succeeded += succeeded;
        for pod in self.o.pods.iter().filter(|p| is_tracked(p)) {
            let uid = pod.uid().to_owned();
            if view::phase(pod) == "Succeeded" {
                match self.index(pod) {
                    // Two pods of one index count once.
                    _ if !self.indexed => drop(self.waiting_succeeded.insert(uid)),
                    Some(i) => {
                        self.done.insert(i);
                        self.waiting_succeeded.insert(uid);
                    }
                    None => {}
                }
            } else if has_failed(pod) && !policy::ignores(self.o.job, pod) {
                self.waiting_failed.insert(uid);
            }
        }
        if self.indexed {
            self.succeeded = self.done.len();
        }
    }

    fn all_succeeded(&self) -> i64 {
        if self.indexed { self.done.len() } else { self.succeeded + self.waiting_succeeded.len() as i64 }
    }

    fn all_failed(&self) -> i64 {
        self.failed + self.waiting_failed.len() as i64
    }

    fn run(&mut self) {
        let job = self.o.job;
        let suspended = job.at(&["spec", "suspend"]) == true;
        let mut actions = Vec::new();
        let end = self.verdict();
        // What was decided stays decided, even if pods change their minds.
        let target = self.conditions.iter().find(|c| c["type"] == "FailureTarget" && c["status"] == "True");
        let end = match target {
            Some(c) => {
                let text = |f: &str| c[f].as_str().unwrap_or_default().to_owned();
                Some(("Failed", policy::known_reason(&text("reason")), text("message")))
            }
            None => end,
        };
        let mut start = job.status()["startTime"].clone();
        if start.is_null() && !suspended {
            start = meta::time(self.o.now).into();
        }
        let (mut completion, mut pods_go) = (Value::Null, false);
        match &end {
            Some(end) => {
                pods_go = true;
                completion = self.finish(end, &mut actions);
            }
            None if suspended => {
                pods_go = true;
                start = Value::Null;
                if self.set("Suspended", "True", "JobSuspended", "Job suspended") {
                    actions.push(Action::event(job, "Normal", "Suspended", "Job suspended"));
                }
            }
            None => {
                let was = self.conditions.iter().any(|c| c["type"] == "Suspended" && c["status"] == "True");
                if was && self.set("Suspended", "False", "JobResumed", "Job resumed") {
                    start = meta::time(self.o.now).into();
                    actions.push(Action::event(job, "Normal", "Resumed", "Job resumed"));
                }
                self.manage(&mut actions);
            }
        }
        if pods_go {
            let gone: Vec<Action> = self.active.iter().map(|p| self.delete(p)).collect();
            actions.extend(gone);
        }
        self.watch_the_clock(&start, suspended || end.is_some());
        let status = self.status(start, completion);
        if view::status_differs(job, &status) {
            self.decision.actions.push(Action::status(&gvr::JOBS, job, status));
        }
        // Only now, when their UIDs are written down.
        let noted = |p: &&Arc<Object>| {
            self.waiting_succeeded.contains(p.uid())
                || self.waiting_failed.contains(p.uid())
                || view::is_terminal(p)
        };
        let free: Vec<Action> = self.o.pods.iter().filter(noted).filter_map(|p| untrack(p)).collect();
        self.decision.actions.extend(free);
        self.decision.actions.extend(actions);
    }

    /// How the Job is to end, if it is.
    fn verdict(&self) -> Option<End> {
        let job = self.o.job;
        if let Some(message) = self.o.pods.iter().find_map(|p| policy::fails_job(job, p)) {
            return Some(("Failed", "PodFailurePolicy", message));
        }
        let limit = view::int(job, &["spec", "backoffLimit"], 6);
        let restarts: i64 = self.active.iter().map(|p| restarts(p)).sum();
        let on_failure = view::text(job, &["spec", "template", "spec", "restartPolicy"]) == "OnFailure";
        let exhausted = on_failure && restarts > 0 && restarts >= limit;
        if self.all_failed() > limit || exhausted {
            let text = "Job has reached the specified backoff limit";
            return Some(("Failed", "BackoffLimitExceeded", text.into()));
        }
        let start = view::time(&job.status()["startTime"]);
        if let (Some(deadline), Some(start)) = (job.at(&["spec", "activeDeadlineSeconds"]).as_u64(), start)
            && job.at(&["spec", "suspend"]) != true
            && base::clock::between(start, self.o.now) >= Duration::from_secs(deadline)
        {
            return Some((
                "Failed",
                "DeadlineExceeded",
                "Job was active longer than specified deadline".into(),
            ));
        }
        let complete = match self.completions {
            // One success is enough, once the others have come to their ends too.
            None => self.all_succeeded() > 0 && self.active.is_empty(),
            Some(n) => self.all_succeeded() >= n,
        };
        complete
            .then(|| ("Complete", "CompletionsReached", "Reached expected number of succeeded pods".into()))
    }

    /// Ends the Job, if all its pods have ended and are counted; gives the time of completion.
    fn finish(&mut self, (condition, reason, message): &End, actions: &mut Vec<Action>) -> Value {
        let failed = *condition == "Failed";
        let target = if failed { "FailureTarget" } else { "SuccessCriteriaMet" };
        self.set(target, "True", reason, message);
        let running = self.o.pods.iter().any(|p| !view::is_terminal(p));
        let uncounted = !self.waiting_failed.is_empty() || !self.waiting_succeeded.is_empty();
        let tracked = self.o.pods.iter().any(|p| is_tracked(p));
        if running || uncounted || tracked {
            return Value::Null;
        }
        self.set(condition, "True", reason, message);
        if failed {
            actions.push(Action::Event {
                about: self.o.job.clone(),
                kind: "Warning",
                reason,
                message: message.clone(),
            });
            return Value::Null;
        }
        actions.push(Action::event(self.o.job, "Normal", "Completed", "Job completed"));
        meta::time(self.o.now).into()
    }

    fn set(&mut self, kind: &str, status: &str, reason: &str, message: &str) -> bool {
        let now = meta::time(self.o.now);
        let changed = meta::set_condition(&mut self.conditions, kind, status, reason, message, &now);
        if changed {
            for c in self.conditions.iter_mut().filter(|c| c["type"] == kind) {
                c["lastProbeTime"] = now.as_str().into();
            }
        }
        changed
    }

    /// Makes pods, or lets some go.
    fn manage(&mut self, actions: &mut Vec<Action>) {
        let active = self.active.len() as i64;
        let want = match self.completions {
            None if self.all_succeeded() > 0 => active,
            None => self.parallelism,
            Some(n) => self.parallelism.min(n - self.all_succeeded()),
        };
        let want = want.max(0);
        if active > want {
            let mut spare = self.active.clone();
            // Those that have done least go.
            spare.sort_by_key(|p| {
                (view::phase(p) == "Running", view::is_ready(p), std::cmp::Reverse(view::created(p)))
            });
            let excess = usize::try_from(active - want).unwrap_or(0);
            actions.extend(spare.iter().take(excess).map(|p| self.delete(p)));
            return;
        }
        if active == want {
            return;
        }
        if let Some(left) = self.backoff() {
            return self.decision.after(left);
        }
        let missing = usize::try_from(want - active).unwrap_or(0).min(BURST);
        if !self.indexed {
            actions.extend((0..missing).map(|_| self.create(None)));
            return;
        }
        let taken: BTreeSet<i64> = self.active.iter().filter_map(|p| self.index(p)).collect();
        let free =
            (0..self.completions.unwrap_or(0)).filter(|i| !self.done.contains(*i) && !taken.contains(i));
        actions.extend(free.take(missing).map(|i| self.create(Some(i))));
    }

    /// How long still to wait because of failures since the last success.
    fn backoff(&self) -> Option<Duration> {
        let last = |f: &dyn Fn(&Object) -> bool| {
            self.o.pods.iter().filter(|p| f(p)).filter_map(|p| ended_at(p)).max()
        };
        let success = last(&|p| view::phase(p) == "Succeeded");
        let failures = self.o.pods.iter().filter(|p| view::phase(p) == "Failed");
        let since = failures.filter(|p| ended_at(p).zip(success).is_none_or(|(f, s)| f > s)).count();
        let failure = last(&|p| view::phase(p) == "Failed")?;
        if since == 0 {
            return None;
        }
        let doubled = 1u32.checked_shl(u32::try_from(since - 1).unwrap_or(31)).unwrap_or(u32::MAX);
        let delay = FIRST_DELAY.saturating_mul(doubled).min(LAST_DELAY);
        delay.checked_sub(base::clock::between(failure, self.o.now)).filter(|left| !left.is_zero())
    }

    fn create(&self, index: Option<i64>) -> Action {
        let job = self.o.job;
        let owner = meta::OwnerReference::controller_of(job);
        let prefix = match index {
            Some(i) => view::prefix(&format!("{}-{i}", job.name())),
            None => view::prefix(job.name()),
        };
        let mut pod =
            view::pod_from_template(job.at(&["spec", "template"]), job.namespace(), &prefix, &owner);
        meta::add_finalizer(&mut pod, TRACKING);
        if let Some(i) = index {
            indexes::give(&mut pod, job.name(), i);
        }
        Action::Create { gvr: gvr::PODS, object: pod, announce: Announce::created(job, "pod") }
    }

    fn delete(&self, pod: &Arc<Object>) -> Action {
        let announce = Announce::deleted(self.o.job, "pod");
        Action::Delete {
            gvr: gvr::PODS,
            object: pod.clone(),
            options: DeleteOptions::uid(pod.uid()),
            announce,
        }
    }

    fn watch_the_clock(&mut self, start: &Value, idle: bool) {
        let deadline = self.o.job.at(&["spec", "activeDeadlineSeconds"]).as_u64();
        if let (Some(deadline), Some(start), false) = (deadline, view::time(start), idle) {
            let left = Duration::from_secs(deadline).saturating_sub(base::clock::between(start, self.o.now));
            self.decision.after(left.max(Duration::from_millis(1)));
        }
    }

    fn status(&self, start: Value, completion: Value) -> Value {
        let ready = self.active.iter().filter(|p| view::is_ready(p)).count();
        let terminating = self.o.pods.iter().filter(|p| p.is_deleting() && !view::is_terminal(p)).count();
        let ids = |set: &BTreeSet<String>| set.iter().map(|s| Value::from(s.as_str())).collect::<Vec<_>>();
        let mut uncounted = json!({});
        for (field, set) in [("succeeded", &self.waiting_succeeded), ("failed", &self.waiting_failed)] {
            if !set.is_empty() {
                uncounted[field] = ids(set).into();
            }
        }
        let mut status =
            json!({"ready": ready, "terminating": terminating, "uncountedTerminatedPods": uncounted});
        let active = self.active.len() as i64;
        for (field, n) in [("active", active), ("succeeded", self.succeeded), ("failed", self.failed)] {
            if n != 0 {
                status[field] = n.into();
            }
        }
        for (field, value) in [("startTime", start), ("completionTime", completion)] {
            if !value.is_null() {
                status[field] = value;
            }
        }
        if self.indexed && self.done.len() > 0 {
            status["completedIndexes"] = self.done.to_string().into();
        }
        if !self.conditions.is_empty() {
            status["conditions"] = self.conditions.clone().into();
        }
        status
    }
}

fn restarts(pod: &Object) -> i64 {
    let all = ["containerStatuses", "initContainerStatuses"];
    all.iter().flat_map(|f| view::list(pod, &["status", f])).filter_map(|c| c["restartCount"].as_i64()).sum()
}

#[cfg(test)]
mod tests;
