//! `RotaryHeads`

use ort::operator::{BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput};
use ort::value::TensorElementType::Float32;
use textgen_artifact::ops::{ATTR_EPSILON, ATTR_KV_NUM_HEADS, ATTR_NORM_FIRST, ATTR_NUM_HEADS, ROTARY_HEADS};

use super::context::{Call, guarded, size_attribute};
use crate::model::kernels::{HeadNorm, normalize_head, rotate_head};

pub struct RotaryHeads;

/// Attributes of a node.
#[derive(Clone, Copy)]
struct Attributes {
    query_heads: usize,
    kv_heads: usize,
    epsilon: f32,
    norm_first: bool,
}

impl Operator for RotaryHeads {
    type Kernel<'attr> = BoxedKernel<'attr>;

    // The projections are nobody else's: their memory becomes the output's.
    const INPLACES: &[(u32, u32)] = &[(0, 0)];

    fn name(&self) -> &str {
        ROTARY_HEADS
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [
            OperatorInput::required(Float32),
            OperatorInput::required(Float32),
            OperatorInput::optional(Float32),
            OperatorInput::optional(Float32),
        ]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(Float32)]
    }

    fn create_kernel<'attr>(&self, kernel: &KernelContext<'attr>) -> ort::Result<Self::Kernel<'attr>> {
        let attributes = Attributes {
            query_heads: size_attribute(kernel, ROTARY_HEADS, ATTR_NUM_HEADS)?,
            kv_heads: size_attribute(kernel, ROTARY_HEADS, ATTR_KV_NUM_HEADS)?,
            epsilon: kernel.get::<f32>(ATTR_EPSILON).unwrap_or(0.0),
            norm_first: kernel.get::<i64>(ATTR_NORM_FIRST).unwrap_or(0) != 0,
        };
        Ok(Box::new(move |context: &ComputeContext| {
            guarded(ROTARY_HEADS, || compute(Call::new(context, ROTARY_HEADS), attributes))
        }))
    }
}

fn compute(call: Call<'_>, attributes: Attributes) -> ort::Result<()> {
    let Attributes { query_heads, kv_heads, epsilon, norm_first } = attributes;
    let (qkv, dims) = call.taken(0, 0)?;
    let rotary = call.input::<f32>(1)?;
    let norms = [call.optional_input::<f32>(2)?, call.optional_input::<f32>(3)?];
    let (&[tokens, width], &[rows, angles]) = (dims, rotary.dims) else {
        return Err(call.error(format_args!(
            "qkv {dims:?} and rotary {:?}, expected [tokens, width] twice",
            rotary.dims
        )));
    };
    let (tokens, width, angles) = (tokens as usize, width as usize, angles as usize);
    let head_dim = width / (query_heads + 2 * kv_heads);
    let norms_fit = norms.iter().flatten().all(|norm| norm.data.len() == head_dim);
    if width != head_dim * (query_heads + 2 * kv_heads)
        || rows as usize != tokens
        || angles % 2 != 0
        || angles > head_dim
        || !norms_fit
    {
        return Err(call.error(format_args!(
            "qkv {dims:?}, rotary {:?} and norms that {} for {query_heads} query and {kv_heads} key-value heads",
            rotary.dims,
            if norms_fit { "fit" } else { "do not fit" }
        )));
    }
    let pairs = angles / 2;
    call.for_each(tokens, tokens * width, |token| {
        // SAFETY: each token is written by the one thread that has its index.
        let token_heads = unsafe { qkv.part(token * width, (query_heads + kv_heads) * head_dim) };
        let (cosines, sines) = rotary.data[token * angles..(token + 1) * angles].split_at(pairs);
        for (index, head) in token_heads.chunks_exact_mut(head_dim).enumerate() {
            let norm = norms[usize::from(index >= query_heads)]
                .map(|weight| HeadNorm { weight: weight.data, epsilon });
            if let Some(norm) = norm.filter(|_| norm_first) {
                normalize_head(head, norm);
            }
            rotate_head(head, cosines, sines);
            if let Some(norm) = norm.filter(|_| !norm_first) {
                normalize_head(head, norm);
            }
        }
    })
}
