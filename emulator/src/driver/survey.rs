//! A survey: everything that a program has the device do, in a file, with what each launch counts: what a model of the time
//! that it takes begins with.
//!
//! A launch that would issue more instructions than [`Settings::sample`] is executed in part, and one that was surveyed before,
//! with the same parameters but for addresses, not at all (see [`Settings::again`]): so programs run through that would take an
//! emulator days. Memory that the other blocks would have written gets copies of what the executed blocks wrote,
//! so that later launches read likely numbers.
//! What programs compute is of no use, and reads of memory that was never written, and races, are not looked for.
//!
//! The folder gets `survey.jsonl`, an [`Entry`] a line, and each module's text as `<hash>.ptx`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::launch::Launch;
use super::lock;
use super::state::State;
use crate::counts::Counts;
use crate::engine::{Balance, Kernel, Outcome};

/// Settings of a survey.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub folder: String,
    /// Warp instructions of a launch that are executed; see [`crate::engine::Options::sample`].
    pub sample: u64,
    /// Whether a launch that was surveyed before is executed again where it finds memory that nobody wrote to, as what makes the parts
    /// of a large corpus does. Every repetition of a program that takes new memory is executed then.
    pub again: bool,
}

/// A line of a survey.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entry {
    Launch(Box<Surveyed>),
    /// The launch of this number, from 0, again.
    Again(usize),
    /// An event was recorded.
    Record(u64),
    /// A graph with this number of nodes starts.
    Graph(usize),
    Copy {
        bytes: u64,
        from: End,
        to: End,
    },
    /// A memset.
    Fill {
        bytes: u64,
    },
    /// The host waited for the device.
    Wait,
}

/// Where a copy begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    Host,
    /// Host memory that the device reaches.
    Pinned,
    Device,
}

/// A launch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Surveyed {
    pub kernel: String,
    /// The hash of the module's text.
    pub text: String,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub cluster: [u32; 3],
    /// Bytes of shared memory of a block.
    pub shared: u32,
    /// Bytes of each allocation that a parameter points into.
    pub memory: Vec<u64>,
    /// What the blocks that were executed counted; the first cluster of them alone; and how often they issued the
    /// instructions of each line of the text.
    pub counts: Counts,
    pub first: Counts,
    pub lines: BTreeMap<u32, u64>,
    pub balance: Balance,
}

/// What launches have in common that are surveyed once: the kernel, the shape, and the parameters without addresses.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    text: u64,
    kernel: String,
    shape: [[u32; 3]; 3],
    shared: u32,
    params: Vec<u8>,
}

/// See the module.
#[derive(Debug)]
pub struct Survey {
    folder: PathBuf,
    /// See [`Settings::again`].
    pub again: bool,
    state: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    file: File,
    /// Texts that are in the folder.
    texts: HashSet<u64>,
    /// Launches in the file; number and nanoseconds of each.
    count: usize,
    launches: HashMap<Key, (usize, u64)>,
}

impl Survey {
    /// # Errors
    /// The folder cannot be written to.
    pub fn new(settings: &Settings) -> Result<Survey, String> {
        let folder = PathBuf::from(&settings.folder);
        let problem = |error: std::io::Error| format!("{}: {error}", folder.display());
        std::fs::create_dir_all(&folder).map_err(problem)?;
        let file = File::create(folder.join("survey.jsonl")).map_err(problem)?;
        let (texts, launches) = (HashSet::new(), HashMap::new());
        let state = Mutex::new(Written { file, texts, count: 0, launches });
        Ok(Survey { folder, again: settings.again, state })
    }

    /// Writes a line. What cannot be written is lost: the program goes on.
    pub fn note(&self, entry: &Entry) {
        lock(&self.state).line(entry);
    }

    /// What a launch has in common with others; and the allocations it points into, with their bytes.
    pub fn key(
        state: &State,
        kernel: &Kernel,
        launch: &Launch,
        cluster: [u32; 3],
    ) -> (Key, BTreeMap<u64, u64>) {
        let mut params = launch.params.to_vec();
        let mut memory = BTreeMap::new();
        for word in params.chunks_exact_mut(8) {
            let address = word.try_into().map_or(0, u64::from_le_bytes);
            if let Some((base, allocation)) = state.containing(address) {
                memory.insert(base, allocation.size);
                word.fill(0);
            }
        }
        let mut hasher = DefaultHasher::new();
        kernel.text().hash(&mut hasher);
        let key = Key {
            text: hasher.finish(),
            kernel: kernel.name.clone(),
            shape: [launch.shape.grid, launch.shape.block, cluster],
            shared: launch.shape.shared,
            params,
        };
        (key, memory)
    }

    /// The nanoseconds of a launch that was surveyed before, which is noted.
    pub fn noted(&self, key: &Key) -> Option<u64> {
        let mut state = lock(&self.state);
        let &(number, nanoseconds) = state.launches.get(key)?;
        state.line(&Entry::Again(number));
        Some(nanoseconds)
    }

    /// Notes a launch that was executed.
    pub fn launch(
        &self,
        key: Key,
        memory: BTreeMap<u64, u64>,
        kernel: &Kernel,
        outcome: &Outcome,
        nanoseconds: u64,
    ) {
        let text = format!("{:016x}", key.text);
        let sample = outcome.sample.as_ref();
        let [grid, block, cluster] = key.shape;
        let surveyed = Surveyed {
            kernel: key.kernel.clone(),
            text: text.clone(),
            grid,
            block,
            cluster,
            shared: kernel.shared_bytes(key.shared),
            memory: memory.into_values().collect(),
            counts: outcome.counts.clone(),
            first: sample.map(|sample| sample.first.clone()).unwrap_or_default(),
            lines: sample.map(|sample| sample.lines.clone()).unwrap_or_default(),
            balance: sample.map(|sample| sample.balance).unwrap_or_default(),
        };
        let mut state = lock(&self.state);
        if state.texts.insert(key.text) {
            let _ = std::fs::write(self.folder.join(format!("{text}.ptx")), kernel.text());
        }
        let number = state.count;
        state.count += 1;
        state.launches.insert(key, (number, nanoseconds));
        state.line(&Entry::Launch(Box::new(surveyed)));
    }
}

impl Written {
    fn line(&mut self, entry: &Entry) {
        if let Ok(line) = serde_json::to_string(entry) {
            let _ = writeln!(self.file, "{line}");
        }
    }
}
