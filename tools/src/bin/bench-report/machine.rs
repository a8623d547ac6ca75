//! On which machine it was measured, and how busy that was with other things.

use serde_json::{Value, json};
use std::fs;

/// What is known of this one.
pub fn detect() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo").lines().find_map(|line| Some(line.strip_prefix("model name")?.split_once(':')?.1.trim().to_owned()));
    let load: Vec<f64> = read("/proc/loadavg").split_whitespace().take(3).filter_map(|number| number.parse().ok()).collect();
    json!({
        "cpu": cpu.unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        "cpus": std::thread::available_parallelism().map_or(1, usize::from),
        "kernel": format!("Linux {}", read("/proc/sys/kernel/osrelease").trim()),
        "load": load,
    })
}

/// The same in words.
pub fn describe(machine: &Value) -> String {
    let text = |key: &str| machine[key].as_str().unwrap_or("unknown").to_owned();
    let load: Vec<String> = machine["load"].as_array().into_iter().flatten().map(Value::to_string).collect();
    format!("{} × {}, {}, load average {} at the beginning", machine["cpus"], text("cpu"), text("kernel"), load.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_described() {
        let machine = json!({ "cpu": "Xeon", "cpus": 2, "kernel": "Linux 6.18", "load": [0.25, 1.5] });
        assert_eq!(describe(&machine), "2 × Xeon, Linux 6.18, load average 0.25 1.5 at the beginning");
        assert!(describe(&detect()).contains("Linux"));
    }
}
