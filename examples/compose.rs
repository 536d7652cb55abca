//! A composed query, an image and a change in words, over items with an image and a caption each; the reference is left out.
//!
//! ```text
//! cargo run --example compose
//! ```

use nearkin::Device;
use nearkin::ops::topk::Storage;
use nearkin::rank::compose::{Pdv, slerp};
use nearkin::search::{Asked, Field, MultiIndex};

fn main() -> nearkin::Result<()> {
    let fields = [Field::cosine("image", 3), Field::cosine("caption", 3)];
    let mut index = MultiIndex::new(&Device::best(), Storage::F32, &fields)?;
    let images = [1.0, 0.0, 0.0, 0.9, 0.4, 0.0, 0.0, 1.0, 0.2];
    let captions = [1.0, 0.1, 0.0, 0.7, 0.7, 0.0, 0.1, 1.0, 0.0];
    index.add(
        &["red dress", "blue dress", "blue coat"],
        &[("image", &images), ("caption", &captions)],
    )?;

    // The reference is the red dress; "but blue" moves it.
    let (image, caption, changed) = ([1.0, 0.0, 0.0], [1.0, 0.1, 0.0], [0.8, 0.6, 0.0]);
    let pdv = Pdv::new(&caption, &changed, &image)?;
    let queries = [
        ("directional vectors", pdv.query(1.0, 1.0, 0.75)),
        ("half of the way from image to text", slerp(&image, &changed, 0.5)?),
    ];
    for (what, query) in queries {
        let asked = [
            Asked { field: "image", vectors: &query, weights: &[0.8] },
            Asked { field: "caption", vectors: &query, weights: &[0.2] },
        ];
        let found = index.search_without(&asked, 2, &[vec!["red dress"]])?;
        let ids: Vec<&str> = found[0].iter().map(|hit| &*hit.id).collect();
        println!("{what}: {}", ids.join(", "));
    }
    Ok(())
}
