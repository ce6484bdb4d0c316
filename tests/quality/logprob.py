#!/usr/bin/env python3
"""The mean log-probability that each precision of the chat model gives a fixed English text: `make quality`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import smollm2  # noqa: E402


def main() -> None:
    reference = smollm2.REFERENCE["score"]["mean_logprob"]
    print("SmolLM2  mean log-probability of a fixed text")
    print(f"  reference {reference:.5f}")
    for precision in ("fp32", "int8", "int4"):
        found = smollm2.mean_logprob(precision)
        print(f"  {precision:<9} {found:.5f}  {found / reference - 1:+.2%}")


if __name__ == "__main__":
    main()
