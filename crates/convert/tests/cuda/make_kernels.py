"""Writes kernels.txt: which operators ONNX Runtime can run on CUDA, as its own kernel registry says.

    python make_kernels.py PATH_OF_THE_UNPACKED_onnxruntime_gpu_WHEEL

The wheel lists its kernels itself (`get_all_opkernel_def`), once its CUDA provider is loaded and constructed. That
wants CUDA's libraries and a device, of which it uses nothing here: stubs whose every function says "success" serve.
TensorRT cannot be loaded beside them, and the list does not expect that: it would read through a null factory. A
handler of that one fault gives it the CPU's factory instead, whose kernels are then listed twice.

Needs gcc, binutils, numpy, x86-64 and the wheel of the version below.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

VERSION = "1.31.1"
TABLE = Path(__file__).with_name("kernels.txt")

# What the graphs are made of, and what they might be made of instead.
OPERATORS = """
Add Attention Cast Clip Concat Cos CumSum Div Equal Exp Expand Gather Gelu Gemm Greater Identity LayerNormalization Less
Log LogSoftmax MatMul Max Min Mul Neg RMSNormalization Range ReduceLogSumExp ReduceMax ReduceSum Relu Reshape
RotaryEmbedding ScatterND Shape Sigmoid SimplifiedLayerNormalization Sin Slice Softmax Split Sqrt Squeeze Sub Tanh
TensorScatter TopK Transpose Unsqueeze Where
BiasGelu DecoderMaskedMultiHeadAttention FastGelu FusedMatMul GatherBlockQuantized GemmaRotaryEmbedding
GroupQueryAttention MatMulNBits MultiHeadAttention PagedAttention QuickGelu SkipLayerNormalization
SkipSimplifiedLayerNormalization
""".split()
DOMAINS = ["", "com.microsoft"]
# Opset of the graphs: kernels that end before it are left out.
OPSET = 24
TYPES = {
    "tensor(float)": "f32",
    "tensor(float16)": "f16",
    "tensor(bfloat16)": "bf16",
    "tensor(int32)": "i32",
    "tensor(int64)": "i64",
    "tensor(int8)": "i8",
    "tensor(uint8)": "u8",
    "tensor(bool)": "bool",
}

FAULT_HANDLER = r"""
#define _GNU_SOURCE
#include <signal.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

/* `mov rax, [rsi]`: the load of a factory's table of functions, with the list of factories at [rsp + 0x30]. */
static void on_fault(int signal, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    if (info->si_addr != 0 || registers[REG_RSI] != 0 || memcmp((void *)registers[REG_RIP], "\x48\x8b\x06", 3) != 0)
        _exit(139);
    registers[REG_RSI] = **(greg_t **)(registers[REG_RSP] + 0x30);
}

__attribute__((constructor)) static void install(void) {
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, 0);
}
"""


def main():
    if len(sys.argv) == 3 and sys.argv[1] == "--list":
        return write_table(sys.argv[2])
    wheel = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        stubs = Path(folder)
        build_stubs(wheel / "onnxruntime/capi/libonnxruntime_providers_cuda.so", stubs)
        handler = compile_library(FAULT_HANDLER, stubs / "fault.so")
        environment = {**os.environ, "LD_LIBRARY_PATH": folder, "LD_PRELOAD": str(handler)}
        subprocess.run([sys.executable, __file__, "--list", str(wheel)], env=environment, check=True)


def compile_library(source, library, *options):
    file = library.with_suffix(".c")
    file.write_text(source)
    subprocess.run(["gcc", "-shared", "-fPIC", "-w", "-o", library, file, *options], check=True)
    return library


def build_stubs(provider, folder):
    """A library for each one of CUDA's that the provider wants, with the functions that it wants of it."""
    dynamic = subprocess.run(["readelf", "-d", provider], capture_output=True, text=True, check=True).stdout
    functions = {library: [] for library in re.findall(r"\[(libcu\w+\.so[.\d]+)\]", dynamic)}
    symbols = subprocess.run(["nm", "-D", "--undefined-only", provider], capture_output=True, text=True, check=True)
    for line in symbols.stdout.splitlines():
        symbol = line.split()[-1]
        if versioned := re.fullmatch(r"(\w+)@(libcu\w+\.so[.\d]+)", symbol):
            functions[versioned[2]].append(versioned[1])
        elif re.fullmatch(r"cu[A-Z]\w+", symbol):
            functions["libcuda.so.1"].append(symbol)
    own = {
        "cudaGetDeviceCount": "int cudaGetDeviceCount(int *count) { *count = 1; return 0; }",
        "cudaStreamCreateWithFlags": "int cudaStreamCreateWithFlags(void **s, unsigned f) { *s = (void *)1; return 0; }",
    }
    for library, names in functions.items():
        source = "\n".join(own.get(name, f"long {name}(void) {{ return 0; }}") for name in names)
        script = folder / "version.map"
        script.write_text(f"{library} {{ global: *; }};\n")
        # The driver's symbols carry no version.
        options = [] if library == "libcuda.so.1" else [f"-Wl,--version-script={script}"]
        compile_library(source, folder / library, f"-Wl,-soname,{library}", *options)


def write_table(wheel):
    sys.path.insert(0, wheel)
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    if onnxruntime.__version__ != VERSION:
        sys.exit(f"{wheel}: onnxruntime {onnxruntime.__version__}, expected {VERSION}")
    schemas = defaultdict(list)
    for schema in state.get_all_operator_schema():
        schemas[schema.domain, schema.name].append(schema)
    kernels = state.get_all_opkernel_def()
    rows = set()
    for kernel in kernels:
        first, last = kernel.version_range
        name = (kernel.domain, kernel.op_name)
        if kernel.provider != "CUDAExecutionProvider" or kernel.op_name not in OPERATORS or kernel.domain not in DOMAINS:
            continue
        if kernel.domain == "" and last < OPSET:
            continue
        versions = [schema for schema in schemas[name] if schema.since_version <= OPSET]
        schema = max(versions, key=lambda schema: schema.since_version)
        signature = [formals(schema.inputs, kernel), formals(schema.outputs, kernel)]
        if all(part is not None for part in signature):
            end = "" if last > 10**6 else last
            rows.add(f"{kernel.domain or 'ai.onnx'} {kernel.op_name} {first}-{end} {signature[0]} -> {signature[1]}")
    if not any(" GroupQueryAttention " in row for row in rows):
        sys.exit(f"{wheel}: its CUDA provider lists no GroupQueryAttention; was it loaded?")
    head = f"# CUDA kernels of onnxruntime-gpu {VERSION}, by {Path(__file__).name}: domain, operator, versions, element\n"
    head += "# types of the inputs -> of the outputs, in order; `|` parts alternatives, `any` is any of ours, `*` ends one that may be repeated.\n"
    TABLE.write_text(head + "".join(f"{row}\n" for row in sorted(rows)))


def formals(parameters, kernel):
    """Types of the parameters; none when one has no type of ours."""
    texts = []
    for parameter in parameters:
        allowed = kernel.type_constraints.get(parameter.typeStr) or kernel.type_constraints.get(parameter.name)
        names = [parameter.typeStr] if parameter.typeStr.startswith("tensor(") else allowed
        # A kernel that constrains nothing takes whatever the schema does.
        names = TYPES if names is None else names
        known = sorted(TYPES[name] for name in names if name in TYPES)
        if not known:
            return None
        alternatives = "any" if len(known) == len(TYPES) else "|".join(known)
        texts.append(alternatives + ("*" if "Variadic" in str(parameter.option) else ""))
    return " ".join(texts)


if __name__ == "__main__":
    main()
