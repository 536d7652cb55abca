//! Families: all that is known of a kernel file, declared once beside the code that launches it.

use std::collections::BTreeMap;
use std::fmt::{Debug, Write};
use std::hash::Hash;

use serde_json::{Map, Value};

/// The key of one specialisation: the only input to rendering, and the key of the pipeline cache.
/// Its fields serialise in SCREAMING_SNAKE_CASE and are the template's variables.
pub trait Spec: Copy + Eq + Hash + Debug + serde::Serialize + Send + Sync + 'static {
    /// What it specialises.
    const FAMILY: Family;

    /// Every specialisation that there is; of sizes that may be anything, some.
    fn all() -> Vec<Self>;
}

/// A kernel file and its Rust side.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// The file's path in the repository.
    pub file: &'static str,
    /// Its text.
    pub source: &'static str,
    /// Its params struct.
    pub params: Layout,
    /// Every specialisation, as the template's variables.
    pub all: fn() -> Vec<Map<String, Value>>,
}

/// What kernels are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// PTX.
    Ptx,
    /// WGSL.
    Wgsl,
}

impl Family {
    /// The family of a spec.
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    pub(crate) const fn of<S: Spec>(
        file: &'static str,
        source: &'static str,
        params: Layout,
    ) -> Family {
        let all = || {
            let variables = |spec| match serde_json::to_value(spec) {
                Ok(Value::Object(variables)) => variables,
                other => unreachable!("a struct of plain values, not {other:?}"),
            };
            S::all().into_iter().map(variables).collect()
        };
        Family { file, source, params, all }
    }

    /// The file's stem.
    pub fn name(&self) -> &'static str {
        let name = self.file.rsplit('/').next().unwrap_or(self.file);
        name.split('.').next().unwrap_or(name)
    }

    /// What it is written in.
    pub fn language(&self) -> Language {
        if self.file.ends_with(".ptx") { Language::Ptx } else { Language::Wgsl }
    }
}

/// A `#[repr(C)]` struct of 4-byte members: the uniform of a shader, and the last parameter of a PTX kernel, by value.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// The struct's name.
    pub name: &'static str,
    /// Its members.
    pub members: &'static [Member],
    /// Its size in bytes.
    pub size: usize,
}

/// A member of a params struct.
#[derive(Debug, Clone, Copy)]
pub struct Member {
    /// Its name.
    pub name: &'static str,
    /// Its place in bytes.
    pub offset: usize,
    /// Its type: `u32`, `i32` or `f32`, in Rust and in WGSL.
    pub ty: &'static str,
}

impl Layout {
    /// The struct in WGSL.
    pub(super) fn wgsl(&self) -> String {
        let mut text = format!("struct {} {{\n", self.name);
        for Member { name, ty, .. } in self.members {
            let _ = writeln!(text, "    {name}: {ty},");
        }
        text + "}"
    }

    /// The parameter in PTX.
    pub(super) fn ptx(&self) -> String {
        format!(".param .align 4 .b8 params[{}]", self.size)
    }

    /// The members as operands of PTX, such as `[params+8]`, by their names.
    pub(super) fn operands(&self) -> BTreeMap<&'static str, String> {
        self.members.iter().map(|m| (m.name, format!("[params+{}]", m.offset))).collect()
    }
}

/// Declares a kernel: its spec and params structs, and its [`Family`], which goes into the table in `src/ops/mod.rs`.
/// ```text
/// kernel! {
///     pub(crate) FAMILY = "kernels/rope.ptx";
///
///     spec RopeSpec {
///         norm: bool,                            // false and true
///         vector: bool,
///         lanes: u32 = [8, 16, 32],              // the values that there are, by the fields before if need be
///     }
///     where vector || lanes == 32;               // optional: which combinations there are
///
///     params RopeParams { width: u32, eps: f32 } // or, of another's struct: params RopeParams;
/// }
/// ```
#[cfg(any(feature = "cuda", feature = "wgpu"))]
macro_rules! kernel {
    (
        $(#[$meta:meta])*
        $vis:vis $family:ident = $file:literal;
        $(#[$spec_meta:meta])*
        spec $spec:ident {
            $($(#[$field_meta:meta])* $field:ident: $type:ty $(= $values:expr)?),* $(,)?
        }
        $(where $exists:expr;)?
        params $params:ident $({ $($members:tt)* })? $(;)?
    ) => {
        $(#[$spec_meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
        #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
        struct $spec { $($(#[$field_meta])* $field: $type),* }

        impl $crate::template::Spec for $spec {
            const FAMILY: $crate::template::Family = $family;

            #[allow(clippy::single_element_loop)]
            fn all() -> Vec<Self> {
                let mut all = Vec::new();
                $crate::template::each!([$($field $(= $values)?,)*] {
                    if true $(&& $exists)? {
                        all.push($spec { $($field),* });
                    }
                });
                all
            }
        }

        $($crate::template::params! { struct $params { $($members)* } })?

        $(#[$meta])*
        $vis const $family: $crate::template::Family = $crate::template::Family::of::<$spec>(
            $file,
            $crate::template::source!($file),
            $params::LAYOUT,
        );
    };
}

/// Loops over the values of fields, those of the first outermost.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
macro_rules! each {
    ([] $body:block) => { $body };
    ([$field:ident = $values:expr, $($more:tt)*] $body:block) => {
        for $field in $values { $crate::template::each!([$($more)*] $body) }
    };
    ([$field:ident, $($more:tt)*] $body:block) => {
        $crate::template::each!([$field = [false, true], $($more)*] $body)
    };
}

/// Declares a params struct and its [`Layout`].
#[cfg(any(feature = "cuda", feature = "wgpu"))]
macro_rules! params {
    ($(#[$meta:meta])* struct $name:ident { $($field:ident: $type:ident),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
        #[repr(C)]
        pub(crate) struct $name { $(pub(crate) $field: $type),* }

        impl $name {
            pub(crate) const LAYOUT: $crate::template::Layout = $crate::template::Layout {
                name: stringify!($name),
                members: &[$($crate::template::Member {
                    name: stringify!($field),
                    offset: core::mem::offset_of!($name, $field),
                    ty: stringify!($type),
                }),*],
                size: size_of::<$name>(),
            };
        }
    };
}

#[cfg(any(feature = "cuda", feature = "wgpu"))]
pub(crate) use {each, kernel, params};
