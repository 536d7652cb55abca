//! The kernel files, their headers and the Rust side agree; every specialisation is valid WGSL or PTX.
#![cfg(any(feature = "cuda", feature = "wgpu"))]

#[cfg(feature = "cuda")]
#[path = "contract/ptx.rs"]
mod ptx;
#[cfg(feature = "wgpu")]
#[path = "contract/wgsl.rs"]
mod wgsl;

use nearkin::template::{Family, Header, condition};
use serde_json::{Map, Value};

/// Each family has one file, and each file a family.
fn names_agree(files: &[(&str, &str)], extension: &str, families: &[Family]) {
    let mut files: Vec<&str> = files
        .iter()
        .filter(|(name, _)| !name.starts_with("include/"))
        .map(|(name, _)| name.strip_suffix(extension).unwrap())
        .collect();
    let mut families: Vec<&str> = families.iter().map(|f| f.name).collect();
    files.sort();
    families.sort();
    assert_eq!(families, files, "each family has one file and one entry in the table of families");
}

/// The header of a family's file, which names the family and the keys of its spec.
fn header(files: &[(&str, &str)], file: &str, family: &Family) -> Header {
    let (_, source) = files.iter().find(|(name, _)| *name == file).unwrap();
    let header = Header::parse(source).unwrap();
    assert_eq!(header.family, family.name);
    let mut keys: Vec<&String> = header.spec.iter().map(|(k, _)| k).collect();
    let mut rust = (family.spec_keys)();
    keys.sort();
    rust.sort();
    assert_eq!(
        keys,
        rust.iter().collect::<Vec<_>>(),
        "{file}: spec keys of the header and of Rust"
    );
    header
}

/// Every combination of a header's spec values for which `//@ where` holds.
fn combinations(header: &Header) -> Vec<Map<String, Value>> {
    let mut all = vec![Map::new()];
    for (key, values) in &header.spec {
        all = all
            .into_iter()
            .flat_map(|base| {
                values.iter().map(move |value| {
                    let mut spec = base.clone();
                    let value = serde_json::from_str(value).unwrap_or(Value::String(value.clone()));
                    spec.insert(key.clone(), value);
                    spec
                })
            })
            .collect();
    }
    if let Some(only) = &header.only {
        let holds = condition(only).unwrap();
        all.retain(|spec| holds(spec).unwrap());
    }
    all
}
