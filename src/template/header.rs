//! The machine-read `//@` lines of a kernel file, after rendering.

/// How a kernel uses a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Only read.
    Read,
    /// Written, and perhaps read.
    Write,
}

/// What a kernel's `//@` lines say:
/// ```text
/// //@ entry   norm
/// //@ buffers x:read weight:read y:write
/// //@ needs   f16                        (WGSL, optional)
/// //@ maps    x y                        (PTX, optional: buffers that come as tensor maps, before the others)
/// //@ target  sm_90a                     (PTX, optional: where it is not sm_80)
/// //@ threads 128                        (PTX: of a block)
/// //@ shared  1024                       (PTX, optional: dynamic bytes of a block)
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Header {
    /// The entry point.
    pub entry: String,
    /// Storage buffers in the order of their bindings; the params come after them.
    pub buffers: Vec<(String, Access)>,
    /// WGSL: device features that it needs, `f16` and `subgroups`.
    pub needs: Vec<String>,
    /// PTX: buffers that the kernel takes as tensor maps of 128 bytes instead of pointers.
    pub maps: Vec<String>,
    /// PTX: the architecture, where it is not the baseline's.
    pub target: Option<String>,
    /// PTX: threads of a block.
    pub threads: u32,
    /// PTX: bytes of dynamic shared memory of a block.
    pub shared: u32,
}

impl Header {
    /// Reads the `//@` lines of a kernel's text.
    pub fn parse(text: &str) -> Result<Header, String> {
        let mut header = Header::default();
        for line in text.lines().filter_map(|l| l.trim_start().strip_prefix("//@")) {
            let (key, rest) =
                line.trim().split_once(char::is_whitespace).unwrap_or((line.trim(), ""));
            let rest = rest.trim();
            let words = || rest.split_whitespace();
            let number = || rest.parse().map_err(|_| format!("{key}: {rest} is not a number"));
            match key {
                "entry" => header.entry = rest.into(),
                "buffers" => header.buffers = words().map(buffer).collect::<Result<_, _>>()?,
                "needs" => header.needs = words().map(Into::into).collect(),
                "maps" => header.maps = words().map(Into::into).collect(),
                "target" => header.target = Some(rest.into()),
                "threads" => header.threads = number()?,
                "shared" => header.shared = number()?,
                other => return Err(format!("unknown header line //@ {other}")),
            }
        }
        match header.entry.is_empty() {
            true => Err("the header lacks //@ entry".into()),
            false => Ok(header),
        }
    }
}

/// A buffer and its access, as in `x:read`.
fn buffer(item: &str) -> Result<(String, Access), String> {
    match item.split_once(':') {
        Some((name, "read")) => Ok((name.into(), Access::Read)),
        Some((name, "write")) => Ok((name.into(), Access::Write)),
        _ => Err(format!("buffers: {item} is neither :read nor :write")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_header_lacks_or_misspells_is_an_error() {
        let text = "//@ entry k\n//@ buffers x:read y:write\n//@ threads 32\nret;\n";
        let header = Header::parse(text).unwrap();
        assert_eq!((header.entry.as_str(), header.threads), ("k", 32));
        let buffers = [("x".to_string(), Access::Read), ("y".to_string(), Access::Write)];
        assert_eq!(header.buffers, buffers);
        for (from, to, problem) in [
            ("entry k", "threads 32", "lacks //@ entry"),
            ("x:read", "x:raed", "x:raed"),
            ("y:write", "y", "buffers: y"),
            ("threads 32", "threads many", "many is not a number"),
            ("threads 32", "thraeds 32", "//@ thraeds"),
        ] {
            let error = Header::parse(&text.replace(from, to)).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
    }
}
