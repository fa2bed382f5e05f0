//! Restart policies: a pure decision, and the back-off that goes with it.

use std::time::Duration;

use crate::model::RestartPolicy;

/// The first delay; it doubles with each restart in a row.
const FIRST: Duration = Duration::from_millis(100);
/// The longest delay.
const LONGEST: Duration = Duration::from_secs(60);
/// A process that ran this long is not crash-looping: the delay starts again.
const LONG_ENOUGH: Duration = Duration::from_secs(10);

/// What is known when a container's process has ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    pub exit_code: i32,
    /// Somebody stopped or killed it on purpose.
    pub by_hand: bool,
    /// Restarts since it was last started by hand.
    pub restarts: i64,
    pub ran_for: Duration,
    /// The delay before the previous restart; zero if there was none.
    pub last_delay: Duration,
}

/// The delay before the container is started again, or `None` if it stays down.
pub(crate) fn decide(policy: &RestartPolicy, ended: Ended) -> Option<Duration> {
    let again = match policy.name.as_str() {
        "always" | "unless-stopped" => !ended.by_hand,
        "on-failure" => {
            !ended.by_hand
                && ended.exit_code != 0
                && (policy.maximum_retry_count == 0 || ended.restarts < policy.maximum_retry_count)
        }
        _ => false,
    };
    let fresh = ended.last_delay.is_zero() || ended.ran_for >= LONG_ENOUGH;
    again.then(|| if fresh { FIRST } else { (ended.last_delay * 2).min(LONGEST) })
}

/// Whether a container that was running when the machine (not only the daemon) went down comes back.
/// `stopped_by_hand` also tells whether it was stopped before that.
pub(crate) fn after_reboot(policy: &RestartPolicy, was_running: bool, stopped_by_hand: bool) -> bool {
    match policy.name.as_str() {
        "always" => true,
        "unless-stopped" => !stopped_by_hand,
        "on-failure" => was_running && !stopped_by_hand,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(name: &str, max: i64) -> RestartPolicy {
        RestartPolicy { name: name.into(), maximum_retry_count: max }
    }

    #[test]
    fn table() {
        let ended = |exit_code, by_hand, restarts| Ended {
            exit_code,
            by_hand,
            restarts,
            ran_for: Duration::from_secs(1),
            last_delay: Duration::ZERO,
        };
        let cases = [
            ("no", 0, ended(1, false, 0), false),
            ("", 0, ended(1, false, 0), false),
            ("always", 0, ended(0, false, 100), true),
            ("always", 0, ended(137, true, 0), false),
            ("unless-stopped", 0, ended(0, false, 0), true),
            ("unless-stopped", 0, ended(0, true, 0), false),
            ("on-failure", 0, ended(0, false, 0), false),
            ("on-failure", 0, ended(2, false, 50), true),
            ("on-failure", 3, ended(2, false, 2), true),
            ("on-failure", 3, ended(2, false, 3), false),
        ];
        for (name, max, e, again) in cases {
            assert_eq!(decide(&policy(name, max), e).is_some(), again, "{name}:{max} {e:?}");
        }
    }

    #[test]
    fn back_off_doubles_and_starts_again() {
        let delay = |ran: u64, last: u64| {
            let ended = Ended {
                exit_code: 1,
                by_hand: false,
                restarts: 1,
                ran_for: Duration::from_secs(ran),
                last_delay: Duration::from_millis(last),
            };
            decide(&policy("always", 0), ended).unwrap().as_millis()
        };
        assert_eq!(delay(0, 0), 100);
        assert_eq!(delay(0, 100), 200);
        assert_eq!(delay(0, 50_000), 60_000);
        assert_eq!(delay(11, 50_000), 100);
    }

    #[test]
    fn reboot() {
        assert!(after_reboot(&policy("always", 0), false, true));
        assert!(!after_reboot(&policy("unless-stopped", 0), false, true));
        assert!(after_reboot(&policy("unless-stopped", 0), true, false));
        assert!(!after_reboot(&policy("no", 0), true, false));
    }
}
