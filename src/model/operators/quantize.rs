//! `RowQuantize`, `RowDequantize`

use ort::operator::{BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput};
use ort::value::TensorElementType::{Float32, Int8, Uint8};
use textgen_artifact::ops::{ATTR_CLIP, ROW_DEQUANTIZE, ROW_QUANTIZE};

use super::context::{Call, SharedMut, guarded};
use crate::model::kernels::{add_scaled_weights, cut_off, dequantize_row, quantize_row};

pub struct RowQuantize;

impl Operator for RowQuantize {
    type Kernel<'attr> = BoxedKernel<'attr>;

    fn name(&self) -> &str {
        ROW_QUANTIZE
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::required(Float32)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(Uint8), OperatorOutput::required(Float32)]
    }

    fn create_kernel<'attr>(&self, kernel: &KernelContext<'attr>) -> ort::Result<Self::Kernel<'attr>> {
        let clip = kernel.get::<f32>(ATTR_CLIP).unwrap_or(0.0);
        Ok(Box::new(move |context: &ComputeContext| {
            guarded(ROW_QUANTIZE, || quantize(Call::new(context, ROW_QUANTIZE), clip))
        }))
    }
}

fn quantize(call: Call<'_>, clip: f32) -> ort::Result<()> {
    let x = call.input::<f32>(0)?;
    let &[rows, width] = x.dims else {
        return Err(call.error(format_args!("x has shape {:?}, expected [rows, width]", x.dims)));
    };
    let q = SharedMut::of(call.output::<u8>(0, x.dims)?);
    let scale = SharedMut::of(call.output::<f32>(1, &[rows, 1])?);
    let width = width as usize;
    call.for_each(rows as usize, x.data.len(), |row| {
        // SAFETY: each row is written by the one thread that has its index.
        let (q, scale) = unsafe { (q.part(row * width, width), scale.part(row, 1)) };
        quantize_row(&x.data[row * width..(row + 1) * width], clip, q, &mut scale[0]);
    })
}

pub struct RowDequantize;

impl Operator for RowDequantize {
    type Kernel<'attr> = BoxedKernel<'attr>;

    // The product is nobody else's: its memory becomes the output's.
    const INPLACES: &[(u32, u32)] = &[(0, 0)];

    fn name(&self) -> &str {
        ROW_DEQUANTIZE
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [
            OperatorInput::required(Float32),
            OperatorInput::required(Float32),
            OperatorInput::optional(Float32),
            OperatorInput::optional(Float32),
            OperatorInput::optional(Int8),
            OperatorInput::optional(Float32),
        ]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(Float32)]
    }

    fn create_kernel<'attr>(&self, _: &KernelContext<'attr>) -> ort::Result<Self::Kernel<'attr>> {
        Ok(Box::new(|context: &ComputeContext| {
            guarded(ROW_DEQUANTIZE, || dequantize(Call::new(context, ROW_DEQUANTIZE)))
        }))
    }
}

/// Columns of one item of work: a vocabulary's row is worth sharing, a layer's is not.
const COLUMNS: usize = 8192;

/// Inputs whose outliers were cut off, and the weights to multiply them with.
#[derive(Clone, Copy)]
struct Outliers<'a> {
    /// `[rows, inputs]`
    x: &'a [f32],
    inputs: usize,
    /// `[inputs, width]`
    weight: &'a [i8],
    /// `[width]`
    scale: &'a [f32],
}

fn dequantize(call: Call<'_>) -> ort::Result<()> {
    let (y, dims) = call.taken(0, 0)?;
    let &[rows, width] = dims else {
        return Err(call.error(format_args!("the product has shape {dims:?}, expected [rows, width]")));
    };
    let (rows, width) = (rows as usize, width as usize);
    let scale = call.input::<f32>(1)?.data;
    let bias = call.optional_input::<f32>(2)?.map_or(&[][..], |bias| bias.data);
    let outliers =
        match (call.optional_input::<f32>(3)?, call.optional_input::<i8>(4)?, call.optional_input(5)?) {
            (Some(x), Some(weight), Some(scale)) => {
                let inputs = x.dims.last().map_or(0, |&inputs| inputs as usize);
                Some(Outliers { x: x.data, inputs, weight: weight.data, scale: scale.data })
            }
            _ => None,
        };
    let fits = outliers.is_none_or(|outliers| {
        outliers.x.len() == rows * outliers.inputs
            && outliers.weight.len() == outliers.inputs * width
            && outliers.scale.len() == width
    });
    if scale.len() != rows || !(bias.is_empty() || bias.len() == width) || !fits {
        return Err(call.error(format_args!(
            "a product of shape {dims:?} with {} scales, {} biases and outliers that {}",
            scale.len(),
            bias.len(),
            if fits { "fit" } else { "do not fit" }
        )));
    }
    let parts = width.div_ceil(COLUMNS);
    call.for_each(rows * parts, rows * width, |item| {
        let (row, start) = (item / parts, item % parts * COLUMNS);
        let end = (start + COLUMNS).min(width);
        // SAFETY: each part of a row is written by the one thread that has its item.
        let y = unsafe { y.part(row * width + start, end - start) };
        dequantize_row(y, scale[row], if bias.is_empty() { bias } else { &bias[start..end] });
        let Some(outliers) = outliers else { return };
        let x = &outliers.x[row * outliers.inputs..(row + 1) * outliers.inputs];
        for (input, &value) in x.iter().enumerate() {
            let cut_off = cut_off(value, scale[row]);
            if cut_off != 0.0 {
                let weights = &outliers.weight[input * width + start..input * width + end];
                add_scaled_weights(y, cut_off, weights, &outliers.scale[start..end]);
            }
        }
    })
}
