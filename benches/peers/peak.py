"""What the processor multiplies at most: ONNX Runtime's product of two square matrices, in int8 and in fp32.

Prints operations a second, a multiplication and an addition being two, for the threads of the settings.
"""

import json
import sys
import time

import numpy
import onnxruntime
from onnx import TensorProto, helper

SIZE = 2048
RUNS = 8


def rate(operator, kinds, arrays, threads):
    names = [f"in{index}" for index in range(len(arrays))]
    shapes = [helper.make_tensor_value_info(name, kind, [SIZE, SIZE]) for name, kind in zip(names, kinds)]
    out = helper.make_tensor_value_info(
        "out", TensorProto.INT32 if operator == "MatMulInteger" else TensorProto.FLOAT, [SIZE, SIZE]
    )
    # The second matrix is a weight, so that the runtime packs it beforehand.
    weight = helper.make_tensor("in1", kinds[1], [SIZE, SIZE], arrays[1].tobytes(), raw=True)
    graph = helper.make_graph([helper.make_node(operator, names, ["out"])], "peak", shapes[:1], [out], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    best = float("inf")
    for _ in range(RUNS):
        start = time.perf_counter()
        session.run(None, {"in0": arrays[0]})
        best = min(best, time.perf_counter() - start)
    return 2 * SIZE**3 / best


threads = json.loads(sys.argv[1])["threads"]
rng = numpy.random.default_rng(1)
small = rng.integers(0, 127, (2, SIZE, SIZE))
real = rng.standard_normal((2, SIZE, SIZE)).astype(numpy.float32)
bytes_ = [small[0].astype(numpy.uint8), small[1].astype(numpy.int8)]
print(
    json.dumps(
        {
            "int8": rate("MatMulInteger", [TensorProto.UINT8, TensorProto.INT8], bytes_, threads),
            "fp32": rate("MatMul", [TensorProto.FLOAT] * 2, list(real), threads),
        }
    )
)
