"""The backend's metrics by name."""

from typing import Dict

from .server import TritonServer

PREFIX = "textgen_"
OUTCOMES = ("completed", "cancelled", "timed_out", "rejected", "failed")


def outcomes(server: TritonServer, model: str) -> Dict[str, float]:
    """Ended requests of a model by outcome."""
    return {
        outcome: server.metric(PREFIX + "requests_total", model=model, outcome=outcome) for outcome in OUTCOMES
    }


def running(server: TritonServer, model: str) -> float:
    """Sequences that hold a slot."""
    return server.metric(PREFIX + "sequences_running", model=model)


def waiting(server: TritonServer, model: str) -> float:
    """Sequences that wait for one."""
    return server.metric(PREFIX + "sequences_waiting", model=model)
