//! One call of an operator: its tensors as slices, its errors, and the runtime's threads.

use std::{
    ffi::c_void,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr, slice,
    sync::atomic::{AtomicBool, Ordering},
};

use ort::{
    AsPointer,
    operator::{ComputeContext, KernelContext},
};

use crate::model::{binding::Element, status::check};

/// Inputs, outputs and threads of one call. Nothing here allocates.
pub struct Call<'a> {
    context: &'a ComputeContext,
    operator: &'static str,
}

/// An input: its elements and its shape.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a, T> {
    pub data: &'a [T],
    pub dims: &'a [i64],
}

/// A buffer that the call changes in place: bound as an input and as an output at one address. There is no
/// slice of the whole, since threads write their own slots at the same time.
#[derive(Debug, Clone, Copy)]
pub struct InPlace<'a> {
    pub data: SharedMut<f32>,
    pub dims: &'a [i64],
}

impl<'a> Call<'a> {
    pub fn new(context: &'a ComputeContext, operator: &'static str) -> Self {
        Self { context, operator }
    }

    /// An error that names the operator.
    pub fn error(&self, message: impl std::fmt::Display) -> ort::Error {
        ort::Error::new(format!("{}: {message}", self.operator))
    }

    fn check(&self, status: ort::sys::OrtStatusPtr) -> ort::Result<()> {
        check(status).map_err(|message| self.error(message))
    }

    /// A required input.
    pub fn input<T: Element>(&self, index: usize) -> ort::Result<Input<'a, T>> {
        self.required(index, self.optional_input(index)?)
    }

    fn required<T>(&self, index: usize, input: Option<T>) -> ort::Result<T> {
        input.ok_or_else(|| self.error(format_args!("input {index} is missing")))
    }

    /// An input that the graph may leave out.
    pub fn optional_input<T: Element>(&self, index: usize) -> ort::Result<Option<Input<'a, T>>> {
        let Some((data, dims)) = self.raw_input::<T>(index)? else { return Ok(None) };
        let count = dims.iter().product::<i64>() as usize;
        // SAFETY: the tensor holds as many elements of this type as its shape says.
        let data = unsafe { if count == 0 { &[][..] } else { slice::from_raw_parts(data, count) } };
        Ok(Some(Input { data, dims }))
    }

    /// An output of this shape.
    pub fn output<T: Element>(&self, index: usize, dims: &[i64]) -> ort::Result<&'a mut [T]> {
        let (data, _) = self.raw_output::<T>(index, dims)?;
        let count = dims.iter().product::<i64>() as usize;
        // SAFETY: ONNX Runtime has made the output with this shape and type, and each operator asks for each
        // of its outputs once.
        Ok(unsafe { if count == 0 { &mut [][..] } else { slice::from_raw_parts_mut(data, count) } })
    }

    /// The buffer that is bound both as the input and as the output.
    pub fn in_place(&self, input: usize, output: usize) -> ort::Result<InPlace<'a>> {
        let (past, dims) = self.required(input, self.raw_input::<f32>(input)?)?;
        let (present, _) = self.raw_output::<f32>(output, dims)?;
        if past != present {
            return Err(self.error(format_args!(
                "input {input} and output {output} are different buffers; bind one buffer as both"
            )));
        }
        Ok(InPlace { data: SharedMut::new(present, dims.iter().product::<i64>() as usize), dims })
    }

    /// An output that begins as a copy of an input of the same shape; where the runtime has given the output the
    /// input's memory, there is nothing to copy.
    pub fn taken(&self, input: usize, output: usize) -> ort::Result<(SharedMut<f32>, &'a [i64])> {
        let (source, dims) = self.required(input, self.raw_input::<f32>(input)?)?;
        let (target, _) = self.raw_output::<f32>(output, dims)?;
        let count = dims.iter().product::<i64>() as usize;
        if !ptr::eq(source, target) {
            // SAFETY: two tensors of `count` elements each; the runtime's buffers are one or disjoint.
            unsafe { ptr::copy_nonoverlapping(source, target, count) };
        }
        Ok((SharedMut::new(target, count), dims))
    }

    /// Address and shape of an input; none when the graph leaves it out.
    fn raw_input<T: Element>(&self, index: usize) -> ort::Result<Option<(*mut T, &'a [i64])>> {
        let mut value = ptr::null();
        // SAFETY: the context is live for the call, which `'a` stands for.
        self.check(unsafe { (ort::api().KernelContext_GetInput)(self.context.ptr(), index, &mut value) })?;
        if value.is_null() {
            return Ok(None);
        }
        // SAFETY: ONNX Runtime keeps inputs alive for the call.
        unsafe { self.tensor::<T>(value.cast_mut()) }.map(Some)
    }

    fn raw_output<T: Element>(&self, index: usize, dims: &[i64]) -> ort::Result<(*mut T, &'a [i64])> {
        let mut value = ptr::null_mut();
        // SAFETY: the context is live, and `dims` for the length of the call.
        self.check(unsafe {
            (ort::api().KernelContext_GetOutput)(
                self.context.ptr().cast_mut(),
                index,
                dims.as_ptr(),
                dims.len(),
                &mut value,
            )
        })?;
        if value.is_null() {
            return Err(self.error(format_args!("output {index} is missing")));
        }
        // SAFETY: outputs live for the call.
        unsafe { self.tensor::<T>(value) }
    }

    /// # Safety
    /// `value` must live for `'a`.
    unsafe fn tensor<T: Element>(&self, value: *mut ort::sys::OrtValue) -> ort::Result<(*mut T, &'a [i64])> {
        let api = ort::api();
        let mut element = ort::sys::ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
        let (mut dims, mut rank, mut data) = (ptr::null(), 0, ptr::null_mut());
        // SAFETY: `value` is live by the caller's word.
        unsafe {
            self.check((api.GetTensorElementTypeAndShapeDataReference)(
                value,
                &mut element,
                &mut dims,
                &mut rank,
            ))?;
            self.check((api.GetTensorMutableData)(value, &mut data))?;
        }
        if element != T::TYPE {
            return Err(
                self.error(format_args!("a tensor has element type {element:?}, expected {:?}", T::TYPE))
            );
        }
        // SAFETY: the shape belongs to the value.
        let dims = unsafe { if rank == 0 { &[][..] } else { slice::from_raw_parts(dims, rank) } };
        Ok((data.cast(), dims))
    }

    /// Runs `work` for every index below `total` on the session's threads. `cost` is a rough number of
    /// multiplications of the whole; small work stays on this thread, where it is done sooner.
    pub fn for_each(&self, total: usize, cost: usize, work: impl Fn(usize) + Sync) -> ort::Result<()> {
        const WORTH_SHARING: usize = 32 * 1024;
        if total <= 1 || cost < WORTH_SHARING {
            (0..total).for_each(work);
            return Ok(());
        }
        self.share(total, &work)
    }

    fn share<F: Fn(usize) + Sync>(&self, total: usize, work: &F) -> ort::Result<()> {
        struct Job<'a, F> {
            work: &'a F,
            panicked: AtomicBool,
        }
        unsafe extern "C" fn run<F: Fn(usize) + Sync>(job: *mut c_void, index: usize) {
            // SAFETY: `job` points to the `Job` below, which outlives the parallel loop.
            let job = unsafe { &*job.cast::<Job<'_, F>>() };
            // A panic must not cross into ONNX Runtime's threads.
            if catch_unwind(AssertUnwindSafe(|| (job.work)(index))).is_err() {
                job.panicked.store(true, Ordering::Relaxed);
            }
        }
        let job = Job { work, panicked: AtomicBool::new(false) };
        // SAFETY: ParallelFor returns only when every index is done.
        self.check(unsafe {
            (ort::api().KernelContext_ParallelFor)(
                self.context.ptr(),
                run::<F>,
                total,
                0,
                (&raw const job).cast_mut().cast(),
            )
        })?;
        if job.panicked.load(Ordering::Relaxed) {
            Err(self.error("panicked in a worker thread"))
        } else {
            Ok(())
        }
    }
}

/// Runs an operator so that a panic becomes its error instead of crossing into ONNX Runtime.
pub fn guarded(operator: &'static str, body: impl FnOnce() -> ort::Result<()>) -> ort::Result<()> {
    catch_unwind(AssertUnwindSafe(body))
        .unwrap_or_else(|_| Err(ort::Error::new(format!("{operator}: panicked; this is a bug"))))
}

/// A required integer attribute.
pub fn size_attribute(kernel: &KernelContext<'_>, operator: &str, name: &str) -> ort::Result<usize> {
    kernel
        .get::<i64>(name)
        .and_then(|value| usize::try_from(value).ok())
        .filter(|&value| value > 0)
        .ok_or_else(|| ort::Error::new(format!("{operator}: attribute {name} is missing or not positive")))
}

/// Memory of `len` elements whose disjoint parts several threads write at the same time.
#[derive(Debug, Clone, Copy)]
pub struct SharedMut<T> {
    data: *mut T,
    len: usize,
}

// SAFETY: a plain address; whoever makes a slice of it answers for the aliasing.
unsafe impl<T: Send> Send for SharedMut<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedMut<T> {}

impl<T> SharedMut<T> {
    fn new(data: *mut T, len: usize) -> Self {
        Self { data, len }
    }

    /// The parts of `slice` for several threads.
    pub fn of(slice: &mut [T]) -> Self {
        Self::new(slice.as_mut_ptr(), slice.len())
    }

    /// Address of the first element.
    pub fn start(&self) -> *mut T {
        self.data
    }

    /// Elements `start .. start + len`, to read.
    ///
    /// # Panics
    /// When they lie outside of the memory.
    ///
    /// # Safety
    /// For as long as the slice is used, no thread writes these elements, and the memory lives.
    pub unsafe fn shared<'a>(&self, start: usize, len: usize) -> &'a [T] {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.len), "part lies outside of the buffer");
        // SAFETY: within the memory by the check, unwritten by the caller's word.
        unsafe { slice::from_raw_parts(self.data.add(start), len) }
    }

    /// Elements `start .. start + len`, to write.
    ///
    /// # Panics
    /// When they lie outside of the memory.
    ///
    /// # Safety
    /// For as long as the slice is used, no other thread touches these elements, and the memory lives.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn part<'a>(&self, start: usize, len: usize) -> &'a mut [T] {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.len), "part lies outside of the buffer");
        // SAFETY: within the memory by the check, exclusive by the caller's word.
        unsafe { slice::from_raw_parts_mut(self.data.add(start), len) }
    }
}

/// The token range of each row, checked.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    offsets: &'a [i32],
}

impl<'a> Rows<'a> {
    /// `offsets` must rise from 0 to `tokens`.
    pub fn new(call: &Call<'_>, offsets: Input<'a, i32>, tokens: usize) -> ort::Result<Self> {
        let offsets = offsets.data;
        let rising = offsets.windows(2).all(|pair| pair[0] <= pair[1]);
        if offsets.first() != Some(&0) || offsets.last().copied() != i32::try_from(tokens).ok() || !rising {
            return Err(call.error(format_args!("row_offsets {offsets:?} do not rise from 0 to {tokens}")));
        }
        Ok(Self { offsets })
    }

    pub fn count(&self) -> usize {
        self.offsets.len() - 1
    }

    pub fn range(&self, row: usize) -> std::ops::Range<usize> {
        self.offsets[row] as usize..self.offsets[row + 1] as usize
    }
}

/// Shape of a cache, `[slots, heads, positions, head_dim]`.
#[derive(Debug, Clone, Copy)]
pub struct CacheShape {
    pub slots: usize,
    pub heads: usize,
    pub positions: usize,
    pub head_dim: usize,
}

impl CacheShape {
    /// `dims` of a key cache and of its value cache, which must agree.
    pub fn new(call: &Call<'_>, key: &[i64], value: &[i64]) -> ort::Result<Self> {
        match *key {
            [slots, heads, positions, head_dim]
                if key == value && positions % textgen_artifact::ops::KEY_BLOCK as i64 == 0 =>
            {
                Ok(Self {
                    slots: slots as usize,
                    heads: heads as usize,
                    positions: positions as usize,
                    head_dim: head_dim as usize,
                })
            }
            _ => Err(call.error(format_args!(
                "caches of shapes {key:?} and {value:?}, expected [slots, heads, positions, head_dim] twice, \
                 positions a multiple of {}",
                textgen_artifact::ops::KEY_BLOCK
            ))),
        }
    }

    /// Elements of one head of one slot.
    pub fn head_elements(&self) -> usize {
        self.positions * self.head_dim
    }

    /// First element of head `head` of slot `slot`.
    pub fn head_start(&self, slot: usize, head: usize) -> usize {
        (slot * self.heads + head) * self.head_elements()
    }

    /// Checks that each row's slot exists and holds `past + new` tokens at most.
    pub fn check_rows(
        &self,
        call: &Call<'_>,
        rows: Rows<'_>,
        slots: &[i32],
        past: impl Fn(usize) -> i32,
    ) -> ort::Result<()> {
        if slots.len() != rows.count() {
            return Err(call.error(format_args!("{} slots for {} rows", slots.len(), rows.count())));
        }
        for (row, &slot) in slots.iter().enumerate() {
            let past = past(row);
            let fits = usize::try_from(past).is_ok_and(|past| past + rows.range(row).len() <= self.positions);
            if usize::try_from(slot).is_ok_and(|slot| slot < self.slots) && fits {
                continue;
            }
            return Err(call.error(format_args!(
                "row {row}: slot {slot} with {past} + {} tokens, expected a slot below {} and at most {} tokens",
                rows.range(row).len(),
                self.slots,
                self.positions
            )));
        }
        Ok(())
    }
}
