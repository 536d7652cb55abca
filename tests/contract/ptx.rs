//! The PTX files.

use std::io::Write;
use std::path::Path;

use nearkin::ops::CUDA_FAMILIES;
use nearkin::template::{Family, Rendered};
use ptx_emulator::gpu::Gpu;
use ptx_emulator::syntax::ast::{Base, Function, Instruction, Module, Operand, Space, Symbol};
use ptx_emulator::syntax::parse;
use ptx_emulator::syntax::ty::Ty;
use serde_json::{Map, Value, json};

use crate::{check_all, files_agree, name};

/// Shared memory that a block may have on sm_80, the baseline, and on sm_90.
const MOST_SHARED: u32 = 163 << 10;
const MOST_SHARED_ON_HOPPER: u32 = 227 << 10;

/// A folder that gets each family's specialisations, one JSON object a line, for `cargo xtask kernels` to assemble.
const DUMP: &str = "NEARKIN_DUMP_PTX";

fn check(at: &str, rendered: &Rendered, family: &Family) {
    let Rendered { text, header } = rendered;
    let module = parse(text).unwrap_or_else(|e| panic!("{at}: {e}\n{text}"));
    let Module { version, target, target_suffix, .. } = module;
    // Families that use what Hopper alone has say so.
    let on_hopper = header.target.as_deref() == Some("sm_90a");
    assert!(on_hopper || header.target.is_none(), "{at}: //@ target {:?}", header.target);
    let baseline = if on_hopper { ((8, 0), 90, Some('a')) } else { ((7, 0), 80, None) };
    assert_eq!((version, target, target_suffix), baseline, "{at}: not the baseline");
    let gpu = Gpu::new(target);
    let loaded = gpu.load(text).unwrap_or_else(|e| panic!("{at}: {e}\n{text}"));

    let entries: Vec<&Function> = module.functions.iter().filter(|f| f.is_entry).collect();
    let names: Vec<&str> = entries.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names, [header.entry.as_str()], "{at}: entries");
    let entry = entries[0];
    let params: Vec<(&str, Ty, u64)> =
        entry.params.iter().map(|p| (p.name.as_str(), p.ty, p.size)).collect();
    let is_map = |name: &str| header.maps.iter().any(|map| map == name);
    let buffers = header.buffers.iter().map(|(name, _)| match is_map(name) {
        true => (name.as_str(), Ty::B8, 128),
        false => (name.as_str(), Ty::U64, 8),
    });
    let bound = |map: &String| header.buffers.iter().any(|(name, _)| name == map);
    assert!(header.maps.iter().all(bound), "{at}: //@ maps {:?}", header.maps);
    let by_value = ("params", Ty::B8, family.params.size as u64);
    assert_eq!(params, buffers.chain([by_value]).collect::<Vec<_>>(), "{at}: parameters");
    assert_eq!(entry.params.last().unwrap().align, 4, "{at}: alignment of params");
    assert_eq!(entry.max_threads, [header.threads, 1, 1], "{at}: .maxntid and //@ threads");
    assert!((1..=1024).contains(&header.threads), "{at}: {} threads", header.threads);

    let kernel = loaded.program.kernel(&header.entry).unwrap();
    let shared = kernel.static_shared + header.shared;
    let most = if on_hopper { MOST_SHARED_ON_HOPPER } else { MOST_SHARED };
    assert!(shared <= most, "{at}: {shared} bytes of shared memory");
    let dynamic = module.variables.iter().any(|v| v.space == Space::Shared && v.size == 0);
    assert!(dynamic || header.shared == 0, "{at}: //@ shared without dynamic shared memory");
    assert_eq!(kernel.local_bytes, 0, "{at}: bytes of local memory");

    for instruction in instructions(entry) {
        let line = || format!("{at}: line {}", instruction.pos.line);
        for operand in &instruction.operands {
            match operand {
                // A map is named by its address.
                Operand::Symbol { symbol: Symbol::Param(i), .. } => {
                    let name = entry.params[*i as usize].name.as_str();
                    assert!(is_map(name), "{}: the address of {name} is taken", line());
                }
                Operand::Address { base: Some(Base::Symbol(Symbol::Param(i))), offset } => {
                    let bytes = i64::from(loaded_bytes(instruction));
                    let size = entry.params[*i as usize].size as i64;
                    assert!(
                        *offset >= 0 && offset + bytes <= size && offset % bytes == 0,
                        "{}: {bytes} bytes at {offset} of a parameter of {size}",
                        line()
                    );
                }
                _ => {}
            }
        }
    }
}

fn instructions(function: &Function) -> impl Iterator<Item = &Instruction> {
    function.body.iter().filter_map(|statement| match statement {
        ptx_emulator::syntax::ast::Statement::Instruction(instruction) => Some(instruction),
        _ => None,
    })
}

/// Bytes that a load reads.
fn loaded_bytes(load: &Instruction) -> u32 {
    let modifiers = || load.modifiers.iter().map(String::as_str);
    let ty = modifiers().find_map(Ty::from_name).unwrap();
    let elements = match () {
        _ if modifiers().any(|m| m == "v4") => 4,
        _ if modifiers().any(|m| m == "v2") => 2,
        _ => 1,
    };
    ty.bytes() * elements
}

/// Writes what `cargo xtask kernels` needs of a specialisation.
fn dump(to: &mut impl Write, spec: &Map<String, Value>, rendered: &Rendered) {
    let Rendered { text, header } = rendered;
    let line = json!({
        "spec": spec,
        "entry": header.entry,
        "threads": header.threads,
        "shared": header.shared,
        "text": text,
    });
    writeln!(to, "{line}").unwrap();
}

#[test]
fn every_specialisation_is_valid_and_agrees_with_rust() {
    files_agree("kernels", CUDA_FAMILIES);
    let folder = std::env::var_os(DUMP);
    let valid = |family: &Family, spec: &_, rendered: &_| {
        check(&name(family, spec), rendered, family);
    };
    check_all(CUDA_FAMILIES, valid, |family, all| {
        let Some(folder) = &folder else { return };
        let path = Path::new(folder).join(family.name()).with_extension("jsonl");
        let mut to = std::io::BufWriter::new(std::fs::File::create(path).unwrap());
        all.iter().for_each(|(spec, rendered)| dump(&mut to, spec, rendered));
    });
}

#[test]
fn an_undefined_name_is_an_error() {
    crate::an_undefined_name_is_an_error(CUDA_FAMILIES);
}
