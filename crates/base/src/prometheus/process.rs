//! What the kernel counts of this process, from proc(5): `process_*`.

use super::single;

/// The unit of times in /proc, which is the same on all machines that Linux runs on today: proc(5), sysconf(3).
const TICKS: f64 = 100.0;

/// The fields of /proc/PID/stat after the name, which may hold anything: the first is field 3.
fn fields(stat: &str) -> Vec<&str> {
    stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default()
}

/// Writes what can be read; a kernel that hides /proc hides these.
pub fn process(out: &mut String) {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut tell = |name: &str, kind: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            single(out, name, kind, help, value);
        }
    };
    let stat = read("/proc/self/stat");
    let fields = fields(&stat);
    // proc(5) numbers them from 1, and the first here is the third there.
    let field = |n: usize| fields.get(n - 3).and_then(|f| f.parse::<f64>().ok());
    let cpu = field(14).zip(field(15)).map(|(user, system)| (user + system) / TICKS);
    tell("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.", cpu);
    let open = std::fs::read_dir("/proc/self/fd").ok().map(|d| d.count() as f64);
    tell("process_open_fds", "gauge", "Number of open file descriptors.", open);
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    tell("process_max_fds", "gauge", "Maximum number of open file descriptors.", most.map(|n| n as f64));
    let status = read("/proc/self/status");
    let resident =
        status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
    let resident = resident.map(|kib: f64| kib * 1024.0);
    tell("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", resident);
    tell("process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", field(23));
    let boot = read("/proc/stat");
    let boot = boot.lines().find_map(|l| l.strip_prefix("btime ")?.trim().parse::<f64>().ok());
    let started = boot.zip(field(22)).map(|(boot, ticks)| boot + ticks / TICKS);
    let help = "Start time of the process since unix epoch in seconds.";
    tell("process_start_time_seconds", "gauge", help, started);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_processes_may_hold_anything() {
        assert_eq!(fields("7 (a) b (c) S 1 2"), ["S", "1", "2"]);
    }

    #[test]
    fn this_process_is_counted() {
        let mut out = String::new();
        process(&mut out);
        let value = |name: &str| {
            let line = out.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("{name} in {out}")).parse::<f64>().unwrap()
        };
        assert!(value("process_resident_memory_bytes") > 100_000.0);
        assert!(value("process_virtual_memory_bytes") > value("process_resident_memory_bytes"));
        assert!(value("process_open_fds") >= 3.0 && value("process_max_fds") >= value("process_open_fds"));
        assert!(value("process_cpu_seconds_total") >= 0.0);
        let now = crate::clock::now().as_second() as f64;
        assert!((now - value("process_start_time_seconds")).abs() < 24.0 * 3600.0);
    }
}
