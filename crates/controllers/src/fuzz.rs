//! What fuzz targets call: texts of objects that controllers take apart, each with what is done with the result.

use api::Object;
use serde_json::json;

use crate::{cron, job};

/// The schedule of a CronJob, and a time zone behind a line break: the times come one after the other.
pub fn schedule(text: &str) {
    let (schedule, zone) = text.split_once('\n').unwrap_or((text, ""));
    let _ = api::kinds::check_schedule(schedule);
    let spec = json!({"schedule": schedule, "timeZone": zone});
    let object = Object::from_value(json!({"metadata": {"name": "a"}, "spec": spec}));
    let times = cron::times(&object, "2024-02-28T23:59:30Z".parse().expect("a time"), 3);
    assert!(times.windows(2).all(|w| w[0] < w[1]), "{times:?}");
}

/// The finished indexes of a Job, as its status has them.
pub fn indexes(text: &str) {
    let set = job::indexes(text);
    assert_eq!(job::indexes(&set), set, "what is written down means the same");
}
