//! Memory of a device with a shape.

use std::{ptr::NonNull, slice, sync::Arc};

use super::{Device, Pieces, Queue, Span};
use crate::{
    error::{Error, Result},
    model::binding::{Element, ElementType, element_bytes},
};

/// Memory of a device, freed when the last tensor in it is gone.
struct Memory {
    device: Arc<dyn Device>,
    start: NonNull<u8>,
}

// SAFETY: the address is the device's, which may be used from any thread; nothing here reads through it.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Drop for Memory {
    fn drop(&mut self) {
        self.device.free(self.start);
    }
}

/// A tensor in a device's memory; its clones and parts are in the same memory. Its first dimension counts slots or rows.
#[derive(Clone)]
pub(in crate::model) struct DeviceTensor {
    memory: Arc<Memory>,
    offset: usize,
    element: ElementType,
    dims: Vec<i64>,
}

impl DeviceTensor {
    /// Zeroed memory of this shape.
    pub fn zeroed(
        device: &Arc<dyn Device>,
        name: &str,
        element: ElementType,
        dims: &[usize],
    ) -> Result<Self> {
        let bytes = dims
            .iter()
            .try_fold(element_bytes(element), |bytes, &dim| bytes.checked_mul(dim))
            .filter(|&bytes| bytes > 0 && isize::try_from(bytes).is_ok())
            .ok_or_else(|| {
                Error::invalid_argument(format!("{name}: a tensor of shape {dims:?} has no valid size"))
            })?;
        let start = device.allocate(bytes).map_err(|error| {
            Error::invalid_argument(format!(
                "{name}: {bytes} bytes of shape {dims:?} cannot be reserved on the device: {error}; lower max_sequences, \
                 max_context_tokens, max_source_tokens or max_target_tokens"
            ))
        })?;
        Ok(Self {
            memory: Arc::new(Memory { device: device.clone(), start }),
            offset: 0,
            element,
            dims: dims.iter().map(|&dim| dim as i64).collect(),
        })
    }

    pub fn dims(&self) -> &[i64] {
        &self.dims
    }

    pub fn element(&self) -> ElementType {
        self.element
    }

    pub fn bytes(&self) -> usize {
        self.dims.iter().product::<i64>() as usize * element_bytes(self.element)
    }

    pub(super) fn span(&self) -> Span {
        Span { address: self.memory.start.as_ptr() as usize + self.offset, bytes: self.bytes() }
    }

    pub(super) fn data(&self) -> *mut u8 {
        // Within the memory, as every constructor has checked.
        self.memory.start.as_ptr().wrapping_add(self.offset)
    }

    pub(super) fn is_on(&self, device: &Arc<dyn Device>) -> bool {
        Arc::ptr_eq(&self.memory.device, device)
    }

    /// The `count` rows from `first` on.
    pub fn rows(&self, first: usize, count: usize) -> Result<Self> {
        let whole = self.dims.first().map_or(0, |&rows| rows as usize);
        if first + count > whole || count == 0 {
            return Err(Error::internal(format!(
                "rows {first}..{} of a tensor of shape {:?}",
                first + count,
                self.dims
            )));
        }
        let mut dims = self.dims.clone();
        dims[0] = count as i64;
        Ok(Self { offset: self.offset + self.bytes() / whole * first, dims, ..self.clone() })
    }

    /// The beginning of the same memory in another shape.
    pub fn shaped(&self, dims: &[usize]) -> Result<Self> {
        let shaped = Self { dims: dims.iter().map(|&dim| dim as i64).collect(), ..self.clone() };
        if shaped.bytes() == 0 || shaped.bytes() > self.bytes() {
            return Err(Error::internal(format!(
                "a tensor of shape {:?} taken for one of {dims:?}",
                self.dims
            )));
        }
        Ok(shaped)
    }

    /// The elements of another type and shape that begin at `first`, counted in those of this one.
    pub fn part(&self, first: usize, element: ElementType, dims: &[usize]) -> Result<Self> {
        let part = Self {
            offset: self.offset + first * element_bytes(self.element),
            element,
            dims: dims.iter().map(|&dim| dim as i64).collect(),
            ..self.clone()
        };
        if part.bytes() == 0 || part.offset + part.bytes() > self.offset + self.bytes() {
            return Err(Error::internal(format!(
                "a part of shape {dims:?} from {first} on of a tensor of shape {:?}",
                self.dims
            )));
        }
        Ok(part)
    }

    /// Writes the first elements.
    pub fn upload<T: Element>(&self, queue: Queue, from: &[T]) -> Result<()> {
        let span = self.beginning(from)?;
        // SAFETY: elements are plain numbers of any bits.
        let bytes = unsafe { slice::from_raw_parts(from.as_ptr().cast::<u8>(), span.bytes) };
        // SAFETY: the span lies in memory that `self` keeps alive, and is as long as the bytes.
        unsafe { self.memory.device.upload(queue, bytes, span) }
            .map_err(|error| Error::internal(format!("copy to the device: {error}")))
    }

    /// The first elements, to be read into `to`.
    pub fn to_host<'a, T: Element>(&'a self, to: &'a mut [T]) -> Result<Download<'a>> {
        let span = self.beginning(to)?;
        // SAFETY: elements are plain numbers of any bits, and nobody else has them.
        let to = unsafe { slice::from_raw_parts_mut(to.as_mut_ptr().cast::<u8>(), span.bytes) };
        Ok(Download { from: self, span, to })
    }

    fn beginning<T: Element>(&self, elements: &[T]) -> Result<Span> {
        let bytes = size_of_val(elements);
        if T::TYPE != self.element || bytes > self.bytes() {
            return Err(Error::internal(format!(
                "{} elements of type {:?} for a tensor of type {:?} and shape {:?}",
                elements.len(),
                T::TYPE,
                self.element,
                self.dims
            )));
        }
        Ok(Span { bytes, ..self.span() })
    }

    /// Copies all of `from` to the beginning of this one, on the device.
    pub fn copy_from(&self, queue: Queue, from: &DeviceTensor) -> Result<()> {
        let bytes = from.bytes();
        self.copy_pieces(queue, from, Pieces { bytes, pitch: bytes, count: 1 })
    }

    /// Copies the first `positions` of `from`, of the same shape `[…, positions, width]`: those of each head, where there
    /// are heads.
    pub fn copy_positions_from(&self, queue: Queue, from: &DeviceTensor, positions: usize) -> Result<()> {
        let &[ref apart @ .., limit, width] = &self.dims[..] else {
            return Err(Error::internal(format!("a tensor of shape {:?} has no positions", self.dims)));
        };
        if self.dims != from.dims || positions > limit as usize {
            return Err(Error::internal(format!(
                "a copy of {positions} positions of shape {:?} to one of {:?}",
                from.dims, self.dims
            )));
        }
        let bytes = width as usize * element_bytes(self.element);
        let count = apart.iter().product::<i64>() as usize;
        self.copy_pieces(
            queue,
            from,
            Pieces { bytes: positions * bytes, pitch: limit as usize * bytes, count },
        )
    }

    fn copy_pieces(&self, queue: Queue, from: &DeviceTensor, pieces: Pieces) -> Result<()> {
        let (from_span, to_span) = (from.span(), Span { bytes: from.bytes(), ..self.span() });
        let apart = from_span.address + from_span.bytes <= to_span.address
            || to_span.address + to_span.bytes <= from_span.address;
        if from.bytes() > self.bytes() || !from.is_on(&self.memory.device) || !apart {
            return Err(Error::internal(format!(
                "a copy of shape {:?} to one of {:?}",
                from.dims, self.dims
            )));
        }
        if pieces.bytes == 0 {
            return Ok(());
        }
        // SAFETY: both lie in live memory of this device, are of one length, which is that of the pieces, and do not
        // overlap.
        unsafe { self.memory.device.copy(queue, from_span, to_span, pieces) }
            .map_err(|error| Error::internal(format!("copy on the device: {error}")))
    }
}

/// What is to be read from a tensor.
pub(in crate::model) struct Download<'a> {
    from: &'a DeviceTensor,
    span: Span,
    to: &'a mut [u8],
}

impl Download<'_> {
    /// Reads all of `parts`, once everything that was asked of `queue` before is done.
    pub fn all<const N: usize>(queue: Queue, parts: [Download<'_>; N]) -> Result<()> {
        let Some(device) = parts.first().map(|part| part.from.memory.device.clone()) else { return Ok(()) };
        if !parts.iter().all(|part| part.from.is_on(&device)) {
            return Err(Error::internal("copies from several devices at once"));
        }
        let mut spans = parts.map(|part| (part.span, part.to));
        // SAFETY: the spans lie in memory that the tensors keep alive, and are as long as what they go to.
        unsafe { device.download(queue, &mut spans) }
            .map_err(|error| Error::internal(format!("copy from the device: {error}")))
    }
}
