//! Which size an image is resized to, and which part of it is kept.

/// The size to resize to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Target {
    /// This height and width, whatever becomes of the proportions.
    Exact(usize, usize),
    /// The shorter edge; the longer one in proportion, rounded down.
    Shortest(usize),
    /// The shorter edge, unless the longer one would exceed the second number.
    ShortestWithin(usize, usize),
    /// The shorter edge, unless the longer one would exceed 1333/800 of it; both rounded down to a multiple of `divisor`.
    Divisible { shortest: usize, divisor: usize },
    /// The largest that fits into this height and width.
    Inside(usize, usize),
    /// The smallest that covers this height and width.
    Cover(usize, usize),
}

impl Target {
    /// The height and width for an image of `height` and `width`; either may be 0.
    pub(super) fn of(self, height: usize, width: usize) -> (usize, usize) {
        let (h, w) = (height as f64, width as f64);
        match self {
            Target::Exact(height, width) => (height, width),
            // transformers: `get_resize_output_image_size`; torchvision: `Resize`.
            Target::Shortest(edge) => {
                let long =
                    |long: usize, short: usize| (edge as f64 * long as f64 / short as f64) as usize;
                match width <= height {
                    true => (long(height, width), edge),
                    false => (edge, long(width, height)),
                }
            }
            // transformers: `get_size_with_aspect_ratio`.
            Target::ShortestWithin(edge, most) => {
                let (short, long) = (h.min(w), h.max(w));
                let mut edge = edge as f64;
                let mut exact = edge;
                if long / short * edge > most as f64 {
                    exact = most as f64 * short / long;
                    edge = exact.round_ties_even();
                }
                match (width < height, short == edge) {
                    (_, true) => (height, width),
                    (true, false) => ((exact * h / w) as usize, edge as usize),
                    (false, false) => (edge as usize, (exact * w / h) as usize),
                }
            }
            // transformers: `ViltImageProcessor.resize`.
            Target::Divisible { shortest, divisor } => {
                let longest = (1333.0 / 800.0 * shortest as f64).floor();
                let shortest = shortest as f64;
                let scale = shortest / h.min(w);
                let (mut h, mut w) = match height < width {
                    true => (shortest, scale * w),
                    false => (scale * h, shortest),
                };
                if h.max(w) > longest {
                    let scale = longest / h.max(w);
                    (h, w) = (scale * h, scale * w);
                }
                let down = |x: f64| (x + 0.5) as usize / divisor * divisor;
                (down(h), down(w))
            }
            // open_clip: `ResizeKeepRatio`.
            Target::Inside(to_h, to_w) => {
                let ratio = (h / to_h as f64).max(w / to_w as f64);
                ((h / ratio).round_ties_even() as usize, (w / ratio).round_ties_even() as usize)
            }
            Target::Cover(to_h, to_w) => {
                let ratio = (h / to_h as f64).min(w / to_w as f64);
                ((h / ratio).round_ties_even() as usize, (w / ratio).round_ties_even() as usize)
            }
        }
    }
}

/// The middle of an image; where the image is smaller, `fill` is around it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Crop {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) fill: u8,
    pub(super) middle: Middle,
}

/// Where the middle is when there is an odd number of rows to cut or to add.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Middle {
    /// One less is cut or added before than after (transformers with torchvision).
    Floor,
    /// One less is cut, one more is added before (transformers with Pillow).
    FloorCeil,
    /// Half is rounded to even where rows are cut; one less is added before (torchvision's own transforms).
    EvenFloor,
}

impl Middle {
    /// The first of `want` rows in an image that has `have`; negative where the image is smaller.
    pub(super) fn start(self, have: usize, want: usize) -> isize {
        let cut = have.saturating_sub(want);
        let add = want.saturating_sub(have);
        let before = match self {
            Middle::Floor => (cut / 2, add / 2),
            Middle::FloorCeil => (cut / 2, add.div_ceil(2)),
            Middle::EvenFloor => ((cut as f64 / 2.0).round_ties_even() as usize, add / 2),
        };
        before.0 as isize - before.1 as isize
    }
}
