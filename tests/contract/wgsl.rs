//! The WGSL files.

use std::collections::BTreeMap;

use naga::valid::{Capabilities, ValidationFlags, Validator};
use nearkin::ops::FAMILIES;
use nearkin::template::{Access, Rendered, SHADERS, render_file};
use rayon::prelude::*;
use serde_json::{Map, Value};

use crate::{combinations, header, names_agree};

fn check(
    file: &str,
    spec: &Map<String, Value>,
    rendered: &Rendered,
    params: &BTreeMap<String, u32>,
    size: u32,
) {
    let at = || format!("{file} {}", serde_json::to_string(spec).unwrap());
    let module = naga::front::wgsl::parse_str(&rendered.text)
        .unwrap_or_else(|e| panic!("{}:\n{}", at(), e.emit_to_string(&rendered.text)));
    // Core WebGPU: unpack2x16float.
    let mut capabilities = Capabilities::default() | Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    for need in &rendered.header.needs {
        capabilities |= match need.as_str() {
            "f16" => Capabilities::SHADER_FLOAT16,
            "subgroups" => Capabilities::SUBGROUP,
            other => panic!("{}: unknown need {other}", at()),
        };
    }
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    validator.subgroup_stages(naga::valid::ShaderStages::COMPUTE);
    validator.subgroup_operations(naga::valid::SubgroupOperationSet::all());
    let info = validator
        .validate(&module)
        .unwrap_or_else(|e| panic!("{}:\n{}", at(), e.emit_to_string(&rendered.text)));
    naga::back::spv::write_vec(&module, &info, &naga::back::spv::Options::default(), None)
        .unwrap_or_else(|e| panic!("{}: {e}", at()));

    assert!(module.entry_points.iter().any(|e| e.name == rendered.header.entry), "{}: entry", at());
    let mut bound: BTreeMap<u32, (String, &naga::GlobalVariable)> = BTreeMap::new();
    let mut workgroup_bytes = 0;
    for (_, var) in module.global_variables.iter() {
        if let Some(binding) = &var.binding {
            assert_eq!(binding.group, 0, "{}: group", at());
            let name = var.name.clone().unwrap();
            assert!(
                bound.insert(binding.binding, (name, var)).is_none(),
                "{}: binding used twice",
                at()
            );
        }
        if var.space == naga::AddressSpace::WorkGroup {
            workgroup_bytes += module.types[var.ty].inner.size(module.to_ctx());
        }
    }
    assert!(workgroup_bytes <= 16 << 10, "{}: {workgroup_bytes} bytes of workgroup memory", at());
    // What `Device::from_wgpu` insists on.
    let threads: u32 =
        module.entry_points.iter().map(|e| e.workgroup_size.iter().product()).max().unwrap();
    assert!(threads <= 256, "{}: workgroups of {threads}", at());
    assert!(size <= 256, "{}: {size} bytes of params", at());
    let buffers = &rendered.header.buffers;
    assert!(buffers.len() <= 8, "{}: {} storage buffers", at(), buffers.len());
    assert_eq!(bound.len(), buffers.len() + 1, "{}: bindings {:?}", at(), bound.keys());
    for (i, (name, access)) in buffers.iter().enumerate() {
        let (bound_name, var) = &bound[&(i as u32)];
        assert_eq!(bound_name, name, "{}: binding {i}", at());
        let naga::AddressSpace::Storage { access: storage } = var.space else {
            panic!("{}: {name}", at())
        };
        let writes = storage.contains(naga::StorageAccess::STORE);
        assert_eq!(writes, *access == Access::Write, "{}: access of {name}", at());
    }
    let (_, var) = &bound[&(buffers.len() as u32)];
    assert_eq!(var.space, naga::AddressSpace::Uniform, "{}: params", at());
    let naga::TypeInner::Struct { members, span } = &module.types[var.ty].inner else {
        panic!("{}: params", at())
    };
    assert_eq!(
        module.types[var.ty].name.as_deref(),
        Some(rendered.header.params.as_str()),
        "{}",
        at()
    );
    let layout: BTreeMap<String, u32> =
        members.iter().map(|m| (m.name.clone().unwrap(), m.offset)).collect();
    assert_eq!(&layout, params, "{}: params layout", at());
    assert_eq!(*span, size, "{}: params size", at());
}

#[test]
fn every_specialisation_is_valid_and_agrees_with_rust() {
    names_agree(SHADERS, ".wgsl", FAMILIES);
    let tint = std::process::Command::new("tint").arg("--version").output().is_ok();
    if !tint {
        println!("tint is not installed: naga alone judges");
    }
    for family in FAMILIES {
        let file = format!("{}.wgsl", family.name);
        let header = header(SHADERS, &file, family);
        let params = family.params.iter().map(|(n, o)| (n.to_string(), *o as u32)).collect();
        let all = combinations(&header);
        let valid = |spec| {
            let rendered =
                render_file(&file, spec).unwrap_or_else(|e| panic!("{file} {spec:?}: {e}"));
            check(&file, spec, &rendered, &params, family.params_size as u32);
            if tint {
                run_tint(&file, &rendered.text);
            }
            rendered.text.len()
        };
        let bytes: usize = all.par_iter().map(valid).sum();
        println!(
            "{file:<18} {:>4} specialisations, {:>5} bytes each on average: valid",
            all.len(),
            bytes / all.len()
        );
    }
}

fn run_tint(file: &str, text: &str) {
    let name = format!("nearkin-{}-{:?}-{file}", std::process::id(), std::thread::current().id());
    let path = std::env::temp_dir().join(name);
    // Chrome's compiler wants the extension named; naga refuses the directive.
    let enable = if text.contains("subgroup") { "enable subgroups;\n" } else { "" };
    std::fs::write(&path, format!("{enable}{text}")).unwrap();
    let out = std::process::Command::new("tint")
        .args(["--format", "wgsl", "-o", "/dev/null"])
        .arg(&path)
        .output()
        .unwrap();
    let _ = std::fs::remove_file(&path);
    assert!(out.status.success(), "tint: {file}:\n{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn an_undefined_name_is_an_error() {
    let error = render_file("norm.wgsl", Map::<String, Value>::new()).unwrap_err();
    assert!(error.contains("undefined"), "{error}");
}
