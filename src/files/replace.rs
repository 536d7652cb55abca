//! Writing: a file appears whole or not at all.

use std::fs::File;
use std::io::{BufWriter, Error as IoError, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::read::kind;
use crate::{Error, Result};

const PREFIX: &str = ".nearkin-";
const SUFFIX: &str = ".tmp";
/// Random characters between the two.
const RANDOM: usize = 8;
/// Links from an output's name to its file at most, as Linux allows.
const LINKS: usize = 40;

/// A file that is being written. It has another name in the same folder until [`commit`](Replacement::commit) renames it;
/// dropped before that, it is removed and what was at the path stays.
///
/// A symbolic link at the path stays, and its target is replaced. The mode is `0666` less the umask; a file that is
/// replaced passes its mode on, and its owner where the system allows that.
///
/// A process that is killed leaves its unfinished file, `.nearkin-????????.tmp`. It was locked while the process ran; the
/// next replacement in the folder removes such files that nobody has locked.
pub struct Replacement {
    /// What errors name.
    path: PathBuf,
    target: PathBuf,
    file: BufWriter<NamedTempFile>,
}

impl Replacement {
    /// Begins to write a file.
    ///
    /// # Errors
    /// [`Error::Io`] if the path is a folder, pipe, socket or device, or its folder does not exist or cannot be written.
    pub fn new(path: &Path) -> Result<Replacement> {
        let io = |e| Error::io(path, e);
        let target = resolve(path).map_err(io)?;
        let folder = folder(&target);
        if !folder.is_dir() {
            return Err(io(IoError::other("its folder does not exist")));
        }
        sweep(folder);
        let file = BufWriter::with_capacity(1 << 20, unfinished(folder).map_err(io)?);
        Ok(Replacement { path: path.into(), target, file })
    }

    /// Fails where [`new`](Replacement::new) would, and leaves nothing: for a check before long work.
    pub fn check(path: &Path) -> Result<()> {
        Replacement::new(path).map(drop)
    }

    /// Writes a whole file of bytes in memory.
    pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
        let mut file = Replacement::new(path)?;
        file.append(bytes)?;
        file.commit()
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// [`Error::Io`], for example when the disk is full.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| Error::io(&self.path, e))
    }

    /// Writes bytes over those at a position; what follows is written there.
    pub fn overwrite(&mut self, position: u64, bytes: &[u8]) -> Result<()> {
        let io = |e| Error::io(&self.path, e);
        self.file.seek(SeekFrom::Start(position)).map_err(io)?;
        self.file.write_all(bytes).map_err(io)
    }

    /// Waits until the bytes are on the disk, then gives the file its name.
    ///
    /// # Errors
    /// [`Error::Io`]; what was at the path stays then.
    pub fn commit(self) -> Result<()> {
        let io = |e| Error::io(&self.path, e);
        let file = self.file.into_inner().map_err(|e| io(e.into_error()))?;
        #[cfg(unix)]
        if let Ok(old) = std::fs::metadata(&self.target) {
            use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
            // Only a privileged process may give files away.
            let _ = fchown(file.as_file(), Some(old.uid()), Some(old.gid()));
            let mode = PermissionsExt::from_mode(old.permissions().mode() & 0o777);
            file.as_file().set_permissions(mode).map_err(io)?;
        }
        file.as_file().sync_all().map_err(io)?;
        file.persist(&self.target).map_err(|e| io(e.error))?;
        // The new name is on the disk once the folder is; some systems cannot sync folders.
        if let Ok(folder) = File::open(folder(&self.target)) {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// The path of the file to replace: links are followed, also to a file that does not exist yet.
fn resolve(path: &Path) -> Result<PathBuf, IoError> {
    let mut target = path.to_path_buf();
    for _ in 0..LINKS {
        match std::fs::symlink_metadata(&target) {
            Ok(entry) if entry.is_symlink() => {
                let link = std::fs::read_link(&target)?;
                target = folder(&target).join(link);
            }
            Ok(entry) if entry.is_file() => return Ok(target),
            Ok(entry) => {
                let problem = format!("is {}, expected a file's name", kind(&entry));
                return Err(IoError::other(problem));
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return match path.as_os_str().as_encoded_bytes().last() {
                    Some(b'/') => Err(IoError::other("names a folder, expected a file's name")),
                    Some(_) => Ok(target),
                    None => Err(IoError::other("is empty, expected a file's name")),
                };
            }
            Err(e) => return Err(e),
        }
    }
    Err(IoError::other(format!("is a chain of more than {LINKS} symbolic links")))
}

/// A new file in `folder`, locked.
fn unfinished(folder: &Path) -> Result<NamedTempFile, IoError> {
    loop {
        let mut builder = tempfile::Builder::new();
        builder.prefix(PREFIX).suffix(SUFFIX).rand_bytes(RANDOM);
        #[cfg(unix)]
        let mode: std::fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        #[cfg(unix)]
        builder.permissions(mode);
        let file = builder.tempfile_in(folder)?;
        // Where files cannot be locked, none is swept either.
        let _ = file.as_file().lock();
        // A sweep may have come between the two.
        if file.path().exists() {
            return Ok(file);
        }
    }
}

/// Removes unfinished files that nobody writes any more.
fn sweep(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_unfinished = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX))
            .is_some_and(|rest| rest.len() == RANDOM && rest.is_ascii());
        if !is_unfinished || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let path = entry.path();
        if let Ok(file) = File::open(&path)
            && file.try_lock().is_ok()
        {
            let _ = std::fs::remove_file(&path);
        }
    }
}
