//! Lookups through `shaders/embed.wgsl`: a workgroup a token.
//!
//! Where all tables have one type and each fits one binding, a single launch looks up, adds and normalises. Otherwise
//! the tables are bound one at a time in windows of rows, and a launch for each window adds what it holds; every
//! token's row is in one window, so the additions and their order are the same, and so are the bits.

use std::ops::Range;
use std::sync::Arc;

use super::Args;
use crate::device::wgpu::{Binding, WgpuDevice, spread};
use crate::ops::Stored;
use crate::template::kernel;
use crate::{DType, Result, Tensor};

kernel! {
    pub(crate) FAMILY = "shaders/embed.wgsl";

    spec EmbedSpec {
        t: Stored = Stored::ALL,
        tables: u32 = [0, 1, 2, 3],
        window: bool,
        norm: bool,
        subgroups: bool,
        wg: u32 = [64, 256],
    }
    where (norm || !subgroups)
        && match window {
            true => tables == 1 && !norm,
            false => tables > 0 || norm && t == Stored::F32,
        };

    params EmbedParams { tokens: u32, width: u32, stride: u32, lookup: u32, first: u32, count: u32, add: u32, eps: f32 }
}

pub(crate) fn embed(gpu: &Arc<WgpuDevice>, args: &Args<'_>) -> Result<Tensor> {
    let y = Tensor::wgpu_uninit(args.rows.device(), DType::F32, &[args.tokens, args.width])?;
    if y.is_empty() {
        return Ok(y);
    }
    let stride = args.tables.len();
    let work = Work { gpu, args, y: &y };
    let stored = Stored::of(args.tables[0], &gpu.facts);
    let whole = args
        .tables
        .iter()
        .all(|t| t.bytes() as u64 <= gpu.facts.max_binding && Stored::of(t, &gpu.facts) == stored);
    for tokens in gpu.windows(args.tokens, args.width.max(stride) * size_of::<u32>())? {
        if whole {
            work.fused(stored, &tokens)?;
        } else {
            for i in 0..stride {
                work.windowed(i, &tokens)?;
            }
            work.normalize(&tokens)?;
        }
    }
    Ok(y)
}

struct Work<'a> {
    gpu: &'a Arc<WgpuDevice>,
    args: &'a Args<'a>,
    y: &'a Tensor,
}

impl<'a> Work<'a> {
    fn spec(&self, t: Stored, tables: usize, norm: bool) -> EmbedSpec {
        EmbedSpec {
            t,
            tables: tables as u32,
            window: false,
            norm,
            subgroups: norm && self.gpu.facts.subgroups.is_some(),
            wg: if self.args.width <= 512 { 64 } else { 256 },
        }
    }

    fn params(&self, tokens: &Range<usize>) -> EmbedParams {
        EmbedParams {
            tokens: tokens.len() as u32,
            width: self.args.width as u32,
            stride: self.args.tables.len() as u32,
            eps: self.args.norm.map_or(0.0, |n| n.eps),
            ..Default::default()
        }
    }

    /// Everything in one launch.
    fn fused(&self, stored: Stored, tokens: &Range<usize>) -> Result<()> {
        let tables = self.args.tables;
        let stride = tables.len();
        let tables = tables.iter().map(|t| self.table(t, &(0..t.shape()[0])));
        let mut bindings: Vec<Binding<'_>> = tables.collect();
        bindings.push(self.gpu.rows(self.args.rows, tokens, stride));
        let spec = self.spec(stored, stride, self.args.norm.is_some());
        self.launch(spec, bindings, &self.params(tokens), tokens)
    }

    /// One lookup, a launch for each window of its table.
    fn windowed(&self, i: usize, tokens: &Range<usize>) -> Result<()> {
        let table = self.args.tables[i];
        let (size, row_bytes) = (table.shape()[0], self.args.width * table.dtype().size());
        for window in self.gpu.windows(size, row_bytes)? {
            let bindings = vec![
                self.table(table, &window),
                self.gpu.rows(self.args.rows, tokens, self.args.tables.len()),
            ];
            let params = EmbedParams {
                lookup: i as u32,
                first: window.start as u32,
                count: window.len() as u32,
                add: (i > 0) as u32,
                ..self.params(tokens)
            };
            let stored = Stored::of(table, &self.gpu.facts);
            let spec = EmbedSpec { window: true, ..self.spec(stored, 1, false) };
            self.launch(spec, bindings, &params, tokens)?;
        }
        Ok(())
    }

    /// The norm of sums that are complete, in place.
    fn normalize(&self, tokens: &Range<usize>) -> Result<()> {
        match self.args.norm {
            None => Ok(()),
            Some(_) => {
                let spec = self.spec(Stored::F32, 0, true);
                self.launch(spec, Vec::new(), &self.params(tokens), tokens)
            }
        }
    }

    fn table(&self, table: &'a Tensor, rows: &Range<usize>) -> Binding<'a> {
        self.gpu.rows(table, rows, self.args.width)
    }

    fn launch(
        &self,
        spec: EmbedSpec,
        mut bindings: Vec<Binding<'a>>,
        params: &EmbedParams,
        tokens: &Range<usize>,
    ) -> Result<()> {
        if spec.norm
            && let Some(norm) = self.args.norm
        {
            bindings.extend([norm.weight.wgpu().into(), norm.bias.wgpu().into()]);
        }
        bindings.push(self.gpu.rows(self.y, tokens, self.args.width));
        self.gpu.launch(&self.gpu.kernel(spec)?, &bindings, params, spread(tokens.len()))
    }
}
