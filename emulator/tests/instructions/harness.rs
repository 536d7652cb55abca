//! Runs a snippet of PTX over rows of inputs.

use std::fmt::Write;

use ptx_emulator::gpu::{Arg, Gpu};

/// Bits of a register of this type.
fn bits(ty: &str) -> u32 {
    match ty {
        "pred" => 1,
        ty if ty.ends_with("x2") => 32,
        ty => ty.trim_start_matches(|c: char| c.is_alphabetic()).parse().expect("a type's width"),
    }
}

/// Runs `body` in one thread for each row of `rows`.
///
/// Inputs are registers `%a`, `%b`, `%c`, `%e`, and outputs `%d`, `%f`, of the types given; predicates are 0 or 1.
/// Gives the outputs of each row.
pub fn run(inputs: &[&str], outputs: &[&str], body: &str, rows: &[Vec<u64>]) -> Vec<Vec<u64>> {
    run_on(90, inputs, outputs, body, rows)
}

/// [`run`] on an architecture.
pub fn run_on(
    target: u32,
    inputs: &[&str],
    outputs: &[&str],
    body: &str,
    rows: &[Vec<u64>],
) -> Vec<Vec<u64>> {
    let (read, written) = (["%a", "%b", "%c", "%e"], ["%d", "%f"]);
    let mut text = format!(
        ".version 8.6\n.target sm_{target}\n.address_size 64\n.entry k(.param .u64 from, .param .u64 to, .param .u32 n) {{
            .reg .pred %past, %p<4>; .reg .b32 %i<5>, %r<8>; .reg .b64 %in, %out, %rd<8>; .reg .b16 %h<8>;\n"
    );
    for (ty, name) in inputs.iter().zip(read).chain(outputs.iter().zip(written)) {
        writeln!(text, ".reg .{ty} {name};").unwrap();
    }
    writeln!(
        text,
        "mov.u32 %i1, %ctaid.x; mov.u32 %i2, %ntid.x; mov.u32 %i3, %tid.x; mad.lo.u32 %i1, %i1, %i2, %i3;
         ld.param.u32 %i2, [n]; setp.ge.u32 %past, %i1, %i2; @%past ret;
         ld.param.u64 %in, [from]; mad.wide.u32 %in, %i1, {}, %in;
         ld.param.u64 %out, [to]; mad.wide.u32 %out, %i1, {}, %out;",
        inputs.len().max(1) * 8,
        outputs.len() * 8
    )
    .unwrap();
    for (index, (ty, name)) in inputs.iter().zip(read).enumerate() {
        match *ty {
            "pred" => {
                writeln!(
                    text,
                    "ld.global.u32 %i4, [%in+{}]; setp.ne.u32 {name}, %i4, 0;",
                    index * 8
                )
            }
            ty => writeln!(text, "ld.global.b{} {name}, [%in+{}];", bits(ty), index * 8),
        }
        .unwrap();
    }
    writeln!(text, "{body}").unwrap();
    for (index, (ty, name)) in outputs.iter().zip(written).enumerate() {
        match *ty {
            "pred" => {
                writeln!(
                    text,
                    "selp.u32 %i4, 1, 0, {name}; st.global.u32 [%out+{}], %i4;",
                    index * 8
                )
            }
            ty => writeln!(text, "st.global.b{} [%out+{}], {name};", bits(ty), index * 8),
        }
        .unwrap();
    }
    text.push_str("ret; }\n");

    let gpu = Gpu::new(target);
    let module = gpu.load(&text).unwrap_or_else(|error| panic!("{body}: {error}"));
    let data: Vec<u64> = rows.iter().flatten().copied().collect();
    assert_eq!(data.len(), rows.len() * inputs.len(), "one value for each input of each row");
    let from = gpu.upload(&data).unwrap();
    let to = gpu.upload(&vec![0u64; rows.len() * outputs.len()]).unwrap();
    let args = [Arg::U64(from), Arg::U64(to), Arg::U32(rows.len() as u32)];
    let blocks = rows.len().div_ceil(128) as u32;
    gpu.launch(&module, "k", blocks, 128, &args).unwrap_or_else(|error| panic!("{body}: {error}"));
    let results = gpu.download::<u64>(to, rows.len() * outputs.len()).unwrap();
    results.chunks(outputs.len()).map(<[u64]>::to_vec).collect()
}

/// Runs a snippet with one output and compares every row with a reference.
pub fn check(
    inputs: &[&str],
    output: &str,
    body: &str,
    rows: &[Vec<u64>],
    expected: impl Fn(&[u64]) -> u64,
) {
    check_on(90, inputs, output, body, rows, expected);
}

/// [`check`] on an architecture.
pub fn check_on(
    target: u32,
    inputs: &[&str],
    output: &str,
    body: &str,
    rows: &[Vec<u64>],
    expected: impl Fn(&[u64]) -> u64,
) {
    let results = run_on(target, inputs, &[output], body, rows);
    for (row, result) in rows.iter().zip(results) {
        let expected = expected(row);
        assert_eq!(
            result[0], expected,
            "{body} of {row:#x?} gave {:#x}, expected {expected:#x}",
            result[0]
        );
    }
}
