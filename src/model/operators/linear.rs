//! `Int8Linear`

use std::cell::RefCell;

use ort::operator::{BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput};
use ort::value::TensorElementType::{Float32, Int8, Int32};
use textgen_artifact::ops::{
    ATTR_ACTIVATION, ATTR_CLIP, ATTR_GATED, Activation, INT8_LINEAR, PANEL_INPUTS, PANEL_OUTPUTS,
    panel_inputs,
};

use super::context::{Call, Input, SharedMut, guarded};
use crate::model::kernels::{
    After, Int8Weights, QuantizedRows, Target, ZERO_POINT, collect_cut_off, cut_off_room, multiply,
    quantize_row,
};

/// Inputs of a layer at most, so that 32 bits hold every sum.
const MAX_INPUTS: usize = 1 << 16;
/// Weights of one item of work: so many are read while a thread is woken.
const ITEM_BYTES: usize = 48 << 10;
/// Rows of one item: their quantized form stays in the second-level cache.
const ITEM_ROWS: usize = 128;
/// Multiplications of 8 bits that are done while one of the runtime's other operators does one.
const SPEED: usize = 8;

thread_local! {
    /// Quantized rows, kept from call to call.
    static SCRATCH: RefCell<Scratch> = const {
        RefCell::new(Scratch { q: Vec::new(), scale: Vec::new(), cut_off: Vec::new(), cut_off_counts: Vec::new() })
    };
}

/// See [`QuantizedRows`].
struct Scratch {
    q: Vec<u8>,
    scale: Vec<f32>,
    cut_off: Vec<(u32, f32)>,
    cut_off_counts: Vec<usize>,
}

impl Scratch {
    /// Quantizes the rows of `x`.
    fn quantize(&mut self, call: &Call<'_>, x: Input<'_, f32>, rows: usize, clip: f32) -> ort::Result<()> {
        let inputs = x.data.len() / rows;
        let width = panel_inputs(inputs);
        // What is left in the padding meets weights of 0.
        self.q.resize(rows * width, ZERO_POINT);
        self.scale.resize(rows, 0.0);
        let room = cut_off_room(inputs, clip);
        self.cut_off.resize(rows * room, (0, 0.0));
        self.cut_off_counts.resize(if room > 0 { rows } else { 0 }, 0);
        let (q, scale) = (SharedMut::of(&mut self.q), SharedMut::of(&mut self.scale));
        let cut_off = SharedMut::of(&mut self.cut_off);
        let counts = SharedMut::of(&mut self.cut_off_counts);
        call.for_each(rows, x.data.len(), |row| {
            let x = &x.data[row * inputs..(row + 1) * inputs];
            // SAFETY: each row is written by the one thread that has its index.
            let (q, scale) = unsafe { (q.part(row * width, inputs), scale.part(row, 1)) };
            quantize_row(x, clip, q, &mut scale[0]);
            if room > 0 {
                // SAFETY: likewise.
                let (cut_off, count) = unsafe { (cut_off.part(row * room, room), counts.part(row, 1)) };
                collect_cut_off(x, scale[0], cut_off, &mut count[0]);
            }
        })
    }

    fn rows(&self) -> QuantizedRows<'_> {
        let Self { q, scale, cut_off, cut_off_counts } = self;
        QuantizedRows { q, scale, cut_off, cut_off_counts }
    }
}

pub struct Int8Linear;

impl Operator for Int8Linear {
    type Kernel<'attr> = BoxedKernel<'attr>;

    fn name(&self) -> &str {
        INT8_LINEAR
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [
            OperatorInput::required(Float32),
            OperatorInput::required(Int8),
            OperatorInput::required(Float32),
            OperatorInput::required(Int32),
            OperatorInput::optional(Float32),
        ]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(Float32)]
    }

    fn create_kernel<'attr>(&self, kernel: &KernelContext<'attr>) -> ort::Result<Self::Kernel<'attr>> {
        let clip = kernel.get::<f32>(ATTR_CLIP).unwrap_or(0.0);
        let activation = match kernel.get::<String>(ATTR_ACTIVATION) {
            None => None,
            Some(name) => Some(Activation::named(&name).ok_or_else(|| {
                ort::Error::new(format!(
                    "{INT8_LINEAR}: unknown {ATTR_ACTIVATION} {name:?}; convert the model again"
                ))
            })?),
        };
        let gated = kernel.get::<i64>(ATTR_GATED).unwrap_or(0) == 1;
        let after = match (activation, gated) {
            (None, false) => After::Nothing,
            (Some(activation), false) => After::Activated(activation),
            (Some(activation), true) => After::Gated(activation),
            (None, true) => {
                return Err(ort::Error::new(format!(
                    "{INT8_LINEAR}: {ATTR_GATED} without {ATTR_ACTIVATION}"
                )));
            }
        };
        Ok(Box::new(move |context: &ComputeContext| {
            guarded(INT8_LINEAR, || compute(&Call::new(context, INT8_LINEAR), clip, after))
        }))
    }
}

fn compute(call: &Call<'_>, clip: f32, after: After) -> ort::Result<()> {
    let x = call.input::<f32>(0)?;
    let &[rows, inputs] = x.dims else {
        return Err(call.error(format_args!("x has shape {:?}, expected [rows, inputs]", x.dims)));
    };
    let (rows, inputs) = (rows as usize, inputs as usize);
    let weights = weights(call, inputs, after)?;
    let columns = weights.columns();
    let y = SharedMut::of(call.output::<f32>(0, &[rows as i64, columns as i64])?);
    if rows == 0 {
        return Ok(());
    }
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.quantize(call, x, rows, clip)?;
        let quantized = scratch.rows();
        let step = (ITEM_BYTES / weights.group_bytes()).max(1).next_multiple_of(2);
        let parts = weights.groups().div_ceil(step);
        let cost = rows * weights.panels.len() / SPEED;
        call.for_each(parts * rows.div_ceil(ITEM_ROWS), cost, |item| {
            // All threads work on the same rows first, while they are in the caches.
            let (part, first) = (item % parts, item / parts * ITEM_ROWS);
            let groups = part * step..((part + 1) * step).min(weights.groups());
            let target = Target { data: y.start(), columns };
            // SAFETY: the result has all rows and columns, and each item has columns and rows of its own.
            unsafe { multiply(weights, quantized, groups, first..(first + ITEM_ROWS).min(rows), target) };
        })
    })
}

/// The layer's weights, checked against each other.
fn weights<'a>(call: &Call<'a>, inputs: usize, after: After) -> ort::Result<Int8Weights<'a>> {
    let panels = call.input::<i8>(1)?;
    let scale = call.input::<f32>(2)?.data;
    let sum = call.input::<i32>(3)?.data;
    let bias = call.optional_input::<f32>(4)?.map_or(&[][..], |bias| bias.data);
    let weights = Int8Weights { panels: panels.data, inputs: panel_inputs(inputs), scale, sum, bias, after };
    let halves = if matches!(after, After::Gated(_)) { 2 } else { 1 };
    let (count, steps) = (halves * weights.groups(), weights.inputs / PANEL_INPUTS);
    let expected = [count, steps, PANEL_INPUTS * PANEL_OUTPUTS].map(|dim| dim as i64);
    let fits = panels.dims == expected
        && (1..=MAX_INPUTS).contains(&inputs)
        && !scale.is_empty()
        && scale.len() % halves == 0
        && sum.len() == scale.len()
        && (bias.is_empty() || bias.len() == scale.len());
    if fits {
        return Ok(weights);
    }
    Err(call.error(format_args!(
        "{inputs} inputs (at most {MAX_INPUTS}), weights of shape {:?}, expected {expected:?} for {} scales, {} \
         sums, {} biases",
        panels.dims,
        scale.len(),
        sum.len(),
        bias.len()
    )))
}
