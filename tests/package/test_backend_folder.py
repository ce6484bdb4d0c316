"""`textgen/` loads in the official images: Ubuntu 22.04 or newer, nothing of this machine needed."""

import re
import subprocess

import pytest

from harness import places

#: Newest glibc that the oldest supported image certainly has.
GLIBC = (2, 34)
#: What every image has; anything else would have to be shipped.
SYSTEM = re.compile(r"(libc|libm|libdl|libpthread|librt|libgcc_s|ld-linux-x86-64)\.so\.\d+")
LIBRARIES = ["libtriton_textgen.so", "libonnxruntime.so"]


def objdump(option: str, library: str) -> str:
    """binutils come with gcc, which the build needs anyway."""
    command = ["objdump", option, str(places.BACKEND / library)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("library", LIBRARIES)
def test_no_newer_glibc_is_needed(library):
    versions = {tuple(map(int, found.split("."))) for found in re.findall(r"GLIBC_([\d.]+)", objdump("-T", library))}
    assert versions, "no versioned symbol at all: objdump has not understood the file"
    assert max(versions) <= GLIBC


def test_the_plugin_needs_only_system_libraries():
    needed = re.findall(r"NEEDED\s+(\S+)", objdump("-p", "libtriton_textgen.so"))
    assert needed and all(SYSTEM.fullmatch(each) for each in needed), needed


def test_the_plugin_leaves_the_host_to_the_process():
    """Triton's symbols are resolved by the server that loads the library, whatever its file is called."""
    symbols = objdump("-T", "libtriton_textgen.so")
    assert re.search(r"\*UND\*.*TRITONBACKEND_ResponseSend$|\*UND\*.*TRITONBACKEND_ResponseSend\b", symbols, re.M)
    exported = set(re.findall(r"g\s+DF \.text\s.*?(\S+)$", symbols, re.M))
    assert {"TRITONBACKEND_ModelInstanceExecute", "TRITONBACKEND_Initialize", "TRITONBACKEND_ModelInitialize"} <= exported


def test_the_runtime_is_a_file_of_its_own():
    """A link would dangle once the folder is copied."""
    for library in LIBRARIES:
        file = places.BACKEND / library
        assert file.is_file() and not file.is_symlink()


def test_licences_travel_with_the_libraries():
    assert {"LICENSE", "LICENSE.onnxruntime"} <= {file.name for file in places.BACKEND.iterdir()}
