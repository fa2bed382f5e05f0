//! Jobs and CronJobs.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Value, json};

use super::common::*;
use super::registry::{Decl, PLAIN};
use super::{Strategy, podspec};
use crate::field::{ErrorList, Path};
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
    if spec.get("manualSelector") == Some(&Value::Bool(false)) {
        spec.shift_remove("manualSelector");
    }
    podspec::default(meta::entry(meta::entry(spec, "template"), "spec"));
}

fn validate_job(errors: &mut ErrorList, spec: &Value, path: &Path) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        non_negative(errors, &path.child(field), &spec[field]);
    }
    one_of(errors, &path.child("completionMode"), &spec["completionMode"], &["NonIndexed", "Indexed"]);
    if spec["completionMode"] == "Indexed" && spec["completions"].is_null() {
        errors.required(&path.child("completions"), "when completion mode is Indexed");
    }
    let at = path.child("template");
    podspec::validate_template(errors, &spec["template"], &at);
    let policy = &spec["template"]["spec"]["restartPolicy"];
    if !matches!(text(policy), "OnFailure" | "Never") {
        let at = at.child("spec").child("restartPolicy");
        let detail = "supported values: \"OnFailure\", \"Never\"";
        errors.push(crate::field::ErrorType::NotSupported, &at, Some(crate::field::show(policy)), detail);
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
        for prefix in ["", "batch.kubernetes.io/"] {
            labels.insert(format!("{prefix}controller-uid"), json!(uid));
            labels.insert(format!("{prefix}job-name"), json!(name));
        }
        let selector = meta::entry(spec, "selector");
        meta::entry(selector, "matchLabels")
            .insert("batch.kubernetes.io/controller-uid".to_owned(), json!(uid));
    }

    fn no_status(&self) -> Value {
        json!({})
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let spec = &obj["spec"];
        validate_job(&mut errors, spec, &Path::new("spec"));
        if !spec["selector"].is_null() {
            check_template_selector(&mut errors, spec);
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec");
        let (n, o) = (&new["spec"], &old["spec"]);
        for field in ["selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy"] {
            immutable(&mut errors, &path.child(field), &n[field], &o[field]);
        }
        if n["completionMode"] != "Indexed" {
            immutable(&mut errors, &path.child("completions"), &n["completions"], &o["completions"]);
        }
        // The template of a job that is suspended and has not begun may change where pods are scheduled.
        let not_begun = o["suspend"] == true && old["status"]["startTime"].is_null();
        let (mut nt, mut ot) = (n["template"].clone(), o["template"].clone());
        if not_begun {
            for t in [&mut nt, &mut ot] {
                let map = meta::as_map(t);
                let metadata = meta::entry(map, "metadata");
                metadata.shift_remove("labels");
                metadata.shift_remove("annotations");
                let spec = meta::entry(map, "spec");
                for field in ["nodeSelector", "tolerations", "schedulingGates", "affinity"] {
                    spec.shift_remove(field);
                }
            }
        }
        immutable(&mut errors, &path.child("template"), &nt, &ot);
        errors
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
        let job = meta::entry(meta::entry(spec, "jobTemplate"), "spec");
        // Upstream defaults a job inside a cron job only as far as its pod template.
        podspec::default(meta::entry(meta::entry(job, "template"), "spec"));
    }

    fn no_status(&self) -> Value {
        json!({})
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&obj["spec"], Path::new("spec"));
        let schedule = text(&spec["schedule"]);
        if schedule.is_empty() {
            errors.required(&path.child("schedule"), "");
        } else if let Err(why) = check_schedule(schedule) {
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
        let zone = text(&spec["timeZone"]);
        if !spec["timeZone"].is_null()
            && (zone.is_empty()
                || zone.eq_ignore_ascii_case("local")
                || zone.contains("..")
                || zone.starts_with('/'))
        {
            errors.invalid_str(&path.child("timeZone"), zone, "unknown time zone");
        }
        let job = &spec["jobTemplate"]["spec"];
        let at = path.child("jobTemplate").child("spec");
        let policy = &job["template"]["spec"]["restartPolicy"];
        let template = at.child("template");
        podspec::validate_template(&mut errors, &job["template"], &template);
        if !matches!(text(policy), "OnFailure" | "Never") {
            let at = template.child("spec").child("restartPolicy");
            let detail = "supported values: \"OnFailure\", \"Never\"";
            errors.push(crate::field::ErrorType::NotSupported, &at, Some(crate::field::show(policy)), detail);
        }
        if !job["selector"].is_null() && job["manualSelector"] != true {
            errors.invalid(&at.child("selector"), &job["selector"], "`selector` will be auto-generated");
        }
        for field in
            ["parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"]
        {
            non_negative(&mut errors, &at.child(field), &job[field]);
        }
        errors
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
        return Err("cannot use TZ or CRON_TZ in schedule, use timeZone field instead".to_owned());
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
            "spec.template.spec.restartPolicy: Unsupported value: \"Always\": supported values: \"OnFailure\", \"Never\""
        );
        job["spec"]["template"]["spec"]["restartPolicy"] = json!("Never");
        assert!(kind.validate_create(&job).is_empty());
    }
}
