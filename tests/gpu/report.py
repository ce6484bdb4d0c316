"""The report: a line for each check, which says what came of it and what was measured."""

import enum
import sys
import time
import traceback
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple

NO_GPU = "no GPU"


class Outcome(enum.Enum):
    """What came of a check."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_RUN = "not run"


class Needs(enum.Enum):
    """What a check cannot do without."""

    #: It says something on any machine.
    NOTHING = "nothing"
    #: It is about a GPU, and its steps can be rehearsed on the CPU.
    MODEL = "a model on a GPU"
    #: Only a GPU can do it.
    GPU = "a GPU"


class NotRun(Exception):
    """Raised by a check that cannot be done here, with the reason."""


class Line(NamedTuple):
    """One check. On the CPU and on a GPU something may have come of it; None stands for a column that is not asked."""

    section: str
    check: str
    gpu: str
    cpu: str
    measured: str


class Report:
    """Runs checks and keeps their lines."""

    def __init__(self, rehearsal: bool, facts: Dict[str, str]):
        self.rehearsal = rehearsal
        self.facts = facts
        self.lines: List[Line] = []
        self.tables: List[str] = []
        self.counts = {outcome: 0 for outcome in Outcome}
        self.waiting_for_a_gpu = 0
        self._section = ""
        self._started = time.monotonic()

    def section(self, title: str) -> None:
        """Begins a part of the report."""
        self._section = title

    def check(self, name: str, body: Callable[[], str], needs: Needs = Needs.MODEL) -> None:
        """Runs `body`, which gives what it measured, fails by an exception, or raises NotRun."""
        if self.rehearsal and needs is Needs.GPU:
            outcome, measured, reason = Outcome.NOT_RUN, "", NO_GPU
        else:
            outcome, measured, reason = attempt(body)
        said = outcome.value + (f": {reason}" if reason else "")
        self.counts[outcome] += 1
        gpu, cpu = said, ""
        if self.rehearsal:
            gpu, cpu = f"{Outcome.NOT_RUN.value}: {NO_GPU}", said
            if needs is Needs.NOTHING:
                gpu = "needs none"
            else:
                self.waiting_for_a_gpu += 1
        self.lines.append(Line(self._section, name, gpu, cpu, measured))
        print(
            f"{self._section}: {name}: {'on the CPU: ' if cpu else ''}{said}; {measured}", file=sys.stderr, flush=True
        )

    def table(self, heading: str, columns: List[str], rows: List[List[str]]) -> None:
        """Figures that are no check, if there are any."""
        if rows:
            self.tables.append("\n".join([f"## {heading}", "", *markdown(columns, rows)]))

    @property
    def failed(self) -> bool:
        """Whether any check did."""
        return self.counts[Outcome.FAILED] > 0

    def summary(self) -> str:
        """How many checks ended how."""
        counts = ", ".join(f"{count} {outcome.value}" for outcome, count in self.counts.items())
        if self.rehearsal:
            return f"On a GPU: 0 passed, 0 failed, {self.waiting_for_a_gpu} not run: {NO_GPU}. Rehearsed on the CPU: {counts}."
        return f"On the GPU: {counts}."

    def text(self) -> str:
        """The whole, in Markdown."""
        title = "Rehearsal on the CPU: it says nothing of a GPU" if self.rehearsal else "textgen on a GPU"
        parts = [f"# {title}", self.summary(), "\n".join(f"- {key}: {value}" for key, value in self.facts.items())]
        parts[-1] += f"\n- took: {time.monotonic() - self._started:.0f} s"
        for section in dict.fromkeys(line.section for line in self.lines):
            lines = [line for line in self.lines if line.section == section]
            if self.rehearsal:
                columns = ["check", "on a GPU", "rehearsed on the CPU", "measured on the CPU"]
                rows = [[line.check, line.gpu, line.cpu, line.measured] for line in lines]
            else:
                columns = ["check", "result", "measured"]
                rows = [[line.check, line.gpu, line.measured] for line in lines]
            parts.append("\n".join([f"## {section}", "", *markdown(columns, rows)]))
        return "\n\n".join([*parts, *self.tables]) + "\n"

    def write(self, path: Path) -> None:
        """Writes it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.text(), encoding="utf-8")


def attempt(body: Callable[[], str]) -> "tuple[Outcome, str, str]":
    """Outcome, what was measured, and the reason of anything but success."""
    try:
        return Outcome.PASSED, body(), ""
    except NotRun as reason:
        return Outcome.NOT_RUN, "", str(reason)
    except Exception as error:  # whatever goes wrong is this check's result; the others go on
        traceback.print_exc(file=sys.stderr)
        return Outcome.FAILED, "", f"{type(error).__name__}: {error}"


def markdown(columns: List[str], rows: List[List[str]]) -> List[str]:
    """The lines of a table."""

    def line(cells: List[str]) -> str:
        return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split())[:600] for cell in cells) + " |"

    return [line(columns), "|" + " --- |" * len(columns), *map(line, rows)]
