"""Runs the gateway."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

import urllib3

from . import places
from .server import free_ports

BINARY = places.CLI.with_name("textgen-gateway")
#: What `make demo` serves.
DEMO = places.ROOT / "crates" / "gateway" / "config" / "demo.toml"


class Gateway:
    """The gateway on a free port. Leaving the `with` block stops it and fails when it crashed."""

    def __init__(
        self,
        triton_port: int,
        log: Path,
        *arguments: str,
        config: Optional[Path] = DEMO,
        port: Optional[int] = None,
        scheme: str = "http",
    ):
        self.triton_port = triton_port
        self.log = log
        self.arguments = arguments
        self.config = config
        self.port = port or free_ports(1)[0]
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.process: Optional[subprocess.Popen] = None
        self.http = urllib3.PoolManager(retries=False, timeout=30, cert_reqs="CERT_NONE")

    def __enter__(self) -> "Gateway":
        self.start()
        return self

    def __exit__(self, kind, value, trace) -> None:
        code = self.stop()
        if kind is None:
            assert code == 0, f"the gateway ended with {code}\n{self.log_tail()}"

    def start(self) -> None:
        """Starts it, once more on the same port when it was stopped, and waits until it listens."""
        config = ["--config", str(self.config)] if self.config else []
        listen = ["--triton", f"127.0.0.1:{self.triton_port}", "--host", "127.0.0.1", "--port", str(self.port)]
        # Nothing of the caller's environment configures it.
        environment = {"PATH": "/usr/bin:/bin", "HOME": os.environ.get("HOME", "/")}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [str(BINARY), *config, *listen, *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        self._until(lambda: self.http.request("GET", f"{self.url}/health/live").status == 200, 30)

    def stop(self, patience_s: float = 40) -> int:
        """SIGTERM, then SIGKILL for one that does not end; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(patience_s)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.returncode

    def kill(self) -> None:
        """Ends it at once."""
        self.process.kill()
        self.process.wait()

    def until_ready(self, patience_s: float = 60) -> None:
        """Waits until Triton and every model are ready, as the gateway sees them."""
        self._until(lambda: self.http.request("GET", f"{self.url}/health/ready").status == 200, patience_s)

    def _until(self, check, patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        while True:
            code = self.process.poll()
            assert code is None, f"the gateway ended with {code}\n{self.log_tail()}"
            try:
                if check():
                    return
            except urllib3.exceptions.HTTPError:
                pass
            assert time.monotonic() < deadline, f"not within {patience_s} s\n{self.log_tail()}"
            time.sleep(0.05)

    def post(self, path: str, body: Any, **headers: str) -> "tuple[int, Dict[str, Any]]":
        """Status and object of the answer to a body in JSON, or to bytes as they are."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = self.http.request("POST", self.url + path, body=raw, headers=headers)
        return answer.status, json.loads(answer.data)

    def get(self, path: str, **headers: str) -> "tuple[int, Dict[str, Any]]":
        """Status and object of an answer."""
        answer = self.http.request("GET", self.url + path, headers=headers)
        return answer.status, json.loads(answer.data)

    def metric(self, name: str, **labels: str) -> float:
        """Sum of the samples of `name` that carry all these labels; 0 when there is none."""
        text = self.http.request("GET", f"{self.url}/metrics").data.decode()
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        lines = [line for line in text.splitlines() if line.startswith((name + "{", name + " "))]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(label in line for label in wanted))

    def rss_bytes(self) -> int:
        """Resident memory of the process."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) * 1024

    def log_lines(self) -> "List[Dict[str, Any]]":
        """Every line of the log, which are all objects."""
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]

    def log_tail(self, lines: int = 20) -> str:
        """The end of the log."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
