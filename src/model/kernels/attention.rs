//! Attention of a few queries over the keys and values of one row.
//!
//! Keys lie in blocks of [`KEY_BLOCK`] positions, `[blocks, head_dim, KEY_BLOCK]`: the scores of a block are
//! then sums over whole vectors, without a sum across lanes. Values lie position by position.
//!
//! Keys and values are gone through in parts that stay in the first-level cache while each query uses them. A
//! query's own sums are formed in the same order in any company, so that its result does not depend on it.

use textgen_artifact::ops::KEY_BLOCK;

use super::{
    exp::exp_nonpositive,
    isa::{dispatch, multiply_add},
};

/// Queries that are worked on at once at most.
pub const QUERY_TILE: usize = 16;
/// Values that each query uses before the next ones are loaded.
const VALUE_PART: usize = 64;

/// A query, and which keys it sees.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// `[head_dim]`
    pub q: &'a [f32],
    /// Added to the scores.
    pub bias: Bias<'a>,
    /// First key that it sees.
    pub first: usize,
    /// End of the keys that it sees; above `first`.
    pub end: usize,
}

/// How scores are formed from dot products, before the bias.
#[derive(Debug, Clone, Copy)]
pub struct Scoring {
    /// Multiplies every dot product.
    pub scale: f32,
    /// Scores become `softcap · tanh(score / softcap)` after the bias; 0 leaves them.
    pub softcap: f32,
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

/// Keys and values of one row and head.
#[derive(Debug, Clone, Copy)]
pub struct KeyValues<'a> {
    /// Blocks of keys; lanes that no query sees are ignored, whatever they hold.
    pub keys: &'a [f32],
    /// Value `j` is `values[j · stride ..][.. head_dim]`.
    pub values: &'a [f32],
    /// Elements from one value to the next.
    pub stride: usize,
}

dispatch! {
    /// Writes `softmax(scores) · v` of each of `queries`, [`QUERY_TILE`] at most, to its place in `outs`,
    /// `[head_dim]` each. `scores` is scratch memory; it grows to the number of keys for each query.
    pub fn attend(
        queries: &[Query<'_>],
        scoring: Scoring,
        cache: KeyValues<'_>,
        scores: &mut Vec<f32>,
        outs: &mut [&mut [f32]],
    ) = attend_body
}

#[inline(always)]
fn attend_body<const FMA: bool>(
    queries: &[Query<'_>],
    scoring: Scoring,
    cache: KeyValues<'_>,
    scores: &mut Vec<f32>,
    outs: &mut [&mut [f32]],
) {
    debug_assert!(queries.len() <= QUERY_TILE && queries.len() == outs.len());
    let Some(first) = queries.iter().map(|query| query.first / KEY_BLOCK * KEY_BLOCK).min() else { return };
    let end = queries.iter().map(|query| query.end).max().unwrap_or(first);
    let width = (end - first).next_multiple_of(KEY_BLOCK);
    if scores.len() < queries.len() * width {
        scores.resize(queries.len() * width, 0.0);
    }
    let scores = &mut scores[..queries.len() * width];

    let head_dim = queries[0].q.len();
    for block_start in (first..end).step_by(KEY_BLOCK) {
        let block = &cache.keys[block_start * head_dim..(block_start + KEY_BLOCK) * head_dim];
        for (query, scores) in queries.iter().zip(scores.chunks_exact_mut(width)) {
            if query.end > block_start && query.first < block_start + KEY_BLOCK {
                let place = block_start - first;
                block_scores::<FMA>(query.q, scoring.scale, block, &mut scores[place..place + KEY_BLOCK]);
            }
        }
    }

    let mut normalisers = [0.0; QUERY_TILE];
    for ((query, scores), normaliser) in
        queries.iter().zip(scores.chunks_exact_mut(width)).zip(&mut normalisers)
    {
        let (own_first, own_end) = (query.first - first, query.end - first);
        let blocks = own_first / KEY_BLOCK * KEY_BLOCK..own_end.next_multiple_of(KEY_BLOCK);
        add_bias(query.bias, query.first, &mut scores[own_first..own_end]);
        if scoring.softcap > 0.0 {
            cap::<FMA>(scoring.softcap, &mut scores[blocks.clone()]);
        }
        scores[blocks.start..own_first].fill(f32::NEG_INFINITY);
        scores[own_end..blocks.end].fill(f32::NEG_INFINITY);
        *normaliser = exponentiate::<FMA>(&mut scores[blocks]);
    }

    outs.iter_mut().for_each(|out| out.fill(0.0));
    for part_start in (first..end).step_by(VALUE_PART) {
        for ((query, scores), out) in queries.iter().zip(scores.chunks_exact(width)).zip(&mut *outs) {
            let seen = query.first.max(part_start)..query.end.min(part_start + VALUE_PART);
            if !seen.is_empty() {
                let values = &cache.values[seen.start * cache.stride..];
                add_weighted::<FMA>(&scores[seen.start - first..seen.end - first], values, cache.stride, out);
            }
        }
    }
    for (out, normaliser) in outs.iter_mut().zip(normalisers) {
        for value in out.iter_mut() {
            *value *= normaliser;
        }
    }
}

/// `scores[j] = scale · q · k_j` of one block of keys.
#[inline(always)]
fn block_scores<const FMA: bool>(q: &[f32], scale: f32, block: &[f32], scores: &mut [f32]) {
    let (keys, _) = block.as_chunks::<KEY_BLOCK>();
    // Four sums at once: one alone would wait for each multiplication to end.
    let mut sums = [[0.0f32; KEY_BLOCK]; 4];
    let (quads, rest) = keys.as_chunks::<4>();
    let (query_quads, query_rest) = q.as_chunks::<4>();
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
    for (lane, score) in scores.iter_mut().enumerate() {
        *score = ((sums[0][lane] + sums[1][lane]) + (sums[2][lane] + sums[3][lane])) * scale;
    }
}

/// `scores = c · tanh(scores / c)`
#[inline(always)]
fn cap<const FMA: bool>(softcap: f32, scores: &mut [f32]) {
    let inverse = 1.0 / softcap;
    for score in scores {
        // tanh |x| = (1 − e^(−2|x|)) / (1 + e^(−2|x|))
        let weight = exp_nonpositive::<FMA>(-2.0 * (*score * inverse).abs());
        let capped = ((1.0 - weight) / (1.0 + weight) * softcap).copysign(*score);
        *score = if score.is_nan() { *score } else { capped };
    }
}

/// Adds the bias to the scores of the keys from `first` on.
#[inline(always)]
fn add_bias(bias: Bias<'_>, first: usize, scores: &mut [f32]) {
    match bias {
        Bias::Zero => {}
        Bias::Causal { table, position } => {
            // Far keys share the last entry; near ones take theirs in reverse.
            let reach = table.len() - 1;
            let near = (position + 1).saturating_sub(reach + first).min(scores.len());
            for score in &mut scores[..near] {
                *score += table[reach];
            }
            for (offset, score) in scores[near..].iter_mut().enumerate() {
                *score += table[position - first - near - offset];
            }
        }
        Bias::Bidirectional { table, position } => {
            let reach = (table.len() - 1) / 2;
            for (key, score) in (first..).zip(scores) {
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

/// `out += Σ weights[j] · v_j`, in the order of the values.
#[inline(always)]
fn add_weighted<const FMA: bool>(weights: &[f32], values: &[f32], stride: usize, out: &mut [f32]) {
    let (wide, rest) = out.as_chunks_mut::<64>();
    let narrow_start = wide.len() * 64;
    for (chunk, out) in wide.iter_mut().enumerate() {
        let mut sums = [[0.0f32; 16]; 4];
        sums.as_flattened_mut().copy_from_slice(out);
        for (index, &weight) in weights.iter().enumerate() {
            let start = index * stride + chunk * 64;
            let (value, _) = values[start..start + 64].as_chunks::<16>();
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
        let mut sums = *out;
        for (index, &weight) in weights.iter().enumerate() {
            let start = index * stride + narrow_start + chunk * 16;
            let value = &values[start..start + 16];
            for lane in 0..16 {
                sums[lane] = multiply_add::<FMA>(weight, value[lane], sums[lane]);
            }
        }
        *out = sums;
    }
    for (element, out) in tail.iter_mut().enumerate() {
        for (index, &weight) in weights.iter().enumerate() {
            *out = multiply_add::<FMA>(weight, values[index * stride + tail_start + element], *out);
        }
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

    const PLAIN: Scoring = Scoring { scale: 0.7, softcap: 0.0 };

    /// Straight from the formula, in f64.
    fn reference(query: Query<'_>, scoring: Scoring, keys: &[Vec<f32>], values: &[Vec<f32>]) -> Vec<f64> {
        let bias = |key: usize| match query.bias {
            Bias::Zero => 0.0,
            Bias::Causal { table, position } => table[(position - key).min(table.len() - 1)],
            Bias::Bidirectional { table, position } => {
                let reach = (table.len() as i64 - 1) / 2;
                table[((key as i64 - position as i64).clamp(-reach, reach) + reach) as usize]
            }
        };
        let seen = query.first..query.end;
        let softcap = f64::from(scoring.softcap);
        let scores: Vec<f64> = seen
            .clone()
            .map(|index| {
                let dot: f64 =
                    keys[index].iter().zip(query.q).map(|(k, q)| f64::from(*k) * f64::from(*q)).sum();
                let score = dot * f64::from(scoring.scale) + f64::from(bias(index));
                if softcap > 0.0 { softcap * (score / softcap).tanh() } else { score }
            })
            .collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
        let sum: f64 = weights.iter().sum();
        (0..query.q.len())
            .map(|d| {
                weights.iter().zip(&values[seen.clone()]).map(|(w, v)| w * f64::from(v[d])).sum::<f64>() / sum
            })
            .collect()
    }

    fn noise(seed: &mut u32) -> f32 {
        *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (*seed >> 8) as f32 / (1 << 23) as f32 - 1.0
    }

    fn run(queries: &[Query<'_>], scoring: Scoring, blocks: &[f32], values: &[f32]) -> Vec<Vec<f32>> {
        let head_dim = queries[0].q.len();
        let mut outs = vec![vec![0.0; head_dim]; queries.len()];
        let mut places: Vec<&mut [f32]> = outs.iter_mut().map(Vec::as_mut_slice).collect();
        let cache = KeyValues { keys: blocks, values, stride: head_dim };
        attend(queries, scoring, cache, &mut Vec::new(), &mut places);
        outs
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
                    for (first, softcap) in [(0, 0.0), (count / 2, 0.0), (0, 2.5), (count - 1, 0.4)] {
                        let query = Query { q: &q, bias, first, end: count };
                        let scoring = Scoring { softcap, ..PLAIN };
                        let out = run(&[query], scoring, &blocks, &values.concat()).remove(0);
                        for (got, expected) in out.iter().zip(reference(query, scoring, &keys, &values)) {
                            assert!(
                                (f64::from(*got) - expected).abs() < 2e-6,
                                "head_dim {head_dim}, {count} keys from {first}, {scoring:?}, {bias:?}: got {got}, \
                                 expected {expected}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_query_has_the_same_bits_in_any_company() {
        let mut seed = 7;
        for head_dim in [8, 24, 64, 96] {
            let mut vector = |n: usize| -> Vec<f32> { (0..n).map(|_| noise(&mut seed)).collect() };
            let (keys, values, queries) =
                (vector(90 * head_dim), vector(90 * head_dim), vector(4 * head_dim));
            let mut blocks = Vec::new();
            pack_keys(&keys, head_dim, head_dim, 90, &mut blocks);
            let queries: Vec<Query<'_>> = queries
                .chunks_exact(head_dim)
                .zip([(0, 60), (20, 61), (3, 17), (47, 90)])
                .map(|(q, (first, end))| Query { q, bias: Bias::Zero, first, end })
                .collect();
            for scoring in [PLAIN, Scoring { softcap: 1.5, ..PLAIN }] {
                let together = run(&queries, scoring, &blocks, &values);
                for (index, query) in queries.iter().enumerate() {
                    let alone = run(&[*query], scoring, &blocks, &values).remove(0);
                    let bits = |out: &[f32]| out.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
                    assert_eq!(bits(&together[index]), bits(&alone), "head_dim {head_dim}, query {index}");
                }
            }
        }
    }

    #[test]
    fn a_key_that_is_not_a_number_shows() {
        let mut blocks = vec![0.0; KEY_BLOCK * 4];
        write_key(&mut blocks, 1, &[f32::NAN; 4]);
        let query = Query { q: &[1.0; 4], bias: Bias::Zero, first: 0, end: 3 };
        let out = run(&[query], PLAIN, &blocks, &[1.0; 12]).remove(0);
        assert!(out.iter().all(|value| value.is_nan()));
    }
}
