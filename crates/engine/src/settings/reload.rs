//! What a running engine takes over from settings that are read again, and tells of it.

use super::Settings;
use crate::model::Map;

impl Settings {
    /// Takes the keys over that a running engine can change: as with the original, those that are given, and of the
    /// limits of transfers and the features those that are not as well.
    pub fn reloaded(&self, new: &Settings) -> Settings {
        let mut now = self.clone();
        let given = |key: &str| new.given.iter().any(|k| k == key);
        macro_rules! take {
            ($($key:literal $field:ident),*) => {$(if given($key) { now.$field = new.$field.clone(); })*};
        }
        take!(
            "debug" debug, "default-cgroupns-mode" default_cgroupns_mode, "default-ipc-mode" default_ipc_mode,
            "default-runtime" default_runtime, "default-shm-size" default_shm_size,
            "insecure-registries" insecure_registries, "labels" labels, "registry-mirrors" registry_mirrors,
            "runtimes" runtimes, "shutdown-timeout" shutdown_timeout
        );
        now.max_concurrent_downloads = new.max_concurrent_downloads;
        now.max_concurrent_uploads = new.max_concurrent_uploads;
        now.max_download_attempts = new.max_download_attempts;
        now.features = new.features.clone();
        now
    }

    /// What the event of a reload tells.
    pub(crate) fn reload_attributes(&self) -> Map {
        let or = |own: &str, default: &str| if own.is_empty() { default } else { own }.to_owned();
        let shm =
            if self.default_shm_size == 0 { crate::validate::SHM_SIZE } else { self.default_shm_size as i64 };
        let features: Vec<String> = self.features.iter().map(|(k, v)| format!("{k}:{v}")).collect();
        let runtimes: Vec<String> = self.runtimes.iter().map(|(n, r)| format!("{n}:{}", r.path)).collect();
        let transfers = self.transfers();
        Map::from(
            [
                ("name", crate::system::hostname()),
                ("debug", self.debug.to_string()),
                ("default-cgroupns-mode", or(&self.default_cgroupns_mode, crate::validate::cgroupns_mode())),
                ("default-ipc-mode", or(&self.default_ipc_mode, crate::validate::IPC_MODE)),
                ("default-runtime", self.default_runtime().to_owned()),
                ("default-shm-size", shm.to_string()),
                ("features", format!("map[{}]", features.join(" "))),
                ("insecure-registries", json(&self.insecure_registries)),
                ("labels", json(&self.labels)),
                ("live-restore", "true".to_owned()),
                ("max-concurrent-downloads", transfers.downloads.to_string()),
                ("max-concurrent-uploads", transfers.uploads.to_string()),
                ("max-download-attempts", transfers.attempts.to_string()),
                ("registry-mirrors", json(&self.registry_mirrors)),
                ("runtimes", runtimes.join(" ")),
                ("shutdown-timeout", self.shutdown_timeout.to_string()),
            ]
            .map(|(k, v)| (k.to_owned(), v)),
        )
    }
}

/// Lists and maps as the events' attributes have them.
fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
