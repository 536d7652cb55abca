//! Kernel text: a [`Spec`] rendered through a template into PTX or WGSL.
//!
//! The delimiters are chosen so that unrendered files still read as PTX and WGSL: `//%` starts a line statement,
//! `{{ }}` prints, `<% %>` is an inline statement, `<# #>` a comment. Undefined names are errors. Templates loop,
//! include and branch on the spec's values; they never choose a policy.
//!
//! Every kernel file carries a machine-read header, checked by `tests/contract`:
//! ```text
//! //@ family  norm
//! //@ entry   norm
//! //@ buffers x:read weight:read y:write
//! //@ params  NormParams
//! //@ spec    T=f32,f16,bf16 SUBGROUPS=false,true
//! //@ where   not (T == "f16" and SUBGROUPS)      (optional: which combinations exist)
//! //@ needs   f16                                 (optional, after rendering)
//! //@ maps    x y                                 (PTX, optional: buffers that come as tensor maps, before the others)
//! //@ target  sm_90a                              (PTX, optional: where it is not sm_80)
//! //@ threads 128                                 (PTX, after rendering: of a block)
//! //@ shared  1024                                (PTX, after rendering: dynamic bytes of a block)
//! ```

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::LazyLock;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior};

use crate::{Error, Result};

/// The key of one specialisation: the only input to rendering, and the key of the pipeline cache.
/// Its fields serialise in SCREAMING_SNAKE_CASE and are the template's variables.
pub trait Spec: Copy + Eq + Hash + Debug + serde::Serialize + Send + Sync + 'static {
    /// The stem of the kernel file.
    const FAMILY: &'static str;
}

/// The shader files, by name, with the includes they share.
pub const SHADERS: &[(&str, &str)] = &[
    ("include/activation.wgsl", include_str!("../shaders/include/activation.wgsl")),
    ("include/bits.wgsl", include_str!("../shaders/include/bits.wgsl")),
    ("include/lists.wgsl", include_str!("../shaders/include/lists.wgsl")),
    ("include/nan.wgsl", include_str!("../shaders/include/nan.wgsl")),
    ("include/numbers.wgsl", include_str!("../shaders/include/numbers.wgsl")),
    ("include/order.wgsl", include_str!("../shaders/include/order.wgsl")),
    ("include/reduce.wgsl", include_str!("../shaders/include/reduce.wgsl")),
    ("include/scan.wgsl", include_str!("../shaders/include/scan.wgsl")),
    ("norm.wgsl", include_str!("../shaders/norm.wgsl")),
    ("embed.wgsl", include_str!("../shaders/embed.wgsl")),
    ("pool.wgsl", include_str!("../shaders/pool.wgsl")),
    ("residual.wgsl", include_str!("../shaders/residual.wgsl")),
    ("topk.wgsl", include_str!("../shaders/topk.wgsl")),
    ("select_cut.wgsl", include_str!("../shaders/select_cut.wgsl")),
    ("select_filter.wgsl", include_str!("../shaders/select_filter.wgsl")),
    ("select_merge.wgsl", include_str!("../shaders/select_merge.wgsl")),
    ("select_sort.wgsl", include_str!("../shaders/select_sort.wgsl")),
    ("select_split.wgsl", include_str!("../shaders/select_split.wgsl")),
    ("select_scores.wgsl", include_str!("../shaders/select_scores.wgsl")),
    ("attention.wgsl", include_str!("../shaders/attention.wgsl")),
    ("gemm.wgsl", include_str!("../shaders/gemm.wgsl")),
    ("glu.wgsl", include_str!("../shaders/glu.wgsl")),
    ("rope.wgsl", include_str!("../shaders/rope.wgsl")),
    ("rows.wgsl", include_str!("../shaders/rows.wgsl")),
    ("rows_measure.wgsl", include_str!("../shaders/rows_measure.wgsl")),
    ("maxsim.wgsl", include_str!("../shaders/maxsim.wgsl")),
    ("hamming.wgsl", include_str!("../shaders/hamming.wgsl")),
    ("hamming_encode.wgsl", include_str!("../shaders/hamming_encode.wgsl")),
];

/// The PTX kernel files, by name, with the includes they share.
pub const KERNELS: &[(&str, &str)] = &[
    ("include/activation.ptx", include_str!("../kernels/include/activation.ptx")),
    ("include/async.ptx", include_str!("../kernels/include/async.ptx")),
    ("include/entry.ptx", include_str!("../kernels/include/entry.ptx")),
    ("include/lists.ptx", include_str!("../kernels/include/lists.ptx")),
    ("include/mma.ptx", include_str!("../kernels/include/mma.ptx")),
    ("include/numbers.ptx", include_str!("../kernels/include/numbers.ptx")),
    ("include/ragged.ptx", include_str!("../kernels/include/ragged.ptx")),
    ("include/reduce.ptx", include_str!("../kernels/include/reduce.ptx")),
    ("include/row.ptx", include_str!("../kernels/include/row.ptx")),
    ("include/select.ptx", include_str!("../kernels/include/select.ptx")),
    ("include/tiles.ptx", include_str!("../kernels/include/tiles.ptx")),
    ("include/tma.ptx", include_str!("../kernels/include/tma.ptx")),
    ("include/wgmma.ptx", include_str!("../kernels/include/wgmma.ptx")),
    ("attention.ptx", include_str!("../kernels/attention.ptx")),
    ("attention_mma.ptx", include_str!("../kernels/attention_mma.ptx")),
    ("embed.ptx", include_str!("../kernels/embed.ptx")),
    ("gemm.ptx", include_str!("../kernels/gemm.ptx")),
    ("gemm_tma.ptx", include_str!("../kernels/gemm_tma.ptx")),
    ("gemm_wgmma.ptx", include_str!("../kernels/gemm_wgmma.ptx")),
    ("glu.ptx", include_str!("../kernels/glu.ptx")),
    ("maxsim.ptx", include_str!("../kernels/maxsim.ptx")),
    ("hamming.ptx", include_str!("../kernels/hamming.ptx")),
    ("hamming_encode.ptx", include_str!("../kernels/hamming_encode.ptx")),
    ("norm.ptx", include_str!("../kernels/norm.ptx")),
    ("pool.ptx", include_str!("../kernels/pool.ptx")),
    ("residual.ptx", include_str!("../kernels/residual.ptx")),
    ("rope.ptx", include_str!("../kernels/rope.ptx")),
    ("rows.ptx", include_str!("../kernels/rows.ptx")),
    ("rows_measure.ptx", include_str!("../kernels/rows_measure.ptx")),
    ("select_cut.ptx", include_str!("../kernels/select_cut.ptx")),
    ("select_filter.ptx", include_str!("../kernels/select_filter.ptx")),
    ("select_merge.ptx", include_str!("../kernels/select_merge.ptx")),
    ("select_scores.ptx", include_str!("../kernels/select_scores.ptx")),
    ("select_sort.ptx", include_str!("../kernels/select_sort.ptx")),
    ("select_split.ptx", include_str!("../kernels/select_split.ptx")),
    ("topk.ptx", include_str!("../kernels/topk.ptx")),
    ("topk_mma.ptx", include_str!("../kernels/topk_mma.ptx")),
];

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
    for (name, text) in SHADERS.iter().chain(KERNELS) {
        // A template that does not parse is reported by `render`, where a kernel's name can be given.
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

/// Renders the WGSL of a family for one specialisation.
pub fn render<S: Spec>(spec: &S) -> Result<Rendered> {
    render_file(&format!("{}.wgsl", S::FAMILY), spec).map_err(|log| Error::Compile {
        kernel: format!("{} {spec:?}", S::FAMILY),
        target: "WGSL".into(),
        log,
    })
}

/// Renders the PTX of a family for one specialisation. `members` and `size` are those of its params struct.
pub fn render_ptx<S: Spec>(spec: &S, members: &[Member], size: usize) -> Result<Rendered> {
    render_ptx_file(&format!("{}.ptx", S::FAMILY), spec, members, size).map_err(|log| {
        Error::Compile { kernel: format!("{} {spec:?}", S::FAMILY), target: "PTX".into(), log }
    })
}

/// Renders a PTX file with any serialisable set of variables. To these come `P`, whose members are those of the params
/// struct as operands (`[params+8]`), and `PARAMS`, its size in bytes.
pub fn render_ptx_file(
    name: &str,
    spec: impl serde::Serialize,
    members: &[Member],
    size: usize,
) -> Result<Rendered, String> {
    let places: BTreeMap<&str, String> =
        members.iter().map(|(member, at)| (*member, format!("[params+{at}]"))).collect();
    let spec = minijinja::Value::from(minijinja::value::Serde(spec));
    let rendered = render_value(name, minijinja::context! { P => places, PARAMS => size, ..spec })?;
    match rendered.header.threads {
        0 => Err("the header lacks //@ threads".into()),
        _ => Ok(rendered),
    }
}

/// Renders a kernel file with any serialisable set of variables; the error is the engine's text.
pub fn render_file(name: &str, spec: impl serde::Serialize) -> Result<Rendered, String> {
    render_value(name, minijinja::value::Serde(spec).into())
}

fn render_value(name: &str, variables: minijinja::Value) -> Result<Rendered, String> {
    let source = SHADERS
        .iter()
        .chain(KERNELS)
        .find(|(n, _)| *n == name)
        .ok_or(format!("no kernel file {name}"))?;
    let text = ENVIRONMENT
        .get_template(name)
        .or_else(|_| ENVIRONMENT.template_from_named_str(name, source.1))
        .and_then(|t| t.render(variables))
        .map_err(|e| format!("{e:#}"))?;
    let header = Header::parse(&text)?;
    Ok(Rendered { text, header })
}

/// Says of sets of variables whether a template's `//@ where` expression holds. It is parsed once, as there are many.
pub fn condition<S: serde::Serialize>(
    expression: &str,
) -> Result<impl Fn(&S) -> Result<bool, String>, String> {
    let problem = |e: minijinja::Error| format!("{e:#}");
    let condition = ENVIRONMENT.compile_expression(expression).map_err(problem)?;
    Ok(move |variables: &S| {
        let value = condition.eval(minijinja::value::Serde(variables)).map_err(problem)?;
        Ok(value.is_true())
    })
}

/// How a kernel uses a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Only read.
    Read,
    /// Written, and perhaps read.
    Write,
}

/// The machine-read `//@` lines of a kernel file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Header {
    /// The family; equal to the file's stem.
    pub family: String,
    /// The entry point.
    pub entry: String,
    /// Storage buffers in the order of their bindings; the params uniform comes after them.
    pub buffers: Vec<(String, Access)>,
    /// The params struct's name.
    pub params: String,
    /// The spec's keys and the values each may take.
    pub spec: Vec<(String, Vec<String>)>,
    /// An expression that says which combinations of values exist.
    pub only: Option<String>,
    /// Device features this rendering needs: `f16`, `subgroups`.
    pub needs: Vec<String>,
    /// PTX: buffers that the kernel takes as tensor maps of 128 bytes instead of pointers.
    pub maps: Vec<String>,
    /// PTX: the architecture, where it is not the baseline's.
    pub target: Option<String>,
    /// PTX, rendered: threads of a block.
    pub threads: u32,
    /// PTX, rendered: bytes of dynamic shared memory of a block.
    pub shared: u32,
}

impl Header {
    /// Reads the `//@` lines of a kernel text, rendered or not.
    pub fn parse(text: &str) -> Result<Header, String> {
        let mut header = Header::default();
        for line in text.lines().filter_map(|l| l.trim_start().strip_prefix("//@")) {
            let (key, rest) =
                line.trim().split_once(char::is_whitespace).unwrap_or((line.trim(), ""));
            let rest = rest.trim();
            match key {
                "family" => header.family = rest.into(),
                "entry" => header.entry = rest.into(),
                "params" => header.params = rest.into(),
                "where" => header.only = Some(rest.into()),
                // Not numbers before they are rendered.
                "threads" => header.threads = rest.parse().unwrap_or(0),
                "shared" => header.shared = rest.parse().unwrap_or(0),
                "needs" => header.needs = rest.split_whitespace().map(Into::into).collect(),
                "maps" => header.maps = rest.split_whitespace().map(Into::into).collect(),
                "target" => header.target = Some(rest.into()),
                "buffers" => {
                    for item in rest.split_whitespace().filter(|i| i.contains(':')) {
                        let (name, access) =
                            item.split_once(':').ok_or(format!("buffers: {item}"))?;
                        let access = match access {
                            "read" => Access::Read,
                            "write" => Access::Write,
                            other => {
                                return Err(format!("buffers: {name} has unknown access {other}"));
                            }
                        };
                        header.buffers.push((name.into(), access));
                    }
                }
                "spec" => {
                    for item in rest.split_whitespace() {
                        let (name, values) =
                            item.split_once('=').ok_or(format!("spec: {item} has no '='"))?;
                        header
                            .spec
                            .push((name.into(), values.split(',').map(Into::into).collect()));
                    }
                }
                other => return Err(format!("unknown header line //@ {other}")),
            }
        }
        if header.family.is_empty() || header.entry.is_empty() {
            return Err("the header lacks //@ family or //@ entry".into());
        }
        Ok(header)
    }
}

/// A member of a params struct: its name and byte offset.
pub type Member = (&'static str, usize);

/// What `tests/contract` compares with a family's shader.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// The file's stem.
    pub name: &'static str,
    /// The names of the spec's fields, as the template sees them.
    pub spec_keys: fn() -> Vec<String>,
    /// The params struct's members.
    pub params: &'static [Member],
    /// The params struct's size in bytes.
    pub params_size: usize,
}

/// The serialised field names of a spec.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
pub(crate) fn keys<S: Spec>(spec: S) -> Vec<String> {
    match serde_json::to_value(spec) {
        Ok(serde_json::Value::Object(map)) => map.keys().cloned().collect(),
        _ => Vec::new(),
    }
}

/// Declares a `#[repr(C)]` params struct of 4-byte members and the table of their offsets.
/// The struct is the WGSL uniform and the by-value PTX parameter.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
macro_rules! params {
    ($(#[$meta:meta])* struct $name:ident { $($field:ident: $t:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
        #[repr(C)]
        pub(crate) struct $name { $(pub(crate) $field: $t),* }
        impl $name {
            pub(crate) const MEMBERS: &'static [$crate::template::Member] =
                &[$((stringify!($field), core::mem::offset_of!($name, $field))),*];
        }
    };
}
#[cfg(any(feature = "cuda", feature = "wgpu"))]
pub(crate) use params;
