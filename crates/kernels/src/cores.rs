//! How many physical cores this process may use.

/// Distinct cores behind the allowed CPUs; `None` where the system does not say (not Linux, no /sys).
pub(crate) fn physical() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let mut cores: Vec<String> = Vec::new();
    for cpu in parse_cpu_list(allowed.trim())? {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        cores.push(std::fs::read_to_string(path).ok()?);
    }
    cores.sort_unstable();
    cores.dedup();
    Some(cores.len())
}

/// `"0-2,5"` to `[0, 1, 2, 5]`.
fn parse_cpu_list(list: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cpus.extend(first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_are_ranges_and_single_numbers() {
        assert_eq!(parse_cpu_list("0-2,5"), Some(vec![0, 1, 2, 5]));
        assert_eq!(parse_cpu_list("x"), None);
        assert!(crate::Pool::default_threads() >= 1);
    }
}
