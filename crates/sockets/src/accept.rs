//! What an accept loop does about an error.

use std::io;
use std::time::Duration;

/// How long a listener rests when the process or the machine has no room for another connection. It is a timer because
/// no event says that descriptors or memory are free again.
const REST: Duration = Duration::from_millis(100);

/// Says that `who` could not accept a connection, and returns when trying again makes sense: at once where only that
/// connection was at fault (accept(2): the client is gone), after a rest where there is no room.
pub async fn accept_failed(who: &str, error: &io::Error) {
    // errno(3): ENOMEM 12, ENFILE 23, EMFILE 24, ENOBUFS 105 on Linux.
    if matches!(error.raw_os_error(), Some(12 | 23 | 24 | 105)) {
        tracing::warn!(%error, "{who} cannot accept a connection: raise the limit of open files, or end connections");
        tokio::time::sleep(REST).await;
    } else {
        tracing::debug!(%error, "{who}: a connection ended before it was accepted");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rests_only_when_there_is_no_room() {
        let start = tokio::time::Instant::now();
        accept_failed("test", &io::Error::from_raw_os_error(103)).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        accept_failed("test", &io::Error::from_raw_os_error(24)).await;
        assert_eq!(start.elapsed(), REST);
    }
}
