//! What was launched, counted and reported.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::Mutex;

use super::config::{Config, Log};
use super::lock;
use crate::client::{LaunchRecord, Mark};
use crate::counts::Counts;
use crate::report::Report;

const LAUNCHES: usize = 1 << 16;
const REPORTS: usize = 1 << 12;

/// See the module.
#[derive(Debug)]
pub struct Record {
    state: Mutex<State>,
    log: Sink,
    counts: Sink,
}

#[derive(Debug, Default)]
struct State {
    /// Counts between one mark and the next.
    segments: Vec<Counts>,
    launches: VecDeque<LaunchRecord>,
    /// All launches, those forgotten included; the same for reports.
    launched: u64,
    reports: VecDeque<Report>,
    reported: u64,
}

/// Where lines are written.
#[derive(Debug)]
enum Sink {
    Off,
    Stderr,
    File(Mutex<File>),
}

impl Sink {
    fn open(path: &str) -> Result<Sink, String> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        Ok(Sink::File(Mutex::new(file.map_err(|error| format!("{path}: {error}"))?)))
    }

    /// Writes a line. What cannot be written is lost: the program under test goes on.
    fn line(&self, line: &str) {
        let _ = match self {
            Sink::Off => Ok(()),
            Sink::Stderr => writeln!(std::io::stderr(), "{line}"),
            Sink::File(file) => writeln!(lock(file), "{line}"),
        };
    }
}

impl Record {
    /// # Errors
    /// A file cannot be opened.
    pub fn new(config: &Config) -> Result<Record, String> {
        let log = match &config.log {
            Log::Stderr => Sink::Stderr,
            Log::Off => Sink::Off,
            Log::Path(path) => Sink::open(path)?,
        };
        let counts = match &config.counts {
            Some(path) => Sink::open(path)?,
            None => Sink::Off,
        };
        Ok(Record { state: Mutex::default(), log, counts })
    }

    /// Writes a line to the log.
    pub fn note(&self, what: &str) {
        self.log.line(&format!("ptx-emulator: {what}"));
    }

    /// Keeps a report and writes it to the log.
    pub fn report(&self, report: &Report) {
        self.note(&report.to_string());
        let mut state = lock(&self.state);
        if state.reports.len() == REPORTS {
            state.reports.pop_front();
        }
        state.reports.push_back(report.clone());
        state.reported += 1;
    }

    /// Keeps a launch, its counts and its report.
    pub fn launch(&self, launch: LaunchRecord) {
        if !matches!(self.counts, Sink::Off)
            && let Ok(line) = serde_json::to_string(&launch)
        {
            self.counts.line(&line);
        }
        if let Some(report) = &launch.report {
            self.report(report);
        }
        let mut state = lock(&self.state);
        if state.segments.is_empty() {
            state.segments.push(Counts::default());
        }
        if let Some(segment) = state.segments.last_mut() {
            *segment += &launch.counts;
        }
        if state.launches.len() == LAUNCHES {
            state.launches.pop_front();
        }
        state.launches.push_back(launch);
        state.launched += 1;
    }

    pub fn mark(&self) -> Mark {
        let mut state = lock(&self.state);
        state.segments.push(Counts::default());
        Mark {
            segment: state.segments.len() - 1,
            launches: state.launched,
            reports: state.reported,
        }
    }

    pub fn counts_since(&self, mark: Mark) -> Counts {
        let mut sum = Counts::default();
        for segment in lock(&self.state).segments.iter().skip(mark.segment) {
            sum += segment;
        }
        sum
    }

    pub fn launches_since(&self, mark: Mark) -> Vec<LaunchRecord> {
        let state = lock(&self.state);
        let forgotten = state.launched - state.launches.len() as u64;
        let skip = mark.launches.saturating_sub(forgotten) as usize;
        state.launches.iter().skip(skip).cloned().collect()
    }

    pub fn reports_since(&self, mark: Mark) -> Vec<Report> {
        let state = lock(&self.state);
        let forgotten = state.reported - state.reports.len() as u64;
        let skip = mark.reports.saturating_sub(forgotten) as usize;
        state.reports.iter().skip(skip).cloned().collect()
    }

    pub fn clear(&self) {
        *lock(&self.state) = State::default();
    }
}
