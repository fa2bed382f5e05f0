//! What fuzz targets call: DNS messages, which anybody may send.

use crate::dns;

/// A question as it comes, answered by somebody who knows one name; and the same bytes as another server's answer.
pub fn dns_message(bytes: &[u8]) {
    dns::try_server(bytes);
    dns::try_forwarder(bytes);
}

/// The text of a resolv.conf.
pub fn resolv_conf(text: &str) {
    dns::try_resolv_conf(text);
}
