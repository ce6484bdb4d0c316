"""`make test-gpu` on a machine without a GPU: it says that it was skipped, its steps work on the CPU, and nothing that
needs a GPU is called passed. The harness is `tests/gpu`; pytest collects nothing there."""

import os
import subprocess
import sys

import pytest

from harness import places

SKIPPED = 77
#: In the place of a driver: `DEVICES` GPUs of an L4's figures, or none.
DRIVER = r"""
#include <stddef.h>
#include <string.h>
int cuInit(unsigned flags) { return DEVICES ? 0 : 100; }
int cuDriverGetVersion(int* version) { *version = 13010; return 0; }
int cuDeviceGetCount(int* count) { *count = DEVICES; return 0; }
int cuDeviceGet(int* device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetName(char* name, int length, int device) { strncpy(name, "NVIDIA L4", length); return 0; }
int cuDeviceTotalMem_v2(size_t* bytes, int device) { *bytes = (size_t)22 << 30; return 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  *value = attribute == 36 ? 6251000 : attribute == 37 ? 192 : attribute == 75 ? 8 : 9; return 0;
}
int cuDevicePrimaryCtxRetain(void** context, int device) { *context = &cuInit; return 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { return 0; }
int cuCtxPushCurrent_v2(void* context) { return 0; }
int cuCtxPopCurrent_v2(void** context) { return 0; }
int cuMemGetInfo_v2(size_t* free, size_t* total) { *free = (size_t)20 << 30; *total = (size_t)22 << 30; return 0; }
int cuGetErrorString(int status, const char** text) { *text = "of the stand-in"; return 0; }
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """Variables under which a program finds a driver with so many GPUs, whatever the machine has."""
    folder = tmp_path_factory.mktemp("driver")
    (folder / "driver.c").write_text(DRIVER, encoding="ascii")

    def with_devices(count):
        library = folder / str(count) / "libcuda.so.1"
        library.parent.mkdir(exist_ok=True)
        command = ["gcc", "-shared", "-fPIC", "-w", f"-DDEVICES={count}", "-o", library, folder / "driver.c"]
        subprocess.run(command, check=True)
        # As from a shell: without what a `make` around the tests hands down.
        inherited = {name: value for name, value in os.environ.items() if "MAKE" not in name and name != "MFLAGS"}
        return {**inherited, "LD_LIBRARY_PATH": str(library.parent)}

    return with_devices


def harness(*arguments, env=None):
    command = [sys.executable, places.ROOT / "tests" / "gpu", *arguments]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=env, cwd=places.ROOT)


def table(report):
    """The checks of a report: the cells of every row, by section and name."""
    rows, section = {}, ""
    for line in report.splitlines():
        if line.startswith("## "):
            section = line[3:]
        elif line.startswith("| ") and not line.startswith(("| ---", "| check |")):
            name, *cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            rows[section, name] = cells
    return {key: cells for key, cells in rows.items() if key[0] != "Steps against the model"}


def test_without_a_gpu_it_is_skipped_and_says_so(driver):
    without = driver(0)
    done = harness(env=without)
    assert done.returncode == SKIPPED and done.stdout == "", done
    assert done.stderr.startswith("skipped: ") and "make test-gpu-rehearsal" in done.stderr, done.stderr
    # Nothing is fetched or built before: `make` prints what it does.
    make = subprocess.run(["make", "test-gpu"], capture_output=True, text=True, env=without, cwd=places.ROOT)
    assert make.returncode == 2 and make.stdout == "", make
    assert f"Error {SKIPPED}" in make.stderr and "skipped: " in make.stderr, make.stderr


def test_a_gpu_is_seen(driver):
    done = harness("--look", env=driver(2))
    assert done.returncode == 0 and done.stdout.count("NVIDIA L4, 22528 MiB, CUDA 13.1") == 2, done


def test_a_tiny_rehearsal_passes_and_calls_nothing_of_a_gpu_passed(tmp_path):
    done = harness("--rehearsal", "--tiny", "--out", tmp_path)
    report = (tmp_path / "rehearsal.md").read_text(encoding="utf-8")
    assert done.returncode == 0, (done.stderr, report)
    assert done.stdout.startswith(report) and "it says nothing of a GPU" in report.splitlines()[0]
    checks = table(report)
    sections = {section for section, _ in checks}
    assert {"Families and precisions", "Invariance", "Server", "Memory"} < sections, sections
    on_a_gpu = {cells[0] for cells in checks.values()}
    assert on_a_gpu == {"not run: no GPU", "needs none"}, on_a_gpu
    rehearsed = [cells[1] for cells in checks.values()]
    assert rehearsed.count("passed") > 25 and not any(cell.startswith("failed") for cell in rehearsed), checks
    assert all(
        cells[1] == "not run: no GPU" for (_, name), cells in checks.items() if "CUDA graph" in name or "gpus:" in name
    )


def test_a_gpu_that_does_not_work_fails_every_check_that_needs_it(driver, tmp_path):
    # ONNX Runtime's GPU build is there, CUDA's libraries are not.
    broken = {**driver(1), "TEXTGEN_GPU_PACKAGES": str(places.GPU_RUNTIME.parents[1])}
    done = harness("--tiny", "--parts", "families", "invariance", "--out", tmp_path, env=broken)
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert done.returncode == 1, (done.stderr, report)
    for (_, name), (result, _) in table(report).items():
        expected = "passed" if name.endswith(": convert") else "failed: "
        assert result.startswith(expected), (name, result)
