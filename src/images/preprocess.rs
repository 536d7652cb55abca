//! What the folder of a model says to do with an image, done.

use std::path::Path;
use std::sync::Arc;

use super::geometry::{Crop, Middle};
use super::recipe::{Object, Recipe};
use super::resize::resize;
use super::{Image, MAX_PIXELS, Pixels};
use crate::budget::Budget;
use crate::device::threads::Threads;
use crate::device::threads::items::*;
use crate::{Device, Error, Result, files};

/// Most pixels that preprocessing may make of one image: 4096 x 4096. No encoder is trained on a twentieth of it, and as f32 they
/// take 201 MB.
const MAX_OUTPUT: usize = 1 << 24;

/// Resizes, crops and normalises images as a model was trained with. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Preprocessor {
    recipe: Recipe,
    /// The value of a level of a channel.
    levels: [[f32; 256]; 3],
    max_pixels: usize,
    /// Pixels that are decoded and resized at the same time by this and its clones.
    budget: Arc<Budget>,
    threads: Threads,
}

impl Preprocessor {
    /// Reads the first of these that a folder has: the `image_processor` in `processor_config.json`, where transformers 5
    /// writes it; `preprocessor_config.json`; `open_clip_config.json`. A processor without `image_processor_type` is the one of
    /// `config.json`: of its own `image_processor_type`, else of its `model_type`, as AutoImageProcessor chooses.
    ///
    /// # Errors
    /// Those of [`parse`](Preprocessor::parse), [`Error::Io`] if a file cannot be read, [`Error::Config`] if there is none.
    pub fn open(folder: &Path) -> Result<Preprocessor> {
        for name in ["processor_config.json", "preprocessor_config.json", "open_clip_config.json"] {
            let file = folder.join(name);
            match files::read_text(&file, files::CONFIG) {
                // Before version 5 it had nothing about images.
                Ok(text)
                    if name == "processor_config.json" && !text.contains("\"image_processor\"") => {
                }
                Ok(text) => {
                    let config = files::read_json(&folder.join("config.json"))?;
                    return Preprocessor::read(&text, &file, config.as_ref());
                }
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e),
            }
        }
        let problem = "has no processor_config.json with an image_processor, no preprocessor_config.json and no \
                       open_clip_config.json";
        Err(Error::Config { file: folder.into(), problem: problem.into() })
    }

    /// Reads the text of one of these files, whichever it is; `file` is named in errors.
    ///
    /// Known are the image processors (and the feature extractors they were before) of ViT, DeiT, CLIP, Chinese-CLIP, SigLIP
    /// (also SigLIP 2 at a fixed resolution), BiT (DINOv2), BLIP and ViLT, also with the endings `Fast` and `Pil`. A key that is
    /// absent or null has the value of the transformers class. `do_convert_rgb` changes nothing: an [`Image`] is RGB. `do_pad`
    /// is left to [`pad`](super::pad).
    ///
    /// # Errors
    /// [`Error::Config`] if the text is no JSON object, a class, key or value is unknown, a value is out of range, or one that is
    /// needed is missing: with the key, and what would be right; if images come out with more than 2^24 pixels.
    pub fn parse(json: &str, file: &Path) -> Result<Preprocessor> {
        Preprocessor::read(json, file, None)
    }

    fn read(json: &str, file: &Path, config: Option<&Object>) -> Result<Preprocessor> {
        let bad = |problem| Error::Config { file: file.into(), problem };
        let recipe = Recipe::parse(json, config).map_err(bad)?;
        if let Some((height, width)) = recipe.size() {
            check_output(height, width).map_err(bad)?;
        }
        let value = |channel: usize, level: usize| {
            ((level as f64 * recipe.scale - recipe.mean[channel]) / recipe.std[channel]) as f32
        };
        let levels = std::array::from_fn(|c| std::array::from_fn(|level| value(c, level)));
        let budget = Arc::new(Budget::new(MAX_PIXELS));
        let threads = Threads::shared().clone();
        Ok(Preprocessor { recipe, levels, max_pixels: MAX_PIXELS, budget, threads })
    }

    /// The same with another limit than [`MAX_PIXELS`]: to the pixels of a file and of an image while it is resized. As many are
    /// decoded at the same time by [`files`](Preprocessor::files).
    pub fn with_max_pixels(self, max_pixels: usize) -> Preprocessor {
        Preprocessor { max_pixels, budget: Arc::new(Budget::new(max_pixels)), ..self }
    }

    /// The same on the threads of a device; without this, on those that devices share ([threads](crate::DeviceOptions#threads)).
    pub fn with_device(self, device: &Device) -> Preprocessor {
        Preprocessor { threads: device.threads().clone(), ..self }
    }

    /// The height and width that every image comes out in; nothing where it depends on the image.
    pub fn size(&self) -> Option<(usize, usize)> {
        self.recipe.size()
    }

    /// Resizes, crops and normalises an image: `(level * rescale_factor - mean) / std`.
    ///
    /// # Errors
    /// [`Error::Image`] if the size to resize to, the image between the passes of the filter, or what comes out has no pixel or
    /// too many.
    pub fn pixels(&self, image: &Image) -> Result<Pixels> {
        self.run(image).map_err(|problem| Error::Image { file: "memory".into(), problem })
    }

    /// [`pixels`](Preprocessor::pixels) of many images on all threads, in order.
    ///
    /// # Errors
    /// The first image's that fails.
    pub fn batch(&self, images: &[Image]) -> Result<Vec<Pixels>> {
        // A few nanoseconds a pixel, before and after.
        let cost = images.iter().map(|image| 8 * image.width() * image.height()).sum();
        let done = self.threads.map(cost, images.par_iter(), |image| self.pixels(image));
        done.into_iter().collect()
    }

    /// Decodes and preprocesses many files on all threads, in order. Files that are worked on at the same time have together at most
    /// as many pixels as one may have, of the file or while it is resized: a large one waits for others and then runs alone.
    /// Each pixel takes up to 16 bytes, so that memory does not grow with the number of threads; the results, 12 bytes a pixel,
    /// come on top.
    ///
    /// # Errors
    /// The first file's that fails, with its name: those of [`Image::open`] and [`pixels`](Preprocessor::pixels).
    pub fn files<P: AsRef<Path> + Sync>(&self, files: &[P]) -> Result<Vec<Pixels>> {
        self.each_file(files).into_iter().collect()
    }

    /// [`files`](Preprocessor::files) with a result for each file, so that one that is damaged does not stop the others.
    pub fn each_file<P: AsRef<Path> + Sync>(&self, files: &[P]) -> Vec<Result<Pixels>> {
        let one = |file: &Path| {
            // The part of the budget is held until the pixels are small. Nothing below waits for other threads.
            let room = |height, width| self.budget.take(self.most_pixels(height, width));
            let (image, _part) = Image::open_with_room(file, self.max_pixels, room)?;
            self.run(&image).map_err(|problem| Error::Image { file: file.into(), problem })
        };
        let files: Vec<&Path> = files.iter().map(AsRef::as_ref).collect();
        // What is in a file is not known before it is opened.
        self.threads.map(usize::MAX, files.par_iter(), |file| one(file))
    }

    /// The image that normalised pixels show: the nearest level of each.
    ///
    /// # Errors
    /// [`Error::Argument`] if the pixels have no rows, or are not as long as their sides say.
    pub fn restore(&self, pixels: &Pixels) -> Result<Image> {
        pixels.check()?;
        let plane = pixels.height * pixels.width;
        let level = |channel: usize, value: f32| {
            let levels = &self.levels[channel];
            let slope = levels[255] - levels[0];
            // As a cast, this also bounds what is not between black and white.
            ((value - levels[0]) / slope * 255.0).round() as u8
        };
        let rgb = (0..plane)
            .flat_map(|i| (0..3).map(move |c| (c, i)))
            .map(|(c, i)| level(c, pixels.values[c * plane + i]))
            .collect();
        Image::from_rgb(pixels.width, pixels.height, rgb)
    }

    /// Pixels of an image in a file, or while it is resized, whichever are more. The file may store it rotated by 90 degrees.
    fn most_pixels(&self, height: usize, width: usize) -> usize {
        let upright = |height: usize, width: usize| match self.recipe.resize {
            Some((target, _)) => {
                let (to_height, to_width) = target.of(height, width);
                to_height.max(height).saturating_mul(to_width)
            }
            None => 0,
        };
        (height * width).max(upright(height, width)).max(upright(width, height))
    }

    fn run(&self, image: &Image) -> Result<Pixels, String> {
        let (height, width, resized);
        let rgb = match self.recipe.resize {
            Some((target, resample)) => {
                (height, width) = target.of(image.height(), image.width());
                resized = resize(image, (height, width), resample, self.max_pixels)?;
                &resized
            }
            None => {
                (height, width) = (image.height(), image.width());
                image.rgb()
            }
        };
        let whole = Crop { height, width, fill: 0, middle: Middle::Floor };
        let crop = self.recipe.crop.unwrap_or(whole);
        check_output(crop.height, crop.width)?;
        let top = crop.middle.start(height, crop.height);
        let left = crop.middle.start(width, crop.width);

        let mut values = Vec::with_capacity(3 * crop.height * crop.width);
        for (channel, levels) in self.levels.iter().enumerate() {
            for y in 0..crop.height {
                let y = top.saturating_add_unsigned(y);
                for x in 0..crop.width {
                    let x = left.saturating_add_unsigned(x);
                    let level = match (usize::try_from(y), usize::try_from(x)) {
                        (Ok(y), Ok(x)) if y < height && x < width => {
                            rgb[(y * width + x) * 3 + channel]
                        }
                        _ => crop.fill,
                    };
                    values.push(levels[level as usize]);
                }
            }
        }
        Ok(Pixels { values, height: crop.height, width: crop.width })
    }
}

fn check_output(height: usize, width: usize) -> Result<(), String> {
    match height.saturating_mul(width) <= MAX_OUTPUT {
        true => Ok(()),
        false => Err(format!(
            "asks for images of {height} x {width} pixels, expected at most {MAX_OUTPUT} pixels"
        )),
    }
}
