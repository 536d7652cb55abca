//! Reading: regular files alone, up to a size.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{Error as IoError, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::de::DeserializeOwned;

use super::lfs;
use crate::{Error, Result};

/// Most bytes of a JSON file of settings. The index of a checkpoint's shards is the longest: 100 bytes a tensor.
pub(crate) const CONFIG: u64 = 64 << 20;
/// Most bytes of a `tokenizer.json`. Vocabularies of 256,000 tokens take 35 MB.
pub(crate) const TOKENIZER: u64 = 256 << 20;
/// Most bytes of an image file: more than [`MAX_PIXELS`](crate::images) of 16-bit RGBA take without compression.
#[cfg(feature = "images")]
pub(crate) const IMAGE: u64 = 2 << 30;

/// Opens a regular file, or a link to one.
///
/// # Errors
/// [`Error::Io`] if it does not exist, cannot be opened, or is a folder, pipe, socket or device.
pub(crate) fn open(path: &Path) -> Result<(File, Metadata)> {
    let io = |e| Error::io(path, e);
    // Opening a device can have effects, so it is looked at first.
    check_regular(&std::fs::metadata(path).map_err(io)?).map_err(io)?;
    let mut options = OpenOptions::new();
    options.read(true);
    // A pipe may have taken the file's name since: then opening must not wait for a writer.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
    let file = options.open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    check_regular(&metadata).map_err(io)?;
    Ok((file, metadata))
}

/// Reads a whole regular file of at most `limit` bytes.
///
/// # Errors
/// [`Error::Io`] if it does not exist, cannot be read, is longer, is a folder, pipe, socket or device, or is a Git LFS
/// pointer in place of the file.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let io = |e| Error::io(path, e);
    let (file, metadata) = open(path)?;
    let too_long = |length: u64| {
        let problem = format!("has {length} bytes, expected at most {limit}");
        io(IoError::new(ErrorKind::FileTooLarge, problem))
    };
    if metadata.len() > limit {
        return Err(too_long(metadata.len()));
    }
    // Some file systems state no length, and a file can grow while it is read.
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    file.take(limit + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > limit {
        return Err(too_long(bytes.len() as u64));
    }
    lfs::check(path, &bytes)?;
    Ok(bytes)
}

/// The first bytes of a regular file, and whether they are all.
#[cfg(feature = "images")]
pub(crate) fn read_head(path: &Path, limit: u64) -> Result<(Vec<u8>, bool)> {
    let (file, metadata) = open(path)?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).map_err(|e| Error::io(path, e))?;
    lfs::check(path, &bytes)?;
    let is_whole = bytes.len() as u64 >= metadata.len();
    Ok((bytes, is_whole))
}

/// [`read`] for UTF-8.
pub(crate) fn read_text(path: &Path, limit: u64) -> Result<String> {
    String::from_utf8(read(path, limit)?).map_err(|e| {
        Error::io(path, IoError::new(ErrorKind::InvalidData, format!("is not UTF-8: {e}")))
    })
}

/// A JSON file of settings; nothing where it does not exist.
///
/// # Errors
/// Those of [`read`]; [`Error::Config`] if it is not JSON of the form of `T`.
pub(crate) fn read_json<T: DeserializeOwned>(file: &Path) -> Result<Option<T>> {
    let text = match read(file, CONFIG) {
        Err(e) if e.is_not_found() => return Ok(None),
        text => text?,
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|e| Error::Config { file: file.into(), problem: e.to_string() })
}

fn check_regular(metadata: &Metadata) -> Result<(), IoError> {
    match metadata.is_file() {
        true => Ok(()),
        false => Err(IoError::other(format!("is {}, expected a file", kind(metadata)))),
    }
}

/// The kind of an entry of a folder in words.
pub(super) fn kind(metadata: &Metadata) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let kind = metadata.file_type();
        for (is, name) in [
            (kind.is_fifo(), "a named pipe"),
            (kind.is_socket(), "a socket"),
            (kind.is_char_device(), "a device"),
            (kind.is_block_device(), "a device"),
        ] {
            if is {
                return name;
            }
        }
    }
    if metadata.is_dir() { "a folder" } else { "no regular file" }
}

/// A regular file whose bytes are read on demand. Unlike a mapping it survives that another process truncates the file:
/// reading is an error then.
pub struct Reader {
    path: PathBuf,
    file: Mutex<File>,
    length: u64,
}

impl Reader {
    /// Opens a file that is not empty.
    ///
    /// # Errors
    /// [`Error::Io`] if it does not exist, cannot be opened, is empty, is a folder, pipe, socket or device, or is a Git
    /// LFS pointer.
    pub fn open(path: &Path) -> Result<Reader> {
        let (file, metadata) = open(path)?;
        let length = metadata.len();
        if length == 0 {
            return Err(Error::io(path, IoError::other("the file is empty")));
        }
        let reader = Reader { path: path.into(), file: Mutex::new(file), length };
        if length <= lfs::LONGEST {
            lfs::check(path, &reader.range(0..length)?)?;
        }
        Ok(reader)
    }

    /// The length of the file in bytes when it was opened; at least 1.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The bytes of a range.
    ///
    /// # Errors
    /// [`Error::Io`] if the file does not have them, or no longer.
    pub fn range(&self, range: std::ops::Range<u64>) -> Result<Vec<u8>> {
        let io = |e| Error::io(&self.path, e);
        if range.start > range.end || range.end > self.length {
            let problem = format!("has {} bytes, not the bytes {range:?}", self.length);
            return Err(io(IoError::new(ErrorKind::UnexpectedEof, problem)));
        }
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(range.start)).and_then(|_| file.read_exact(&mut bytes)).map_err(
            |e| match e.kind() {
                ErrorKind::UnexpectedEof => {
                    let problem =
                        format!("was cut off while it was read, before byte {}", range.end);
                    io(IoError::new(ErrorKind::UnexpectedEof, problem))
                }
                _ => io(e),
            },
        )?;
        Ok(bytes)
    }
}
