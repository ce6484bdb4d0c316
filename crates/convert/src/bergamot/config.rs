//! `special:model.yml`: what the model is, as Marian wrote it down.

use serde::Deserialize;

use super::Container;
use crate::{
    error::{ConvertError, Result},
    weights::TensorSource,
};

const ENTRY: &str = "special:model.yml";

/// Sizes of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    pub d_model: usize,
    pub d_ffn: usize,
    pub heads: usize,
    pub encoder_layers: usize,
    pub decoder_layers: usize,
    pub vocab_size: usize,
}

/// The keys that decide the sizes, or whether [`super::architecture`] is the right one.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Keys {
    r#type: String,
    dim_emb: usize,
    dim_vocabs: Vec<usize>,
    enc_depth: usize,
    dec_depth: usize,
    dec_cell: String,
    right_left: bool,
    tied_embeddings_all: bool,
    transformer_decoder_autoreg: String,
    transformer_dim_ffn: usize,
    transformer_ffn_activation: String,
    transformer_ffn_depth: usize,
    transformer_heads: usize,
    transformer_postprocess: String,
    transformer_postprocess_emb: String,
    transformer_preprocess: String,
    #[serde(default)]
    transformer_postprocess_top: String,
    #[serde(default)]
    transformer_tied_layers: Vec<usize>,
    #[serde(default)]
    transformer_no_projection: bool,
    #[serde(default)]
    transformer_train_position_embeddings: bool,
    #[serde(default)]
    output_omit_bias: bool,
    #[serde(default)]
    lemma_dim_emb: usize,
    #[serde(default)]
    input_types: Vec<String>,
}

impl Config {
    /// Reads the configuration, and refuses what [`super::architecture`] would get wrong.
    pub fn read(container: &Container) -> Result<Self> {
        let text = container.text(ENTRY)?;
        let path = || format!("{}, `{ENTRY}`", container.path().display());
        let keys: Keys = serde_saphyr::from_str(&text)
            .map_err(|error| ConvertError::Syntax { path: path(), reason: error.to_string() })?;
        let refuse = |what: &str, got: String, expected: &str| {
            Err(ConvertError::Unsupported {
                path: path(),
                what: what.to_owned(),
                got,
                expected: expected.to_owned(),
            })
        };
        // Dropout (`d`) is for training only.
        let steps = |steps: &str| steps.replace('d', "");
        for (what, got, expected) in [
            ("type", keys.r#type, "transformer"),
            ("transformer-decoder-autoreg", keys.transformer_decoder_autoreg, "rnn"),
            ("dec-cell", keys.dec_cell, "ssru"),
            ("transformer-ffn-activation", keys.transformer_ffn_activation, "relu"),
            ("transformer-ffn-depth", keys.transformer_ffn_depth.to_string(), "2"),
            ("transformer-preprocess", steps(&keys.transformer_preprocess), ""),
            ("transformer-postprocess", steps(&keys.transformer_postprocess), "an"),
            ("transformer-postprocess-emb", steps(&keys.transformer_postprocess_emb), ""),
            ("transformer-postprocess-top", steps(&keys.transformer_postprocess_top), ""),
            ("transformer-tied-layers", format!("{:?}", keys.transformer_tied_layers), "[]"),
            ("input-types", format!("{:?}", keys.input_types), "[]"),
            ("lemma-dim-emb", keys.lemma_dim_emb.to_string(), "0"),
            ("right-left", keys.right_left.to_string(), "false"),
            ("output-omit-bias", keys.output_omit_bias.to_string(), "false"),
            ("transformer-no-projection", keys.transformer_no_projection.to_string(), "false"),
            (
                "transformer-train-position-embeddings",
                keys.transformer_train_position_embeddings.to_string(),
                "false",
            ),
            ("tied-embeddings-all", keys.tied_embeddings_all.to_string(), "true"),
        ] {
            if got != expected {
                return refuse(what, format!("`{got}`"), &format!("`{expected}`"));
            }
        }
        let &[vocab_size, target_vocab] = keys.dim_vocabs.as_slice() else {
            return refuse("dim-vocabs", format!("{:?}", keys.dim_vocabs), "two sizes");
        };
        if vocab_size != target_vocab {
            return refuse(
                "dim-vocabs",
                format!("{:?}", keys.dim_vocabs),
                "two equal sizes (one vocabulary)",
            );
        }
        let (d_model, heads) = (keys.dim_emb, keys.transformer_heads);
        // Positions are half sines, half cosines, and need two frequencies at least.
        if d_model < 4 || !d_model.is_multiple_of(2) {
            return refuse("dim-emb", d_model.to_string(), "an even number from 4 up");
        }
        if heads == 0 || !d_model.is_multiple_of(heads) {
            return refuse(
                "transformer-heads",
                heads.to_string(),
                &format!("a divisor of dim-emb, {d_model}"),
            );
        }
        if keys.enc_depth == 0 || keys.dec_depth == 0 {
            let got = format!("{} and {}", keys.enc_depth, keys.dec_depth);
            return refuse("enc-depth and dec-depth", got, "1 or more");
        }
        Ok(Self {
            d_model,
            d_ffn: keys.transformer_dim_ffn,
            heads,
            encoder_layers: keys.enc_depth,
            decoder_layers: keys.dec_depth,
            vocab_size,
        })
    }
}
