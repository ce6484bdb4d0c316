//! `SimpleRecurrentCell`

use ort::operator::{BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput};
use ort::value::TensorElementType::{Float32, Int32};
use textgen_artifact::ops::SIMPLE_RECURRENT_CELL;

use super::context::{Call, Rows, guarded};

pub struct SimpleRecurrentCell;

impl Operator for SimpleRecurrentCell {
    type Kernel<'attr> = BoxedKernel<'attr>;

    fn name(&self) -> &str {
        SIMPLE_RECURRENT_CELL
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [Float32, Float32, Int32, Int32, Int32, Float32].map(OperatorInput::required)
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [Float32, Float32].map(OperatorOutput::required)
    }

    fn create_kernel<'attr>(&self, _: &KernelContext<'attr>) -> ort::Result<Self::Kernel<'attr>> {
        Ok(Box::new(|context: &ComputeContext| {
            guarded(SIMPLE_RECURRENT_CELL, || compute(Call::new(context, SIMPLE_RECURRENT_CELL)))
        }))
    }
}

fn compute(call: Call<'_>) -> ort::Result<()> {
    let (forget, input) = (call.input::<f32>(0)?, call.input::<f32>(1)?);
    let &[tokens, width] = forget.dims else {
        return Err(call.error(format_args!("forget has shape {:?}, expected [tokens, width]", forget.dims)));
    };
    let (tokens, width) = (tokens as usize, width as usize);
    let rows = Rows::new(&call, call.input(2)?, tokens)?;
    let (reads, writes) = (call.input::<i32>(3)?.data, call.input::<i32>(4)?.data);
    let state = call.in_place(5, 1)?;
    let entries = match *state.dims {
        [entries, state_width] if state_width as usize == width && input.dims == forget.dims => {
            entries as usize
        }
        _ => {
            return Err(call.error(format_args!(
                "forget {:?}, input {:?} and state {:?} do not fit each other",
                forget.dims, input.dims, state.dims
            )));
        }
    };
    let valid = |entry: i32| usize::try_from(entry).is_ok_and(|entry| entry < entries);
    if reads.len() != rows.count()
        || writes.len() != rows.count()
        || !reads.iter().all(|&entry| entry == -1 || valid(entry))
        || !writes.iter().all(|&entry| valid(entry) && !reads.contains(&entry))
    {
        return Err(call.error(format_args!(
            "state_reads {reads:?} and state_writes {writes:?} for {} rows and {entries} entries",
            rows.count()
        )));
    }
    let cell = call.output::<f32>(0, forget.dims)?;
    for row in 0..rows.count() {
        // SAFETY: one thread, and no entry is both read and written in one step.
        let (previous, next) = unsafe {
            let previous = (reads[row] >= 0).then(|| &*state.data.part(reads[row] as usize * width, width));
            (previous, state.data.part(writes[row] as usize * width, width))
        };
        match previous {
            Some(previous) => next.copy_from_slice(previous),
            None => next.fill(0.0),
        }
        for token in rows.range(row) {
            let span = token * width..(token + 1) * width;
            for ((c, f), x) in next.iter_mut().zip(&forget.data[span.clone()]).zip(&input.data[span.clone()])
            {
                let f = 1.0 / (1.0 + (-f).exp());
                *c = f * *c + (1.0 - f) * x;
            }
            cell[span].copy_from_slice(next);
        }
    }
    Ok(())
}
