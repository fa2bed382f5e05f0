//! DNS messages, as a question and as an answer, names of the cluster, and the texts of a resolv.conf.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    network::fuzz::dns_message(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        dns::fuzz::name(text);
        network::fuzz::resolv_conf(text);
    }
});
