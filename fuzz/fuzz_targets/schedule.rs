//! Schedules of CronJobs and the indexes of finished pods of a Job.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    controllers::fuzz::schedule(text);
    controllers::fuzz::indexes(text);
});
