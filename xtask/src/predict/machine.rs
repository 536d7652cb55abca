//! Machine code of a kernel: what ptxas makes of its PTX, instruction by instruction, each with the PTX line it comes from.
//!
//! Every line of the PTX gets a `.loc`, so the disassembler names it. What an instruction waits for, and for how many cycles
//! it keeps its warp, is in the bits that ptxas sets beside each instruction (Jia et al. 2018, "Dissecting the NVIDIA Volta
//! GPU architecture via microbenchmarking", section 2.1; the places have stayed to Hopper).

use std::path::Path;
use std::process::Stdio;

use crate::Result;
use crate::command::{output, program, words, write};
use crate::resources::{exact, number_before};

/// An instruction of a kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct Instruction {
    /// Of the PTX text, from 1; 0 where none is known.
    pub line: u32,
    /// With its modifiers: `LDS.128`.
    pub code: String,
    /// Cycles until the warp may issue the next.
    pub stall: u32,
    /// The barrier that tells when the result is there, and the one that tells when the operands have been read.
    pub sets: [Option<u8>; 2],
    /// Barriers that are waited for, a bit each.
    pub waits: u8,
    /// The subroutine that it calls, and the one that it belongs to: ptxas's own, such as products that a GPU lacks.
    pub calls: Option<String>,
    pub within: Option<String>,
}

impl Instruction {
    /// The code without modifiers.
    pub fn name(&self) -> &str {
        self.code.split('.').next().unwrap_or_default()
    }
}

/// A kernel as a multiprocessor runs it.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    pub registers: u32,
    pub instructions: Vec<Instruction>,
}

/// Where the assembler and the disassembler are.
pub struct Tools {
    pub ptxas: std::path::PathBuf,
    pub nvdisasm: std::path::PathBuf,
}

impl Tools {
    /// Assembles a module's text for an architecture, in a folder for files, and takes one of its kernels apart.
    pub fn machine(&self, text: &str, kernel: &str, target: u32, folder: &Path) -> Result<Machine> {
        let (ptx, cubin) = (folder.join("located.ptx"), folder.join("located.cubin"));
        write(&ptx, &located(text))?;
        let suffix = if exact(text) == Some(target) { "a" } else { "" };
        let mut assemble = program(&self.ptxas);
        assemble.args(["-v", "-lineinfo", "-arch"]);
        assemble.arg(format!("sm_{target}{suffix}"));
        assemble.arg("-o").arg(&cubin).arg(&ptx).stdin(Stdio::null());
        let said = assemble.output().map_err(|e| format!("{}: {e}", words(&assemble)))?;
        let notes = String::from_utf8_lossy(&said.stderr).into_owned();
        if !said.status.success() {
            return Err(format!("{}:\n{notes}", words(&assemble)));
        }
        let registers = registers(&notes, kernel)
            .ok_or_else(|| format!("ptxas said nothing of {kernel}:\n{notes}"))?;
        let mut take_apart = program(&self.nvdisasm);
        take_apart.args(["-g", "-hex"]).arg(&cubin);
        let instructions = instructions(&output(take_apart)?, kernel);
        match instructions.is_empty() {
            true => Err(format!("nvdisasm shows no instruction of {kernel}")),
            false => Ok(Machine { registers, instructions }),
        }
    }
}

/// The text with a `.loc` before each instruction.
fn located(text: &str) -> String {
    let (mut out, mut depth) = (String::new(), 0);
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default().trim();
        let is_other =
            code.is_empty() || code.starts_with(['.', '{', '}', '$']) || code.ends_with(':');
        if depth > 0 && !is_other {
            out += &format!(".loc 1 {} 0\n", number + 1);
        }
        out += line;
        out.push('\n');
        // A block begins or ends on a line of its own; braces of operands are on the instruction's.
        if code == "{" {
            depth += 1;
        } else if code == "}" {
            depth -= 1;
        }
    }
    out + ".file 1 \"kernel.ptx\"\n"
}

/// Registers of a kernel, as `ptxas -v` says them.
fn registers(notes: &str, kernel: &str) -> Option<u32> {
    let (_, after) = notes.split_once(&format!("Compiling entry function '{kernel}'"))?;
    number_before(after, "registers")
}

/// The instructions of a kernel in what `nvdisasm -g -hex` writes: a comment for a new line of the source, then two lines an
/// instruction; the second holds the upper half of its bits.
fn instructions(listing: &str, kernel: &str) -> Vec<Instruction> {
    let start = format!(".section\t.text.{kernel},");
    let lines = listing.lines().skip_while(|line| !line.trim_start().starts_with(&start));
    let (mut all, mut line_number, mut read) = (Vec::<Instruction>::new(), 0, None);
    let mut within: Option<String> = None;
    for line in lines.skip(1).take_while(|line| !line.starts_with("//-----")) {
        let line = line.trim();
        if let Some((_, after)) = line.split_once("//## File") {
            let number = after.split("line ").nth(1).unwrap_or_default();
            let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
            line_number = number[..digits].parse().unwrap_or(0);
        } else if let Some(label) = line.strip_suffix(':').filter(|label| label.starts_with('$')) {
            within = Some(label.to_string());
        } else if let Some((code, _)) = line.split_once(';') {
            let code = code.split_once("*/").map_or(code, |(_, code)| code);
            // A guard comes first; a label is in backquotes and parentheses.
            let word = code.split_whitespace().find(|word| !word.starts_with('@'));
            let label = code.split_once("`(").and_then(|(_, label)| label.split_once(')'));
            read = word.map(|word| (word.to_string(), label.map(|(label, _)| label.to_string())));
        } else if let Some(hex) = line.strip_prefix("/* 0x")
            && let Some((code, label)) = read.take()
            && let Ok(bits) = u64::from_str_radix(hex.trim_end_matches("*/").trim(), 16)
        {
            // Bits 105 to 121 of the instruction's 128.
            let field = |from: u32, bits_of: u32| (bits >> (from - 64)) & ((1 << bits_of) - 1);
            let barrier = |from: u32| Some(field(from, 3) as u8).filter(|&barrier| barrier < 6);
            all.push(Instruction {
                line: line_number,
                stall: field(105, 4) as u32,
                sets: [barrier(110), barrier(113)],
                waits: field(116, 6) as u8,
                calls: label.filter(|_| code.starts_with("CALL")),
                within: within.clone(),
                code,
            });
            // What follows is padding.
            if all.last().is_some_and(|last| last.name() == "RET") {
                within = None;
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_get_their_lines() {
        let text = ".version 8.0\n.entry k(\n.param .u64 p)\n{\n.reg .b32 %a;\n// A note\nmov.u32 %a, 1; // one\nloop:\n@%p bra loop;\n}\n";
        let lines: Vec<String> = located(text).lines().map(str::to_string).collect();
        assert_eq!(
            lines[6..],
            [
                ".loc 1 7 0",
                "mov.u32 %a, 1; // one",
                "loop:",
                ".loc 1 9 0",
                "@%p bra loop;",
                "}",
                ".file 1 \"kernel.ptx\""
            ]
        );
    }

    #[test]
    fn a_listing_is_read() {
        let listing = "\t.section\t.text.other,\"ax\"\n\
             \t//## File \"k.ptx\", line 3\n        /*0000*/  NOP ; /* 0x0000000000007918 */\n    /* 0x000fc00000000000 */\n\
             //--------------------- .text.k  ---\n\t.section\t.text.k,\"ax\",@progbits\n\
             \t//## File \"k.ptx\", line 736\n\
             \x20       /*2380*/  HMMA.16816.F32.BF16 R36, R24, R72, R36 ;  /* 0x000000481824723c */\n\
             \x20                                                          /* 0x000fe40000041824 */\n\
             \x20       /*2390*/  @!P0 LDS.128 R4, [R8] ;                  /* 0x00000000000079af */\n\
             \x20                                                          /* 0x000e220000000000 */\n";
        let found = instructions(listing, "k");
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].line, found[0].name(), found[0].stall), (736, "HMMA", 2));
        assert_eq!(found[0].sets, [None, None]);
        assert_eq!((found[1].line, &*found[1].code), (736, "LDS.128"));
        assert_eq!((found[1].sets, found[1].waits), ([Some(0), None], 0));
    }
}
