//! Memory as the operating system sees it: of this process, and what is left on the machine.
//!
//! Why from `/proc` and not from an allocator: the claim that a press frees memory is only true if the system says so.
//! Everything is `None` where the system does not say (outside Linux, or in a restricted sandbox); callers print a dash
//! rather than a guess.

use std::fs;
use std::path::{Path, PathBuf};

/// Bytes of this process that are in memory now (`VmRSS`).
pub fn resident() -> Option<u64> {
    status("VmRSS:")
}

/// The most bytes of this process that were in memory at once (`VmHWM`), since its start or the last [`reset_peak`].
pub fn peak() -> Option<u64> {
    status("VmHWM:")
}

/// Bytes of this process's own memory that are in memory now (`RssAnon`), without mapped files.
pub fn anonymous() -> Option<u64> {
    status("RssAnon:")
}

/// Makes [`peak`] start again from what is resident now; whether the system allowed it.
pub fn reset_peak() -> bool {
    fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// Bytes that can still be used without pushing anything out: the machine's `MemAvailable`, and no more than what is
/// left under the memory limits of the control groups this process runs in.
pub fn available() -> Option<u64> {
    let machine = field(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    Some(machine.min(control_group_room().unwrap_or(u64::MAX)))
}

fn status(name: &str) -> Option<u64> {
    field(&fs::read_to_string("/proc/self/status").ok()?, name)
}

/// The value in bytes of the line `name   1234 kB`.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    let number = rest.trim().strip_suffix("kB")?.trim();
    number.parse::<u64>().ok()?.checked_mul(1024)
}

/// The least room under any limit from this process's control group up to the root; `None` where there is no limit.
fn control_group_room() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    groups.lines().filter_map(room_of_line).min()
}

/// `0::/path` is a group of version 2; `7:memory:/path` one of version 1.
fn room_of_line(line: &str) -> Option<u64> {
    let mut parts = line.splitn(3, ':');
    let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let (root, limit, used) = if controllers.is_empty() {
        ("/sys/fs/cgroup", "memory.max", "memory.current")
    } else if controllers.split(',').any(|c| c == "memory") {
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
    } else {
        return None;
    };
    let folder = Path::new(root).join(path.trim_start_matches('/'));
    folder.ancestors().take_while(|f| f.starts_with(root)).filter_map(|f| room_in(f, limit, used)).min()
}

fn room_in(folder: &Path, limit: &str, used: &str) -> Option<u64> {
    // "max" (no limit) does not parse, which is what is wanted.
    let limit = number(folder.join(limit))?;
    let used = number(folder.join(used))?;
    Some(limit.saturating_sub(used).saturating_add(reclaimable(folder)))
}

/// File pages that the group would give up under pressure are counted as used by the system, and are free to us.
fn reclaimable(folder: &Path) -> u64 {
    let Ok(text) = fs::read_to_string(folder.join("memory.stat")) else {
        return 0;
    };
    let value = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.parse::<u64>().ok());
    value("total_inactive_file").or_else(|| value("inactive_file")).unwrap_or(0)
}

fn number(path: PathBuf) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_in_bytes_and_others_refused() {
        let text = "VmPeak:\t  10 kB\nVmRSS:\t    2048 kB\nThreads:\t3\n";
        assert_eq!(field(text, "VmRSS:"), Some(2048 * 1024));
        assert_eq!(field(text, "Threads:"), None);
        assert_eq!(field(text, "VmHWM:"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_large_allocation_shows_in_resident_and_stays_in_peak() {
        const SIZE: usize = 64 << 20;
        let before = resident().expect("Linux says how much is resident");
        let block = vec![1u8; SIZE];
        let with = resident().expect("resident");
        assert!(with - before > SIZE as u64 / 2, "{before} -> {with}");
        assert!(std::hint::black_box(&block).iter().all(|&b| b == 1));
        drop(block);
        assert!(peak().expect("peak") >= with);
        let after = resident().expect("resident");
        assert!(after < with, "{with} -> {after}");
        if reset_peak() {
            assert!(peak().expect("peak") < with);
        }
        assert!(anonymous().expect("anonymous") <= resident().expect("resident") + (1 << 20));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn something_is_available() {
        assert!(available().expect("Linux says what is available") > 1 << 20);
        assert_eq!(room_of_line("nonsense"), None);
        assert_eq!(room_of_line("3:cpu:/x"), None);
    }
}
