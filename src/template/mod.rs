//! Kernel text: a [`Spec`] rendered through a template into PTX or WGSL. For the crate's own use and its tests.
//!
//! The delimiters are chosen so that unrendered files still read as PTX and WGSL: `//%` starts a line statement,
//! `{{ }}` prints, `<% %>` is an inline statement, `<# #>` a comment. Undefined names are errors. Templates loop,
//! include and branch on the spec's values; they never choose a policy.
//!
//! Beside the spec's fields a template has `PARAMS`, which declares its params (in WGSL the uniform's struct, in PTX the
//! parameter), and in PTX `P` with the members of the params as operands: `{{ P.width }}` is `[params+4]`.

mod family;
mod header;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Template, UndefinedBehavior, Value, context};

pub use family::{Family, Language, Layout, Member, Spec};
#[cfg(any(feature = "cuda", feature = "wgpu"))]
pub(crate) use family::{each, kernel, params};
pub use header::{Access, Header};

#[cfg(any(feature = "cuda", feature = "wgpu"))]
use crate::Error;

/// The text of a file, by its path in the repository.
macro_rules! source {
    ($($path:literal),+) => { include_str!(concat!(env!("CARGO_MANIFEST_DIR"), $("/", $path),+)) };
}
#[cfg(any(feature = "cuda", feature = "wgpu"))]
pub(crate) use source;

/// The includes of a folder, by the names that templates have for them.
macro_rules! includes {
    ($folder:literal: $($name:literal)*) => {
        [$((concat!("include/", $name), source!($folder, "include", $name))),*]
    };
}

/// What shaders share.
const SHADERS: [(&str, &str); 7] = includes!(
    "shaders": "activation.wgsl" "bits.wgsl" "lists.wgsl" "nan.wgsl" "numbers.wgsl" "order.wgsl" "reduce.wgsl"
);

/// What PTX kernels share, and parts of large ones.
const KERNELS: [(&str, &str); 21] = includes!(
    "kernels": "activation.ptx" "async.ptx" "bits.ptx" "codec.ptx" "entry.ptx" "gemm_fma.ptx" "gemm_mma.ptx" "lists.ptx" "mma.ptx"
    "numbers.ptx" "ragged.ptx" "reduce.ptx" "rescore.ptx" "row.ptx" "search.ptx" "select.ptx" "sift.ptx" "survivors.ptx" "tiles.ptx" "tma.ptx"
    "wgmma.ptx"
);

static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder()
        .line_statement_prefix("//%")
        .variable_delimiters("{{", "}}")
        .block_delimiters("<%", "%>")
        .comment_delimiters("<#", "#>")
        .keep_trailing_newline(true)
        .build()
        .expect("the delimiters are distinct");
    env.set_syntax(syntax);
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    for (name, text) in SHADERS.into_iter().chain(KERNELS) {
        // One that does not parse is reported by `render`, where a kernel's name can be given.
        let _ = env.add_template(name, text);
    }
    env
});

/// A rendered kernel: its text and what its header says.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendered {
    /// The WGSL or PTX text.
    pub text: String,
    /// The header of the rendered text.
    pub header: Header,
}

/// Renders a kernel for one specialisation.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
pub(crate) fn render<S: Spec>(spec: &S) -> crate::Result<Rendered> {
    S::FAMILY.render(spec).map_err(|log| Error::Compile {
        kernel: name(spec),
        target: match S::FAMILY.language() {
            Language::Ptx => "PTX".into(),
            Language::Wgsl => "WGSL".into(),
        },
        log,
    })
}

/// What a specialisation is called in messages.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
pub(crate) fn name<S: Spec>(spec: &S) -> String {
    format!("{} {spec:?}", S::FAMILY.name())
}

impl Family {
    /// Renders the kernel with any serialisable set of variables; the error is the engine's text.
    pub fn render(&self, spec: impl serde::Serialize) -> Result<Rendered, String> {
        let spec = Value::from(Serde(spec));
        let variables = match self.language() {
            Language::Ptx => {
                let (declared, members) = (self.params.ptx(), self.params.operands());
                context! { PARAMS => declared, P => members, ..spec }
            }
            Language::Wgsl => context! { PARAMS => self.params.wgsl(), ..spec },
        };
        let text = self.template()?.render(variables).map_err(|e| format!("{e:#}"))?;
        let header = Header::parse(&text)?;
        match self.language() {
            Language::Ptx if header.threads == 0 => Err("the header lacks //@ threads".into()),
            _ => Ok(Rendered { text, header }),
        }
    }

    /// The names that the template takes from outside, and what it includes.
    pub fn variables(&self) -> Result<BTreeSet<String>, String> {
        let (mut variables, mut names) = (BTreeSet::new(), BTreeSet::new());
        let mut templates = vec![self.template()?];
        while let Some(template) = templates.pop() {
            variables.extend(template.undeclared_variables(false));
            for (name, _) in SHADERS.into_iter().chain(KERNELS) {
                if template.source().contains(&format!("\"{name}\"")) && names.insert(name) {
                    templates.push(ENVIRONMENT.get_template(name).map_err(|e| format!("{e:#}"))?);
                }
            }
        }
        Ok(variables)
    }

    fn template(&self) -> Result<Template<'static, 'static>, String> {
        ENVIRONMENT.template_from_named_str(self.file, self.source).map_err(|e| format!("{e:#}"))
    }
}
