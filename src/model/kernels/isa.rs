//! Which instruction sets the machine has.

use std::sync::LazyLock;

/// Instruction sets the kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512 F, BW, DQ, VL with FMA.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2 with FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// What the compiler assumes of every machine of this architecture.
    Baseline,
}

static ISA: LazyLock<Isa> = LazyLock::new(|| {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("fma")
        {
            return Isa::Avx512;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Isa::Avx2;
        }
    }
    Isa::Baseline
});

#[cfg(target_arch = "x86_64")]
static VNNI: LazyLock<bool> =
    LazyLock::new(|| Isa::detect() == Isa::Avx512 && is_x86_feature_detected!("avx512vnni"));

impl Isa {
    /// The best one of this machine.
    pub fn detect() -> Isa {
        *ISA
    }

    /// Whether [`Isa::Avx512`] comes with the dot products of 8-bit numbers.
    #[cfg(target_arch = "x86_64")]
    pub fn has_vnni() -> bool {
        *VNNI
    }
}

/// Compiles `$body`, an `#[inline(always)]` function with a const parameter for fused multiply-add, for each
/// instruction set, and defines `$name` to call the one of this machine.
macro_rules! dispatch {
    ($(#[$doc:meta])* pub fn $name:ident($($arg:ident: $type:ty),* $(,)?) = $body:ident) => {
        $(#[$doc])*
        pub fn $name($($arg: $type),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512($($arg: $type),*) {
                    $body::<true>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $type),*) {
                    $body::<true>($($arg),*)
                }
                match $crate::model::kernels::isa::Isa::detect() {
                    // SAFETY: `detect` has found these features on this machine.
                    $crate::model::kernels::isa::Isa::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: likewise.
                    $crate::model::kernels::isa::Isa::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::model::kernels::isa::Isa::Baseline => {}
                }
            }
            $body::<false>($($arg),*)
        }
    };
}
pub(super) use dispatch;

/// `a · b + c`, fused where the instruction set has it: without it, `mul_add` would be a library call.
#[inline(always)]
pub(super) fn multiply_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}
