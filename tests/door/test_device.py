"""Where a model runs: its artifact and its instance group must agree, and what a GPU needs is named when it is missing.

The machine of the tests has no GPU. There the server itself refuses KIND_GPU; KIND_MODEL leaves the device to the
backend, so that an artifact for CUDA gets as far as a GPU's machine would let it.
"""

import json

from harness.texts import ENGLISH


def for_cuda(version):
    """Makes the entry's artifact say that it is for CUDA."""
    file = version / "manifest.json"
    manifest = json.loads(file.read_text(encoding="utf-8"))
    manifest["device"] = {"cuda": {"caches": "f16", "candidates": 64}}
    file.unlink()
    file.write_text(json.dumps(manifest), encoding="utf-8")


def kind(name):
    return f"instance_group [ {{ kind: {name} }} ]\n"


def refused(explicit, name):
    server, http, _ = explicit
    reply = http.load(name)
    server.assert_alive()
    assert reply.status >= 400, reply
    assert http.text("good", ENGLISH) == "O gato dorme no sofá."
    return reply.error


def test_a_model_for_the_cpu_runs_where_the_backend_chooses(explicit):
    _, http, repository = explicit
    repository.add("chosen", kind("KIND_MODEL"))
    assert http.load("chosen").status == 200
    assert http.text("chosen", ENGLISH) == "O gato dorme no sofá."


def test_an_artifact_for_cuda_does_not_run_on_the_cpu(explicit):
    for name, config in (("cuda-unsaid", ""), ("cuda-cpu", kind("KIND_CPU"))):
        for_cuda(explicit[2].add(name, config))
        error = refused(explicit, name)
        assert "KIND_GPU" in error and "--device cuda" in error, error


def test_what_a_gpu_needs_is_named(explicit):
    for_cuda(explicit[2].add("cuda-chosen", kind("KIND_MODEL")))
    error = refused(explicit, "cuda-chosen")
    # What `make backend` puts beside the plugin computes on the CPU only.
    for part in ("libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so", "onnxruntime-gpu"):
        assert part in error, error
