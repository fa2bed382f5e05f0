//! What to do about a pod, as a pure function of what is wanted and what is observed.
//!
//! The rules are upstream's: volumes and sandbox first; init containers one after the other, sidecars among them going
//! on; then all containers together; restarts by policy and back-off; when a pod must end, its containers are stopped
//! (sidecars after the others), its end is reported, what it had on the node is taken down, and only then the API object
//! goes. Nothing is decided twice: what is under way shows in the state.

use tokio::time::Instant;

use super::state::{ContainerState, ImageState, PodState, RunPhase, SandboxState, VolumesState};
use crate::view::{Container, Pod};

/// Something to be done; the names are containers'.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Set the volumes up.
    PrepareVolumes,
    /// Make namespaces and network.
    CreateSandbox,
    /// Remove what is left of a sandbox that has ended.
    DropSandbox,
    /// See that the container's image is here.
    EnsureImage(String),
    /// Make and start a run.
    Start(String),
    /// Stop a run.
    Stop {
        /// Which container.
        name: String,
        /// The time it has, in seconds.
        grace: i64,
        /// Why.
        why: Why,
    },
    /// Say how everything ended.
    Settle,
    /// Take down what the pod has on the node. `keep` leaves ended containers and logs until the object goes.
    TearDown {
        /// The pod is over but not deleted.
        keep: bool,
    },
    /// Delete the API object.
    DeleteObject,
    /// Nothing is left to do, ever.
    Forget,
    /// Look again then.
    Wake(Instant),
}

/// Why a container is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The pod ends.
    PodEnds,
    /// Its liveness probe failed.
    Liveness,
    /// Its startup probe failed.
    Startup,
    /// The other containers are done, so the sidecar is too.
    SidecarDone,
    /// The sandbox is gone.
    SandboxGone,
    /// The pod names another image now.
    Replaced,
}

/// What a container that is replaced has to end by itself at least, in seconds, as upstream's.
const LEAST_GRACE: i64 = 2;

/// How the containers' ends add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It runs, or will.
    Goes,
    /// Every container has succeeded and none will be restarted.
    Succeeded,
    /// A container has failed and none will be restarted.
    Failed,
}

/// What to do now. In the order in which it may be begun; nothing waits for what stands before it.
pub fn decide(pod: &Pod, state: &PodState, now: Instant) -> Vec<Action> {
    let verdict = verdict(pod, state);
    if pod.deleting || state.orphan || pod.is_terminal() || state.failed.is_some() || verdict != Verdict::Goes
    {
        return end(pod, state);
    }
    let mut actions = Vec::new();
    if let Some(deadline) = state.deadline {
        actions.push(Action::Wake(deadline));
    }
    match state.volumes {
        VolumesState::Absent => actions.push(Action::PrepareVolumes),
        VolumesState::Failed(until) if until <= now => actions.push(Action::PrepareVolumes),
        VolumesState::Failed(until) => actions.push(Action::Wake(until)),
        VolumesState::Preparing | VolumesState::Ready => {}
    }
    // What runs in an earlier one is stopped first.
    let quiet = state.containers.values().all(ContainerState::is_quiet);
    match state.sandbox {
        SandboxState::Gone(_) if quiet => actions.push(Action::DropSandbox),
        SandboxState::Absent if quiet => actions.push(Action::CreateSandbox),
        SandboxState::Failed(until) if until <= now && quiet => actions.push(Action::CreateSandbox),
        SandboxState::Failed(until) if until > now => actions.push(Action::Wake(until)),
        _ => {}
    }
    let can_start = state.volumes == VolumesState::Ready && state.ready_sandbox().is_some();
    let mut step = Step { pod, state, now, can_start, actions };
    step.all();
    step.actions
}

struct Step<'a> {
    pod: &'a Pod,
    state: &'a PodState,
    now: Instant,
    can_start: bool,
    actions: Vec<Action>,
}

impl Step<'_> {
    fn all(&mut self) {
        // Runs left over from a sandbox that is gone.
        for (name, c) in &self.state.containers {
            if c.running().is_some() && !c.stopping && self.state.here(name).is_none() {
                self.actions.push(Action::Stop { name: name.clone(), grace: 0, why: Why::SandboxGone });
            }
        }
        let spec = &self.pod.spec;
        let begun = spec.containers.iter().any(|c| self.state.here(&c.name).is_some());
        if !self.init(begun) {
            return;
        }
        for c in &spec.containers {
            self.container(c, false);
        }
        for c in &spec.ephemeral_containers {
            self.container(c, false);
        }
    }

    /// Walks the init containers; says whether all are done.
    fn init(&mut self, begun: bool) -> bool {
        for c in &self.pod.spec.init_containers {
            if c.is_sidecar() {
                self.container(c, false);
                let up = self.state.here(&c.name).is_some() && self.state.of(&c.name).started;
                if !begun && !up {
                    return false;
                }
                continue;
            }
            // Once the containers have begun, init containers are history, whatever became of their records.
            if begun {
                continue;
            }
            let done = self.state.here(&c.name).is_some()
                && self.state.of(&c.name).ended().is_some_and(|e| e.code == 0);
            if !done {
                self.container(c, true);
                return false;
            }
        }
        true
    }

    /// `anew`: it runs in every sandbox, however it ended in the one before.
    fn container(&mut self, c: &Container, anew: bool) {
        let s = self.state.of(&c.name);
        if s.starting || s.stopping {
            return;
        }
        match self.state.here(&c.name).map(|run| &run.phase) {
            Some(RunPhase::Running { .. })
                if self.state.here(&c.name).is_some_and(|r| r.image != c.image) =>
            {
                let grace = self.pod.grace().max(LEAST_GRACE);
                self.actions.push(Action::Stop { name: c.name.clone(), grace, why: Why::Replaced });
            }
            Some(RunPhase::Running { .. }) => {
                if let Some(unhealthy) = &s.unhealthy {
                    let why = if unhealthy.probe == "startup" { Why::Startup } else { Why::Liveness };
                    let grace = unhealthy.grace.unwrap_or(self.pod.grace());
                    self.actions.push(Action::Stop { name: c.name.clone(), grace, why });
                }
            }
            Some(RunPhase::Exited(ended)) => {
                if s.replaced || self.pod.spec.restarts(c, ended.code) {
                    self.start(c, s);
                }
            }
            // An earlier sandbox's run that still lives is being stopped.
            None if s.running().is_some() => {}
            None => {
                let again = |code| anew || s.replaced || self.pod.spec.restarts(c, code);
                if s.ended().is_none_or(|e| again(e.code)) {
                    self.start(c, s);
                }
            }
        }
    }

    fn start(&mut self, c: &Container, s: &ContainerState) {
        let waits = [s.backoff, s.trouble.as_ref().map(|t| t.until)];
        if let Some(until) = waits.into_iter().flatten().filter(|t| *t > self.now).max() {
            self.actions.push(Action::Wake(until));
            return;
        }
        match &s.image {
            ImageState::Unknown => self.actions.push(Action::EnsureImage(c.name.clone())),
            ImageState::Failed { until, .. } if *until <= self.now => {
                self.actions.push(Action::EnsureImage(c.name.clone()));
            }
            ImageState::Failed { until, .. } => self.actions.push(Action::Wake(*until)),
            ImageState::Ready(_) if self.can_start => self.actions.push(Action::Start(c.name.clone())),
            ImageState::Ready(_) | ImageState::Pulling => {}
        }
    }
}

/// How the containers' ends add up.
pub fn verdict(pod: &Pod, state: &PodState) -> Verdict {
    let is_over = |c: &Container| {
        let s = state.of(&c.name);
        let over = s.ended().filter(|e| s.is_quiet() && !s.replaced && !pod.spec.restarts(c, e.code));
        over.map(|e| e.code)
    };
    // An init container that failed and is not started again is the end.
    if pod.spec.init_containers.iter().any(|c| is_over(c).is_some_and(|code| code != 0)) {
        return Verdict::Failed;
    }
    let ends: Option<Vec<i32>> = pod.spec.containers.iter().map(is_over).collect();
    match ends {
        Some(codes) if !codes.is_empty() => {
            if codes.iter().all(|c| *c == 0) {
                Verdict::Succeeded
            } else {
                Verdict::Failed
            }
        }
        _ => Verdict::Goes,
    }
}

/// The pod must end, or has.
fn end(pod: &Pod, state: &PodState) -> Vec<Action> {
    let mut actions = Vec::new();
    let grace = if state.orphan && !pod.deleting { pod.grace().min(1) } else { pod.grace() };
    let sidecar = |name: &str| pod.spec.init_containers.iter().any(|c| c.name == name && c.is_sidecar());
    let others_run = state.containers.iter().any(|(name, c)| !sidecar(name) && !c.is_quiet());
    let over = verdict(pod, state) != Verdict::Goes && !pod.deleting && !state.orphan;
    for (name, c) in &state.containers {
        let must_wait = sidecar(name) && others_run;
        if c.running().is_some() && !c.stopping && !c.starting && !must_wait {
            let why = if over && sidecar(name) { Why::SidecarDone } else { Why::PodEnds };
            actions.push(Action::Stop { name: name.clone(), grace, why });
        }
    }
    let quiet = state.containers.values().all(ContainerState::is_quiet)
        && !matches!(state.sandbox, SandboxState::Creating | SandboxState::Removing)
        && state.volumes != VolumesState::Preparing;
    if !quiet {
        return actions;
    }
    if state.orphan {
        actions.push(if state.clean { Action::Forget } else { Action::TearDown { keep: false } });
        return actions;
    }
    if !state.settled {
        actions.push(Action::Settle);
    } else if pod.deleting {
        if !state.clean {
            actions.push(Action::TearDown { keep: false });
        } else if !state.deleting_object {
            actions.push(Action::DeleteObject);
        }
    } else if state.sandbox_id().is_some() {
        actions.push(Action::TearDown { keep: true });
    }
    actions
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::super::state::{Ended, ReadySandbox, Run, Trouble, Unhealthy};
    use super::*;
    use crate::view::tests::pod;

    fn now() -> Instant {
        Instant::now()
    }

    fn ready() -> PodState {
        PodState {
            sandbox: SandboxState::Ready(ReadySandbox { id: "s".into(), pid: 1, ips: vec![] }),
            volumes: VolumesState::Ready,
            ..PodState::default()
        }
    }

    fn running() -> ContainerState {
        let phase = RunPhase::Running { started: jiff::Timestamp::UNIX_EPOCH };
        ContainerState { run: Some(run(phase)), started: true, ready: true, ..image() }
    }

    fn image() -> ContainerState {
        ContainerState { image: ImageState::Ready("i".into()), ..ContainerState::default() }
    }

    fn run(phase: RunPhase) -> Run {
        Run {
            id: "c".into(),
            attempt: 0,
            image: String::new(),
            image_id: "i".into(),
            sandbox: "s".into(),
            phase,
        }
    }

    fn exited(code: i32) -> ContainerState {
        let t = jiff::Timestamp::UNIX_EPOCH;
        let ended = Ended {
            code,
            signal: None,
            reason: "Error".into(),
            message: String::new(),
            started: t,
            finished: t,
        };
        ContainerState { run: Some(run(RunPhase::Exited(ended))), ..image() }
    }

    fn with(mut state: PodState, containers: &[(&str, ContainerState)]) -> PodState {
        state.containers = containers.iter().map(|(n, c)| (n.to_string(), c.clone())).collect();
        state
    }

    fn one(policy: &str) -> Pod {
        pod(json!({"restartPolicy": policy, "containers": [{"name": "a"}]}))
    }

    fn deleted(mut pod: Pod, grace: i64) -> Pod {
        pod.deleting = true;
        pod.deletion_grace = Some(grace);
        pod
    }

    fn start(name: &str) -> Action {
        Action::Start(name.into())
    }

    fn stop(name: &str, grace: i64, why: Why) -> Action {
        Action::Stop { name: name.into(), grace, why }
    }

    #[test]
    fn a_new_pod_gets_everything_at_once() {
        let got = decide(&one("Always"), &PodState::default(), now());
        assert_eq!(got, [Action::PrepareVolumes, Action::CreateSandbox, Action::EnsureImage("a".into())]);
        // ... and nothing twice.
        let busy = PodState {
            sandbox: SandboxState::Creating,
            volumes: VolumesState::Preparing,
            ..PodState::default()
        };
        let pulling = ContainerState { image: ImageState::Pulling, ..ContainerState::default() };
        assert_eq!(decide(&one("Always"), &with(busy.clone(), &[("a", pulling)]), now()), []);
        assert_eq!(decide(&one("Always"), &with(busy, &[("a", image())]), now()), []);
        assert_eq!(decide(&one("Always"), &with(ready(), &[("a", image())]), now()), [start("a")]);
    }

    #[test]
    fn restarts_by_policy() {
        let table = [
            ("Always", 0, vec![start("a")]),
            ("Always", 1, vec![start("a")]),
            ("OnFailure", 1, vec![start("a")]),
            ("OnFailure", 0, vec![Action::Settle]),
            ("Never", 0, vec![Action::Settle]),
            ("Never", 1, vec![Action::Settle]),
        ];
        for (policy, code, want) in table {
            assert_eq!(
                decide(&one(policy), &with(ready(), &[("a", exited(code))]), now()),
                want,
                "{policy} {code}"
            );
        }
    }

    #[test]
    fn waits_are_kept() {
        let (now, later) = (now(), now() + Duration::from_secs(10));
        let backoff = ContainerState { backoff: Some(later), ..exited(1) };
        assert_eq!(decide(&one("Always"), &with(ready(), &[("a", backoff)]), now), [Action::Wake(later)]);
        let trouble = Trouble { reason: "CreateContainerError", message: String::new(), until: later };
        let trouble = ContainerState { trouble: Some(trouble), ..image() };
        assert_eq!(
            decide(&one("Always"), &with(ready(), &[("a", trouble.clone())]), now),
            [Action::Wake(later)]
        );
        assert_eq!(decide(&one("Always"), &with(ready(), &[("a", trouble)]), later), [start("a")]);
        let failed = ImageState::Failed { reason: "ErrImagePull", message: String::new(), until: later };
        let failed = ContainerState { image: failed, ..ContainerState::default() };
        assert_eq!(
            decide(&one("Always"), &with(ready(), &[("a", failed.clone())]), now),
            [Action::Wake(later)]
        );
        assert_eq!(
            decide(&one("Always"), &with(ready(), &[("a", failed)]), later),
            [Action::EnsureImage("a".into())]
        );
        let state = PodState {
            sandbox: SandboxState::Failed(later),
            volumes: VolumesState::Failed(later),
            ..PodState::default()
        };
        assert_eq!(
            decide(&one("Always"), &with(state, &[("a", image())]), now),
            [Action::Wake(later), Action::Wake(later)]
        );
    }

    fn with_init(policy: &str) -> Pod {
        pod(json!({
            "restartPolicy": policy,
            "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}, {"name": "j"}],
            "containers": [{"name": "a"}, {"name": "b"}],
            "terminationGracePeriodSeconds": 7,
        }))
    }

    #[test]
    fn init_containers_go_one_by_one() {
        let p = with_init("Always");
        let all = ["i", "s", "j", "a", "b"].map(|n| (n, image()));
        let mut steps: Vec<(&str, ContainerState)> = all.to_vec();
        let mut go = |name: &str, state: ContainerState| {
            for s in &mut steps {
                if s.0 == name {
                    s.1 = state.clone();
                }
            }
            decide(&p, &with(ready(), &steps), now())
        };
        assert_eq!(go("i", image()), [start("i")]);
        assert_eq!(go("i", running()), []);
        assert_eq!(go("i", exited(1)), [start("i")]);
        assert_eq!(go("i", exited(0)), [start("s")]);
        assert_eq!(go("s", ContainerState { started: false, ..running() }), []);
        assert_eq!(go("s", running()), [start("j")]);
        assert_eq!(go("j", exited(0)), [start("a"), start("b")]);
        assert_eq!(go("a", running()), [start("b")]);
        // A sidecar that dies is started again, and init containers are history.
        assert_eq!(go("s", exited(0)), [start("s"), start("b")]);
        assert_eq!(go("i", image()), [start("s"), start("b")]);
    }

    #[test]
    fn a_failed_init_container_ends_a_pod_that_never_restarts() {
        let state = with(ready(), &[("i", exited(1))]);
        assert_eq!(decide(&with_init("Never"), &state, now()), [Action::Settle]);
        assert_eq!(verdict(&with_init("Never"), &state), Verdict::Failed);
        assert_eq!(verdict(&with_init("OnFailure"), &state), Verdict::Goes);
    }

    #[test]
    fn sidecars_end_after_the_others() {
        let done = [("i", exited(0)), ("j", exited(0)), ("s", running()), ("a", exited(0)), ("b", exited(0))];
        let p = with_init("Never");
        assert_eq!(decide(&p, &with(ready(), &done), now()), [stop("s", 7, Why::SidecarDone)]);
        let mut busy = done.clone();
        busy[4].1 = running();
        assert_eq!(
            decide(&deleted(p.clone(), 3), &with(ready(), &busy), now()),
            [stop("b", 3, Why::PodEnds)]
        );
    }

    #[test]
    fn unhealthy_containers_are_stopped() {
        let grace =
            |grace| ContainerState { unhealthy: Some(Unhealthy { probe: "liveness", grace }), ..running() };
        assert_eq!(
            decide(&one("Always"), &with(ready(), &[("a", grace(None))]), now()),
            [stop("a", 30, Why::Liveness)]
        );
        assert_eq!(
            decide(&one("Always"), &with(ready(), &[("a", grace(Some(2)))]), now()),
            [stop("a", 2, Why::Liveness)]
        );
        let stopping = ContainerState { stopping: true, ..grace(None) };
        assert_eq!(decide(&one("Always"), &with(ready(), &[("a", stopping)]), now()), []);
    }

    #[test]
    fn deletion_goes_step_by_step() {
        let p = deleted(one("Always"), 5);
        let mut state = with(ready(), &[("a", running())]);
        assert_eq!(decide(&p, &state, now()), [stop("a", 5, Why::PodEnds)]);
        state = with(state, &[("a", ContainerState { stopping: true, ..running() })]);
        assert_eq!(decide(&p, &state, now()), []);
        state = with(state, &[("a", exited(143))]);
        assert_eq!(decide(&p, &state, now()), [Action::Settle]);
        state.settled = true;
        assert_eq!(decide(&p, &state, now()), [Action::TearDown { keep: false }]);
        state.sandbox = SandboxState::Removing;
        assert_eq!(decide(&p, &state, now()), []);
        state.sandbox = SandboxState::Absent;
        state.clean = true;
        assert_eq!(decide(&p, &state, now()), [Action::DeleteObject]);
        state.deleting_object = true;
        assert_eq!(decide(&p, &state, now()), []);
        state.orphan = true;
        assert_eq!(decide(&p, &state, now()), [Action::Forget]);
    }

    #[test]
    fn a_pod_that_was_removed_by_force_is_taken_down_without_a_word() {
        let mut state = with(ready(), &[("a", running())]);
        state.orphan = true;
        assert_eq!(decide(&one("Always"), &state, now()), [stop("a", 1, Why::PodEnds)]);
        state = PodState { containers: Default::default(), ..state };
        assert_eq!(decide(&one("Always"), &state, now()), [Action::TearDown { keep: false }]);
    }

    #[test]
    fn a_finished_pod_keeps_its_containers_until_it_is_deleted() {
        let mut state = with(ready(), &[("a", exited(0))]);
        state.settled = true;
        assert_eq!(decide(&one("Never"), &state, now()), [Action::TearDown { keep: true }]);
        state.sandbox = SandboxState::Absent;
        assert_eq!(decide(&one("Never"), &state, now()), []);
        // After a restart of the daemon the API server's word is enough.
        let mut p = one("Never");
        p.phase = "Succeeded".into();
        let state = PodState { settled: true, ..PodState::default() };
        assert_eq!(decide(&p, &state, now()), []);
    }

    #[test]
    fn what_an_earlier_sandbox_left_is_stopped_and_begun_again() {
        let mut old = running();
        old.run.as_mut().unwrap().sandbox = "old".into();
        assert_eq!(
            decide(&one("Always"), &with(ready(), &[("a", old.clone())]), now()),
            [stop("a", 0, Why::SandboxGone)]
        );
        let mut dead = exited(0);
        dead.run.as_mut().unwrap().sandbox = "old".into();
        assert_eq!(decide(&one("Always"), &with(ready(), &[("a", dead)]), now()), [start("a")]);
    }

    #[test]
    fn ephemeral_containers_run_once() {
        let p = pod(json!({"containers": [{"name": "a"}], "ephemeralContainers": [{"name": "e"}]}));
        assert_eq!(decide(&p, &with(ready(), &[("a", running()), ("e", image())]), now()), [start("e")]);
        assert_eq!(decide(&p, &with(ready(), &[("a", running()), ("e", exited(1))]), now()), []);
    }
}
