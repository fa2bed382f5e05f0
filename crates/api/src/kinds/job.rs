//! Jobs and CronJobs.

mod indexes;
mod spec;
mod status;

use std::borrow::Cow;
use std::sync::Arc;

use jiff::tz::TimeZoneDatabase;
use serde_json::{Value, json};

use super::common::*;
use super::registry::{Decl, PLAIN};
use super::{Strategy, podspec};
use crate::field::{ErrorList, Path};
use crate::selector::Label;
use crate::{Map, duration, meta};

pub(super) const DECLS: &[Decl] = &[
    Decl {
        group: "batch",
        resource: "jobs",
        template: Some("/spec/template"),
        categories: &["all"],
        strategy: || Arc::new(Job),
        columns: Columns::Coded {
            columns: &[
                Column::name(),
                Column::text("Status"),
                Column::text("Completions"),
                Column::text("Duration"),
                Column::text("Age"),
                Column::text("Containers").wide(),
                Column::text("Images").wide(),
                Column::text("Selector").wide(),
            ],
            cells: job_cells,
        },
        ..PLAIN
    },
    Decl {
        group: "batch",
        resource: "cronjobs",
        template: Some("/spec/jobTemplate/spec/template"),
        short: &["cj"],
        categories: &["all"],
        strategy: || Arc::new(CronJob),
        columns: Columns::Coded {
            columns: &[
                Column::name(),
                Column::text("Schedule"),
                Column::text("Timezone"),
                Column::text("Suspend"),
                Column::int("Active"),
                Column::text("Last Schedule"),
                Column::text("Age"),
                Column::text("Containers").wide(),
                Column::text("Images").wide(),
                Column::text("Selector").wide(),
            ],
            cells: |o, now| {
                let (spec, status) = (&o["spec"], &o["status"]);
                let [names, images] = containers_cells(&spec["jobTemplate"]["spec"]["template"]["spec"]);
                let last = &status["lastScheduleTime"];
                vec![
                    name_cell(o),
                    json!(text(&spec["schedule"])),
                    or_none(text(&spec["timeZone"])),
                    json!(if spec["suspend"] == true { "True" } else { "False" }),
                    json!(items(&status["active"]).len()),
                    if last.is_null() { json!("<none>") } else { json!(since(last, now)) },
                    age_cell(o, now),
                    names,
                    images,
                    selector_cell(&spec["jobTemplate"]["spec"]["selector"]),
                ]
            },
        },
        ..PLAIN
    },
];

fn job_cells(o: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&o["spec"], &o["status"]);
    let done = int(&status["succeeded"]);
    let completions = match spec["completions"].as_i64() {
        Some(n) => format!("{done}/{n}"),
        None => match int(&spec["parallelism"]) {
            p if p > 1 => format!("{done}/1 of {p}"),
            _ => format!("{done}/1"),
        },
    };
    let start: Option<Timestamp> = text(&status["startTime"]).parse().ok();
    let end: Option<Timestamp> = text(&status["completionTime"]).parse().ok();
    let took = match (start, end) {
        (None, _) => String::new(),
        (Some(start), end) => duration::age(Some(start), end.unwrap_or(now)),
    };
    let holds =
        |kind: &str| items(&status["conditions"]).iter().any(|c| c["type"] == kind && c["status"] == "True");
    let word = if holds("Complete") {
        "Complete"
    } else if holds("Failed") {
        "Failed"
    } else if meta::is_deleting(o) {
        "Terminating"
    } else if holds("Suspended") {
        "Suspended"
    } else if holds("FailureTarget") {
        "FailureTarget"
    } else if holds("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    };
    let [names, images] = containers_cells(&spec["template"]["spec"]);
    vec![
        name_cell(o),
        json!(word),
        json!(completions),
        json!(took),
        age_cell(o, now),
        names,
        images,
        selector_cell(&spec["selector"]),
    ]
}

fn default_job(spec: &mut Map) {
    // A work queue (neither given) completes when any pod of it has.
    let neither = ["completions", "parallelism"].iter().all(|k| spec.get(*k).is_none_or(Value::is_null));
    if neither {
        set(spec, "completions", 1);
    }
    set(spec, "parallelism", 1);
    if spec.get("backoffLimitPerIndex").is_none_or(Value::is_null) {
        set(spec, "backoffLimit", 6);
    } else {
        set(spec, "backoffLimit", i32::MAX);
    }
    set_text(spec, "completionMode", "NonIndexed");
    set(spec, "suspend", false);
    set(spec, "manualSelector", false);
    let failure_policy = spec.get("podFailurePolicy").is_some_and(|p| !p.is_null());
    set_text(spec, "podReplacementPolicy", if failure_policy { "Failed" } else { "TerminatingOrFailed" });
    default_failures(spec);
    podspec::default(meta::entry(meta::entry(spec, "template"), "spec"));
}

/// A time zone must be named, and be one that the server knows.
fn check_zone(errors: &mut ErrorList, zone: &Value) {
    let (name, at) = (text(zone), Path::new("spec").child("timeZone"));
    if zone.is_null() {
        return;
    }
    if name.is_empty() {
        errors.invalid(&at, zone, "timeZone must be nil or non-empty string");
    } else if name.eq_ignore_ascii_case("local") {
        let why = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.invalid(&at, zone, why);
    } else if TimeZoneDatabase::bundled().get(name).is_err() {
        errors.invalid(&at, zone, format!("unknown time zone {name}"));
    }
}

/// A condition that a rule of a failure policy names is one that holds, unless it says otherwise.
fn default_failures(spec: &mut Map) {
    for rule in sub(spec, "podFailurePolicy").into_iter().flat_map(|policy| each(policy, "rules")) {
        each(rule, "onPodConditions").for_each(|pattern| set_text(pattern, "status", "True"));
    }
}

const UID_LABEL: &str = "batch.kubernetes.io/controller-uid";

/// The labels by which a job knows its pods, if its selector is not the user's: those of today and those of old.
fn generated_labels(uid: &str, name: &str) -> [(String, String); 4] {
    [("controller-uid", uid), ("job-name", name), (UID_LABEL, uid), ("batch.kubernetes.io/job-name", name)]
        .map(|(label, value)| (label.to_owned(), value.to_owned()))
}

/// The labels that a job gives its pods must be there, and its selector go with them, unless both are the user's.
fn check_generated(errors: &mut ErrorList, obj: &Value) {
    let (spec, path) = (&obj["spec"], Path::new("spec"));
    if spec["manualSelector"] == true || spec["selector"].is_null() {
        return;
    }
    if meta::uid(obj).is_empty() {
        errors.required(&Path::new("metadata").child("uid"), "");
    }
    let given = &spec["template"]["metadata"]["labels"];
    let at = path.child("template").child("metadata").child("labels");
    let expected = generated_labels(meta::uid(obj), meta::name(obj));
    for (label, value) in &expected {
        match given[label].as_str() {
            Some(is) if is == value => {}
            None => errors.required(&at.key(label), format!("must be '{value}'")),
            Some(_) => errors.invalid(&at.key(label), given, format!("must be '{value}'")),
        }
    }
    let expected = json!(Map::from_iter(expected.map(|(label, value)| (label, json!(value)))));
    if Label::from_selector(&spec["selector"]).is_ok_and(|s| !s.matches(&expected)) {
        errors.invalid(&path.child("selector"), &spec["selector"], "`selector` not auto-generated");
    }
}

struct Job;

const JOB_FIELDS: &[Cow<'static, str>] = &[Cow::Borrowed("status.successful")];

impl Strategy for Job {
    fn orphans(&self, api_version: &str) -> bool {
        api_version == "batch/v1"
    }

    fn default(&self, obj: &mut Value) {
        if empty(&meta::of(obj)["labels"]) {
            let labels = obj["spec"]["template"]["metadata"]["labels"].clone();
            if !empty(&labels) {
                meta::of_mut(obj).insert("labels".to_owned(), labels);
            }
        }
        default_job(meta::child(obj, "spec"));
    }

    /// The selector and the labels that go with it are made from the uid, which the server has given by now.
    fn prepare_create(&self, obj: &mut Value) {
        let (uid, name) = (meta::uid(obj).to_owned(), meta::name(obj).to_owned());
        let spec = meta::child(obj, "spec");
        if spec.get("manualSelector") == Some(&Value::Bool(true)) || uid.is_empty() {
            return;
        }
        let template = meta::entry(spec, "template");
        let labels = meta::entry(meta::entry(template, "metadata"), "labels");
        // What the user says otherwise is refused later.
        for (label, value) in generated_labels(&uid, &name) {
            labels.entry(label).or_insert(json!(value));
        }
        let selector = meta::entry(spec, "selector");
        meta::entry(selector, "matchLabels").entry(UID_LABEL).or_insert(json!(uid));
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&obj["spec"], Path::new("spec"));
        check_generated(&mut errors, obj);
        spec::check(&mut errors, spec, &path);
        let selector = &spec["selector"];
        if selector.is_null() {
            errors.required(&path.child("selector"), "");
        } else {
            check_selector(&mut errors, &path.child("selector"), selector);
        }
        let labels = &spec["template"]["metadata"]["labels"];
        if Label::from_selector(selector).is_ok_and(|s| !s.matches(labels)) {
            let at = path.child("template").child("metadata").child("labels");
            errors.invalid(&at, labels, "`selector` does not match template `labels`");
        }
        // Its pods are called after it and their index, and have to be.
        if let Some(n) =
            spec["completions"].as_i64().filter(|n| *n > 0 && spec["completionMode"] == "Indexed")
        {
            let host = format!("{}-{}", meta::name(obj), n - 1);
            if !crate::validate::dns_label(&host).is_empty() {
                let at = Path::new("metadata").child("name");
                let why = format!("will not able to create pod with invalid DNS label: {host}");
                errors.invalid_str(&at, meta::name(obj), why);
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        spec::check_update(&mut errors, new, old);
        errors
    }

    fn validate_status(&self, new: &Value, old: &Value) -> ErrorList {
        status::check(new, old)
    }

    fn warnings(&self, obj: &Value) -> Vec<String> {
        name_in_hostnames(obj)
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn selectable_fields(&self) -> &[Cow<'static, str>] {
        JOB_FIELDS
    }
}

struct CronJob;

impl Strategy for CronJob {
    fn orphans(&self, api_version: &str) -> bool {
        api_version == "batch/v1beta1"
    }

    fn default(&self, obj: &mut Value) {
        let spec = meta::child(obj, "spec");
        set_text(spec, "concurrencyPolicy", "Allow");
        set(spec, "suspend", false);
        set(spec, "successfulJobsHistoryLimit", 3);
        set(spec, "failedJobsHistoryLimit", 1);
        let template = meta::entry(spec, "jobTemplate");
        meta::entry(template, "metadata");
        let job = meta::entry(template, "spec");
        // Upstream defaults a job inside a cron job only as far as its pod template.
        default_failures(job);
        podspec::default(meta::entry(meta::entry(job, "template"), "spec"));
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&obj["spec"], Path::new("spec"));
        let schedule = text(&spec["schedule"]);
        if schedule.is_empty() {
            errors.required(&path.child("schedule"), "");
        } else if let Err(why) = check_fields(schedule) {
            errors.invalid_str(&path.child("schedule"), schedule, why);
        }
        for field in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
            non_negative(&mut errors, &path.child(field), &spec[field]);
        }
        one_of(
            &mut errors,
            &path.child("concurrencyPolicy"),
            &spec["concurrencyPolicy"],
            &["Allow", "Forbid", "Replace"],
        );
        let job = &spec["jobTemplate"]["spec"];
        let at = path.child("jobTemplate").child("spec");
        spec::check(&mut errors, job, &at);
        if !job["selector"].is_null() {
            errors.invalid(&at.child("selector"), &job["selector"], "`selector` will be auto-generated");
        }
        if job["manualSelector"] == true {
            errors.not_supported(&at.child("manualSelector"), &job["manualSelector"], &["nil", "false"]);
        }
        errors
    }

    fn validate_create(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_zone_of_schedule(&mut errors, &obj["spec"], false);
        check_zone(&mut errors, &obj["spec"]["timeZone"]);
        errors
    }

    /// A time zone that is no longer known may stay, and so may one in the schedule.
    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_zone_of_schedule(&mut errors, &new["spec"], text(&old["spec"]["schedule"]).contains("TZ"));
        if new["spec"]["timeZone"] != old["spec"]["timeZone"] {
            check_zone(&mut errors, &new["spec"]["timeZone"]);
        }
        errors
    }

    fn warnings(&self, obj: &Value) -> Vec<String> {
        name_in_hostnames(obj)
    }

    fn check_name(&self, name: &str, prefix: bool) -> Vec<String> {
        let mut why = crate::validate::dns_subdomain_name(name, prefix);
        if !prefix && name.len() > 52 {
            why.push("must be no more than 52 characters".to_owned());
        }
        why
    }

    fn has_generation(&self) -> bool {
        true
    }
}

/// Checks a cron schedule: five fields, or one of `@yearly`, `@annually`, `@monthly`, `@weekly`, `@daily`, `@midnight`, `@hourly`,
/// `@every DURATION`.
pub fn check_schedule(schedule: &str) -> Result<(), String> {
    if schedule.contains("TZ=") {
        return Err(NO_ZONE.to_owned());
    }
    check_fields(schedule)
}

const NO_ZONE: &str = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";

/// Of old a schedule could name a zone, as in `TZ=Europe/Berlin @daily`. One that does keeps it.
fn check_zone_of_schedule(errors: &mut ErrorList, spec: &Value, may_have: bool) {
    let (schedule, at) = (text(&spec["schedule"]), Path::new("spec").child("schedule"));
    if !schedule.contains("TZ") {
        return;
    }
    if !may_have {
        errors.invalid_str(&at, schedule, NO_ZONE);
    } else if !spec["timeZone"].is_null() {
        errors.invalid_str(&at, schedule, "cannot use both timeZone field and TZ or CRON_TZ in schedule");
    }
}

fn check_fields(schedule: &str) -> Result<(), String> {
    let zoned = ["TZ=", "CRON_TZ="].iter().find_map(|mark| schedule.strip_prefix(mark));
    if let Some(zoned) = zoned {
        let (zone, rest) = zoned.split_once(' ').unwrap_or((zoned, ""));
        if TimeZoneDatabase::bundled().get(zone).is_err() {
            return Err(format!("provided bad location {zone}: unknown time zone {zone}"));
        }
        return check_fields(rest.trim());
    }
    if let Some(word) = schedule.strip_prefix('@') {
        if let Some(every) = word.strip_prefix("every ") {
            return duration::parse(every)
                .map(|_| ())
                .map_err(|e| format!("failed to parse duration @every {every}: {e}"));
        }
        return match word {
            "yearly" | "annually" | "monthly" | "weekly" | "daily" | "midnight" | "hourly" => Ok(()),
            _ => Err(format!("unrecognized descriptor: {schedule}")),
        };
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != 5 {
        return Err(format!("expected exactly 5 fields, found {}: {:?}", fields.len(), fields)
            .replace("\", \"", " ")
            .replace(['"'], ""));
    }
    const MONTHS: [&str; 12] =
        ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
    let ranges: [(u32, u32, &[&str], u32); 5] =
        [(0, 59, &[], 0), (0, 23, &[], 0), (1, 31, &[], 0), (1, 12, &MONTHS, 1), (0, 6, &DAYS, 0)];
    for (field, (min, max, names, first)) in fields.into_iter().zip(ranges) {
        for part in field.split(',') {
            let number = |text: &str| -> Result<u32, String> {
                let lower = text.to_lowercase();
                if let Some(at) = names.iter().position(|n| *n == lower) {
                    return Ok(u32::try_from(at).unwrap_or(0) + first);
                }
                text.parse().map_err(|_| {
                    format!(
                        "failed to parse int from {text}: strconv.Atoi: parsing \"{text}\": invalid syntax"
                    )
                })
            };
            let (range, step) = part.split_once('/').map_or((part, None), |(r, s)| (r, Some(s)));
            if let Some(step) = step
                && number(step)? == 0
            {
                return Err(format!("step of range should be a positive number: {part}"));
            }
            if range == "*" || range == "?" {
                continue;
            }
            let (low, high) = match range.split_once('-') {
                Some((l, h)) => (number(l)?, number(h)?),
                None => (number(range)?, number(range)?),
            };
            if low < min {
                return Err(format!("beginning of range ({low}) below minimum ({min}): {part}"));
            }
            if high > max {
                return Err(format!("end of range ({high}) above maximum ({max}): {part}"));
            }
            if low > high {
                return Err(format!("beginning of range ({low}) beyond end of range ({high}): {part}"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;
    use crate::names::gvr;

    #[test]
    fn schedules() {
        for (text, ok) in [
            ("* * * * *", true),
            ("*/5 0-12/2 1,15 JAN-mar sun", true),
            ("@hourly", true),
            ("@every 1h30m", true),
            ("every day", false),
            ("60 * * * *", false),
            ("* * 0 * *", false),
            ("*/0 * * * *", false),
            ("5-1 * * * *", false),
            ("@sometimes", false),
            ("* * * *", false),
            ("TZ=UTC * * * * *", false),
            ("", false),
        ] {
            assert_eq!(check_schedule(text).is_ok(), ok, "{text}");
        }
    }

    #[test]
    fn a_job_gets_its_selector_and_refuses_always() {
        let kind = kinds::by_gvr(&gvr::JOBS).unwrap();
        let mut job = json!({"metadata": {"name": "j", "namespace": "n", "uid": "u-1"},
            "spec": {"template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}});
        kind.default(&mut job);
        kind.prepare_create(&mut job);
        assert_eq!(
            job["spec"]["selector"]["matchLabels"],
            json!({"batch.kubernetes.io/controller-uid": "u-1"})
        );
        assert_eq!(job["spec"]["template"]["metadata"]["labels"]["job-name"], "j");
        assert_eq!(
            kind.validate_create(&job).message(),
            "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""
        );
        job["spec"]["template"]["spec"]["restartPolicy"] = json!("Never");
        assert!(kind.validate_create(&job).is_empty());
    }

    /// A job as it is stored, with something else in its spec.
    fn job(edit: Value) -> Value {
        let kind = kinds::by_gvr(&gvr::JOBS).unwrap();
        let mut job = json!({"metadata": {"name": "j", "namespace": "n", "uid": "u-1"}, "spec": {"template": {
            "metadata": {"labels": {"app": "a"}},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
        meta::child(&mut job, "spec").extend(edit.as_object().cloned().unwrap());
        kind.default(&mut job);
        kind.prepare_create(&mut job);
        job
    }

    #[test]
    fn labels_that_the_job_gives_are_not_the_user_s_to_choose() {
        let kind = kinds::by_gvr(&gvr::JOBS).unwrap();
        assert!(kind.validate_create(&job(json!({}))).is_empty());
        let spec = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]});
        let label = "batch.kubernetes.io/controller-uid";
        let message = kind
            .validate_create(&job(
                json!({"template": {"metadata": {"labels": {label: "mine"}}, "spec": spec}}),
            ))
            .message();
        assert!(message.contains("`selector` does not match template `labels`"), "{message}");
        assert!(
            message.contains(&format!("spec.template.metadata.labels[{label}]: Invalid value: ")),
            "{message}"
        );
        assert!(message.contains("must be 'u-1'"), "{message}");
        let chosen = json!({"selector": {"matchLabels": {"app": "a"}}});
        let mut own = job(chosen.clone());
        assert_eq!(own["spec"]["selector"]["matchLabels"], json!({"app": "a", label: "u-1"}));
        assert!(kind.validate_create(&own).message().contains("`selector` not auto-generated"));
        own["spec"]["selector"] = chosen["selector"].clone();
        assert!(kind.validate_create(&own).message().contains("`selector` not auto-generated"));
        own["spec"]["manualSelector"] = json!(true);
        assert!(kind.validate_create(&own).is_empty());
        own["spec"]["selector"] = Value::Null;
        let message = kind.validate_create(&own).message();
        assert!(
            message.starts_with("[spec.selector: Required value, spec.template.metadata.labels: "),
            "{message}"
        );
    }

    #[test]
    fn what_goes_with_indexes_needs_them() {
        let kind = kinds::by_gvr(&gvr::JOBS).unwrap();
        let policy = json!({"rules": [{"succeededCount": 1}]});
        let indexed = json!({"completionMode": "Indexed", "completions": 3, "backoffLimitPerIndex": 1,
            "maxFailedIndexes": 2, "successPolicy": policy});
        let old = job(indexed.clone());
        assert!(kind.validate_create(&old).is_empty());
        let with = |edit: Value| {
            let mut spec = indexed.clone();
            meta::as_map(&mut spec).extend(edit.as_object().cloned().unwrap());
            kind.validate_create(&job(spec)).message()
        };
        for (edit, why) in [
            (
                json!({"maxFailedIndexes": 4}),
                "spec.maxFailedIndexes: Invalid value: 4: must be less than or equal to completions",
            ),
            (
                json!({"parallelism": 100_001}),
                "spec.parallelism: Invalid value: 100001: must be less than or equal to 100000 when completion mode is Indexed",
            ),
            (
                json!({"backoffLimitPerIndex": null}),
                "spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified",
            ),
            (
                json!({"completionMode": "NonIndexed", "maxFailedIndexes": null, "successPolicy": null}),
                "spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode",
            ),
            (
                json!({"podReplacementPolicy": "TerminatingOrFailed", "podFailurePolicy": {"rules": []}}),
                "spec.podReplacementPolicy: Unsupported value: \"TerminatingOrFailed\": supported values: \"Failed\"",
            ),
        ] {
            assert_eq!(with(edit), why);
        }
        for (field, value) in [
            ("successPolicy", json!({"rules": [{"succeededCount": 2}]})),
            ("managedBy", json!("example.com/other")),
        ] {
            let mut new = old.clone();
            new["spec"][field] = value;
            let message = kind.validate_update(&new, &old, "").message();
            assert!(message.starts_with(&format!("spec.{field}: Invalid value")), "{message}");
            assert!(message.ends_with("field is immutable"), "{message}");
        }
    }

    #[test]
    fn time_zones_are_those_of_the_world() {
        let kind = kinds::by_gvr(&gvr::CRON_JOBS).unwrap();
        let cron = |zone: &str| {
            let mut cron = json!({"metadata": {"name": "c", "namespace": "n"}, "spec": {"schedule": "@hourly", "timeZone": zone,
                "jobTemplate": {"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}}});
            kind.default(&mut cron);
            cron
        };
        for (zone, why) in [
            ("Europe/Berlin", ""),
            ("UTC", ""),
            ("", "timeZone must be nil or non-empty string"),
            ("Local", "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"),
            ("Europe/Nowhere", "unknown time zone Europe/Nowhere"),
            ("../etc/passwd", "unknown time zone ../etc/passwd"),
        ] {
            let message = kind.validate_create(&cron(zone)).message();
            let want = if why.is_empty() {
                "[]".to_owned()
            } else {
                format!("spec.timeZone: Invalid value: \"{zone}\": {why}")
            };
            assert_eq!(message, want);
            assert!(kind.validate_update(&cron(zone), &cron(zone), "").is_empty(), "what was so may stay");
            assert_eq!(kind.validate_update(&cron(zone), &cron("Etc/UTC"), "").is_empty(), why.is_empty());
        }
    }
}
