//! What the kernel counts of this process: `process_*`.

use std::fmt::Write;

use super::head;

/// The unit of times in /proc, which is the same on all machines that Linux runs on today: proc(5), sysconf(3).
const TICKS: f64 = 100.0;

/// The fields of /proc/PID/stat after the name, which may hold anything: the first is field 3.
fn fields(stat: &str) -> Vec<&str> {
    stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default()
}

fn page_size() -> f64 {
    // The auxiliary vector is pairs of words; 6 is AT_PAGESZ.
    let vector = std::fs::read("/proc/self/auxv").unwrap_or_default();
    let words: Vec<usize> = vector
        .chunks_exact(size_of::<usize>())
        .filter_map(|w| w.try_into().ok().map(usize::from_ne_bytes))
        .collect();
    let size =
        words.chunks_exact(2).find(|pair| pair.first() == Some(&6)).and_then(|pair| pair.get(1).copied());
    size.unwrap_or(4096) as f64
}

/// Writes what can be read; a kernel that hides /proc hides these.
pub(super) fn render(out: &mut String) {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut gauge = |name: &str, kind: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            head(out, name, kind, help);
            let _ = writeln!(out, "{name} {value}");
        }
    };
    let stat = read("/proc/self/stat");
    let fields = fields(&stat);
    // proc(5) numbers them from 1, and the first here is the third there.
    let field = |n: usize| fields.get(n - 3).and_then(|f| f.parse::<f64>().ok());
    let cpu = field(14).zip(field(15)).map(|(user, system)| (user + system) / TICKS);
    gauge("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.", cpu);
    let open = std::fs::read_dir("/proc/self/fd").ok().map(|d| d.count() as f64);
    gauge("process_open_fds", "gauge", "Number of open file descriptors.", open);
    let limits = read("/proc/self/limits");
    let most = limits.lines().find_map(|l| l.strip_prefix("Max open files"));
    let most = most.and_then(|l| l.split_whitespace().next()?.parse().ok());
    gauge("process_max_fds", "gauge", "Maximum number of open file descriptors.", most);
    let resident = field(24).map(|pages| pages * page_size());
    gauge("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", resident);
    gauge("process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", field(23));
    let boot = read("/proc/stat");
    let boot = boot.lines().find_map(|l| l.strip_prefix("btime ")?.trim().parse::<f64>().ok());
    let started = boot.zip(field(22)).map(|(boot, ticks)| boot + ticks / TICKS);
    gauge(
        "process_start_time_seconds",
        "gauge",
        "Start time of the process since unix epoch in seconds.",
        started,
    );
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
        render(&mut out);
        let value = |name: &str| {
            let line = out.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("{name} in {out}")).parse::<f64>().unwrap()
        };
        assert!(value("process_resident_memory_bytes") > 100_000.0);
        assert!(value("process_virtual_memory_bytes") > value("process_resident_memory_bytes"));
        assert!(value("process_open_fds") >= 3.0 && value("process_max_fds") >= value("process_open_fds"));
        assert!(value("process_cpu_seconds_total") >= 0.0);
        let now = base::clock::now().as_second() as f64;
        assert!((now - value("process_start_time_seconds")).abs() < 24.0 * 3600.0);
    }
}
