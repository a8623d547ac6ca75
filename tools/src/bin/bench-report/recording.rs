//! What benchmarks print, a round in each file, so that a report can be made again from what was measured before.
//!
//! A recording is the output of the programs as it was, with a line `bench NAME` before each. Of it all, these lines count:
//! `paired {…}`, the medians of a row and its reference (`benches/paired/mod.rs`), `SKIPPED: why`, and `machine {…}`, which stands first.

use serde_json::Value;
use std::collections::BTreeSet;

/// One row of one round.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    /// Its name.
    pub name: String,
    /// Of both numbers.
    pub unit: String,
    /// The median.
    pub value: f64,
    /// The median of what ran beside it, if anything did.
    pub reference: Option<f64>,
}

/// Some rounds.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// What was measured, in the order in which it was.
    pub measurements: Vec<Measurement>,
    /// What was not measured, and why.
    pub skipped: BTreeSet<String>,
    /// On which machine: that of the first round.
    pub machine: Option<Value>,
    /// How many rounds.
    pub rounds: usize,
}

impl Recording {
    /// Reads one more round.
    ///
    /// # Errors
    /// A line that starts like one that counts, and is none.
    pub fn add(&mut self, round: &str) -> Result<(), String> {
        let mut bench = "";
        for line in round.lines() {
            if let Some(name) = line.strip_prefix("bench ") {
                bench = name;
            } else if let Some(json) = line.strip_prefix("paired ") {
                self.measurements
                    .push(parse_measurement(json).ok_or_else(|| format!("benchmark {bench} printed a line that cannot be read: {line}"))?);
            } else if let Some(why) = line.strip_prefix("SKIPPED: ") {
                self.skipped.insert(format!("{bench}: {why}"));
            } else if let Some(json) = line.strip_prefix("machine ")
                && self.machine.is_none()
            {
                self.machine =
                    Some(serde_json::from_str(json).map_err(|error| format!("the line about the machine cannot be read: {error}"))?);
            }
        }
        self.rounds += 1;
        Ok(())
    }
}

fn parse_measurement(json: &str) -> Option<Measurement> {
    let value: Value = serde_json::from_str(json).ok()?;
    let text = |key: &str| Some(value[key].as_str()?.to_owned());
    let positive = |number: &f64| number.is_finite() && *number > 0.0;
    let reference = match &value["reference"] {
        Value::Null => None,
        number => Some(number.as_f64().filter(positive)?),
    };
    Some(Measurement { name: text("name")?, unit: text("unit")?, value: value["value"].as_f64().filter(positive)?, reference })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_output_only_the_lines_that_count_are_read() {
        let mut recording = Recording::default();
        let round = "machine {\"cpus\":2}\nbench path\nrunning 0 tests\npath/path_hot  time:   [1.3 µs 1.3 µs 1.4 µs]\n\
                     paired {\"name\":\"path_hot\",\"unit\":\"ns/packet\",\"value\":20.5,\"reference\":6.5}\n\
                     paired {\"name\":\"flows_1\",\"unit\":\"ns/packet\",\"value\":20}\nbench af_xdp\nSKIPPED: needs root\n";
        recording.add(round).unwrap();
        recording.add("machine {\"cpus\":4}\n").unwrap();
        assert_eq!((recording.measurements.len(), recording.rounds), (2, 2));
        assert_eq!(recording.measurements[0].reference, Some(6.5));
        assert_eq!(recording.measurements[1].reference, None);
        assert_eq!(recording.skipped.first().map(String::as_str), Some("af_xdp: needs root"));
        assert_eq!(recording.machine.unwrap()["cpus"], 2);
    }

    #[test]
    fn a_line_that_is_damaged_is_an_error_and_names_its_benchmark() {
        for line in
            ["{}", "{\"name\":\"a\",\"unit\":\"b\",\"value\":0}", "{\"name\":\"a\",\"unit\":\"b\",\"value\":1,\"reference\":\"x\"}", "x"]
        {
            let error = Recording::default().add(&format!("bench flow\npaired {line}\n")).unwrap_err();
            assert!(error.contains("flow") && error.contains(line), "{error}");
        }
    }
}
