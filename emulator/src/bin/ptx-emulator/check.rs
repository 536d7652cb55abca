//! `ptx-emulator check`: what is wrong with a file, and what its kernels need.

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::ExitCode;

use ptx_emulator::engine::Program;
use ptx_emulator::syntax::ast::{Function, Module, Operand, Statement, Symbol};
use ptx_emulator::syntax::{self, parse};
use serde_json::json;

use crate::{FOUND, Result, parse_target, read};

#[derive(clap::Args)]
pub struct Args {
    /// PTX files.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The architecture to load for.
    #[arg(long, default_value = "sm_120", value_parser = parse_target)]
    target: u32,
    /// Print JSON, one object a file.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result {
    let mut failed = false;
    for path in &args.files {
        let name = path.display().to_string();
        let text = read(path)?;
        match load(&text, args.target) {
            Ok((module, program)) => {
                let warnings: Vec<String> = module.functions.iter().flat_map(lint).collect();
                match args.json {
                    true => println!("{}", describe_json(&name, &program, &warnings)),
                    false => describe(&name, &program, &warnings),
                }
            }
            Err(error) => {
                failed = true;
                match args.json {
                    true => println!(
                        "{}",
                        json!({ "file": name, "line": error.pos.line, "column": error.pos.column, "error": error.what, "near": error.near })
                    ),
                    false => eprint!("{}", point(&name, &text, &error)),
                }
            }
        }
    }
    Ok(ExitCode::from(if failed { FOUND } else { 0 }))
}

fn load(text: &str, target: u32) -> syntax::Result<(Module, Program)> {
    Ok((parse(text)?, Program::load(text, target)?))
}

/// The error with its line and a caret below.
fn point(name: &str, text: &str, error: &syntax::Error) -> String {
    let (line, column) = (error.pos.line as usize, error.pos.column as usize);
    let source = text.lines().nth(line.saturating_sub(1)).unwrap_or("").replace('\t', " ");
    let margin = line.to_string().len();
    format!(
        "{name}:{line}:{column}: {} (near '{}')\n{:margin$} |\n{line} | {source}\n{:margin$} | {:>column$}\n",
        error.what, error.near, "", "", "^"
    )
}

fn describe(name: &str, program: &Program, warnings: &[String]) {
    println!("{name}: .version {}.{}, sm_{}", program.version.0, program.version.1, program.target);
    for kernel in program.kernels() {
        println!(
            "  {}: {} parameters ({} bytes), {} bytes of static shared memory, {} of local memory, {} 32-bit registers declared",
            kernel.name,
            kernel.params.len(),
            kernel.param_bytes,
            kernel.static_shared,
            kernel.local_bytes,
            kernel.registers
        );
        let classes: Vec<String> = kernel
            .classes()
            .into_iter()
            .map(|(class, count)| format!("{count} {}", class.name()))
            .collect();
        println!("    {} instructions: {}", kernel.len(), classes.join(", "));
        if kernel.is_ordered {
            println!("    its blocks may depend on each other: they run on one host thread");
        }
    }
    for warning in warnings {
        println!("  warning: {warning}");
    }
}

fn describe_json(name: &str, program: &Program, warnings: &[String]) -> serde_json::Value {
    let kernels: Vec<serde_json::Value> = program
        .kernels()
        .iter()
        .map(|kernel| {
            let classes: serde_json::Map<String, serde_json::Value> = kernel
                .classes()
                .into_iter()
                .map(|(class, count)| (class.name().to_owned(), count.into()))
                .collect();
            json!({
                "name": kernel.name,
                "parameters": kernel.params.len(),
                "parameter_bytes": kernel.param_bytes,
                "static_shared": kernel.static_shared,
                "local_bytes": kernel.local_bytes,
                "registers": kernel.registers,
                "instructions": kernel.len(),
                "classes": classes,
                "ordered": kernel.is_ordered,
            })
        })
        .collect();
    json!({ "file": name, "target": program.target, "kernels": kernels, "warnings": warnings })
}

/// What is legal, and most likely not meant.
fn lint(function: &Function) -> Vec<String> {
    let mut used = HashSet::new();
    let mut labels = HashSet::new();
    let mut params = HashSet::new();
    let mut warnings = Vec::new();
    let mut unreachable = false;
    for statement in &function.body {
        match statement {
            Statement::Label(_) => unreachable = false,
            Statement::BranchTargets { labels: targets, .. } => {
                labels.extend(targets.iter().map(|l| l.0))
            }
            Statement::Instruction(instruction) => {
                if unreachable {
                    let line = instruction.pos.line;
                    warnings.push(format!("{}: line {line} cannot be reached", function.name));
                }
                let ends =
                    matches!(instruction.opcode.as_str(), "bra" | "ret" | "exit" | "trap" | "brx");
                unreachable = ends && instruction.guard.is_none();
                used.extend(instruction.guard.iter().map(|guard| guard.reg.0));
                for operand in &instruction.operands {
                    visit(operand, &mut |operand| match operand {
                        Operand::Reg(id) | Operand::Not(id) => _ = used.insert(id.0),
                        Operand::Label(label) => _ = labels.insert(label.0),
                        Operand::Symbol { symbol: Symbol::Param(index), .. } => {
                            _ = params.insert(*index)
                        }
                        Operand::Address { base: Some(base), .. } => match base {
                            syntax::ast::Base::Reg(id) => _ = used.insert(id.0),
                            syntax::ast::Base::Symbol(Symbol::Param(index)) => {
                                _ = params.insert(*index)
                            }
                            syntax::ast::Base::Symbol(_) => {}
                        },
                        _ => {}
                    });
                }
            }
        }
    }
    let name = &function.name;
    for (index, label) in function.labels.iter().enumerate() {
        if !labels.contains(&(index as u32)) {
            warnings.push(format!("{name}: nothing jumps to label {label}"));
        }
    }
    for (index, param) in function.params.iter().enumerate() {
        if !params.contains(&(index as u32)) && !function.is_declaration {
            warnings.push(format!("{name}: parameter {} is not used", param.name));
        }
    }
    for (index, register) in function.registers.iter().enumerate() {
        if !used.contains(&(index as u32)) {
            warnings.push(format!("{name}: register {} is not used", register.name));
        }
    }
    warnings
}

/// Calls `f` with an operand and everything in it.
fn visit(operand: &Operand, f: &mut dyn FnMut(&Operand)) {
    f(operand);
    match operand {
        Operand::Vector(inner) | Operand::List(inner) | Operand::AddressList(inner) => {
            inner.iter().for_each(|operand| visit(operand, f));
        }
        Operand::Pair(first, second) => {
            visit(first, f);
            visit(second, f);
        }
        _ => {}
    }
}
