"""All parts, one after the other, and the report."""

import argparse
import datetime
import importlib
import platform
import subprocess
import traceback
from typing import Dict, Optional

from driver import Driver
from place import STAND_INS, Place
from report import Needs, Report

from harness import places


def run(driver: Optional[Driver], options: argparse.Namespace) -> int:
    """Runs what was asked for, prints the report and writes it; the exit status."""
    name = "report" if driver else "rehearsal"
    file = options.out / f"{name}.md"
    file.unlink(missing_ok=True)
    place = Place(driver, options.tiny, options.out / name)
    report = Report(driver is None, facts(place))
    for part in options.parts:
        try:
            importlib.import_module(part).check(place, report, *([options] if part == "speed" else []))
        except Exception as error:  # a part that breaks is a failed line; the others still run
            traceback.print_exc()
            report.section(part)
            failure = f"{type(error).__name__}: {error}"
            report.check("the whole part", lambda: fail(failure), Needs.MODEL)
    place.clear()
    report.write(file)
    print(report.text())
    print(f"written to {file}")
    return 1 if report.failed else 0


def fail(failure: str) -> str:
    raise AssertionError(failure)


def facts(place: Place) -> Dict[str, str]:
    """Where it ran, and what."""

    def said(*command: object) -> str:
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=places.ROOT).stdout.strip()

    changed = " with changes" if said("git", "status", "--porcelain") else ""
    found = {
        "day": datetime.date.today().isoformat(),
        "textgen": f"{said(places.CLI, '--version').split()[-1]}, commit {said('git', 'rev-parse', '--short', 'HEAD')}{changed}",
        "ONNX Runtime": place.runtime.resolve().name.rpartition(".so.")[2],
        "machine": platform.platform(),
        "GPU": "none",
    }
    if not place.driver:
        found["in place of CUDA's formats"] = ", ".join(
            f"{name}: the CPU's {other}" for name, other in STAND_INS.items()
        )
    else:
        found["GPU"] = "; ".join(
            f"{gpu.name}, {gpu.total_bytes >> 20} MiB, compute capability {gpu.capability[0]}.{gpu.capability[1]}, "
            f"{gpu.bandwidth / 1e9:.0f} GB/s by its clock"
            for gpu in place.driver.gpus
        )
        found["CUDA that the driver runs"] = place.driver.cuda
    return found
