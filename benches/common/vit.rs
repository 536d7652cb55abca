//! Vision transformers with random weights: CLIP's image half, at any size.

use std::path::Path;

use nearkin::images::Pixels;
use rayon::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;

use super::Rng;

#[derive(Clone, Copy)]
pub struct Vit {
    pub hidden: usize,
    pub inner: usize,
    pub layers: usize,
    pub heads: usize,
    pub patch: usize,
    pub side: usize,
}

impl Vit {
    /// Tokens of an image: its patches, and the class token.
    pub fn tokens(&self) -> usize {
        (self.side / self.patch).pow(2) + 1
    }

    /// A folder as transformers writes it.
    pub fn write(&self, to: &Path) -> Result<(), Box<dyn std::error::Error>> {
        let Vit { hidden, inner, layers, heads, patch, side } = *self;
        let config = json!({
            "model_type": "clip_vision_model", "hidden_size": hidden, "intermediate_size": inner,
            "num_hidden_layers": layers, "num_attention_heads": heads, "image_size": side, "patch_size": patch,
            "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
        });
        std::fs::write(to.join("config.json"), config.to_string())?;
        let mut shapes: Vec<(String, Vec<usize>)> = vec![
            ("embeddings.class_embedding".into(), vec![hidden]),
            ("embeddings.patch_embedding.weight".into(), vec![hidden, 3, patch, patch]),
            ("embeddings.position_embedding.weight".into(), vec![self.tokens(), hidden]),
        ];
        let mut pair = |name: String, shape: &[usize]| {
            shapes.push((format!("{name}.weight"), shape.to_vec()));
            shapes.push((format!("{name}.bias"), shape[..1].to_vec()));
        };
        pair("pre_layrnorm".into(), &[hidden]);
        pair("post_layernorm".into(), &[hidden]);
        for layer in 0..layers {
            let at = |name: &str| format!("encoder.layers.{layer}.{name}");
            for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                pair(at(&format!("self_attn.{name}")), &[hidden, hidden]);
            }
            pair(at("layer_norm1"), &[hidden]);
            pair(at("layer_norm2"), &[hidden]);
            pair(at("mlp.fc1"), &[inner, hidden]);
            pair(at("mlp.fc2"), &[hidden, inner]);
        }
        let data: Vec<(String, Vec<usize>, Vec<f32>)> = shapes
            .into_par_iter()
            .enumerate()
            .map(|(seed, (name, shape))| {
                let mut values = Rng(seed as u64 + 1).normals(shape.iter().product());
                values.iter_mut().for_each(|v| *v *= 0.02);
                (format!("vision_model.{name}"), shape, values)
            })
            .collect();
        let views = data
            .iter()
            .map(|(name, shape, values)| {
                let bytes = bytemuck::cast_slice(values);
                Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?))
            })
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
        safetensors::serialize_to_file(views, None, &to.join("model.safetensors"))?;
        Ok(())
    }

    /// Random images.
    pub fn images(&self, n: usize) -> Vec<Pixels> {
        let side = self.side;
        (0..n)
            .into_par_iter()
            .map(|i| Pixels {
                values: Rng(1000 + i as u64).normals(3 * side * side),
                height: side,
                width: side,
            })
            .collect()
    }
}
