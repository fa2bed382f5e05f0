use super::*;
use crate::testing::World;

fn job(change: impl Fn(&mut Value)) -> Value {
    let mut job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "namespace": "ns", "uid": "j", "resourceVersion": "1"},
        "spec": {"parallelism": 1, "completions": 1, "backoffLimit": 6, "completionMode": "NonIndexed",
            "selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": "j"}},
            "template": {"metadata": {"labels": {"batch.kubernetes.io/controller-uid": "j"}}, "spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}}}});
    change(&mut job);
    job
}

struct Play {
    world: World,
}

impl Play {
    fn new(job: Value) -> Play {
        let world = World::new();
        world.machine.start(Jobs::new(&world.machine));
        world.fake.put(&gvr::JOBS, job);
        Play { world }
    }

    /// The pods that have not ended.
    async fn active(&self) -> Vec<Arc<Object>> {
        self.world.settle().await;
        self.world.fake.all(&gvr::PODS).into_iter().filter(|p| view::is_active(p)).collect()
    }

    async fn end(&self, pod: &Object, phase: &str) {
        let mut p = self.world.fake.get(&gvr::PODS, "ns", pod.name()).unwrap().value().clone();
        let code = if phase == "Failed" { 3 } else { 0 };
        p["status"] = json!({"phase": phase, "containerStatuses": [{"name": "c", "state": {"terminated":
            {"exitCode": code, "finishedAt": meta::time(base::clock::now())}}}]});
        self.world.fake.put(&gvr::PODS, p);
        self.world.settle().await;
    }

    fn status(&self) -> Value {
        self.world.fake.get(&gvr::JOBS, "ns", "j").unwrap().status().clone()
    }

    fn ended(&self) -> Option<&'static str> {
        ended(&self.world.fake.get(&gvr::JOBS, "ns", "j").unwrap())
    }
}

#[tokio::test(start_paused = true)]
async fn so_many_so_many_at_once() {
    let play = Play::new(job(|j| {
        j["spec"]["completions"] = 3.into();
        j["spec"]["parallelism"] = 2.into();
    }));
    for n in 0..3 {
        let active = play.active().await;
        assert_eq!(active.len(), if n < 2 { 2 } else { 1 });
        assert!(is_tracked(&active[0]));
        play.end(&active[0], "Succeeded").await;
        assert_eq!(play.status()["succeeded"], n + 1);
    }
    assert_eq!(play.ended(), Some("Complete"));
    assert!(!play.status()["completionTime"].is_null());
    assert_eq!(play.active().await.len(), 0);
    assert!(!play.world.fake.all(&gvr::PODS).iter().any(|p| is_tracked(p)), "all are counted");
    assert!(play.world.fake.all(&gvr::EVENTS).iter().any(|e| e.value()["message"] == "Job completed"));
}

#[tokio::test(start_paused = true)]
async fn what_somebody_else_manages_is_left_to_him() {
    for (manager, pods) in [("kueue.x-k8s.io/multikueue", 0), ("kubernetes.io/job-controller", 1)] {
        let play = Play::new(job(|j| j["spec"]["managedBy"] = manager.into()));
        assert_eq!(play.active().await.len(), pods, "{manager}");
        assert_eq!(play.status()["active"].as_i64().unwrap_or(0), pods as i64, "{manager}");
    }
}

#[tokio::test(start_paused = true)]
async fn failures_count_up_to_the_limit() {
    let play = Play::new(job(|j| j["spec"]["backoffLimit"] = 0.into()));
    let pod = play.active().await.remove(0);
    play.end(&pod, "Failed").await;
    assert_eq!(play.ended(), Some("Failed"));
    assert_eq!((play.status()["failed"].clone(), play.active().await.len()), (json!(1), 0));
    let job = play.world.fake.get(&gvr::JOBS, "ns", "j").unwrap();
    assert_eq!(view::condition(&job, "Failed").unwrap()["reason"], "BackoffLimitExceeded");
}

#[test]
fn a_failed_pod_is_replaced_after_a_while() {
    let job =
        Object::from_value(job(|j| j["status"] = json!({"startTime": "2026-01-01T00:00:00Z", "failed": 1})));
    let pod = Object::from_value(
        json!({"metadata": {"name": "p", "uid": "p", "namespace": "ns"}, "status": {"phase": "Failed",
        "containerStatuses": [{"state": {"terminated": {"finishedAt": "2026-01-01T00:00:10Z"}}}]}}),
    );
    let at = |now: &str| decide(&Observed { job: &job, pods: vec![pod.clone()], now: now.parse().unwrap() });
    let made = |d: &Decision| d.actions.iter().filter(|a| matches!(a, Action::Create { .. })).count();
    let early = at("2026-01-01T00:00:15Z");
    assert_eq!((made(&early), early.again), (0, Some(Duration::from_secs(5))));
    assert_eq!(made(&at("2026-01-01T00:00:20Z")), 1);
}

#[tokio::test(start_paused = true)]
async fn every_index_succeeds_once() {
    let play = Play::new(job(|j| {
        j["spec"]["completions"] = 3.into();
        j["spec"]["parallelism"] = 3.into();
        j["spec"]["completionMode"] = "Indexed".into();
    }));
    let active = play.active().await;
    let mut indexes: Vec<&str> = active.iter().map(|p| p.annotation(INDEX).unwrap()).collect();
    indexes.sort();
    assert_eq!(indexes, ["0", "1", "2"]);
    assert!(active[0].name().starts_with("j-0-"));
    for pod in active.iter().filter(|p| p.annotation(INDEX) != Some("1")) {
        play.end(pod, "Succeeded").await;
    }
    assert_eq!(play.status()["completedIndexes"], "0,2");
    let rest = play.active().await;
    assert_eq!(rest.len(), 1);
    play.end(&rest[0], "Succeeded").await;
    assert_eq!((play.ended(), play.status()["completedIndexes"].clone()), (Some("Complete"), json!("0-2")));
}

#[tokio::test(start_paused = true)]
async fn suspended_and_resumed() {
    let play = Play::new(job(|j| j["spec"]["suspend"] = true.into()));
    assert_eq!(play.active().await.len(), 0);
    assert!(play.status()["startTime"].is_null());
    let mut j = play.world.fake.get(&gvr::JOBS, "ns", "j").unwrap().value().clone();
    j["spec"]["suspend"] = false.into();
    play.world.fake.put(&gvr::JOBS, j);
    assert_eq!(play.active().await.len(), 1);
}

#[test]
fn deadlines_and_the_time_after() {
    let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
    let late = Object::from_value(job(|j| {
        j["spec"]["activeDeadlineSeconds"] = 30.into();
        j["status"] = json!({"startTime": "2026-01-01T00:00:00Z"});
    }));
    let d = decide(&Observed { job: &late, pods: vec![], now });
    let Some(Action::UpdateSub { object, .. }) = d.actions.first() else { panic!() };
    let failed = object["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["type"] == "Failed")
        .unwrap()
        .clone();
    assert_eq!(failed["reason"], "DeadlineExceeded");
    let done = |ttl: i64| {
        let j = Object::from_value(job(|j| {
            j["spec"]["ttlSecondsAfterFinished"] = ttl.into();
            j["status"] = json!({"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": "2026-01-01T00:00:30Z"}]});
        }));
        let d = decide(&Observed { job: &j, pods: vec![], now });
        (d.actions.len(), d.again)
    };
    assert_eq!(done(30), (1, None));
    assert_eq!(done(40), (0, Some(Duration::from_secs(10))));
}

#[tokio::test(start_paused = true)]
async fn a_policy_may_ignore_or_end() {
    let with = |action: &'static str| {
        job(move |j| {
            j["spec"]["backoffLimit"] = 0.into();
            j["spec"]["podFailurePolicy"] =
                json!({"rules": [{"action": action, "onExitCodes": {"operator": "In", "values": [3]}}]});
        })
    };
    let play = Play::new(with("FailJob"));
    let pod = play.active().await.remove(0);
    play.end(&pod, "Failed").await;
    let j = play.world.fake.get(&gvr::JOBS, "ns", "j").unwrap();
    assert_eq!(view::condition(&j, "Failed").unwrap()["reason"], "PodFailurePolicy");
    let play = Play::new(with("Ignore"));
    let pod = play.active().await.remove(0);
    play.end(&pod, "Failed").await;
    assert_eq!((play.ended(), play.status()["failed"].clone()), (None, Value::Null));
}

#[tokio::test(start_paused = true)]
async fn pods_of_a_job_that_is_gone_are_let_go() {
    let play = Play::new(job(|_| {}));
    let pod = play.active().await.remove(0);
    play.world.fake.remove(&gvr::JOBS, "ns", "j");
    play.world.settle().await;
    assert!(!is_tracked(&play.world.fake.get(&gvr::PODS, "ns", pod.name()).unwrap()));
}
