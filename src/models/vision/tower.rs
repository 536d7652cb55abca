//! The encoder that all image models share: patches, positions, layers, and one vector of an image.

use std::sync::Mutex;

use half::bf16;

use super::config::VisionConfig;
use super::family::HeadNames;
use super::heads::Head;
use crate::device::threads::items::*;
use crate::images::{Pixels, each_patch, interpolate_positions};
use crate::models::EmbedOptions;
use crate::models::inspect::{Inspect, Inspection};
use crate::models::layers::{Loader, Norm, NormKind, Pass, Stack};
use crate::ops::gemm::{Epilogue, Packed, gemm};
use crate::ops::math::vectorize;
use crate::ops::pool::{Pooling, pool};
use crate::ops::precision;
use crate::ops::replay::{Batch, Input, Replays};
use crate::{DType, Device, Element, Error, Offsets, Result, Tensor};

/// Position tables of other image sizes that are kept.
const TABLES: usize = 8;
/// Patches down and across an image at most.
const MAX_GRID: usize = 1 << 12;
/// Patches of an image: those of 16 x 16 in an image of 4096 x 4096. Attention compares each with all, and a layer keeps some 20
/// numbers for each number of a hidden state.
const MAX_PATCHES: usize = 1 << 16;

/// An image encoder on a device.
pub(crate) struct Tower {
    pub(crate) config: VisionConfig,
    pub(crate) device: Device,
    /// \[H, 3 * patch height * patch width\]; its bias is in the positions.
    patch: Packed,
    /// The dtype in which patches are uploaded, f32 or bf16; rows of bf16 are filled up to a multiple of 16 bytes.
    pixels: DType,
    /// The values of the position table, and of what precedes the patches, on the host.
    positions: Positions,
    /// Position tables by grid, the most recently used last.
    tables: Mutex<Vec<([usize; 2], Tensor)>>,
    /// Of what the first layer gets.
    norm: Option<Norm>,
    stack: Stack,
    last_norm: Option<Norm>,
    head: Head,
    replays: Replays,
}

/// The rows that are added to a sequence's embeddings.
struct Positions {
    /// Tokens before the patches, with their positions added: \[tokens, H\].
    before: Vec<f32>,
    /// \[grid, H\].
    patches: Vec<f32>,
    /// What the patches' embedding adds: \[H\], or nothing.
    bias: Vec<f32>,
}

/// The hidden states of images of one size.
pub(crate) struct States {
    /// \[images * tokens, H\], normed where the family norms all tokens.
    pub(crate) states: Tensor,
    pub(crate) offsets: Offsets,
    /// Tokens before the patches.
    pub(crate) before: usize,
}

impl Tower {
    pub(crate) fn load(config: VisionConfig, loader: &Loader<'_>) -> Result<Tower> {
        let (layout, parts) = (config.layout(), &config.parts);
        let shape = &parts.shape;
        let hidden = shape.hidden;
        let full = |name: &str| format!("{}{name}", loader.prefix);
        let [height, width] = parts.patch;
        let columns = 3 * height * width;
        let name = format!("{}.weight", full(layout.patch));
        let pixels = precision::handed_on(loader.device, loader.dtype);
        let patch = match pixels {
            DType::BF16 => {
                let values = loader.weights.floats(&name, &[hidden, 3, height, width])?;
                let padded = columns.next_multiple_of(8);
                let mut rows = vec![0.0; hidden * padded];
                for (row, values) in rows.chunks_exact_mut(padded).zip(values.chunks_exact(columns))
                {
                    row[..columns].copy_from_slice(values);
                }
                Tensor::from_f32(loader.device, loader.dtype, &[hidden, padded], &rows)?
            }
            _ => loader
                .weights
                .tensor(loader.device, loader.dtype, &name, &[hidden, 3, height, width])?
                .reshape(&[hidden, columns])?,
        };
        let norm = |name: &str| loader.norm(&full(name), NormKind::Layer, hidden, shape.eps);
        Ok(Tower {
            pixels,
            positions: Positions::load(&config, loader)?,
            tables: Mutex::new(Vec::new()),
            norm: layout.norm.map(norm).transpose()?,
            stack: Stack::load(loader, shape.clone(), &layout.names)?,
            // A head of queries has it.
            last_norm: match layout.head {
                HeadNames::Queries(_) => None,
                _ => Some(norm(layout.last_norm)?),
            },
            head: Head::load(&config, loader)?,
            replays: Replays::default(),
            patch: Packed::new(&patch)?,
            device: loader.device.clone(),
            config,
        })
    }

    /// Columns of a hidden state.
    pub(crate) fn hidden(&self) -> usize {
        self.stack.shape.hidden
    }

    /// Columns of an image's vector.
    pub(crate) fn width(&self) -> usize {
        self.head.width().unwrap_or(self.hidden())
    }

    /// Tokens before the patches.
    pub(crate) fn before(&self) -> usize {
        self.positions.before.len() / self.hidden()
    }

    /// Patches down and across an image of some height and width.
    ///
    /// # Errors
    /// [`Error::Argument`] if it is smaller than a patch or has too many patches, or, where positions are not those of a square,
    /// of another size than the model's.
    pub(crate) fn grid(&self, height: usize, width: usize) -> Result<[usize; 2]> {
        let [down, across] = self.config.parts.patch;
        let grid = [height / down, width / across];
        if grid.iter().any(|n| !(1..=MAX_GRID).contains(n)) {
            let expected = format!("at least {down} x {across}, at most {MAX_GRID} patches a side");
            return Err(Error::argument("image size", expected, format!("{height} x {width}")));
        }
        if grid[0] * grid[1] > MAX_PATCHES {
            let expected = format!("at most {MAX_PATCHES} patches of {down} x {across}");
            let got = format!("{height} x {width} pixels, {} patches", grid[0] * grid[1]);
            return Err(Error::argument("image size", expected, got));
        }
        Ok(grid)
    }

    /// Hidden states of images of one size.
    pub(crate) fn forward(&self, images: &[&Pixels]) -> Result<States> {
        let (x, offsets) = self.embedded(images)?;
        let before = self.before();
        let work = |x: Tensor, offsets: &Offsets| self.layers(x, offsets);
        if self.stack.shape.layers == 0 {
            return Ok(States { states: work(x, &offsets)?, offsets, before });
        }
        let lengths = vec![offsets.max_len(); images.len()];
        let (input, width) = (Input::States(x), self.hidden());
        let batch = Batch { device: &self.device, lengths: &lengths, input, width };
        let (states, offsets) = self.replays.run(batch, work)?;
        Ok(States { states, offsets, before })
    }

    fn layers(&self, x: Tensor, offsets: &Offsets) -> Result<Tensor> {
        self.finish(self.stack.forward(x, Pass::new(offsets))?)
    }

    /// The norm behind the layers, where it is for all tokens.
    fn finish(&self, states: Tensor) -> Result<Tensor> {
        match self.config.layout().norms_all {
            true => self.norm(&states),
            false => Ok(states),
        }
    }

    /// Patches down and across images, which must be of one size.
    pub(crate) fn shared_grid(&self, images: &[Pixels]) -> Result<[usize; 2]> {
        let size = |image: &Pixels| (image.height, image.width);
        let first = images.first().map_or((0, 0), size);
        match images.iter().map(size).find(|other| *other != first) {
            None => self.grid(first.0, first.1),
            Some(other) => {
                let (expected, got) = (format!("{first:?}"), format!("{other:?}"));
                Err(Error::argument("size of an image", expected, got))
            }
        }
    }

    /// How many images of so many tokens run at once.
    pub(crate) fn batch(&self, tokens: usize) -> usize {
        (EmbedOptions::default().image_budget(&self.device) / tokens).max(1)
    }

    /// What is asked for of the forward pass of images of one size.
    pub(crate) fn inspect(&self, images: &[Pixels], what: Inspect<'_>) -> Result<Inspection> {
        let tokens = match images {
            [] => 0,
            _ => self.before() + self.shared_grid(images)?.iter().product::<usize>(),
        };
        let all: Vec<usize> = (0..images.len()).collect();
        let mut found = Inspection::new(&self.stack, what, all.iter().map(|_| tokens))?;
        for members in all.chunks(self.batch(tokens.max(1))) {
            let images: Vec<&Pixels> = members.iter().map(|&i| &images[i]).collect();
            let (x, offsets) = self.embedded(&images)?;
            let last = |x: &Tensor| self.finish(x.clone());
            found.fill(&self.stack, what, x, Pass::new(&offsets), members, last)?;
        }
        Ok(found)
    }

    /// What the first layer gets of images, all of one size, \[images * tokens, H\], and which rows are whose.
    fn embedded(&self, images: &[&Pixels]) -> Result<(Tensor, Offsets)> {
        let parts = &self.config.parts;
        let [down, across] = parts.patch;
        let grid = self.grid(images[0].height, images[0].width)?;
        let (before, columns) = (self.before(), 3 * down * across);
        let tokens = before + grid[0] * grid[1];
        let pixels = match self.pixels {
            DType::BF16 => self.patches(images, tokens, |row: &mut [bf16], patch| {
                let (row, padding) = row.split_at_mut(columns);
                padding.fill(bf16::ZERO);
                vectorize(
                    #[inline(always)]
                    || row.iter_mut().zip(patch).for_each(|(to, &x)| *to = bf16::from_f32(x)),
                );
            }),
            _ => self.patches(images, tokens, |row: &mut [f32], patch| row.copy_from_slice(patch)),
        }?;
        let table = self.table(grid)?;
        let epilogue = Epilogue { residual: Some(&table), ..Epilogue::default() };
        let x = gemm(&pixels, &self.patch, &epilogue)?;
        let x = x.reshape(&[images.len() * tokens, self.hidden()])?;
        let x = match &self.norm {
            Some(norm) => norm.apply(&x)?,
            None => x,
        };
        Ok((x, Offsets::from_lengths(&self.device, &vec![tokens; images.len()])?))
    }

    /// Patches of images of one size, as `put` writes each to a row: \[images, tokens, columns of the patches' matrix\]. Tokens before
    /// the patches are rows of zeros; what they are comes with their positions.
    fn patches<T: Element>(
        &self,
        images: &[&Pixels],
        tokens: usize,
        put: impl Fn(&mut [T], &[f32]) + Sync,
    ) -> Result<Tensor> {
        let (patch, width) = (self.config.parts.patch.into(), self.patch.shape()[1]);
        Tensor::filled(&self.device, &[images.len(), tokens, width], |all: &mut [T]| {
            let (cost, each) = (all.len(), all.par_chunks_mut(tokens * width).zip(images));
            let done = self.device.threads().map(cost, each, |(rows, image)| {
                let (before, rows) = rows.split_at_mut(self.before() * width);
                before.fill(T::zeroed());
                let mut rows = rows.chunks_exact_mut(width);
                each_patch(image, patch, patch, |patch| {
                    rows.next().into_iter().for_each(|row| put(row, patch));
                })
            });
            done.into_iter().collect()
        })
    }

    /// The norm behind the layers, where there is one.
    fn norm(&self, x: &Tensor) -> Result<Tensor> {
        self.last_norm.as_ref().map_or_else(|| Ok(x.clone()), |norm| norm.apply(x))
    }

    /// Whether an image's vector is one of its tokens'.
    pub(crate) fn takes_a_token(&self) -> bool {
        self.head.takes_a_token()
    }

    /// All tokens, normed: \[images * tokens, H\].
    pub(crate) fn normed(&self, of: &States) -> Result<Tensor> {
        match self.config.layout().norms_all {
            true => Ok(of.states.clone()),
            false => self.norm(&of.states),
        }
    }

    /// The first token of each image, normed: \[images, H\].
    pub(crate) fn first(&self, of: &States) -> Result<Tensor> {
        let first = pool(&of.states, &of.offsets, Pooling::Cls, None)?;
        match self.config.layout().norms_all {
            true => Ok(first),
            false => self.norm(&first),
        }
    }

    /// The mean of the patches of each image: \[images, H\].
    pub(crate) fn patch_mean(&self, of: &States) -> Result<Tensor> {
        let is_patch = |i: usize| {
            let tokens = of.offsets.range(i).len();
            (0..tokens).map(|t| t >= of.before)
        };
        let mask: Vec<bool> = (0..of.offsets.len()).flat_map(is_patch).collect();
        pool(&of.states, &of.offsets, Pooling::Mean, Some(&mask))
    }

    /// The vector that the model itself makes of each image: \[images, [`width`](Self::width)\].
    pub(crate) fn vector(&self, of: &States) -> Result<Tensor> {
        self.head.apply(of, || self.first(of))
    }

    /// What is added to the embeddings of a grid of patches: \[tokens + grid, H\].
    fn table(&self, grid: [usize; 2]) -> Result<Tensor> {
        let mut tables = self.tables.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(at) = tables.iter().position(|(known, _)| *known == grid) {
            let found = tables.remove(at);
            tables.push(found.clone());
            return Ok(found.1);
        }
        let (hidden, own) = (self.hidden(), self.config.parts.grid());
        let Positions { before, patches, bias } = &self.positions;
        let mut values = before.clone();
        if grid == own {
            values.extend_from_slice(patches);
        } else {
            let (from, to) = ((own[0], own[1]), (grid[0], grid[1]));
            let how = self.config.parts.interpolation;
            values.extend(interpolate_positions(patches, from, to, how)?);
        }
        if !bias.is_empty() {
            for row in values[before.len()..].chunks_exact_mut(hidden) {
                row.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
            }
        }
        let rows = values.len() / hidden;
        let table = Tensor::from_f32(&self.device, DType::F32, &[rows, hidden], &values)?;
        if tables.len() == TABLES {
            tables.remove(0);
        }
        tables.push((grid, table.clone()));
        Ok(table)
    }
}

impl Positions {
    fn load(config: &VisionConfig, loader: &Loader<'_>) -> Result<Positions> {
        let (layout, parts) = (config.layout(), &config.parts);
        let hidden = parts.shape.hidden;
        let [down, across] = parts.grid();
        let numbered = layout.tokens.len();
        let full = |name: &str| format!("{}{name}", loader.prefix);
        // Some checkpoints have a dimension of 1 before.
        let read = |name: &str, rows: usize| {
            let name = full(name);
            let lead = match loader.weights.shapes().find(|(n, _)| *n == name) {
                Some((_, shape)) => shape.len(),
                None => 2,
            };
            let shape: &[usize] = match lead {
                1 if rows == 1 => &[hidden],
                3 => &[1, rows, hidden],
                _ => &[rows, hidden],
            };
            loader.weights.floats(&name, shape)
        };
        let table = read(layout.positions, numbered + down * across)?;
        let (heads, patches) = table.split_at(numbered * hidden);
        let mut before = Vec::new();
        for (name, position) in layout.tokens.iter().zip(heads.chunks_exact(hidden)) {
            let token = read(name, 1)?;
            before.extend(token.iter().zip(position).map(|(t, p)| t + p));
        }
        if let Some(name) = layout.registers
            && parts.registers > 0
        {
            before.extend(read(name, parts.registers)?);
        }
        let bias = match layout.patch_bias {
            true => loader.weights.floats(&format!("{}.bias", full(layout.patch)), &[hidden])?,
            false => Vec::new(),
        };
        Ok(Positions { before, patches: patches.to_vec(), bias })
    }
}
