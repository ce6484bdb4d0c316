//! Attention of one query over the keys and values of one row.
//!
//! Keys lie in blocks of [`KEY_BLOCK`] positions, `[blocks, head_dim, KEY_BLOCK]`: the scores of a block are
//! then sums over whole vectors, without a sum across lanes. Values lie position by position.

use textgen_artifact::ops::KEY_BLOCK;

use super::{
    exp::exp_nonpositive,
    isa::{dispatch, multiply_add},
};

/// The query, and how its scores are formed.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// `[head_dim]`
    pub q: &'a [f32],
    /// Multiplies every dot product.
    pub scale: f32,
    /// Added to the scores.
    pub bias: Bias<'a>,
}

/// Position bias of one head.
#[derive(Debug, Clone, Copy)]
pub enum Bias<'a> {
    /// None.
    Zero,
    /// Key `j` seen from position `i`, `j ≤ i`: `table[min(i − j, W)]`, `table` is `[W + 1]`.
    Causal {
        /// `[W + 1]`
        table: &'a [f32],
        /// `i`
        position: usize,
    },
    /// Key `j` seen from position `i`: `table[clamp(j − i, −W, W) + W]`, `table` is `[2W + 1]`.
    Bidirectional {
        /// `[2W + 1]`
        table: &'a [f32],
        /// `i`
        position: usize,
    },
}

/// Keys of one row and head, `[blocks, head_dim, KEY_BLOCK]`.
#[derive(Debug, Clone, Copy)]
pub struct Keys<'a> {
    /// All blocks that hold at least one of the keys.
    pub blocks: &'a [f32],
    /// Number of keys, at least 1; lanes beyond it are ignored, whatever they hold.
    pub count: usize,
}

/// Values of one row and head: value `j` is `data[j · stride ..][.. head_dim]`.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a> {
    /// From the first value's first element on.
    pub data: &'a [f32],
    /// Elements from one value to the next.
    pub stride: usize,
}

dispatch! {
    /// Writes `softmax(scale · q·k + bias) · v` to `out` `[head_dim]`. `scores` is scratch memory; it grows to
    /// the number of keys.
    pub fn attend(query: Query<'_>, keys: Keys<'_>, values: Values<'_>, scores: &mut Vec<f32>, out: &mut [f32])
        = attend_body
}

#[inline(always)]
fn attend_body<const FMA: bool>(
    query: Query<'_>,
    keys: Keys<'_>,
    values: Values<'_>,
    scores: &mut Vec<f32>,
    out: &mut [f32],
) {
    let blocks = keys.count.div_ceil(KEY_BLOCK);
    if scores.len() < blocks * KEY_BLOCK {
        scores.resize(blocks * KEY_BLOCK, 0.0);
    }
    let scores = &mut scores[..blocks * KEY_BLOCK];
    dot_products::<FMA>(query, keys, scores);
    add_bias(query.bias, &mut scores[..keys.count]);
    scores[keys.count..].fill(f32::NEG_INFINITY);
    let normaliser = exponentiate::<FMA>(scores);
    // Lanes beyond the keys must weigh nothing at all, not almost nothing.
    scores[keys.count..].fill(0.0);
    weighted_sum::<FMA>(&scores[..keys.count], values, out);
    for value in out.iter_mut() {
        *value *= normaliser;
    }
}

/// `scores[j] = scale · q·k_j`
#[inline(always)]
fn dot_products<const FMA: bool>(query: Query<'_>, keys: Keys<'_>, scores: &mut [f32]) {
    let head_dim = query.q.len();
    let (lanes, _) = keys.blocks.as_chunks::<KEY_BLOCK>();
    let (scores, _) = scores.as_chunks_mut::<KEY_BLOCK>();
    for (block, scores) in lanes.chunks_exact(head_dim).zip(scores) {
        // Four sums at once: one alone would wait for each multiplication to end.
        let mut sums = [[0.0f32; KEY_BLOCK]; 4];
        let (quads, rest) = block.as_chunks::<4>();
        let (query_quads, query_rest) = query.q.as_chunks::<4>();
        for (quad, q) in quads.iter().zip(query_quads) {
            for part in 0..4 {
                for lane in 0..KEY_BLOCK {
                    sums[part][lane] = multiply_add::<FMA>(q[part], quad[part][lane], sums[part][lane]);
                }
            }
        }
        for (key, q) in rest.iter().zip(query_rest) {
            for lane in 0..KEY_BLOCK {
                sums[0][lane] = multiply_add::<FMA>(*q, key[lane], sums[0][lane]);
            }
        }
        for lane in 0..KEY_BLOCK {
            scores[lane] = ((sums[0][lane] + sums[1][lane]) + (sums[2][lane] + sums[3][lane])) * query.scale;
        }
    }
}

#[inline(always)]
fn add_bias(bias: Bias<'_>, scores: &mut [f32]) {
    match bias {
        Bias::Zero => {}
        Bias::Causal { table, position } => {
            // Far keys share the last entry; near ones take theirs in reverse.
            let reach = table.len() - 1;
            let near = (position + 1).saturating_sub(reach).min(scores.len());
            for score in &mut scores[..near] {
                *score += table[reach];
            }
            for (offset, score) in scores[near..].iter_mut().enumerate() {
                *score += table[position - near - offset];
            }
        }
        Bias::Bidirectional { table, position } => {
            let reach = (table.len() - 1) / 2;
            for (key, score) in scores.iter_mut().enumerate() {
                let index = (key + reach).saturating_sub(position).min(2 * reach);
                *score += table[index];
            }
        }
    }
}

/// Replaces each score by `e^(score − max)` and returns the reciprocal of their sum. A NaN among the scores
/// makes everything NaN.
#[inline(always)]
fn exponentiate<const FMA: bool>(scores: &mut [f32]) -> f32 {
    let (blocks, _) = scores.as_chunks_mut::<KEY_BLOCK>();
    let mut largest = [f32::NEG_INFINITY; KEY_BLOCK];
    let mut poison = [0.0f32; KEY_BLOCK];
    for block in blocks.iter() {
        for lane in 0..KEY_BLOCK {
            largest[lane] = if block[lane] > largest[lane] { block[lane] } else { largest[lane] };
            // 0 for every number, NaN for NaN: the comparison above would lose it.
            poison[lane] += if block[lane].is_nan() { f32::NAN } else { 0.0 };
        }
    }
    let largest = largest.into_iter().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
    let mut sums = [0.0f32; KEY_BLOCK];
    for block in blocks.iter_mut() {
        for lane in 0..KEY_BLOCK {
            let weight = if block[lane] == f32::NEG_INFINITY {
                0.0
            } else {
                exp_nonpositive::<FMA>(block[lane] - largest)
            };
            block[lane] = weight;
            sums[lane] += weight;
        }
    }
    let mut sum = 0.0;
    for lane in 0..KEY_BLOCK {
        sum += sums[lane] + poison[lane];
    }
    1.0 / sum
}

/// `out = Σ weights[j] · v_j`
#[inline(always)]
fn weighted_sum<const FMA: bool>(weights: &[f32], values: Values<'_>, out: &mut [f32]) {
    let (wide, rest) = out.as_chunks_mut::<64>();
    let narrow_start = wide.len() * 64;
    for (chunk, out) in wide.iter_mut().enumerate() {
        let mut sums = [[0.0f32; 16]; 4];
        for (index, &weight) in weights.iter().enumerate() {
            let start = index * values.stride + chunk * 64;
            let (value, _) = values.data[start..start + 64].as_chunks::<16>();
            for part in 0..4 {
                for lane in 0..16 {
                    sums[part][lane] = multiply_add::<FMA>(weight, value[part][lane], sums[part][lane]);
                }
            }
        }
        out.copy_from_slice(sums.as_flattened());
    }
    let (narrow, tail) = rest.as_chunks_mut::<16>();
    let tail_start = narrow_start + narrow.len() * 16;
    for (chunk, out) in narrow.iter_mut().enumerate() {
        let mut sums = [0.0f32; 16];
        for (index, &weight) in weights.iter().enumerate() {
            let start = index * values.stride + narrow_start + chunk * 16;
            let value = &values.data[start..start + 16];
            for lane in 0..16 {
                sums[lane] = multiply_add::<FMA>(weight, value[lane], sums[lane]);
            }
        }
        *out = sums;
    }
    for (element, out) in tail.iter_mut().enumerate() {
        let mut sum = 0.0;
        for (index, &weight) in weights.iter().enumerate() {
            sum = multiply_add::<FMA>(weight, values.data[index * values.stride + tail_start + element], sum);
        }
        *out = sum;
    }
}

/// Writes `key` `[head_dim]` as position `position` of `blocks`.
pub fn write_key(blocks: &mut [f32], position: usize, key: &[f32]) {
    let start = position / KEY_BLOCK * key.len() * KEY_BLOCK + position % KEY_BLOCK;
    for (index, &value) in key.iter().enumerate() {
        blocks[start + index * KEY_BLOCK] = value;
    }
}

/// Lays out `count` keys, `data[j · stride ..][.. head_dim]`, as blocks; `blocks` is scratch memory, it grows.
pub fn pack_keys(data: &[f32], stride: usize, head_dim: usize, count: usize, blocks: &mut Vec<f32>) {
    let needed = count.div_ceil(KEY_BLOCK) * KEY_BLOCK * head_dim;
    if blocks.len() < needed {
        blocks.resize(needed, 0.0);
    }
    for position in 0..count {
        write_key(blocks, position, &data[position * stride..position * stride + head_dim]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Straight from the formula, in f64.
    fn reference(query: Query<'_>, keys: &[Vec<f32>], values: &[Vec<f32>]) -> Vec<f64> {
        let bias = |key: usize| match query.bias {
            Bias::Zero => 0.0,
            Bias::Causal { table, position } => table[(position - key).min(table.len() - 1)],
            Bias::Bidirectional { table, position } => {
                let reach = (table.len() as i64 - 1) / 2;
                table[((key as i64 - position as i64).clamp(-reach, reach) + reach) as usize]
            }
        };
        let scores: Vec<f64> = keys
            .iter()
            .enumerate()
            .map(|(index, key)| {
                let dot: f64 = key.iter().zip(query.q).map(|(k, q)| f64::from(*k) * f64::from(*q)).sum();
                dot * f64::from(query.scale) + f64::from(bias(index))
            })
            .collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
        let sum: f64 = weights.iter().sum();
        (0..query.q.len())
            .map(|d| weights.iter().zip(values).map(|(w, v)| w * f64::from(v[d])).sum::<f64>() / sum)
            .collect()
    }

    fn noise(seed: &mut u32) -> f32 {
        *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (*seed >> 8) as f32 / (1 << 23) as f32 - 1.0
    }

    #[test]
    fn agrees_with_the_formula_for_every_shape_and_bias() {
        let mut seed = 1;
        for head_dim in [1, 6, 16, 24, 32, 64, 80, 128] {
            for count in [1, 2, 15, 16, 17, 40, 150] {
                let mut vectors = |n: usize| -> Vec<Vec<f32>> {
                    (0..n).map(|_| (0..head_dim).map(|_| noise(&mut seed)).collect()).collect()
                };
                let (keys, values, q) = (vectors(count), vectors(count), vectors(1).remove(0));
                let table: Vec<f32> = (0..129).map(|_| noise(&mut seed)).collect();
                // The lanes beyond the keys hold what an earlier request left there.
                let mut blocks = vec![f32::NAN; count.div_ceil(KEY_BLOCK) * KEY_BLOCK * head_dim];
                pack_keys(&keys.concat(), head_dim, head_dim, count, &mut blocks);
                let biases = [
                    Bias::Zero,
                    Bias::Causal { table: &table, position: count - 1 },
                    Bias::Bidirectional { table: &table, position: count / 3 },
                ];
                for bias in biases {
                    let query = Query { q: &q, scale: 0.7, bias };
                    let (mut scores, mut out) = (Vec::new(), vec![0.0; head_dim]);
                    let flat = values.concat();
                    attend(
                        query,
                        Keys { blocks: &blocks, count },
                        Values { data: &flat, stride: head_dim },
                        &mut scores,
                        &mut out,
                    );
                    for (got, expected) in out.iter().zip(reference(query, &keys, &values)) {
                        assert!(
                            (f64::from(*got) - expected).abs() < 2e-6,
                            "head_dim {head_dim}, {count} keys, {bias:?}: got {got}, expected {expected}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_key_that_is_not_a_number_shows() {
        let mut blocks = vec![0.0; KEY_BLOCK * 4];
        write_key(&mut blocks, 1, &[f32::NAN; 4]);
        let (mut scores, mut out) = (Vec::new(), vec![0.0; 4]);
        let query = Query { q: &[1.0; 4], scale: 1.0, bias: Bias::Zero };
        let values = Values { data: &[1.0; 12], stride: 4 };
        attend(query, Keys { blocks: &blocks, count: 3 }, values, &mut scores, &mut out);
        assert!(out.iter().all(|value| value.is_nan()));
    }
}
