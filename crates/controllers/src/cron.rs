//! CronJob: a Job whenever its schedule says so.

use std::sync::Arc;
use std::time::Duration;

use api::{Key, Object, Value, meta};
use async_trait::async_trait;
use client::{DeleteOptions, Informer, Result, gvr};
use croner::Cron;
use croner::parser::{CronParser, Seconds};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, Zoned};
use serde_json::json;

use crate::{Action, Announce, Controller, Decision, Machine, Source, children, job, view};

/// The annotation of a Job with the time that it was scheduled for.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More missed times than this are not counted but reported: the clock was probably set.
const MISSED: usize = 100;

/// The controller.
pub(crate) struct CronJobs {
    crons: Arc<Informer>,
    jobs: Arc<Informer>,
}

impl CronJobs {
    pub(crate) fn new(machine: &Machine) -> Self {
        Self { crons: machine.informer(&gvr::CRON_JOBS), jobs: machine.informer(&gvr::JOBS) }
    }
}

#[async_trait]
impl Controller for CronJobs {
    fn name(&self) -> &'static str {
        "cronjob-controller"
    }

    fn sources(&self) -> Vec<Source> {
        // Jobs are never adopted: no selector.
        let jobs = children::source(&self.jobs, "CronJob", &self.crons, |_| api::selector::Label::nothing());
        vec![Source::own(&self.crons), jobs]
    }

    async fn reconcile(&self, key: &Key, _: Option<&str>) -> Result<Decision> {
        let Some(cron) = self.crons.get(&key.namespace, &key.name) else { return Ok(Decision::default()) };
        let jobs = children::owned(&self.jobs, &cron);
        Ok(decide(&Observed { cron: &cron, jobs, now: base::clock::now() }))
    }
}

struct Observed<'a> {
    cron: &'a Arc<Object>,
    jobs: Vec<Arc<Object>>,
    now: Timestamp,
}

/// A schedule with its time zone.
enum Schedule {
    Cron(Box<Cron>, TimeZone),
    /// `@every 5m`, counted from when the CronJob was made or last ran.
    Every(Duration),
}

impl Schedule {
    fn parse(cron: &Object) -> std::result::Result<Schedule, String> {
        let text = view::text(cron, &["spec", "schedule"]);
        let (mut zone, mut pattern) = (view::text(cron, &["spec", "timeZone"]), text);
        if let Some(rest) = text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ=")) {
            (zone, pattern) = rest.split_once(' ').unwrap_or((rest, ""));
        }
        if let Some(every) = pattern.trim().strip_prefix("@every ") {
            let nanos = api::duration::parse(every.trim())
                .map_err(|e| format!("unparseable schedule {text:?}: {e}"))?;
            let every = u64::try_from(nanos).map(Duration::from_nanos).unwrap_or_default();
            // Whole seconds, and not less than one.
            return Ok(Schedule::Every(Duration::from_secs(every.as_secs().max(1))));
        }
        let zone = if zone.is_empty() {
            TimeZone::UTC
        } else {
            // The database by which the API server has judged the name, whatever is installed here.
            TimeZoneDatabase::bundled().get(zone).map_err(|e| format!("invalid timezone {zone:?}: {e}"))?
        };
        let parser = CronParser::builder().seconds(Seconds::Disallowed).build();
        let parsed =
            parser.parse(&plain(pattern)).map_err(|e| format!("unparseable schedule {text:?}: {e}"))?;
        Ok(Schedule::Cron(Box::new(parsed), zone))
    }

    /// The first time after `after`.
    fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match self {
            Schedule::Cron(cron, zone) => {
                let next: Zoned = cron.find_next_occurrence(&after.to_zoned(zone.clone()), false).ok()?;
                Some(next.timestamp())
            }
            Schedule::Every(every) => after.checked_add(*every).ok(),
        }
    }
}

/// A schedule in the words that the parser knows of those that Kubernetes takes.
fn plain(pattern: &str) -> String {
    if pattern.trim() == "@midnight" {
        return "@daily".to_owned();
    }
    // The last of minutes, hours, days, months and weekdays.
    const LAST: [u8; 5] = [59, 23, 31, 12, 6];
    let field = |(i, field): (usize, &str)| {
        let part = |part: &str| match (part.split_once('/'), LAST.get(i)) {
            _ if part.starts_with('?') => part.replacen('?', "*", 1),
            // From there on, in steps.
            (Some((from, step)), Some(last)) if !from.contains(['-', '*']) => format!("{from}-{last}/{step}"),
            _ => part.to_owned(),
        };
        // All of them in steps of one are all of them: then only the other of the two fields for days counts.
        if field.split(',').any(|part| matches!(part, "*" | "?" | "*/1" | "?/1")) {
            return "*".to_owned();
        }
        field.split(',').map(part).collect::<Vec<_>>().join(",")
    };
    pattern.split_whitespace().enumerate().map(field).collect::<Vec<_>>().join(" ")
}

/// The first so many times of a schedule after `after`.
#[cfg(any(test, fuzzing))]
pub(crate) fn times(cron: &Object, after: Timestamp, count: usize) -> Vec<Timestamp> {
    let Ok(schedule) = Schedule::parse(cron) else { return Vec::new() };
    std::iter::successors(schedule.next(after), |t| schedule.next(*t)).take(count).collect()
}

fn decide(o: &Observed<'_>) -> Decision {
    let mut decision = Decision::default();
    let mut status = Status::of(o);
    status.see_ended(o, &mut decision.actions);
    forget_old(o, &mut decision.actions);
    let mut start = Vec::new();
    if !o.cron.is_deleting() && o.cron.at(&["spec", "suspend"]) != true {
        match Schedule::parse(o.cron) {
            Ok(schedule) => start = run(o, &schedule, &mut status, &mut decision),
            Err(e) => decision.actions.push(Action::event(o.cron, "Warning", "UnparseableSchedule", e)),
        }
    }
    // The Job first: its name is the same however often it is tried, so that no time is lost and none is run twice.
    decision.actions.extend(start);
    let status = status.value();
    if view::status_differs(o.cron, &status) {
        decision.actions.push(Action::status(&gvr::CRON_JOBS, o.cron, status));
    }
    decision
}

struct Status {
    active: Vec<Value>,
    last: Value,
    success: Value,
}

impl Status {
    fn of(o: &Observed<'_>) -> Status {
        let status = o.cron.status();
        let active = o.jobs.iter().filter(|j| job::ended(j).is_none() && !j.is_deleting());
        Status {
            active: active.map(|j| reference(j)).collect(),
            last: status["lastScheduleTime"].clone(),
            success: status["lastSuccessfulTime"].clone(),
        }
    }

    /// Tells of Jobs that have ended since the last look.
    fn see_ended(&mut self, o: &Observed<'_>, actions: &mut Vec<Action>) {
        let known = view::list(o.cron, &["status", "active"]);
        for j in &o.jobs {
            let Some(end) = job::ended(j) else { continue };
            if known.iter().any(|k| k["uid"] == j.uid()) {
                let text = format!("Saw completed job: {}, condition: {end}", j.name());
                actions.push(Action::event(o.cron, "Normal", "SawCompletedJob", text));
            }
            let time = &j.status()["completionTime"];
            if end == "Complete" && view::time(time) > view::time(&self.success) {
                self.success = time.clone();
            }
        }
        for k in known.iter().filter(|k| !o.jobs.iter().any(|j| k["uid"] == j.uid())) {
            let text = format!("Active job went missing: {}", k["name"].as_str().unwrap_or_default());
            actions.push(Action::event(o.cron, "Normal", "MissingJob", text));
        }
    }

    fn value(self) -> Value {
        let mut status = json!({});
        if !self.active.is_empty() {
            status["active"] = self.active.into();
        }
        for (field, value) in [("lastScheduleTime", self.last), ("lastSuccessfulTime", self.success)] {
            if !value.is_null() {
                status[field] = value;
            }
        }
        status
    }
}

fn reference(job: &Object) -> Value {
    json!({"apiVersion": "batch/v1", "kind": "Job", "namespace": job.namespace(), "name": job.name(), "uid": job.uid()})
}

/// Deletes ended Jobs beyond the limits.
fn forget_old(o: &Observed<'_>, actions: &mut Vec<Action>) {
    for (end, field, default) in
        [("Complete", "successfulJobsHistoryLimit", 3), ("Failed", "failedJobsHistoryLimit", 1)]
    {
        let limit = view::int(o.cron, &["spec", field], default).max(0) as usize;
        let mut ended: Vec<&Arc<Object>> =
            o.jobs.iter().filter(|j| job::ended(j) == Some(end) && !j.is_deleting()).collect();
        ended.sort_by_key(|j| (view::time(&j.status()["startTime"]), j.name().to_owned()));
        let excess = ended.len().saturating_sub(limit);
        actions.extend(ended.into_iter().take(excess).map(|j| delete(o, j)));
    }
}

fn delete(o: &Observed<'_>, job: &Arc<Object>) -> Action {
    let options = DeleteOptions { uid: Some(job.uid().into()), ..DeleteOptions::background() };
    Action::Delete {
        gvr: gvr::JOBS,
        object: job.clone(),
        options,
        announce: Announce::deleted(o.cron, "job"),
    }
}

/// Starts a Job if one is due, and says when the next one will be.
fn run(o: &Observed<'_>, schedule: &Schedule, status: &mut Status, decision: &mut Decision) -> Vec<Action> {
    let mut since = view::time(&status.last).unwrap_or_else(|| view::created(o.cron));
    let deadline = o.cron.at(&["spec", "startingDeadlineSeconds"]).as_u64().map(Duration::from_secs);
    if let Some(oldest) = deadline.and_then(|d| o.now.checked_sub(d).ok()) {
        since = since.max(oldest);
    }
    let (mut due, mut missed, mut next) = (None, 0, schedule.next(since));
    while let Some(time) = next.filter(|t| *t <= o.now) {
        due = Some(time);
        missed += 1;
        if missed > MISSED {
            // From here on only the last one matters.
            let text = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            decision.actions.push(Action::event(o.cron, "Warning", "TooManyMissedTimes", text));
            let late = o.now.checked_sub(Duration::from_secs(3600)).unwrap_or(o.now).max(time);
            next = schedule.next(late);
            missed = 1;
            if late > time {
                continue;
            }
        } else {
            next = schedule.next(time);
        }
    }
    if let Some(next) = next {
        decision.after(base::clock::between(o.now, next) + Duration::from_millis(1));
    }
    let Some(time) = due else { return Vec::new() };
    let policy = view::text(o.cron, &["spec", "concurrencyPolicy"]);
    let mut actions = Vec::new();
    if policy == "Forbid" && !status.active.is_empty() {
        let text = "Not starting job because prior execution is running and concurrency policy is Forbid";
        decision.actions.push(Action::event(o.cron, "Normal", "JobAlreadyActive", text));
        return actions; // it stays due until the running one has ended
    }
    if policy == "Replace" {
        let running = o.jobs.iter().filter(|j| job::ended(j).is_none() && !j.is_deleting());
        actions.extend(running.map(|j| delete(o, j)));
        status.active.clear();
    }
    let name = format!("{}-{}", o.cron.name(), time.as_second() / 60);
    status.last = meta::time(time).into();
    if o.jobs.iter().any(|j| j.name() == name) {
        return actions;
    }
    let template = o.cron.at(&["spec", "jobTemplate"]);
    let mut metadata = json!({"name": name, "namespace": o.cron.namespace(),
        "ownerReferences": [meta::OwnerReference::controller_of(o.cron)]});
    for field in ["labels", "annotations"] {
        if !template["metadata"][field].is_null() {
            metadata[field] = template["metadata"][field].clone();
        }
    }
    let zoned = match schedule {
        Schedule::Cron(_, zone) => time.to_zoned(zone.clone()),
        Schedule::Every(_) => time.to_zoned(TimeZone::UTC),
    };
    metadata["annotations"][SCHEDULED] = if zoned.offset().is_zero() {
        meta::time(time).into()
    } else {
        zoned.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string().into()
    };
    let object =
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": template["spec"]});
    actions.push(Action::Create { gvr: gvr::JOBS, object, announce: Announce::created(o.cron, "job") });
    actions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::summary;

    fn cron(change: impl Fn(&mut Value)) -> Arc<Object> {
        let mut c = json!({"apiVersion": "batch/v1", "kind": "CronJob",
            "metadata": {"name": "c", "namespace": "ns", "uid": "c", "creationTimestamp": "2026-01-01T00:00:30Z"},
            "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {}}}});
        change(&mut c);
        Object::from_value(c)
    }

    fn job(name: &str, end: &str) -> Arc<Object> {
        Object::from_value(json!({"metadata": {"name": name, "namespace": "ns", "uid": name},
            "status": {"startTime": "2026-01-01T00:00:00Z", "conditions": [{"type": end, "status": "True"}]}}))
    }

    fn run(cron: &Arc<Object>, jobs: &[Arc<Object>], now: &str) -> (String, Decision) {
        let d = decide(&Observed { cron, jobs: jobs.to_vec(), now: now.parse().unwrap() });
        let text: Vec<String> =
            summary(&d.actions).into_iter().filter(|a| !a.starts_with("status")).collect();
        (text.join("; "), d)
    }

    #[test]
    fn when_it_is_time() {
        let c = cron(|_| {});
        let (actions, d) = run(&c, &[], "2026-01-01T00:00:45Z");
        assert_eq!((actions.as_str(), d.again), ("", Some(Duration::from_millis(15_001))));
        // 2026-01-01T00:01:00Z is minute 29453761.
        assert_eq!(run(&c, &[], "2026-01-01T00:01:00Z").0, "create jobs c-29453761");
        assert_eq!(
            run(&c, &[], "2026-01-01T00:03:10Z").0,
            "create jobs c-29453763",
            "only the last of those missed"
        );
        let last = cron(|c| c["status"]["lastScheduleTime"] = "2026-01-01T00:03:00Z".into());
        assert_eq!(run(&last, &[], "2026-01-01T00:03:10Z").0, "");
        let suspended = cron(|c| c["spec"]["suspend"] = true.into());
        assert_eq!(run(&suspended, &[], "2026-01-01T00:03:10Z").0, "");
        let strict = cron(|c| {
            c["spec"] = json!({"schedule": "0 * * * *", "startingDeadlineSeconds": 10, "jobTemplate": {}})
        });
        assert_eq!(run(&strict, &[], "2026-01-01T01:00:20Z").0, "", "too late");
        assert_eq!(run(&strict, &[], "2026-01-01T01:00:05Z").0, "create jobs c-29453820");
        let zoned = cron(|c| {
            c["spec"] = json!({"schedule": "0 3 * * *", "timeZone": "Europe/Berlin", "jobTemplate": {}})
        });
        assert_eq!(run(&zoned, &[], "2026-01-01T02:00:00Z").0, "create jobs c-29453880");
        let bad = cron(|c| c["spec"]["schedule"] = "every day".into());
        assert!(run(&bad, &[], "2026-01-01T02:00:00Z").0.starts_with("event UnparseableSchedule"));
        let long = run(&c, &[], "2026-01-03T00:00:10Z").0;
        assert!(
            long.starts_with("event TooManyMissedTimes") && long.ends_with("create jobs c-29456640"),
            "{long}"
        );
        let every = cron(|c| c["spec"]["schedule"] = "@every 90s".into());
        assert_eq!(run(&every, &[], "2026-01-01T00:02:01Z").0, "create jobs c-29453762");
    }

    #[test]
    fn every_schedule_that_is_taken_has_its_times() {
        let after = "2026-01-01T00:00:30Z"; // a Thursday
        for (schedule, first, then) in [
            ("0/15 * * * *", "2026-01-01T00:15:00Z", "2026-01-01T00:30:00Z"),
            ("50/5 * * * *", "2026-01-01T00:50:00Z", "2026-01-01T00:55:00Z"),
            ("*/40 * * * ?", "2026-01-01T00:40:00Z", "2026-01-01T01:00:00Z"),
            ("? ? ? ? ?", "2026-01-01T00:01:00Z", "2026-01-01T00:02:00Z"),
            ("5-7,30 1 * * *", "2026-01-01T01:05:00Z", "2026-01-01T01:06:00Z"),
            ("0 22/1 * * *", "2026-01-01T22:00:00Z", "2026-01-01T23:00:00Z"),
            ("0 0 1/10 * *", "2026-01-11T00:00:00Z", "2026-01-21T00:00:00Z"),
            ("0 0 1 nov/1 *", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"),
            ("0 0 * * FRI/1", "2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z"),
            ("0 0 * feb-Mar sun", "2026-02-01T00:00:00Z", "2026-02-08T00:00:00Z"),
            // A day of the month or one of the week, if both are said.
            ("0 0 3 * mon", "2026-01-03T00:00:00Z", "2026-01-05T00:00:00Z"),
            ("0 0 */1 * mon", "2026-01-05T00:00:00Z", "2026-01-12T00:00:00Z"),
            ("0 0 3 * ?/1", "2026-01-03T00:00:00Z", "2026-02-03T00:00:00Z"),
            ("0 0 29 2 *", "2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"),
            ("@hourly", "2026-01-01T01:00:00Z", "2026-01-01T02:00:00Z"),
            ("@daily", "2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z"),
            ("@midnight", "2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z"),
            ("@weekly", "2026-01-04T00:00:00Z", "2026-01-11T00:00:00Z"),
            ("@monthly", "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"),
            ("@yearly", "2027-01-01T00:00:00Z", "2028-01-01T00:00:00Z"),
            ("@annually", "2027-01-01T00:00:00Z", "2028-01-01T00:00:00Z"),
            ("@every 1h0.5m", "2026-01-01T01:01:00Z", "2026-01-01T02:01:30Z"),
        ] {
            assert_eq!(api::kinds::check_schedule(schedule), Ok(()), "{schedule}");
            let c = cron(|c| c["spec"]["schedule"] = schedule.into());
            let next: Vec<String> =
                times(&c, after.parse().unwrap(), 2).iter().map(ToString::to_string).collect();
            assert_eq!(next, [first, then], "{schedule}");
        }
        let zoned = cron(|c| c["spec"] = json!({"schedule": "0 12 * * *", "timeZone": "US/Eastern"}));
        assert_eq!(times(&zoned, after.parse().unwrap(), 1)[0].to_string(), "2026-01-01T17:00:00Z");
    }

    #[test]
    fn while_another_runs() {
        let with = |policy: &'static str| cron(move |c| c["spec"]["concurrencyPolicy"] = policy.into());
        let running = [job("old", "None")];
        let at = "2026-01-01T00:01:00Z";
        assert_eq!(run(&with("Allow"), &running, at).0, "create jobs c-29453761");
        assert!(run(&with("Forbid"), &running, at).0.starts_with("event JobAlreadyActive"));
        assert_eq!(run(&with("Replace"), &running, at).0, "delete jobs/old; create jobs c-29453761");
    }

    #[test]
    fn old_ones_are_forgotten() {
        let jobs: Vec<_> = (0..5)
            .map(|i| job(&format!("c{i}"), "Complete"))
            .chain((0..2).map(|i| job(&format!("f{i}"), "Failed")))
            .collect();
        assert_eq!(
            run(&cron(|_| {}), &jobs, "2026-01-01T00:00:40Z").0,
            "delete jobs/c0; delete jobs/c1; delete jobs/f0"
        );
    }
}
