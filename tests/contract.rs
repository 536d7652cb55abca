//! The kernel files, their headers and the Rust side agree; every specialisation is valid WGSL or PTX.
#![cfg(any(feature = "cuda", feature = "wgpu"))]

#[path = "contract/papers.rs"]
mod papers;
#[cfg(feature = "cuda")]
#[path = "contract/ptx.rs"]
mod ptx;
#[cfg(feature = "wgpu")]
#[path = "contract/wgsl.rs"]
mod wgsl;

use std::collections::BTreeSet;
use std::path::Path;

use nearkin::template::{Family, Rendered};
use rayon::prelude::*;
use serde_json::{Map, Value};

/// Each file of a folder is one family's.
fn files_agree(folder: &str, families: &[Family]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let names = std::fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let kernels = names.filter(|path| path.extension().is_some_and(|e| e == "ptx" || e == "wgsl"));
    let relative = |path: std::path::PathBuf| {
        let path = path.strip_prefix(root).unwrap();
        path.to_str().unwrap().replace(std::path::MAIN_SEPARATOR, "/")
    };
    let mut files: Vec<String> = kernels.map(relative).collect();
    let mut declared: Vec<&str> = families.iter().map(|f| f.file).collect();
    files.sort();
    declared.sort();
    assert_eq!(
        declared, files,
        "each file has one family, which is in the table of src/ops/mod.rs"
    );
}

/// Every specialisation of a family, once; the template uses what they say.
fn specialisations(family: &Family) -> Vec<Map<String, Value>> {
    let all = (family.all)();
    let keys: BTreeSet<&str> = all[0].keys().map(String::as_str).collect();
    let used = family.variables().unwrap();
    let unused: Vec<_> = keys.into_iter().filter(|key| !used.contains(*key)).collect();
    assert!(unused.is_empty(), "{}: {unused:?} of the spec are not used", family.file);
    let names: BTreeSet<String> = all.iter().map(|spec| name(family, spec)).collect();
    assert_eq!(names.len(), all.len(), "{}: a specialisation comes twice", family.file);
    all
}

fn name(family: &Family, spec: &Map<String, Value>) -> String {
    format!("{} {}", family.file, serde_json::to_string(spec).unwrap())
}

/// Renders and checks every specialisation, on all threads, and gives those of a family to `then`, in their order.
fn check_all(
    families: &[Family],
    check: impl Fn(&Family, &Map<String, Value>, &Rendered) + Sync,
    mut then: impl FnMut(&Family, &[(Map<String, Value>, Rendered)]),
) {
    for family in families {
        let valid = |spec: Map<String, Value>| {
            let rendered = family.render(&spec);
            let rendered = rendered.unwrap_or_else(|e| panic!("{}: {e}", name(family, &spec)));
            check(family, &spec, &rendered);
            (spec, rendered)
        };
        let all: Vec<_> = specialisations(family).into_par_iter().map(valid).collect();
        let bytes: usize = all.iter().map(|(_, rendered)| rendered.text.len()).sum();
        println!(
            "{:<26} {:>4} specialisations, {:>5} bytes each on average: valid",
            family.file,
            all.len(),
            bytes / all.len()
        );
        then(family, &all);
    }
}

/// A family of these by its name.
fn family<'a>(families: &'a [Family], name: &str) -> &'a Family {
    families.iter().find(|family| family.name() == name).unwrap()
}

/// A spec without keys is refused.
fn an_undefined_name_is_an_error(families: &[Family]) {
    let error = family(families, "norm").render(Map::<String, Value>::new()).unwrap_err();
    assert!(error.contains("undefined"), "{error}");
}
