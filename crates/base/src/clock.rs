//! The one source of wall-clock time, so that a simulation can supply its own.

use std::sync::OnceLock;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

type Source = Box<dyn Fn() -> Timestamp + Send + Sync>;
static SOURCE: OnceLock<Source> = OnceLock::new();

/// The current wall-clock time.
pub fn now() -> Timestamp {
    match SOURCE.get() {
        Some(source) => source(),
        #[allow(clippy::disallowed_methods)] // this is the one place
        None => Timestamp::now(),
    }
}

/// Replaces the wall clock for the whole process, once, before anything has asked for the time.
/// Returns false if a source was already set. For simulations and tests.
pub fn set_source(source: impl Fn() -> Timestamp + Send + Sync + 'static) -> bool {
    SOURCE.set(Box::new(source)).is_ok()
}

/// `2026-01-02T03:04:05Z`: Kubernetes' metav1.Time (whole seconds, UTC).
pub fn rfc3339(t: Timestamp) -> String {
    t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `2026-01-02T03:04:05.123456789Z`: what Docker writes in logs and inspect documents (trailing zeros dropped, as Go does).
pub fn rfc3339_nano(t: Timestamp) -> String {
    let full = t.strftime("%Y-%m-%dT%H:%M:%S.%9f").to_string();
    format!("{}Z", full.trim_end_matches('0').trim_end_matches('.'))
}

/// `rfc3339_nano` of now.
pub fn now_nano() -> String {
    rfc3339_nano(now())
}

/// The time from `earlier` to `later`; zero if `later` is not later.
pub fn between(earlier: Timestamp, later: Timestamp) -> Duration {
    Duration::try_from(later.duration_since(earlier)).unwrap_or(Duration::ZERO)
}

/// Longer than any process lives, and short enough to be added to any time.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The moment `delay` after `from`. Delays come from users, whose largest numbers no clock can count to: a century is the most.
pub fn later(from: Instant, delay: Duration) -> Instant {
    from + delay.min(FOR_EVER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_delay_is_too_long() {
        let now = Instant::now();
        assert_eq!(later(now, Duration::from_secs(5)), now + Duration::from_secs(5));
        assert!(later(now, Duration::from_secs(i64::MAX as u64)) > now + Duration::from_secs(3600));
    }

    #[test]
    fn formats() {
        let t: Timestamp = "2026-01-02T03:04:05.120000000Z".parse().unwrap();
        assert_eq!(rfc3339(t), "2026-01-02T03:04:05Z");
        assert_eq!(rfc3339_nano(t), "2026-01-02T03:04:05.12Z");
        let whole: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        assert_eq!(rfc3339_nano(whole), "2026-01-02T03:04:05Z");
        assert_eq!(between(t, whole), Duration::ZERO);
    }
}
