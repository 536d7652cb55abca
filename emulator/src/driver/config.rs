//! Settings of the emulated driver, from the environment.
//!
//! A setting that cannot be read is an error of `cuInit`, with the reason in the log: a test that asks for a fault must not
//! run without it.

use std::str::FromStr;

use super::arch::Arch;
use super::faults::Fault;
use super::survey;
use crate::engine::Options;
use crate::memory::Checks;

/// What the environment asks for. See [`super`] for the variables.
#[derive(Debug, Clone)]
pub struct Config {
    pub devices: Vec<Arch>,
    /// Bytes of each device.
    pub memory: u64,
    pub options: Options,
    /// Where reports go; standard error without a path.
    pub log: Log,
    /// JSON lines, one a launch.
    pub counts: Option<String>,
    pub survey: Option<survey::Settings>,
    pub faults: Vec<Fault>,
    pub leaks: Leaks,
}

/// Where reports are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Log {
    Stderr,
    Off,
    Path(String),
}

/// What happens at the end of the process with what was not freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaks {
    Ignore,
    /// They are written to the log.
    Report,
    /// The process ends with status 1, too.
    Fail,
}

/// Warp instructions of a surveyed launch that are executed, unless `PTX_EMULATOR_SAMPLE` says another number.
const SAMPLE: u64 = 20_000_000;

impl Config {
    /// Reads the settings through `get`, which gives a variable's value.
    ///
    /// # Errors
    /// The variable and what is wrong with it.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Config, String> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let devices = get("PTX_EMULATOR_DEVICES").unwrap_or_else(|| "sm_80".to_owned());
        let devices: Vec<Arch> = devices
            .split(',')
            .map(|name| Arch::named(name.trim()))
            .collect::<Result<_, _>>()
            .map_err(|what| format!("PTX_EMULATOR_DEVICES: {what}"))?;
        if devices.len() > super::MOST_DEVICES {
            return Err(format!("PTX_EMULATOR_DEVICES: at most {}", super::MOST_DEVICES));
        }
        let memory = match get("PTX_EMULATOR_MEMORY") {
            Some(text) => bytes(&text).ok_or_else(|| format!("PTX_EMULATOR_MEMORY: {text}?"))?,
            None => 16 << 30,
        };
        let defaults = Options::default();
        let sample = number(&get, "PTX_EMULATOR_SAMPLE", SAMPLE)?;
        let again = get("PTX_EMULATOR_AGAIN").is_some();
        let survey = get("PTX_EMULATOR_SURVEY");
        let survey = survey.map(|folder| survey::Settings { folder, sample, again });
        let options = Options {
            sample: survey.as_ref().map(|survey| survey.sample),
            threads: number(&get, "PTX_EMULATOR_THREADS", defaults.threads)?,
            budget: number(&get, "PTX_EMULATOR_BUDGET", defaults.budget)?,
            // Where blocks are left out, others read what they would have written.
            checks: match survey {
                None => checks(&get("PTX_EMULATOR_CHECKS").unwrap_or_default())?,
                Some(_) => Checks { races: false, uninitialized: false },
            },
            ..defaults
        };
        let log = match get("PTX_EMULATOR_LOG").as_deref() {
            None | Some("stderr") => Log::Stderr,
            Some("off") => Log::Off,
            Some(path) => Log::Path(path.to_owned()),
        };
        let leaks = match get("PTX_EMULATOR_LEAKS").as_deref() {
            None | Some("ignore") => Leaks::Ignore,
            Some("report") => Leaks::Report,
            Some("fail") => Leaks::Fail,
            Some(other) => return Err(format!("PTX_EMULATOR_LEAKS: {other}?")),
        };
        let faults = Fault::list(&get("PTX_EMULATOR_FAULTS").unwrap_or_default())
            .map_err(|what| format!("PTX_EMULATOR_FAULTS: {what}"))?;
        let counts = get("PTX_EMULATOR_COUNTS");
        Ok(Config { devices, memory, options, log, counts, survey, faults, leaks })
    }
}

fn number<T: FromStr>(
    get: &impl Fn(&str) -> Option<String>,
    name: &str,
    default: T,
) -> Result<T, String> {
    match get(name) {
        Some(text) => text.trim().parse().map_err(|_| format!("{name}: {text}?")),
        None => Ok(default),
    }
}

/// `-races,-uninitialized` on top of everything; `+races` turns one on again.
fn checks(text: &str) -> Result<Checks, String> {
    let mut checks = Checks::default();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let (name, on) = match word.strip_prefix('-') {
            Some(name) => (name, false),
            None => (word.strip_prefix('+').unwrap_or(word), true),
        };
        match name {
            "races" => checks.races = on,
            "uninitialized" => checks.uninitialized = on,
            _ => return Err(format!("PTX_EMULATOR_CHECKS: {word}? It takes races, uninitialized")),
        }
    }
    Ok(checks)
}

/// `1073741824`, `512MiB`, `2GiB`, `64k`.
pub fn bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Config, String> {
        let pairs: Vec<(String, String)> =
            pairs.iter().map(|&(k, v)| (format!("PTX_EMULATOR_{k}"), v.to_owned())).collect();
        Config::read(|name| pairs.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone()))
    }

    #[test]
    fn defaults() {
        let config = read(&[]).unwrap();
        assert_eq!(config.devices.len(), 1);
        assert_eq!(config.devices[0].target, 80);
        assert_eq!(config.memory, 16 << 30);
        assert!(config.options.checks.races && config.options.checks.uninitialized);
        assert_eq!(config.log, Log::Stderr);
        assert_eq!(config.leaks, Leaks::Ignore);
    }

    #[test]
    fn everything_set() {
        let config = read(&[
            ("DEVICES", "sm_90, sm_75"),
            ("MEMORY", "3MiB"),
            ("THREADS", "2"),
            ("BUDGET", "1000"),
            ("CHECKS", "-races"),
            ("LOG", "/tmp/x"),
            ("LEAKS", "fail"),
            ("FAULTS", "alloc:1=2"),
            ("COUNTS", "c.json"),
        ])
        .unwrap();
        let targets: Vec<u32> = config.devices.iter().map(|arch| arch.target).collect();
        assert_eq!(targets, [90, 75]);
        assert_eq!(config.memory, 3 << 20);
        assert_eq!((config.options.threads, config.options.budget), (2, 1000));
        assert!(!config.options.checks.races && config.options.checks.uninitialized);
        assert_eq!(config.log, Log::Path("/tmp/x".into()));
        assert_eq!(config.leaks, Leaks::Fail);
        assert_eq!(config.faults.len(), 1);
        assert_eq!(config.counts.as_deref(), Some("c.json"));
    }

    #[test]
    fn nonsense_is_named() {
        for (name, value) in [
            ("DEVICES", "sm_12"),
            ("MEMORY", "lots"),
            ("THREADS", "-1"),
            ("CHECKS", "-everything"),
            ("LEAKS", "maybe"),
            ("FAULTS", "alloc"),
        ] {
            let error = read(&[(name, value)]).unwrap_err();
            assert!(error.starts_with(&format!("PTX_EMULATOR_{name}: ")), "{error}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes("12"), Some(12));
        assert_eq!(bytes("2GiB"), Some(2 << 30));
        assert_eq!(bytes(" 3 k"), Some(3 << 10));
        assert_eq!(bytes("1x"), None);
        assert_eq!(bytes("99999999999999999999"), None);
        assert_eq!(bytes("18446744073709551615k"), None);
    }
}
