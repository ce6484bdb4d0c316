"""Runs the real server."""

import os
import random
import re
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import urllib3

from . import places

#: `{label: value}`, frozen so that it can be a key.
Labels = Tuple[Tuple[str, str], ...]


def free_ports(count: int) -> List[int]:
    """Ports that nobody listens on, below those that outgoing connections are given: none is taken by one of these
    before its server has it."""
    ports: List[int] = []
    while len(ports) < count:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports


class TritonServer:
    """The server on free ports. Leaving the `with` block stops it and fails when it crashed."""

    def __init__(
        self, repository: Path, log: Path, arguments: Tuple[str, ...] = (), variables: Optional[Dict[str, str]] = None
    ):
        self.repository = repository
        self.log = log
        self.arguments = arguments
        self.variables = variables or {}
        self.http_port, self.grpc_port, self.metrics_port = free_ports(3)
        self.process: Optional[subprocess.Popen] = None
        # No connection stays open: an idle one keeps the server from ending until its exit timeout.
        self._http = urllib3.PoolManager(retries=False, timeout=10, headers={"Connection": "close"})

    def __enter__(self) -> "TritonServer":
        # The server finds no Python of ours: it must not need one.
        environment = {"PATH": "/usr/bin:/bin", "HOME": os.environ.get("HOME", "/"), **self.variables}
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [
                    str(places.SERVER),
                    f"--model-repository={self.repository}",
                    f"--backend-directory={places.BACKENDS}",
                    f"--http-port={self.http_port}",
                    f"--grpc-port={self.grpc_port}",
                    f"--metrics-port={self.metrics_port}",
                    "--http-address=127.0.0.1",
                    "--grpc-address=127.0.0.1",
                    "--metrics-interval-ms=100",
                    *self.arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        try:
            self._wait_until_up()
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        return self

    def __exit__(self, kind, value, trace) -> None:
        code = self.stop()
        if kind is None:
            assert code == 0, f"the server ended with {code}\n{self.log_tail()}"

    def stop(self, patience_s: float = 40) -> int:
        """SIGTERM, then SIGKILL for a server that does not end; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(patience_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.returncode

    def assert_alive(self) -> None:
        """Fails with the log when the server has gone."""
        code = self.process.poll()
        assert code is None, f"the server died with {code}\n{self.log_tail()}"

    def log_text(self) -> str:
        """Everything the server has written."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def log_tail(self, lines: int = 40) -> str:
        """Its errors, then the end of it, without the wide tables."""
        everything = [line[:400] for line in self.log_text().splitlines() if line[:1] not in "+|"]
        errors = [line for line in everything[:-lines] if line.startswith("E") or "rror" in line]
        return "\n".join(errors[:lines] + everything[-lines:])

    def rss_bytes(self) -> int:
        """Resident memory of the process."""
        return self._memory("VmRSS")

    def peak_rss_bytes(self) -> int:
        """The most it has been."""
        return self._memory("VmHWM")

    def _memory(self, field: str) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(re.search(rf"{field}:\s+(\d+) kB", status).group(1)) * 1024

    def metrics(self) -> Dict[str, Dict[Labels, float]]:
        """Every sample of the metrics port: name → labels → value."""
        text = self._http.request("GET", f"http://127.0.0.1:{self.metrics_port}/metrics").data.decode()
        samples: Dict[str, Dict[Labels, float]] = {}
        for line in text.splitlines():
            match = re.fullmatch(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)", line)
            if match:
                labels = tuple(sorted(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match.group(2) or "")))
                samples.setdefault(match.group(1), {})[labels] = float(match.group(3))
        return samples

    def metric(self, metric: str, **labels: str) -> float:
        """Sum of the samples of `metric` that carry all these labels; 0 when there is none."""
        wanted = set(labels.items())
        return sum(value for found, value in self.metrics().get(metric, {}).items() if wanted <= set(found))

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + 120
        # The server opens its doors one after the other, gRPC first, metrics last.
        live = f"http://127.0.0.1:{self.http_port}/v2/health/live"
        metrics = f"http://127.0.0.1:{self.metrics_port}/metrics"
        while time.monotonic() < deadline:
            self.assert_alive()
            try:
                if all(self._http.request("GET", url).status == 200 for url in (live, metrics)):
                    return
            except urllib3.exceptions.HTTPError:
                pass
            time.sleep(0.05)
        raise TimeoutError(f"the server is not up after two minutes\n{self.log_tail()}")


def eventually(check, patience_s: float = 10):
    """The first true value of `check()`; fails when none comes in time."""
    deadline = time.monotonic() + patience_s
    while True:
        value = check()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {patience_s} s: {check}"
        time.sleep(0.02)
