"""Checks textgen on an NVIDIA GPU and writes a report: `make test-gpu`, without one `make test-gpu-rehearsal`.

Exit statuses: 0 every check that ran has passed, 1 one has failed, 2 wrong usage, 77 skipped: there is no GPU.
"""

import argparse
import sys
from pathlib import Path

from driver import Driver, NoGpu

#: That of a test that was skipped, as build systems know it.
SKIPPED = 77
#: That of argparse.
WRONG_USAGE = 2
OUT = Path(__file__).resolve().parents[2] / ".cache" / "gpu"
PARTS = ("families", "invariance", "serving", "memory", "speed")


def main() -> int:
    options = arguments()
    driver = None
    if not options.rehearsal:
        try:
            driver = Driver()
        except NoGpu as error:
            print(
                f"skipped: {error}. Nothing was checked, and this is no success. `make test-gpu-rehearsal` takes the same "
                f"steps on the CPU.",
                file=sys.stderr,
            )
            return SKIPPED
    if options.look:
        for gpu in driver.gpus:
            print(f"{gpu.name}, {gpu.total_bytes >> 20} MiB, CUDA {driver.cuda}")
        return 0

    # What comes now needs packages, which a machine without a GPU does not have to have.
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    try:
        import run
    except ModuleNotFoundError as error:
        print(f"error: {error}; call it by `make test-gpu`, which fetches what it needs", file=sys.stderr)
        return WRONG_USAGE

    return run.run(driver, options)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests/gpu", description=__doc__.splitlines()[0], epilog=__doc__.splitlines()[2]
    )
    parser.add_argument("--look", action="store_true", help="only look for a GPU, before anything is fetched or built")
    parser.add_argument("--rehearsal", action="store_true", help="take the steps on the CPU; nothing is said of a GPU")
    parser.add_argument("--tiny", action="store_true", help="with the smallest models, to try the harness")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="only these parts")
    parser.add_argument("--hunyuan-7b", action="store_true", help="measure HunYuan-7B's shape too: 45 GB of disk")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the report (default .cache/gpu)")
    options = parser.parse_args()
    if options.look and options.rehearsal:
        parser.error("--look looks for a GPU, --rehearsal does without")
    return options


if __name__ == "__main__":
    sys.exit(main())
