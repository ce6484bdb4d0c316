//! Products of quantized rows and weights in 8 bits, and what follows them.
//!
//! Sums are formed in integers, and everything else element by element, so that neither the blocking nor the
//! instruction set nor the other rows show in a result.
//!
//! Weights lie in panels of 16 outputs ([`textgen_artifact::ops::panel_place`]). Few rows are bound by reading
//! them: a panel is gone through once for up to eight rows, in the order of the memory. More rows are bound by
//! multiplying: two panels at a time then take fewer loads.

use std::ops::Range;

use textgen_artifact::ops::{Activation, PANEL_INPUTS, PANEL_OUTPUTS, panel_place};

use super::{
    activation::activate,
    isa::{Isa, multiply_add},
    quantize::ZERO_POINT,
};

/// Bytes of a panel that belong to four inputs.
const STEP: usize = PANEL_INPUTS * PANEL_OUTPUTS;
/// Rows multiplied at once at most.
const ROW_TILE: usize = 8;
/// From here on two panels are multiplied at once.
const MANY_ROWS: usize = ROW_TILE + 1;
/// Bytes from what is used to what is asked of the memory ahead of time.
const PREFETCH: usize = 2048;

/// Weights of a layer, `K` inputs rounded up to a multiple of four.
#[derive(Debug, Clone, Copy)]
pub struct Int8Weights<'a> {
    /// `[panels, K / 4, 64]`
    pub panels: &'a [i8],
    /// `K`
    pub inputs: usize,
    /// `[outputs]`: what a weight of 1 is worth.
    pub scale: &'a [f32],
    /// `[outputs]`: the sum of an output's weights.
    pub sum: &'a [i32],
    /// `[outputs]`, or empty.
    pub bias: &'a [f32],
    /// What follows.
    pub after: After,
}

/// What becomes of the outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// They stay.
    Nothing,
    /// Each is activated.
    Activated(Activation),
    /// `activation(first half) · second half`; the halves' panels take turns.
    Gated(Activation),
}

/// Quantized rows.
#[derive(Debug, Clone, Copy)]
pub struct QuantizedRows<'a> {
    /// `[rows, K]`, zero point 128.
    pub q: &'a [u8],
    /// `[rows]`
    pub scale: &'a [f32],
    /// What quantization cut off, input and value: `[rows, room]`, of which the first `cut_off_counts[row]` count.
    pub cut_off: &'a [(u32, f32)],
    /// `[rows]`, or empty when nothing is ever cut off.
    pub cut_off_counts: &'a [usize],
}

impl QuantizedRows<'_> {
    fn cut_off(&self, row: usize) -> &[(u32, f32)] {
        let Some(&count) = self.cut_off_counts.get(row) else { return &[] };
        let room = self.cut_off.len() / self.cut_off_counts.len();
        &self.cut_off[row * room..row * room + count]
    }
}

impl Int8Weights<'_> {
    /// Outputs that come together: those of one panel, or of a gate and its values.
    fn group_panels(&self) -> usize {
        if matches!(self.after, After::Gated(_)) { 2 } else { 1 }
    }

    /// Columns of the result.
    pub fn columns(&self) -> usize {
        self.scale.len() / self.group_panels()
    }

    /// Groups of panels: each gives up to 16 columns of the result, and can be worked on alone.
    pub fn groups(&self) -> usize {
        self.columns().div_ceil(PANEL_OUTPUTS)
    }

    /// Bytes of a group.
    pub fn group_bytes(&self) -> usize {
        self.group_panels() * self.inputs * PANEL_OUTPUTS
    }
}

/// What is asked of the memory before it is needed: step `k` of a panel asks for `from + k · step`. It may point
/// anywhere.
#[derive(Clone, Copy)]
struct Ahead {
    from: *const i8,
    step: usize,
}

/// Sums of up to eight rows and a panel's outputs.
type Sums = [[i32; PANEL_OUTPUTS]; ROW_TILE];

/// What an instruction set does in its own way.
trait Machine {
    /// `sums[p][r][o] = Σ_k (q[r · stride + k] − 128) · panels[p][k][o]` for `ROWS` rows. `starts[p][o]` is
    /// `−128 · Σ_k panels[p][k][o]`.
    ///
    /// # Safety
    /// The machine has the instruction set. `q` has `ROWS` rows of `4 · steps` bytes at that stride, each panel
    /// `64 · steps`.
    unsafe fn dot<const ROWS: usize, const PANELS: usize>(
        q: *const u8,
        stride: usize,
        panels: [*const i8; PANELS],
        steps: usize,
        ahead: Ahead,
        starts: &[[i32; PANEL_OUTPUTS]; PANELS],
        sums: &mut [Sums; PANELS],
    );

    /// `values[o] += Σ value · panel[input][o] · scale[o]` over the inputs and values of `cut_off`.
    ///
    /// # Safety
    /// The machine has the instruction set, and the panel the inputs.
    #[inline(always)]
    unsafe fn add_cut_off(
        panel: &[i8],
        cut_off: &[(u32, f32)],
        scale: &[f32; PANEL_OUTPUTS],
        values: &mut [f32; PANEL_OUTPUTS],
    ) {
        for &(input, value) in cut_off {
            for (output, (values, scale)) in values.iter_mut().zip(scale).enumerate() {
                let weight = f32::from(panel[panel_place(output, input as usize)]) * scale;
                *values += value * weight;
            }
        }
    }

    /// Writes the first `width` of `values`.
    ///
    /// # Safety
    /// The machine has the instruction set, and `out` is memory for so many.
    #[inline(always)]
    unsafe fn store(values: &[f32; PANEL_OUTPUTS], out: *mut f32, width: usize) {
        // SAFETY: the caller's word.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), out, width) };
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::*;

    /// AVX-512 with the dot-product instructions, 64 multiplications each.
    pub struct Avx512Vnni;

    /// Sums of a tile that must be on their way at once, so that none waits for the one before it.
    const CHAINS: usize = 8;

    impl Machine for Avx512Vnni {
        #[inline(always)]
        unsafe fn dot<const ROWS: usize, const PANELS: usize>(
            q: *const u8,
            stride: usize,
            panels: [*const i8; PANELS],
            steps: usize,
            ahead: Ahead,
            starts: &[[i32; PANEL_OUTPUTS]; PANELS],
            sums: &mut [Sums; PANELS],
        ) {
            // Few rows take several steps at a time, in sums of their own.
            let chains = (CHAINS / (ROWS * PANELS)).clamp(1, CHAINS);
            // SAFETY: the caller gives rows and panels of these lengths; the prefetch may point anywhere.
            unsafe {
                let mut acc = [[[_mm512_setzero_si512(); PANELS]; ROWS]; CHAINS];
                for panel in 0..PANELS {
                    let start = _mm512_loadu_si512(starts[panel].as_ptr().cast());
                    acc[0].iter_mut().for_each(|acc| acc[panel] = start);
                }
                let step = |acc: &mut [[__m512i; PANELS]; ROWS], k: usize| {
                    _mm_prefetch::<_MM_HINT_T0>(ahead.from.wrapping_add(k * ahead.step));
                    let weights = panels.map(|panel| _mm512_loadu_si512(panel.add(k * STEP).cast()));
                    for (row, acc) in acc.iter_mut().enumerate() {
                        let x = _mm512_set1_epi32(q.add(row * stride + 4 * k).cast::<i32>().read_unaligned());
                        for (acc, weights) in acc.iter_mut().zip(weights) {
                            *acc = _mm512_dpbusd_epi32(*acc, x, weights);
                        }
                    }
                };
                let whole = steps / chains * chains;
                let mut k = 0;
                while k < whole {
                    for (chain, acc) in acc.iter_mut().enumerate().take(chains) {
                        step(acc, k + chain);
                    }
                    k += chains;
                }
                for k in whole..steps {
                    step(&mut acc[0], k);
                }
                for panel in 0..PANELS {
                    for row in 0..ROWS {
                        let mut sum = acc[0][row][panel];
                        for acc in acc.iter().take(chains).skip(1) {
                            sum = _mm512_add_epi32(sum, acc[row][panel]);
                        }
                        _mm512_storeu_si512(sums[panel][row].as_mut_ptr().cast(), sum);
                    }
                }
            }
        }

        // The compiler takes the loop apart, and pays for putting it together.
        #[inline(always)]
        unsafe fn add_cut_off(
            panel: &[i8],
            cut_off: &[(u32, f32)],
            scale: &[f32; PANEL_OUTPUTS],
            values: &mut [f32; PANEL_OUTPUTS],
        ) {
            // SAFETY: scales and values are a register each; the caller gives a panel that has the inputs.
            unsafe {
                let scale = _mm512_loadu_ps(scale.as_ptr());
                let mut sum = _mm512_loadu_ps(values.as_ptr());
                for &(input, value) in cut_off {
                    let (step, place) = (input as usize / PANEL_INPUTS, input as usize % PANEL_INPUTS);
                    // Four weights of each output as a number: shifts take out the one, with its sign.
                    let quads = _mm512_loadu_si512(panel.as_ptr().add(step * STEP).cast());
                    let left = _mm512_sllv_epi32(quads, _mm512_set1_epi32(24 - 8 * place as i32));
                    let weights = _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(left));
                    sum = _mm512_fmadd_ps(_mm512_set1_ps(value), _mm512_mul_ps(weights, scale), sum);
                }
                _mm512_storeu_ps(values.as_mut_ptr(), sum);
            }
        }

        #[inline(always)]
        unsafe fn store(values: &[f32; PANEL_OUTPUTS], out: *mut f32, width: usize) {
            // SAFETY: the caller gives memory for so many.
            unsafe {
                let values = _mm512_loadu_ps(values.as_ptr());
                if width == PANEL_OUTPUTS {
                    _mm512_storeu_ps(out, values);
                } else {
                    _mm512_mask_storeu_ps(out, u16::MAX >> (PANEL_OUTPUTS - width), values);
                }
            }
        }
    }

    /// AVX2: products of absolute values and weights with the sign moved over, which cannot overflow 16 bits, since
    /// neither side holds −128.
    pub struct Avx2;

    impl Machine for Avx2 {
        #[inline(always)]
        unsafe fn dot<const ROWS: usize, const PANELS: usize>(
            q: *const u8,
            stride: usize,
            panels: [*const i8; PANELS],
            steps: usize,
            ahead: Ahead,
            _: &[[i32; PANEL_OUTPUTS]; PANELS],
            sums: &mut [Sums; PANELS],
        ) {
            // SAFETY: the caller gives rows and panels of these lengths; the prefetch may point anywhere.
            unsafe {
                let ones = _mm256_set1_epi16(1);
                let zero_point = _mm256_set1_epi8(ZERO_POINT.cast_signed());
                for panel in 0..PANELS {
                    // Four rows and a panel fill the registers.
                    for first in (0..ROWS).step_by(4) {
                        let rows = 4.min(ROWS - first);
                        let mut acc = [[_mm256_setzero_si256(); 2]; 4];
                        for k in 0..steps {
                            let at = panels[panel].add(k * STEP);
                            _mm_prefetch::<_MM_HINT_T0>(ahead.from.wrapping_add(k * ahead.step));
                            let weights =
                                [_mm256_loadu_si256(at.cast()), _mm256_loadu_si256(at.add(STEP / 2).cast())];
                            for (row, acc) in acc.iter_mut().enumerate().take(rows) {
                                let x = q.add((first + row) * stride + 4 * k).cast::<i32>().read_unaligned();
                                let x = _mm256_xor_si256(_mm256_set1_epi32(x), zero_point);
                                let size = _mm256_abs_epi8(x);
                                for half in 0..2 {
                                    let signed = _mm256_sign_epi8(weights[half], x);
                                    let pairs = _mm256_madd_epi16(_mm256_maddubs_epi16(size, signed), ones);
                                    acc[half] = _mm256_add_epi32(acc[half], pairs);
                                }
                            }
                        }
                        for (row, acc) in acc.iter().enumerate().take(rows) {
                            let out = sums[panel][first + row].as_mut_ptr();
                            _mm256_storeu_si256(out.cast(), acc[0]);
                            _mm256_storeu_si256(out.add(PANEL_OUTPUTS / 2).cast(), acc[1]);
                        }
                    }
                }
            }
        }
    }
}

/// Plain loops.
struct Plain;

impl Machine for Plain {
    #[inline(always)]
    unsafe fn dot<const ROWS: usize, const PANELS: usize>(
        q: *const u8,
        stride: usize,
        panels: [*const i8; PANELS],
        steps: usize,
        _: Ahead,
        _: &[[i32; PANEL_OUTPUTS]; PANELS],
        sums: &mut [Sums; PANELS],
    ) {
        for (panel, sums) in panels.into_iter().zip(sums) {
            // SAFETY: the caller gives panels of this length.
            let panel = unsafe { std::slice::from_raw_parts(panel, steps * STEP) };
            for (row, sums) in sums.iter_mut().enumerate().take(ROWS) {
                // SAFETY: likewise rows.
                let q = unsafe { std::slice::from_raw_parts(q.add(row * stride), steps * PANEL_INPUTS) };
                *sums = [0; PANEL_OUTPUTS];
                for (q, weights) in q.as_chunks::<PANEL_INPUTS>().0.iter().zip(panel.as_chunks::<STEP>().0) {
                    let (weights, _) = weights.as_chunks::<PANEL_INPUTS>();
                    for (sum, weights) in sums.iter_mut().zip(weights) {
                        for (q, weight) in q.iter().zip(weights) {
                            *sum += (i32::from(*q) - i32::from(ZERO_POINT)) * i32::from(*weight);
                        }
                    }
                }
            }
        }
    }
}

/// Where a result goes: column `c` of row `r` is `data[r · columns + c]`.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// `[rows, columns]`
    pub data: *mut f32,
    /// Width of the whole result.
    pub columns: usize,
}

/// Computes the columns of `groups` for `rows`.
///
/// # Panics
/// When weights, rows and their sizes do not fit.
///
/// # Safety
/// `target` is memory of all rows, and no other thread touches these columns of these rows.
pub unsafe fn multiply(
    weights: Int8Weights<'_>,
    x: QuantizedRows<'_>,
    groups: Range<usize>,
    rows: Range<usize>,
    target: Target,
) {
    let panels = weights.groups() * weights.group_panels();
    assert!(
        weights.inputs.is_multiple_of(PANEL_INPUTS)
            && weights.panels.len() == panels * weights.inputs * PANEL_OUTPUTS
            && weights.sum.len() == weights.scale.len()
            && (weights.bias.is_empty() || weights.bias.len() == weights.scale.len())
            && x.q.len() == x.scale.len() * weights.inputs
            && (x.cut_off_counts.is_empty() || x.cut_off_counts.len() == x.scale.len())
            && groups.end <= weights.groups()
            && rows.end <= x.scale.len()
            && target.columns == weights.columns(),
        "weights, rows and result do not fit"
    );
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
        unsafe fn avx512(
            weights: Int8Weights<'_>,
            x: QuantizedRows<'_>,
            groups: Range<usize>,
            rows: Range<usize>,
            target: Target,
        ) {
            // SAFETY: as the caller's; the features are enabled here.
            unsafe { multiply_body::<x86::Avx512Vnni, true>(weights, x, groups, rows, target) }
        }
        #[target_feature(enable = "avx2,fma")]
        unsafe fn avx2(
            weights: Int8Weights<'_>,
            x: QuantizedRows<'_>,
            groups: Range<usize>,
            rows: Range<usize>,
            target: Target,
        ) {
            // SAFETY: as the caller's; the features are enabled here.
            unsafe { multiply_body::<x86::Avx2, true>(weights, x, groups, rows, target) }
        }
        match Isa::detect() {
            // SAFETY: `has_vnni` and `detect` have found these features; the rest is the caller's word.
            Isa::Avx512 if Isa::has_vnni() => return unsafe { avx512(weights, x, groups, rows, target) },
            // SAFETY: likewise; AVX-512 includes AVX2.
            Isa::Avx512 | Isa::Avx2 => return unsafe { avx2(weights, x, groups, rows, target) },
            Isa::Baseline => {}
        }
    }
    // SAFETY: plain loops need no instruction set; the rest is the caller's word.
    unsafe { multiply_body::<Plain, false>(weights, x, groups, rows, target) }
}

/// A panel, and what its outputs need.
#[derive(Clone, Copy)]
struct Panel<'a> {
    weights: &'a [i8],
    /// `−128 · Σ_k weights[k][o]`
    start: [i32; PANEL_OUTPUTS],
    scale: [f32; PANEL_OUTPUTS],
    bias: [f32; PANEL_OUTPUTS],
    /// Its first column of the result, and how many it has.
    column: usize,
    width: usize,
}

impl<'a> Panel<'a> {
    const NONE: Panel<'static> = Panel {
        weights: &[],
        start: [0; PANEL_OUTPUTS],
        scale: [0.0; PANEL_OUTPUTS],
        bias: [0.0; PANEL_OUTPUTS],
        column: 0,
        width: 0,
    };

    #[inline(always)]
    fn new(weights: &Int8Weights<'a>, index: usize) -> Self {
        let bytes = weights.inputs * PANEL_OUTPUTS;
        let (columns, group) = (weights.columns(), weights.group_panels());
        let column = index / group * PANEL_OUTPUTS;
        let width = PANEL_OUTPUTS.min(columns - column);
        let first = index % group * columns + column;
        let outputs = first..first + width;
        let mut panel = Self {
            weights: &weights.panels[index * bytes..(index + 1) * bytes],
            column,
            width,
            ..Self::NONE
        };
        for (start, sum) in panel.start.iter_mut().zip(&weights.sum[outputs.clone()]) {
            *start = -i32::from(ZERO_POINT) * sum;
        }
        panel.scale[..width].copy_from_slice(&weights.scale[outputs.clone()]);
        if !weights.bias.is_empty() {
            panel.bias[..width].copy_from_slice(&weights.bias[outputs]);
        }
        panel
    }
}

/// # Safety
/// As [`multiply`], and the machine has `M`'s instruction set.
#[inline(always)]
unsafe fn multiply_body<M: Machine, const FMA: bool>(
    weights: Int8Weights<'_>,
    x: QuantizedRows<'_>,
    groups: Range<usize>,
    rows: Range<usize>,
    target: Target,
) {
    let together = weights.group_panels();
    let pair = rows.len() >= MANY_ROWS;
    // Two groups of one panel make a pair as well.
    let step = if pair { 2 / together } else { 1 };
    let mut group = groups.start;
    while group < groups.end {
        let count = step.min(groups.end - group);
        let first = group * together;
        let mut panels = [Panel::NONE; 2];
        let panels = &mut panels[..count * together];
        for (index, panel) in panels.iter_mut().enumerate() {
            *panel = Panel::new(&weights, first + index);
        }
        // Even tiles: 9 rows are 5 and 4, not 8 and 1.
        let tiles = rows.len().div_ceil(ROW_TILE);
        // Each tile asks for a part of the panels that come next.
        let bytes = panels.len() * weights.inputs * PANEL_OUTPUTS;
        let next = weights.panels.as_ptr().wrapping_add(first * weights.inputs * PANEL_OUTPUTS + bytes);
        let mut row = rows.start;
        for index in 0..tiles {
            let tile = (rows.end - row).div_ceil(tiles - index);
            let ahead = pair.then(|| Ahead {
                from: next.wrapping_add(index * bytes / tiles),
                step: bytes / tiles / (weights.inputs / PANEL_INPUTS),
            });
            let rows = TileRows { x, first: row, count: tile, inputs: weights.inputs };
            // SAFETY: rows, panels and result are within bounds by the check in `multiply`.
            unsafe { multiply_tile::<M, FMA>(panels, rows, weights.after, target, ahead) };
            row += tile;
        }
        group += count;
    }
}

/// Up to eight rows.
#[derive(Clone, Copy)]
struct TileRows<'a> {
    x: QuantizedRows<'a>,
    first: usize,
    count: usize,
    /// `K`
    inputs: usize,
}

/// Multiplies one or two panels and up to eight rows.
///
/// # Safety
/// As [`multiply_body`].
#[inline(always)]
unsafe fn multiply_tile<M: Machine, const FMA: bool>(
    panels: &[Panel<'_>],
    rows: TileRows<'_>,
    after: After,
    target: Target,
    ahead: Option<Ahead>,
) {
    let mut sums = [[[0; PANEL_OUTPUTS]; ROW_TILE]; 2];
    match (panels, ahead) {
        // SAFETY: the caller's word.
        (&[first, second], Some(ahead)) => unsafe { dot::<M, 2>([&first, &second], rows, ahead, &mut sums) },
        _ => {
            for (panel, sums) in panels.iter().zip(&mut sums) {
                let from = panel.weights.as_ptr().wrapping_add(PREFETCH);
                let ahead = ahead.unwrap_or(Ahead { from, step: STEP });
                // SAFETY: likewise.
                unsafe { dot::<M, 1>([panel], rows, ahead, std::array::from_mut(sums)) };
            }
        }
    }
    let mut values = [[[0.0; PANEL_OUTPUTS]; ROW_TILE]; 2];
    for ((panel, sums), values) in panels.iter().zip(&sums).zip(&mut values) {
        for (index, (sums, values)) in sums.iter().zip(values).enumerate().take(rows.count) {
            let row_scale = rows.x.scale[rows.first + index];
            for lane in 0..PANEL_OUTPUTS {
                values[lane] =
                    multiply_add::<FMA>(sums[lane] as f32 * panel.scale[lane], row_scale, panel.bias[lane]);
            }
            let cut_off = rows.x.cut_off(rows.first + index);
            if !cut_off.is_empty() {
                // SAFETY: rows have as many inputs as the panel; the instruction set is the caller's word.
                unsafe { M::add_cut_off(panel.weights, cut_off, &panel.scale, values) };
            }
        }
    }
    // All rows at once: one vector alone would wait for each of its own steps.
    let used = rows.count * PANEL_OUTPUTS;
    let results = match after {
        After::Nothing => panels.len(),
        After::Activated(activation) => {
            for values in &mut values[..panels.len()] {
                activate::<FMA>(activation, &mut values.as_flattened_mut()[..used]);
            }
            panels.len()
        }
        After::Gated(activation) => {
            let [gate, values] = &mut values;
            let (gate, values) = (gate.as_flattened_mut(), values.as_flattened());
            activate::<FMA>(activation, &mut gate[..used]);
            gate[..used].iter_mut().zip(values).for_each(|(gate, value)| *gate *= value);
            1
        }
    };
    for index in 0..rows.count {
        for (panel, values) in panels.iter().zip(&values).take(results) {
            let place = (rows.first + index) * target.columns + panel.column;
            // SAFETY: this part of the result is this thread's by the caller's word.
            unsafe { M::store(&values[index], target.data.add(place), panel.width) };
        }
    }
}

/// # Safety
/// As [`multiply_body`].
#[inline(always)]
unsafe fn dot<M: Machine, const PANELS: usize>(
    panels: [&Panel<'_>; PANELS],
    rows: TileRows<'_>,
    ahead: Ahead,
    sums: &mut [Sums; PANELS],
) {
    let starts = panels.map(|panel| panel.start);
    let panels = panels.map(|panel| panel.weights.as_ptr());
    let (stride, steps) = (rows.inputs, rows.inputs / PANEL_INPUTS);
    let q = rows.x.q[rows.first * stride..(rows.first + rows.count) * stride].as_ptr();
    // SAFETY: panels and rows have these lengths; the instruction set is the caller's word.
    unsafe {
        match rows.count {
            1 => M::dot::<1, PANELS>(q, stride, panels, steps, ahead, &starts, sums),
            2 => M::dot::<2, PANELS>(q, stride, panels, steps, ahead, &starts, sums),
            3 => M::dot::<3, PANELS>(q, stride, panels, steps, ahead, &starts, sums),
            4 => M::dot::<4, PANELS>(q, stride, panels, steps, ahead, &starts, sums),
            5 => M::dot::<5, PANELS>(q, stride, panels, steps, ahead, &starts, sums),
            6 => M::dot::<6, PANELS>(q, stride, panels, steps, ahead, &starts, sums),
            7 => M::dot::<7, PANELS>(q, stride, panels, steps, ahead, &starts, sums),
            _ => M::dot::<8, PANELS>(q, stride, panels, steps, ahead, &starts, sums),
        }
    }
}

#[cfg(test)]
mod tests {
    use textgen_artifact::ops::{panel_inputs, panels};

    use super::*;
    use crate::model::kernels::{activation::plain_activation, collect_cut_off, cut_off_room, quantize_row};

    /// A layer and rows of pseudo-random numbers.
    struct Case {
        inputs: usize,
        outputs: usize,
        rows: usize,
        after: After,
        bias: bool,
        clip: f32,
    }

    struct Layer {
        case: Case,
        weight: Vec<i8>,
        packed: Vec<i8>,
        scale: Vec<f32>,
        sum: Vec<i32>,
        bias: Vec<f32>,
        q: Vec<u8>,
        row_scale: Vec<f32>,
        cut_off: Vec<(u32, f32)>,
        cut_off_counts: Vec<usize>,
    }

    impl Layer {
        fn new(case: Case) -> Self {
            let mut state = 7u32;
            let mut random = move || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 24) as f32 - 0.5
            };
            let Case { inputs, outputs, rows, after, bias, clip } = case;
            let weight: Vec<i8> = (0..inputs * outputs).map(|_| (random() * 254.0) as i8).collect();
            let scale = (0..outputs).map(|_| 0.001 + random().abs() * 0.01).collect();
            let bias = if bias { (0..outputs).map(|_| random()).collect() } else { Vec::new() };
            let sum = weight.chunks(inputs).map(|row| row.iter().map(|&w| i32::from(w)).sum()).collect();
            let parts = if matches!(after, After::Gated(_)) { 2 } else { 1 };
            let (half, width) = (outputs / parts, panel_inputs(inputs));
            let mut packed = vec![0; parts * panels(half) * width * PANEL_OUTPUTS];
            for output in 0..outputs {
                let (part, column) = (output / half, output % half);
                let panel = column / PANEL_OUTPUTS * parts + part;
                for input in 0..inputs {
                    packed[panel * width * PANEL_OUTPUTS + panel_place(column % PANEL_OUTPUTS, input)] =
                        weight[output * inputs + input];
                }
            }
            let mut layer = Self {
                weight,
                packed,
                scale,
                sum,
                bias,
                q: vec![128; rows * width],
                row_scale: vec![0.0; rows],
                cut_off: vec![(0, 0.0); rows * cut_off_room(inputs, clip)],
                cut_off_counts: vec![0; rows],
                case: Case { inputs, outputs, rows, after, bias: false, clip },
            };
            for row in 0..rows {
                let mut x: Vec<f32> = (0..inputs).map(|_| random()).collect();
                x[row % inputs] *= 50.0;
                let q = &mut layer.q[row * width..row * width + inputs];
                quantize_row(&x, clip, q, &mut layer.row_scale[row]);
                let room = cut_off_room(inputs, clip);
                let cut_off = &mut layer.cut_off[row * room..(row + 1) * room];
                collect_cut_off(&x, layer.row_scale[row], cut_off, &mut layer.cut_off_counts[row]);
            }
            layer
        }

        fn weights(&self) -> Int8Weights<'_> {
            Int8Weights {
                panels: &self.packed,
                inputs: panel_inputs(self.case.inputs),
                scale: &self.scale,
                sum: &self.sum,
                bias: &self.bias,
                after: self.case.after,
            }
        }

        fn rows(&self) -> QuantizedRows<'_> {
            QuantizedRows {
                q: &self.q,
                scale: &self.row_scale,
                cut_off: &self.cut_off,
                cut_off_counts: &self.cut_off_counts,
            }
        }

        /// The layer in double precision.
        fn expected(&self, row: usize, column: usize) -> f64 {
            let Case { inputs, outputs, after, .. } = self.case;
            let linear = |output: usize| {
                let start = row * panel_inputs(inputs);
                let scale = f64::from(self.scale[output]);
                let mut sum = 0.0;
                for input in 0..inputs {
                    let x = (f64::from(self.q[start + input]) - 128.0) * f64::from(self.row_scale[row]);
                    sum += x * f64::from(self.weight[output * inputs + input]) * scale;
                }
                for &(input, value) in self.rows().cut_off(row) {
                    sum +=
                        f64::from(value) * f64::from(self.weight[output * inputs + input as usize]) * scale;
                }
                sum + self.bias.get(output).map_or(0.0, |&bias| f64::from(bias))
            };
            match after {
                After::Nothing => linear(column),
                After::Activated(activation) => plain_activation(activation, linear(column)),
                After::Gated(activation) => {
                    plain_activation(activation, linear(column)) * linear(column + outputs / 2)
                }
            }
        }

        fn multiply(&self, with: impl Fn(Int8Weights<'_>, QuantizedRows<'_>, Target)) -> Vec<f32> {
            let weights = self.weights();
            let mut y = vec![f32::NAN; self.case.rows * weights.columns()];
            with(weights, self.rows(), Target { data: y.as_mut_ptr(), columns: weights.columns() });
            y
        }
    }

    fn cases() -> impl Iterator<Item = Layer> {
        let gelu = Activation::GeluTanh;
        let kinds = [
            After::Nothing,
            After::Activated(Activation::Relu),
            After::Gated(gelu),
            After::Gated(Activation::Silu),
        ];
        let sizes = [(4, 16, 1), (20, 36, 3), (70, 34, 8), (64, 96, 9), (130, 50, 21)];
        kinds.into_iter().flat_map(move |after| {
            sizes.into_iter().enumerate().map(move |(index, (inputs, outputs, rows))| {
                let (bias, clip) = (index % 2 == 0, if index % 3 == 1 { 4.0 } else { 0.0 });
                Layer::new(Case { inputs, outputs, rows, after, bias, clip })
            })
        })
    }

    #[test]
    fn agrees_with_the_formula() {
        for layer in cases() {
            let y = layer.multiply(|weights, x, target| {
                // SAFETY: the target has all rows and columns, and this is the only thread.
                unsafe { multiply(weights, x, 0..weights.groups(), 0..x.scale.len(), target) };
            });
            let columns = layer.weights().columns();
            for (index, &y) in y.iter().enumerate() {
                let expected = layer.expected(index / columns, index % columns);
                let close = (f64::from(y) - expected).abs() <= 2e-6 * (1.0 + expected.abs());
                assert!(close, "{:?} [{index}]: got {y}, expected {expected}", layer.case.after);
            }
        }
    }

    #[test]
    fn neither_the_blocking_nor_the_company_shows() {
        for layer in cases() {
            // SAFETY: as above; the parts are written one after the other.
            let whole = layer.multiply(|weights, x, target| unsafe {
                multiply(weights, x, 0..weights.groups(), 0..x.scale.len(), target);
            });
            let parts = layer.multiply(|weights, x, target| {
                for group in 0..weights.groups() {
                    for row in 0..x.scale.len() {
                        // SAFETY: as above.
                        unsafe { multiply(weights, x, group..group + 1, row..row + 1, target) };
                    }
                }
            });
            assert_eq!(whole, parts, "{:?}", layer.case.after);
        }
    }

    #[test]
    fn every_instruction_set_forms_the_same_sums() {
        fn sums<M: Machine>(layer: &Layer) -> Vec<Sums> {
            let (weights, x) = (layer.weights(), layer.rows());
            let count = layer.case.rows.min(ROW_TILE);
            let rows = TileRows { x, first: 0, count, inputs: weights.inputs };
            let panels = weights.groups() * weights.group_panels();
            let ahead = Ahead { from: weights.panels.as_ptr(), step: STEP };
            let one = |panel| {
                let mut sums = [[[0; PANEL_OUTPUTS]; ROW_TILE]];
                // SAFETY: only instruction sets of this machine are asked for.
                unsafe { dot::<M, 1>([&Panel::new(&weights, panel)], rows, ahead, &mut sums) };
                sums[0]
            };
            (0..panels).map(one).collect()
        }
        for layer in cases() {
            let plain = sums::<Plain>(&layer);
            #[cfg(target_arch = "x86_64")]
            {
                if is_x86_feature_detected!("avx2") {
                    assert_eq!(sums::<x86::Avx2>(&layer), plain);
                }
                if Isa::has_vnni() {
                    assert_eq!(sums::<x86::Avx512Vnni>(&layer), plain);
                }
            }
        }
    }
}
