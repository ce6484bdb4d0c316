//! `CacheWrite`

use ort::operator::{BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput};
use ort::value::TensorElementType::{Float32, Int32};
use textgen_artifact::ops::{ATTR_KV_NUM_HEADS, CACHE_WRITE};

use super::context::{CacheShape, Call, InPlace, Rows, guarded, size_attribute};
use crate::model::kernels::write_key;

pub struct CacheWrite;

impl Operator for CacheWrite {
    type Kernel<'attr> = BoxedKernel<'attr>;

    fn name(&self) -> &str {
        CACHE_WRITE
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [Float32, Int32, Int32, Float32, Float32].map(OperatorInput::required)
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [Float32, Float32].map(OperatorOutput::required)
    }

    fn create_kernel<'attr>(&self, kernel: &KernelContext<'attr>) -> ort::Result<Self::Kernel<'attr>> {
        let kv_heads = size_attribute(kernel, CACHE_WRITE, ATTR_KV_NUM_HEADS)?;
        Ok(Box::new(move |context: &ComputeContext| {
            guarded(CACHE_WRITE, || compute(Call::new(context, CACHE_WRITE), kv_heads))
        }))
    }
}

fn compute(call: Call<'_>, kv_heads: usize) -> ort::Result<()> {
    let kv = call.input::<f32>(0)?;
    let (keys, values) = (call.in_place(3, 0)?, call.in_place(4, 1)?);
    let shape = CacheShape::new(&call, keys.dims, values.dims)?;
    let width = 2 * kv_heads * shape.head_dim;
    let &[tokens, kv_width] = kv.dims else {
        return Err(call.error(format_args!("kv has shape {:?}, expected [tokens, width]", kv.dims)));
    };
    if shape.heads != kv_heads || kv_width as usize != width {
        return Err(call
            .error(format_args!("kv {:?} and cache {:?} do not fit {kv_heads} heads", kv.dims, keys.dims)));
    }
    let rows = Rows::new(&call, call.input(1)?, tokens as usize)?;
    let slots = call.input::<i32>(2)?.data;
    shape.check_rows(&call, rows, slots, |_| 0)?;
    check_distinct(&call, slots)?;
    let source = Source { data: kv.data, width, key_start: 0, value_start: kv_heads * shape.head_dim };
    call.for_each(rows.count() * kv_heads, kv.data.len(), |item| {
        let (row, head) = (item / kv_heads, item % kv_heads);
        // SAFETY: slots are distinct, so each (row, head) is its own part of the caches.
        unsafe { store(source, rows.range(row), head, shape, slots[row] as usize, 0, keys, values) };
    })
}

/// Keys and values of tokens, packed with whatever else a projection makes.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    pub data: &'a [f32],
    /// Elements of one token.
    pub width: usize,
    /// First element of the first key head within a token.
    pub key_start: usize,
    /// First element of the first value head.
    pub value_start: usize,
}

/// Two rows with one slot would write the same memory from two threads.
pub fn check_distinct(call: &Call<'_>, slots: &[i32]) -> ort::Result<()> {
    for (index, slot) in slots.iter().enumerate() {
        if slots[..index].contains(slot) {
            return Err(call.error(format_args!("slot {slot} appears in more than one row")));
        }
    }
    Ok(())
}

/// Writes head `head` of `tokens` to `slot`, from position `position` on.
///
/// # Safety
/// No other thread touches this head of this slot meanwhile.
#[allow(clippy::too_many_arguments)]
pub unsafe fn store(
    source: Source<'_>,
    tokens: std::ops::Range<usize>,
    head: usize,
    shape: CacheShape,
    slot: usize,
    position: usize,
    keys: InPlace<'_>,
    values: InPlace<'_>,
) {
    let start = shape.head_start(slot, head);
    // SAFETY: exclusive by the caller's word.
    let (keys, values) = unsafe {
        (keys.data.part(start, shape.head_elements()), values.data.part(start, shape.head_elements()))
    };
    for (index, token) in tokens.enumerate() {
        let token = &source.data[token * source.width..(token + 1) * source.width];
        let head_span = |first: usize| first + head * shape.head_dim..first + (head + 1) * shape.head_dim;
        write_key(keys, position + index, &token[head_span(source.key_start)]);
        let value = (position + index) * shape.head_dim;
        values[value..value + shape.head_dim].copy_from_slice(&token[head_span(source.value_start)]);
    }
}
