//! Text inputs: .txt (a text per line) and .jsonl (an object per line), from files, pipes and standard input, plain or
//! compressed with gzip or zstd.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, IsTerminal, Read};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use nearkin::search::check_ids;
use nearkin::{Error, Result};
use serde_json::{Map, Value};

use crate::zstd::{self, Frames};

/// Most bytes of a line.
const LINE: u64 = 64 << 20;
/// Endings of compressed files, which stand after the format's. The content decides whether a file is compressed.
const COMPRESSED: [&str; 3] = ["gz", "zst", "zstd"];

/// What a text input consists of.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A text per line.
    Txt,
    /// A JSON object per line.
    Jsonl,
}

impl Format {
    /// The format that a name's ending states, in any case, before an ending of compressed files.
    fn of(path: &Path) -> Result<Format> {
        let ending = |path: &Path| Some(path.extension()?.to_str()?.to_ascii_lowercase());
        let mut last = ending(path);
        if last.as_deref().is_some_and(|last| COMPRESSED.contains(&last)) {
            last = path.file_stem().and_then(|stem| ending(Path::new(stem)));
        }
        match last.as_deref() {
            Some("txt") => Ok(Format::Txt),
            Some("jsonl") => Ok(Format::Jsonl),
            other => Err(Error::Data {
                file: path.into(),
                line: None,
                problem: format!(
                    "the name ends in {}; expected .txt (a text per line) or .jsonl (an object with 'text' per line), or \
                     --format",
                    other.map_or("nothing".into(), |e| format!(".{e}"))
                ),
            }),
        }
    }
}

/// Texts and their ids.
#[derive(Default)]
pub(crate) struct Texts {
    pub(crate) ids: Vec<String>,
    pub(crate) texts: Vec<String>,
}

fn fault(file: &Path, line: usize, problem: impl Into<String>) -> Error {
    Error::Data { file: file.into(), line: Some(line), problem: problem.into() }
}

/// Opens a file, a pipe, or standard input (`-`), and decompresses what it holds. Devices, which may never end, are
/// refused, but for a terminal.
fn open(path: &Path) -> Result<Box<dyn BufRead>> {
    let io = |source| Error::Io { path: path.into(), source };
    let mut source: Box<dyn Read> = match path.to_str() {
        Some("-" | "/dev/stdin") => Box::new(std::io::stdin()),
        _ => {
            let kind = std::fs::metadata(path).map_err(io)?;
            if kind.is_dir() {
                return Err(io(std::io::Error::other("is a folder, expected a file")));
            }
            let file = File::open(path).map_err(io)?;
            if !(kind.is_file() || is_pipe(&kind) || file.is_terminal()) {
                return Err(io(std::io::Error::other("is a device, expected a file or a pipe")));
            }
            Box::new(file)
        }
    };
    let mut head = Vec::new();
    source.by_ref().take(4).read_to_end(&mut head).map_err(io)?;
    let first = [0, 1, 2, 3].map(|i| head.get(i).copied().unwrap_or_default());
    let whole = BufReader::with_capacity(1 << 16, Cursor::new(head).chain(source));
    Ok(match first {
        [0x1f, 0x8b, ..] => Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(whole))),
        first if zstd::is_first(first) => Box::new(BufReader::new(Frames::new(whole))),
        _ => Box::new(whole),
    })
}

#[cfg(unix)]
fn is_pipe(kind: &std::fs::Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_fifo(&kind.file_type())
}
#[cfg(not(unix))]
fn is_pipe(_: &std::fs::Metadata) -> bool {
    false
}

/// The file itself, or where it is missing its compressed form: `corpus.jsonl.gz` for `corpus.jsonl`.
pub(crate) fn plain_or_compressed(path: PathBuf) -> PathBuf {
    if path.exists() {
        return path;
    }
    let other = |ending: &&str| {
        let mut name = path.clone().into_os_string();
        name.push(format!(".{ending}"));
        Some(PathBuf::from(name)).filter(|path| path.exists())
    };
    COMPRESSED.iter().find_map(other).unwrap_or(path)
}

/// Calls `f` with the number (from 1) and text of each line, without its line ending.
pub(crate) fn lines(path: &Path, mut f: impl FnMut(usize, &str) -> Result<()>) -> Result<()> {
    let io = |source| Error::Io { path: path.into(), source };
    let mut reader = open(path)?;
    let mut bytes = Vec::new();
    for number in 1.. {
        bytes.clear();
        if reader.by_ref().take(LINE + 1).read_until(b'\n', &mut bytes).map_err(io)? == 0 {
            break;
        }
        if bytes.len() as u64 > LINE {
            return Err(fault(path, number, format!("the line has more than {LINE} bytes")));
        }
        let line = std::str::from_utf8(&bytes).map_err(|e| {
            fault(
                path,
                number,
                format!("not UTF-8: a wrong byte at column {}", e.valid_up_to() + 1),
            )
        })?;
        let line = line.strip_suffix('\n').unwrap_or(line);
        let line = line.strip_suffix('\r').unwrap_or(line);
        f(number, if number == 1 { line.strip_prefix('\u{feff}').unwrap_or(line) } else { line })?;
    }
    Ok(())
}

/// Calls `f` with the number and object of each line of a .jsonl file; blank lines are skipped.
pub(crate) fn objects(
    path: &Path,
    mut f: impl FnMut(usize, &Map<String, Value>) -> Result<()>,
) -> Result<()> {
    lines(path, |number, line| {
        if line.trim().is_empty() {
            return Ok(());
        }
        match serde_json::from_str(line) {
            Ok(Value::Object(object)) => f(number, &object),
            Ok(other) => Err(fault(path, number, format!("expected a JSON object, got {other}"))),
            Err(e) => Err(fault(path, number, format!("not JSON: {e}"))),
        }
    })
}

/// A string member of an object.
pub(crate) fn string<'a>(
    path: &Path,
    line: usize,
    object: &'a Map<String, Value>,
    key: &str,
) -> Result<&'a str> {
    match object.get(key) {
        Some(Value::String(s)) => Ok(s),
        Some(other) => Err(fault(path, line, format!("'{key}' is {other}, expected a string"))),
        None => {
            let have: Vec<&str> = object.keys().map(String::as_str).collect();
            Err(fault(path, line, format!("no '{key}'; the object has {}", have.join(", "))))
        }
    }
}

/// Reads texts and their ids. In the format txt ids are line numbers from 0; in jsonl they are `_id` or `id`, else the
/// number of the row from 0, and BEIR's `title` precedes the `text`. Without a format the name's ending states it.
///
/// # Errors
/// [`Error::Io`], and [`Error::Data`] if a line is malformed or two ids are the same.
pub(crate) fn texts(path: &Path, format: Option<Format>) -> Result<Texts> {
    let mut out = Texts::default();
    match format.map_or_else(|| Format::of(path), Ok)? {
        Format::Txt => lines(path, |_, line| {
            out.ids.push(out.texts.len().to_string());
            out.texts.push(line.into());
            Ok(())
        })?,
        Format::Jsonl => objects(path, |number, object| {
            let text = string(path, number, object, "text")?;
            let title = match object.get("title") {
                None | Some(Value::Null) => "",
                Some(_) => string(path, number, object, "title")?,
            };
            out.ids.push(match object.get("_id").or(object.get("id")) {
                Some(Value::String(id)) => id.clone(),
                Some(Value::Number(id)) => id.to_string(),
                None => out.texts.len().to_string(),
                Some(other) => {
                    let problem = format!("the id is {other}, expected a string or a number");
                    return Err(fault(path, number, problem));
                }
            });
            out.texts.push(match (title, text) {
                ("", text) => text.into(),
                (title, text) => format!("{title} {text}").trim().into(),
            });
            Ok(())
        })?,
    }
    check_ids(&out.ids).map_err(|e| {
        let problem = format!("{e}; a row without an id has its number, from 0");
        Error::Data { file: path.into(), line: None, problem }
    })?;
    Ok(out)
}

/// Reads labels: texts without blank ones, and without the space around them.
///
/// # Errors
/// Those of [`texts`]; [`Error::Data`] if there is no label, or one occurs twice.
pub(crate) fn labels(path: &Path, format: Option<Format>) -> Result<Vec<String>> {
    let texts = texts(path, format)?.texts;
    let labels: Vec<String> = texts
        .iter()
        .map(|text| text.trim())
        .filter(|label| !label.is_empty())
        .map(Into::into)
        .collect();
    let fault = |problem| Err(Error::Data { file: path.into(), line: None, problem });
    if labels.is_empty() {
        return fault("has no label".into());
    }
    let mut seen = HashMap::new();
    for (i, label) in labels.iter().enumerate() {
        if let Some(first) = seen.insert(label, i) {
            let (first, second) = (first + 1, i + 1);
            return fault(format!(
                "'{label}' is label {first} and label {second}; labels must differ"
            ));
        }
    }
    Ok(labels)
}
