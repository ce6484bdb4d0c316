//! Encodes sources, several at once, beside the decoder.
//!
//! A run of several sources is as wide as the longest, and what it makes of each is copied to its cross slot. All of it
//! goes through the encoder's own queue; a mark for each cross slot says when it is there.

use std::{path::Path, sync::Arc};

use ort::session::Session;
use textgen_artifact::{CudaSpec, ENCODER_FILE, Manifest, device_graph, graph};

use super::{I64, element_of};
use crate::{
    engine::{EncodeBatch, EncoderLimits},
    error::{Error, Result},
    model::{
        device::{Device, DeviceSession, DeviceTensor, Mark, Queue},
        graph_check::{ANY, GraphCheck},
    },
};

/// Tokens of one run, padding included, where the longest source does not have more: enough to keep a GPU busy.
const RUN_TOKENS: usize = 1024;

/// Tokens of one run, padding included.
pub(super) fn run_tokens(sizes: EncoderLimits) -> usize {
    sizes.max_source_tokens.max(RUN_TOKENS)
}

/// Sources of about the greatest length that fill a run.
pub(super) fn most_long_sources(sizes: EncoderLimits) -> usize {
    run_tokens(sizes).div_ceil(sizes.max_source_tokens)
}

/// See the module.
pub(super) struct Encoder {
    session: DeviceSession,
    device: Arc<dyn Device>,
    sizes: EncoderLimits,
    input_ids: DeviceTensor,
    lengths: DeviceTensor,
    /// Keys and values of each layer as a run leaves them, `[run_tokens, width]`.
    made: Vec<(String, DeviceTensor)>,
    /// Those of the sources, `[cross_slots, positions, width]`.
    sources: Vec<DeviceTensor>,
    /// When each cross slot has been written.
    encoded: Vec<Mark>,
    /// When the decoder has copied what it wanted to.
    copied: Mark,
    /// Rows of a batch, longest first; ids and lengths of a run. Kept for their memory.
    order: Vec<usize>,
    ids: Vec<i64>,
    row_lengths: Vec<i64>,
}

/// The encoder's graph on `device`.
pub(super) fn session(
    dir: &Path,
    manifest: &Manifest,
    device: &Arc<dyn Device>,
    load: &dyn Fn(&Path, Queue) -> Result<Session>,
) -> Result<DeviceSession> {
    let geometry = &manifest.geometry;
    let path = dir.join(ENCODER_FILE);
    let session = DeviceSession::new("encoder", load(&path, Queue::Encode)?, device.clone(), Queue::Encode)?;
    let check = GraphCheck { path: &path, session: session.session() };
    check.input(device_graph::INPUT_IDS, &[ANY, ANY])?;
    check.input(device_graph::LENGTHS, &[ANY])?;
    let width = geometry.cross_kv_heads * geometry.head_dim;
    for layer in 0..geometry.decoder_layers {
        check.output(&graph::present_cross_key(layer), &[ANY, ANY, width])?;
        check.output(&graph::present_cross_value(layer), &[ANY, ANY, width])?;
    }
    Ok(session)
}

impl Encoder {
    /// Reserves what the sources need.
    pub fn reserve(
        session: DeviceSession,
        manifest: &Manifest,
        spec: CudaSpec,
        sizes: EncoderLimits,
        device: &Arc<dyn Device>,
    ) -> Result<Self> {
        let geometry = &manifest.geometry;
        let width = geometry.cross_kv_heads * geometry.head_dim;
        let element = element_of(spec.caches)?;
        let zeroed = |name: &str, element, dims: &[usize]| DeviceTensor::zeroed(device, name, element, dims);
        let (mut made, mut sources) = (Vec::new(), Vec::new());
        for layer in 0..geometry.decoder_layers {
            for name in [graph::present_cross_key(layer), graph::present_cross_value(layer)] {
                sources.push(zeroed(&name, element, &[sizes.cross_slots, sizes.max_source_tokens, width])?);
                let memory = zeroed(&name, element, &[run_tokens(sizes), width])?;
                made.push((name, memory));
            }
        }
        let mark = || device.new_mark().map_err(|error| Error::internal(format!("encoder: {error}")));
        Ok(Self {
            session,
            device: device.clone(),
            sizes,
            input_ids: zeroed(device_graph::INPUT_IDS, I64, &[run_tokens(sizes)])?,
            lengths: zeroed(device_graph::LENGTHS, I64, &[sizes.cross_slots])?,
            made,
            sources,
            encoded: (0..sizes.cross_slots).map(|_| mark()).collect::<Result<_>>()?,
            copied: mark()?,
            order: Vec::new(),
            ids: Vec::new(),
            row_lengths: Vec::new(),
        })
    }

    /// The session, with nothing bound.
    pub fn into_session(mut self) -> Result<DeviceSession> {
        self.session.unbind()?;
        Ok(self.session)
    }

    /// Bytes that ONNX Runtime holds.
    pub fn held_bytes(&self) -> usize {
        self.session.held_bytes()
    }

    /// Has the sources of `batch` encoded into their cross slots; does not wait until they are.
    pub fn encode(&mut self, batch: &EncodeBatch) -> Result<()> {
        // Whoever had a slot before may still be copying from it.
        self.set_mark(Queue::Decode, self.copied)?;
        self.follow(Queue::Encode, self.copied)?;
        let mut order = std::mem::take(&mut self.order);
        order.clear();
        order.extend(0..batch.rows());
        order.sort_by_key(|&row| std::cmp::Reverse(batch.row(row).len()));
        let mut rest = &order[..];
        let mut result = Ok(());
        while let Some(&longest) = rest.first()
            && result.is_ok()
        {
            let width = batch.row(longest).len();
            let (rows, later) = rest.split_at(rest.len().min(run_tokens(self.sizes) / width));
            result = self.run(batch, rows, width);
            rest = later;
        }
        self.order = order;
        result
    }

    /// Encodes `rows` of `batch`, all in one run of `width` tokens a row.
    fn run(&mut self, batch: &EncodeBatch, rows: &[usize], width: usize) -> Result<()> {
        self.ids.clear();
        self.row_lengths.clear();
        for (place, &row) in rows.iter().enumerate() {
            self.ids.extend(batch.row(row).iter().map(|&token| i64::from(token)));
            self.ids.resize((place + 1) * width, 0);
            self.row_lengths.push(batch.row(row).len() as i64);
        }
        let queue = Queue::Encode;
        self.input_ids.upload(queue, &self.ids)?;
        self.lengths.upload(queue, &self.row_lengths)?;
        self.session.bind_input(device_graph::INPUT_IDS, self.input_ids.shaped(&[rows.len(), width])?)?;
        self.session.bind_input(device_graph::LENGTHS, self.lengths.shaped(&[rows.len()])?)?;
        for (name, memory) in &self.made {
            let elements = memory.dims().last().map_or(0, |&elements| elements as usize);
            self.session.bind_output(name, memory.shaped(&[rows.len(), width, elements])?)?;
        }
        self.session.run(None).map_err(|error| Error::internal(format!("encoder step: {error}")))?;
        for (place, &row) in rows.iter().enumerate() {
            let (cross, tokens) = (batch.cross_slots[row] as usize, batch.row(row).len());
            for ((_, made), source) in self.made.iter().zip(&self.sources) {
                source.rows(cross, 1)?.copy_from(queue, &made.rows(place * width, tokens)?)?;
            }
            self.set_mark(queue, self.encoded[cross])?;
        }
        Ok(())
    }

    /// Whether a cross slot has been written.
    pub fn is_encoded(&self, cross: usize) -> Result<bool> {
        self.device
            .is_reached(self.encoded[cross])
            .map_err(|error| Error::internal(format!("encoder: {error}")))
    }

    /// Copies the `tokens` of a source to row `slot` of each of `to`, once it is there.
    pub fn give(
        &self,
        cross: usize,
        tokens: usize,
        to: &[(String, DeviceTensor)],
        slot: usize,
    ) -> Result<()> {
        self.follow(Queue::Decode, self.encoded[cross])?;
        for ((_, to), from) in to.iter().zip(&self.sources) {
            to.rows(slot, 1)?.copy_positions_from(Queue::Decode, &from.rows(cross, 1)?, tokens)?;
        }
        Ok(())
    }

    /// Runs as large as any: of the longest sources, and of as many as fill a run.
    pub fn warm_up(&mut self) -> Result<()> {
        let (longest, tokens) = (self.sizes.max_source_tokens, run_tokens(self.sizes));
        let most = |rows: usize| rows.min(self.sizes.cross_slots);
        let shapes = [tokens / longest, most_long_sources(self.sizes)]
            .map(most)
            .map(|rows| (rows, longest.min(tokens / rows)));
        for (rows, width) in shapes {
            let mut batch = EncodeBatch::default();
            (0..rows).for_each(|cross| batch.push(&vec![0; width], cross));
            self.encode(&batch)?;
        }
        Ok(())
    }

    fn set_mark(&self, queue: Queue, mark: Mark) -> Result<()> {
        self.device.set_mark(queue, mark).map_err(|error| Error::internal(format!("encoder: {error}")))
    }

    fn follow(&self, queue: Queue, mark: Mark) -> Result<()> {
        self.device.follow(queue, mark).map_err(|error| Error::internal(format!("encoder: {error}")))
    }
}
