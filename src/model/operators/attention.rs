//! `RaggedAttention`, `CachedAttention`, `CrossAttention`: three views of one kernel.
//!
//! Work is shared out by row, key-value head and a few queries, never within a sum, so that a row's result does
//! not depend on what else is in the batch nor on the number of threads.

use std::cell::RefCell;

use ort::operator::{BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput};
use ort::value::TensorElementType::{Float32, Int32};
use textgen_artifact::ops::{
    ATTR_KV_NUM_HEADS, ATTR_NUM_HEADS, ATTR_SCALE, ATTR_SOFTCAP, ATTR_WINDOW, CACHED_ATTENTION,
    CROSS_ATTENTION, RAGGED_ATTENTION,
};

use super::{
    cache::{Source, check_distinct, store},
    context::{CacheShape, Call, Input, Rows, SharedMut, guarded, size_attribute},
};
use crate::model::kernels::{Bias, KeyValues, QUERY_TILE, Query, Scoring, attend, pack_keys};

thread_local! {
    /// Scores and packed keys, kept from call to call.
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch { scores: Vec::new(), keys: Vec::new() }) };
}

struct Scratch {
    scores: Vec<f32>,
    keys: Vec<f32>,
}

/// Attributes of an attention node.
#[derive(Clone, Copy)]
struct Heads {
    query: usize,
    kv: usize,
    scoring: Scoring,
    /// A query sees so many keys at most, its own included; `usize::MAX` for all.
    window: usize,
}

impl Heads {
    fn read(kernel: &KernelContext<'_>, operator: &str) -> ort::Result<Self> {
        let query = size_attribute(kernel, operator, ATTR_NUM_HEADS)?;
        let kv = if operator == RAGGED_ATTENTION {
            query
        } else {
            size_attribute(kernel, operator, ATTR_KV_NUM_HEADS)?
        };
        let scale = kernel
            .get::<f32>(ATTR_SCALE)
            .ok_or_else(|| ort::Error::new(format!("{operator}: attribute {ATTR_SCALE} is missing")))?;
        if query % kv != 0 {
            return Err(ort::Error::new(format!("{operator}: {query} heads are not a multiple of {kv}")));
        }
        let softcap = kernel.get::<f32>(ATTR_SOFTCAP).unwrap_or(0.0);
        let window = kernel.get::<i64>(ATTR_WINDOW).and_then(|window| usize::try_from(window).ok());
        Ok(Self {
            query,
            kv,
            scoring: Scoring { scale, softcap },
            window: window.filter(|&window| window > 0).unwrap_or(usize::MAX),
        })
    }

    /// Query heads that share a key-value head.
    fn group(&self) -> usize {
        self.query / self.kv
    }
}

/// A bias table `[num_heads, width]`; the row of one head.
#[derive(Clone, Copy)]
struct BiasTable<'a> {
    data: &'a [f32],
    width: usize,
}

impl<'a> BiasTable<'a> {
    fn read(call: &Call<'a>, index: usize, heads: usize) -> ort::Result<Option<Self>> {
        match call.optional_input::<f32>(index)? {
            None => Ok(None),
            Some(Input { data, dims: &[rows, width] }) if rows as usize == heads && width > 0 => {
                Ok(Some(Self { data, width: width as usize }))
            }
            Some(bias) => {
                Err(call.error(format_args!("bias has shape {:?}, expected [{heads}, width]", bias.dims)))
            }
        }
    }

    fn head(&self, head: usize) -> &'a [f32] {
        &self.data[head * self.width..(head + 1) * self.width]
    }
}

macro_rules! attention_operator {
    ($operator:ident, $name:ident, [$($input:expr),+], [$($output:expr),+]) => {
        pub struct $operator;

        impl Operator for $operator {
            type Kernel<'attr> = BoxedKernel<'attr>;

            fn name(&self) -> &str {
                $name
            }

            fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
                [$($input),+]
            }

            fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
                [$($output),+].map(OperatorOutput::required)
            }

            fn create_kernel<'attr>(&self, kernel: &KernelContext<'attr>) -> ort::Result<Self::Kernel<'attr>> {
                let heads = Heads::read(kernel, $name)?;
                Ok(Box::new(move |context: &ComputeContext| {
                    guarded($name, || Self::compute(Call::new(context, $name), heads))
                }))
            }
        }
    };
}

const F32: OperatorInput = OperatorInput::required(Float32);
const I32: OperatorInput = OperatorInput::required(Int32);
const BIAS: OperatorInput = OperatorInput::optional(Float32);

attention_operator!(RaggedAttention, RAGGED_ATTENTION, [F32, I32, BIAS], [Float32]);
attention_operator!(
    CachedAttention,
    CACHED_ATTENTION,
    [F32, I32, I32, I32, F32, F32, BIAS],
    [Float32, Float32, Float32]
);
attention_operator!(CrossAttention, CROSS_ATTENTION, [F32, I32, I32, I32, F32, F32], [Float32]);

/// Attends with the queries `0 .. count`, a tile at a time. `query` gives each of them, and `place` the first
/// element of its output, `[head_dim]` elements of `out`.
///
/// # Safety
/// No other thread writes these outputs.
unsafe fn attend_all<'a>(
    queries: std::ops::Range<usize>,
    query: impl Fn(usize) -> Query<'a>,
    place: impl Fn(usize) -> usize,
    scoring: Scoring,
    cache: KeyValues<'_>,
    scores: &mut Vec<f32>,
    out: SharedMut<f32>,
) {
    for start in queries.clone().step_by(QUERY_TILE) {
        let tile = start..(start + QUERY_TILE).min(queries.end);
        let mut gathered = [Query { q: &[], bias: Bias::Zero, first: 0, end: 0 }; QUERY_TILE];
        let mut outs: [&mut [f32]; QUERY_TILE] = std::array::from_fn(|_| &mut [][..]);
        for (place_in_tile, index) in tile.clone().enumerate() {
            gathered[place_in_tile] = query(index);
            // SAFETY: each query's output is its own, and this thread's by the caller's word.
            outs[place_in_tile] = unsafe { out.part(place(index), gathered[place_in_tile].q.len()) };
        }
        attend(&gathered[..tile.len()], scoring, cache, scores, &mut outs[..tile.len()]);
    }
}

impl RaggedAttention {
    fn compute(call: Call<'_>, heads: Heads) -> ort::Result<()> {
        let qkv = call.input::<f32>(0)?;
        let (tokens, width) = matrix(&call, "qkv", qkv)?;
        let rows = Rows::new(&call, call.input(1)?, tokens)?;
        let bias = BiasTable::read(&call, 2, heads.query)?;
        if width % (3 * heads.query) != 0 {
            return Err(call.error(format_args!("qkv has width {width}, expected 3 · {} heads", heads.query)));
        }
        if let Some(bias) = bias
            && bias.width % 2 == 0
        {
            return Err(call.error(format_args!("bias has width {}, expected an odd one", bias.width)));
        }
        let head_dim = width / 3 / heads.query;
        let inner = heads.query * head_dim;
        let out = SharedMut::of(call.output::<f32>(0, &[tokens as i64, inner as i64])?);
        let cost = (0..rows.count()).map(|row| rows.range(row).len().pow(2)).sum::<usize>() * inner;
        call.for_each(rows.count() * heads.query, cost, |item| {
            let (row, head) = (item / heads.query, item % heads.query);
            let range = rows.range(row);
            if range.is_empty() {
                return;
            }
            let source = &qkv.data[range.start * width..range.end * width];
            let query = |position: usize| Query {
                q: &source[position * width + head * head_dim..][..head_dim],
                bias: bias
                    .map_or(Bias::Zero, |bias| Bias::Bidirectional { table: bias.head(head), position }),
                first: 0,
                end: range.len(),
            };
            SCRATCH.with_borrow_mut(|Scratch { scores, keys }| {
                pack_keys(&source[inner + head * head_dim..], width, head_dim, range.len(), keys);
                let values = &source[2 * inner + head * head_dim..];
                let cache = KeyValues { keys, values, stride: width };
                let place = |position| (range.start + position) * inner + head * head_dim;
                // SAFETY: each (row, head) is written by the one thread that has its item.
                unsafe {
                    attend_all(0..range.len(), query, place, heads.scoring, cache, scores, out);
                }
            });
        })
    }
}

impl CachedAttention {
    fn compute(call: Call<'_>, heads: Heads) -> ort::Result<()> {
        let qkv = call.input::<f32>(0)?;
        let (tokens, width) = matrix(&call, "qkv", qkv)?;
        let rows = Rows::new(&call, call.input(1)?, tokens)?;
        let (slots, positions) = (call.input::<i32>(2)?.data, call.input::<i32>(3)?.data);
        let (keys, values) = (call.in_place(4, 1)?, call.in_place(5, 2)?);
        let shape = CacheShape::new(&call, keys.dims, values.dims)?;
        let bias = BiasTable::read(&call, 6, heads.query)?;
        if shape.heads != heads.kv || width != (heads.query + 2 * heads.kv) * shape.head_dim {
            return Err(call.error(format_args!(
                "qkv width {width} and cache {:?} do not fit {} query and {} key-value heads",
                keys.dims, heads.query, heads.kv
            )));
        }
        if positions.len() != rows.count() {
            return Err(call.error(format_args!("{} positions for {} rows", positions.len(), rows.count())));
        }
        shape.check_rows(&call, rows, slots, |row| positions[row])?;
        check_distinct(&call, slots)?;
        let head_dim = shape.head_dim;
        let inner = heads.query * head_dim;
        let out = SharedMut::of(call.output::<f32>(0, &[tokens as i64, inner as i64])?);
        let source =
            Source { data: qkv.data, width, key_start: inner, value_start: inner + heads.kv * head_dim };
        let store_head = |item: usize| {
            let (row, kv_head) = (item / heads.kv, item % heads.kv);
            let (slot, past) = (slots[row] as usize, positions[row] as usize);
            // SAFETY: slots are distinct, so this head of this slot is this item's alone.
            unsafe { store(source, rows.range(row), kv_head, shape, slot, past, keys, values) };
        };
        let group = heads.group();
        // Queries of one row and key-value head: token by token, and within a token head by head.
        let attend_part = |row: usize, kv_head: usize, queries: std::ops::Range<usize>| {
            let past = positions[row] as usize;
            let start = shape.head_start(slots[row] as usize, kv_head);
            // SAFETY: this head of this slot has been written, and nobody writes it any more.
            let (keys, values) = unsafe {
                (
                    keys.data.shared(start, shape.head_elements()),
                    values.data.shared(start, shape.head_elements()),
                )
            };
            let first_token = rows.range(row).start;
            let head = |index: usize| kv_head * group + index % group;
            let query = |index: usize| {
                let position = past + index / group;
                let token = first_token + index / group;
                Query {
                    q: &qkv.data[token * width + head(index) * head_dim..][..head_dim],
                    bias: bias
                        .map_or(Bias::Zero, |bias| Bias::Causal { table: bias.head(head(index)), position }),
                    first: (position + 1).saturating_sub(heads.window),
                    end: position + 1,
                }
            };
            let place = |index: usize| (first_token + index / group) * inner + head(index) * head_dim;
            let cache = KeyValues { keys, values, stride: head_dim };
            SCRATCH.with_borrow_mut(|Scratch { scores, .. }| {
                // SAFETY: each (row, head, query) is written by the one thread that has its item.
                unsafe { attend_all(queries, query, place, heads.scoring, cache, scores, out) };
            });
        };
        let cost = (0..rows.count())
            .map(|row| rows.range(row).len() * (positions[row] as usize + rows.range(row).len()))
            .sum::<usize>()
            * inner;
        let longest = (0..rows.count()).map(|row| rows.range(row).len()).max().unwrap_or(0);
        let parts = (longest * group).div_ceil(QUERY_TILE);
        if parts <= 1 {
            return call.for_each(rows.count() * heads.kv, cost, |item| {
                store_head(item);
                let (row, kv_head) = (item / heads.kv, item % heads.kv);
                attend_part(row, kv_head, 0..rows.range(row).len() * group);
            });
        }
        // All keys are there before the first of several threads that read them.
        call.for_each(rows.count() * heads.kv, tokens * width, store_head)?;
        call.for_each(rows.count() * heads.kv * parts, cost, |item| {
            // Late parts of a prompt see the most keys: they come first, so that no thread ends alone.
            let (part, item) =
                (parts - 1 - item / (rows.count() * heads.kv), item % (rows.count() * heads.kv));
            let (row, kv_head) = (item / heads.kv, item % heads.kv);
            let end = rows.range(row).len() * group;
            let queries = (part * QUERY_TILE).min(end)..((part + 1) * QUERY_TILE).min(end);
            attend_part(row, kv_head, queries);
        })
    }
}

impl CrossAttention {
    fn compute(call: Call<'_>, heads: Heads) -> ort::Result<()> {
        let q = call.input::<f32>(0)?;
        let (tokens, width) = matrix(&call, "q", q)?;
        let rows = Rows::new(&call, call.input(1)?, tokens)?;
        let (slots, lengths) = (call.input::<i32>(2)?.data, call.input::<i32>(3)?.data);
        let (keys, values) = (call.input::<f32>(4)?, call.input::<f32>(5)?);
        let shape = CacheShape::new(&call, keys.dims, values.dims)?;
        if shape.heads != heads.kv || width != heads.query * shape.head_dim {
            return Err(call.error(format_args!(
                "q width {width} and cache {:?} do not fit {} query and {} key-value heads",
                keys.dims, heads.query, heads.kv
            )));
        }
        let valid = |value: i32, limit: usize| usize::try_from(value).is_ok_and(|value| value < limit);
        if slots.len() != rows.count()
            || lengths.len() != rows.count()
            || !slots.iter().all(|&slot| valid(slot, shape.slots))
            || !lengths.iter().all(|&length| length > 0 && valid(length - 1, shape.positions))
        {
            return Err(call.error(format_args!(
                "cross_slots {slots:?} and cross_lengths {lengths:?} for {} rows and a cache of shape {:?}",
                rows.count(),
                keys.dims
            )));
        }
        let head_dim = shape.head_dim;
        let group = heads.group();
        let out = SharedMut::of(call.output::<f32>(0, q.dims)?);
        let cost =
            (0..rows.count()).map(|row| rows.range(row).len() * lengths[row] as usize).sum::<usize>() * width;
        call.for_each(rows.count() * heads.kv, cost, |item| {
            let (row, kv_head) = (item / heads.kv, item % heads.kv);
            let start = shape.head_start(slots[row] as usize, kv_head);
            let cached = start..start + shape.head_elements();
            let range = rows.range(row);
            let place = |index: usize| {
                (range.start + index / group) * width + (kv_head * group + index % group) * head_dim
            };
            let query = |index: usize| Query {
                q: &q.data[place(index)..][..head_dim],
                bias: Bias::Zero,
                first: 0,
                end: lengths[row] as usize,
            };
            let values = &values.data[cached.clone()];
            let cache = KeyValues { keys: &keys.data[cached], values, stride: head_dim };
            SCRATCH.with_borrow_mut(|Scratch { scores, .. }| {
                let queries = 0..range.len() * group;
                // SAFETY: each (row, head) is written by the one thread that has its item.
                unsafe {
                    attend_all(queries, query, place, heads.scoring, cache, scores, out);
                }
            });
        })
    }
}

/// Dimensions of a matrix.
fn matrix(call: &Call<'_>, name: &str, input: Input<'_, f32>) -> ort::Result<(usize, usize)> {
    match *input.dims {
        [rows, width] => Ok((rows as usize, width as usize)),
        _ => Err(call.error(format_args!("{name} has shape {:?}, expected [tokens, width]", input.dims))),
    }
}
