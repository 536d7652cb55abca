//! Finding Python, and a pip to go with it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::command::{program, run, succeeds, target};

/// A Python interpreter: a program and the arguments that choose the version.
#[derive(Clone)]
pub struct Python {
    program: PathBuf,
    args: Vec<&'static str>,
}

impl Python {
    /// The system's Python, 3.9 or later.
    pub fn find() -> Result<Python> {
        [("python3", vec![]), ("python", vec![]), ("py", vec!["-3"])]
            .into_iter()
            .map(|(name, args)| Python { program: name.into(), args })
            .find(|python| {
                succeeds(python.run(["-c", "import sys; sys.exit(sys.version_info < (3, 9))"]))
            })
            .ok_or_else(|| {
                "Python 3.9 or later was not found as python3, python or py; please install it (on Debian: \
                 apt-get install python3 python3-pip python3-venv)"
                    .into()
            })
    }

    /// A command of this interpreter.
    pub fn run<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = program(&self.program);
        command.args(&self.args).args(args);
        command
    }

    /// The system's Python if it has pip, else one with pip in a virtual environment under `target/`.
    pub fn with_pip() -> Result<Python> {
        let system = Python::find()?;
        if succeeds(system.run(["-m", "pip", "--version"])) {
            return Ok(system);
        }
        system.environment(&target()?.join("python"))
    }

    /// A virtual environment in `folder`, made if it is not there.
    pub fn environment(&self, folder: &Path) -> Result<Python> {
        let program = match cfg!(windows) {
            true => folder.join("Scripts").join("python.exe"),
            false => folder.join("bin").join("python"),
        };
        let python = Python { program, args: Vec::new() };
        if !succeeds(python.run(["-m", "pip", "--version"])) {
            let mut make = self.run(["-m", "venv", "--clear"]);
            make.arg(folder);
            run(make).map_err(|problem| {
                format!(
                    "{problem}; Python lacks pip or venv, please install one (on Debian: apt-get install \
                     python3-pip python3-venv)"
                )
            })?;
        }
        Ok(python)
    }
}
