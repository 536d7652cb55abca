//! `cargo xtask counts`: what the emulator counts of the kernels now, taken over into `tests/cost/counts.csv`.

use crate::command::{cargo, root, run as run_command, write};
use crate::{Result, emulator};

pub fn run() -> Result {
    if !emulator::IS_SUPPORTED {
        return Err("the emulator, which counts, is not built for this system".into());
    }
    let libcuda = emulator::build()?;
    write(&root().join("tests/cost/counts.csv"), "case,count,number\n")?;
    // Tests of one process share an emulator. The docs are compared with what is committed.
    let mut command = cargo(["test", "-p", "nearkin", "--all-features", "--test", "cost", "--"]);
    command.args(["--test-threads", "1", "--skip", "docs_say_what_is_counted"]);
    command.env("NEARKIN_BLESS", "1").env("NEARKIN_REQUIRE", "cpu,cuda");
    emulator::use_in(&mut command, &libcuda);
    run_command(command)
}
