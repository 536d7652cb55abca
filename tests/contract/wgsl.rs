//! The WGSL files.

use std::collections::BTreeMap;

use naga::valid::{Capabilities, ValidationFlags, Validator};
use nearkin::ops::FAMILIES;
use nearkin::template::{Access, Family, Rendered};

use crate::{check_all, files_agree, name};

fn check(at: &str, rendered: &Rendered, family: &Family) {
    let module = naga::front::wgsl::parse_str(&rendered.text)
        .unwrap_or_else(|e| panic!("{at}:\n{}", e.emit_to_string(&rendered.text)));
    // Core WebGPU: unpack2x16float.
    let mut capabilities = Capabilities::default() | Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    for need in &rendered.header.needs {
        capabilities |= match need.as_str() {
            "f16" => Capabilities::SHADER_FLOAT16,
            "subgroups" => Capabilities::SUBGROUP,
            other => panic!("{at}: unknown need {other}"),
        };
    }
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    validator.subgroup_stages(naga::valid::ShaderStages::COMPUTE);
    validator.subgroup_operations(naga::valid::SubgroupOperationSet::all());
    let info = validator
        .validate(&module)
        .unwrap_or_else(|e| panic!("{at}:\n{}", e.emit_to_string(&rendered.text)));
    naga::back::spv::write_vec(&module, &info, &naga::back::spv::Options::default(), None)
        .unwrap_or_else(|e| panic!("{at}: {e}"));

    assert!(module.entry_points.iter().any(|e| e.name == rendered.header.entry), "{at}: entry");
    let mut bound: BTreeMap<u32, (String, &naga::GlobalVariable)> = BTreeMap::new();
    let mut workgroup_bytes = 0;
    for (_, var) in module.global_variables.iter() {
        if let Some(binding) = &var.binding {
            assert_eq!(binding.group, 0, "{at}: group");
            let name = var.name.clone().unwrap();
            assert!(
                bound.insert(binding.binding, (name, var)).is_none(),
                "{at}: binding used twice"
            );
        }
        if var.space == naga::AddressSpace::WorkGroup {
            workgroup_bytes += module.types[var.ty].inner.size(module.to_ctx());
        }
    }
    assert!(workgroup_bytes <= 16 << 10, "{at}: {workgroup_bytes} bytes of workgroup memory");
    // What `Device::from_wgpu` insists on.
    let threads: u32 =
        module.entry_points.iter().map(|e| e.workgroup_size.iter().product()).max().unwrap();
    assert!(threads <= 256, "{at}: workgroups of {threads}");
    let size = family.params.size as u32;
    assert!(size <= 256, "{at}: {size} bytes of params");
    let buffers = &rendered.header.buffers;
    assert!(buffers.len() <= 8, "{at}: {} storage buffers", buffers.len());
    assert_eq!(bound.len(), buffers.len() + 1, "{at}: bindings {:?}", bound.keys());
    for (i, (name, access)) in buffers.iter().enumerate() {
        let (bound_name, var) = &bound[&(i as u32)];
        assert_eq!(bound_name, name, "{at}: binding {i}");
        let naga::AddressSpace::Storage { access: storage } = var.space else {
            panic!("{at}: {name}")
        };
        let writes = storage.contains(naga::StorageAccess::STORE);
        assert_eq!(writes, *access == Access::Write, "{at}: access of {name}");
    }
    let (_, var) = &bound[&(buffers.len() as u32)];
    assert_eq!(var.space, naga::AddressSpace::Uniform, "{at}: params");
    let naga::TypeInner::Struct { members, span } = &module.types[var.ty].inner else {
        panic!("{at}: params")
    };
    assert_eq!(module.types[var.ty].name.as_deref(), Some(family.params.name), "{at}: params");
    let layout: Vec<(&str, u32)> =
        members.iter().map(|m| (m.name.as_deref().unwrap(), m.offset)).collect();
    let rust: Vec<(&str, u32)> =
        family.params.members.iter().map(|m| (m.name, m.offset as u32)).collect();
    assert_eq!(layout, rust, "{at}: params layout");
    assert_eq!(*span, size, "{at}: params size");
}

#[test]
fn every_specialisation_is_valid_and_agrees_with_rust() {
    files_agree("shaders", FAMILIES);
    let tint = std::process::Command::new("tint").arg("--version").output().is_ok();
    if !tint {
        println!("tint is not installed: naga alone judges");
    }
    let valid = |family: &Family, spec: &_, rendered: &Rendered| {
        check(&name(family, spec), rendered, family);
        if tint {
            run_tint(family, &rendered.text);
        }
    };
    check_all(FAMILIES, valid, |_, _| ());
}

fn run_tint(family: &Family, text: &str) {
    let (process, thread) = (std::process::id(), std::thread::current().id());
    let name = format!("nearkin-{process}-{thread:?}-{}.wgsl", family.name());
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
    assert!(
        out.status.success(),
        "tint: {}:\n{}",
        family.file,
        String::from_utf8_lossy(&out.stderr)
    );
}

#[test]
fn an_undefined_name_is_an_error() {
    crate::an_undefined_name_is_an_error(FAMILIES);
}
