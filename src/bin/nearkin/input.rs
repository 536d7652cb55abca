//! Text files: .txt (a text per line) and .jsonl (an object per line).

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use nearkin::{Error, Result};
use serde_json::{Map, Value};

/// Texts and their ids.
#[derive(Default)]
pub(crate) struct Texts {
    pub(crate) ids: Vec<String>,
    pub(crate) texts: Vec<String>,
}

fn fault(file: &Path, line: usize, problem: impl Into<String>) -> Error {
    Error::Data { file: file.into(), line: Some(line), problem: problem.into() }
}

/// Calls `f` with the number (from 1) and text of each line, without its line ending.
pub(crate) fn lines(path: &Path, mut f: impl FnMut(usize, &str) -> Result<()>) -> Result<()> {
    let io = |source| Error::Io { path: path.into(), source };
    let file = File::open(path).map_err(io)?;
    if file.metadata().map_err(io)?.is_dir() {
        return Err(io(std::io::Error::other("is a directory, expected a file")));
    }
    let mut reader = BufReader::new(file);
    let mut bytes = Vec::new();
    for number in 1.. {
        bytes.clear();
        if reader.read_until(b'\n', &mut bytes).map_err(io)? == 0 {
            break;
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

/// Reads .txt (ids are line numbers from 0) or .jsonl (`text`, and BEIR's `_id` and `title`).
pub(crate) fn texts(path: &Path) -> Result<Texts> {
    let mut out = Texts::default();
    match path.extension().and_then(|e| e.to_str()) {
        Some("txt") => lines(path, |_, line| {
            out.ids.push(out.texts.len().to_string());
            out.texts.push(line.into());
            Ok(())
        })?,
        Some("jsonl") => objects(path, |number, object| {
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
        other => {
            return Err(Error::Data {
                file: path.into(),
                line: None,
                problem: format!(
                    "the name ends in {}; expected .txt (a text per line) or .jsonl (an object with 'text' per line)",
                    other.map_or("nothing".into(), |e| format!(".{e}"))
                ),
            });
        }
    }
    let mut seen = std::collections::HashSet::new();
    if let Some(id) = out.ids.iter().find(|id| !seen.insert(id.as_str())) {
        return Err(Error::Data {
            file: path.into(),
            line: None,
            problem: format!("the id '{}' occurs twice; ids must differ", id.escape_debug()),
        });
    }
    Ok(out)
}

/// Fails early where an output could not be written in the end.
pub(crate) fn check_output(path: &Path) -> Result<()> {
    let folder = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    let problem = if path.is_dir() {
        "is a directory, expected a file's name"
    } else if !folder.is_dir() {
        "its folder does not exist"
    } else {
        return Ok(());
    };
    Err(Error::Io { path: path.into(), source: std::io::Error::other(problem) })
}
