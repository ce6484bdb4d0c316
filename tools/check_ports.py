#!/usr/bin/env python3
"""Checks that ports are free: `check_ports.py HTTP_PORT=8000 GRPC_PORT=8001 …`.

Exits with one line for each port that cannot be used, naming the variable that chose it.
"""

import errno
import socket
import sys


def problem(variable: str, value: str, seen: dict) -> str:
    """What is wrong with this choice; empty when nothing is."""
    if not (value.isascii() and value.isdigit() and 1 <= int(value) <= 65535):
        return f"{variable}={value}: not a port; expected a number from 1 to 65535"
    port = int(value)
    other = seen.setdefault(port, variable)
    if other != variable:
        return f"{variable}={port}: {other} has the same port; choose another, as in `make demo {variable}={port + 10}`"
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Connections that linger after a stop do not count as taken; a listening server still does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
            probe.listen()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return f"{variable}={port}: the port is taken; choose another, as in `make demo {variable}={port + 10}`"
            return f"{variable}={port}: {error.strerror}"
    return ""


def main() -> int:
    seen: dict = {}
    problems = [problem(*choice.split("=", 1), seen) for choice in sys.argv[1:]]
    for line in filter(None, problems):
        print(f"error: {line}", file=sys.stderr)
    return 1 if any(problems) else 0


if __name__ == "__main__":
    sys.exit(main())
