//! `RowQuantize`

use ort::operator::{BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput};
use ort::value::TensorElementType::{Float32, Uint8};
use textgen_artifact::ops::ROW_QUANTIZE;

use super::context::{Call, SharedMut, guarded};
use crate::model::kernels::quantize_row;

pub struct RowQuantize;

impl Operator for RowQuantize {
    type Kernel<'attr> = BoxedKernel<'attr>;

    fn name(&self) -> &str {
        ROW_QUANTIZE
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::required(Float32)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(Uint8), OperatorOutput::required(Float32)]
    }

    fn create_kernel<'attr>(&self, _: &KernelContext<'attr>) -> ort::Result<Self::Kernel<'attr>> {
        Ok(Box::new(|context: &ComputeContext| {
            guarded(ROW_QUANTIZE, || compute(Call::new(context, ROW_QUANTIZE)))
        }))
    }
}

fn compute(call: Call<'_>) -> ort::Result<()> {
    let x = call.input::<f32>(0)?;
    let &[rows, width] = x.dims else {
        return Err(call.error(format_args!("x has shape {:?}, expected [rows, width]", x.dims)));
    };
    let q = SharedMut::of(call.output::<u8>(0, x.dims)?);
    let scale = SharedMut::of(call.output::<f32>(1, &[rows, 1])?);
    let width = width as usize;
    call.for_each(rows as usize, x.data.len(), |row| {
        // SAFETY: each row is written by the one thread that has its index.
        let (q, scale) = unsafe { (q.part(row * width, width), scale.part(row, 1)) };
        quantize_row(&x.data[row * width..(row + 1) * width], q, &mut scale[0]);
    })
}
