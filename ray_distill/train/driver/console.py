"""Print what a run does on standard error; standard output is for what a command returns."""

from __future__ import annotations

import sys

from ray_distill.config.secrets import mask


def say(text: str) -> None:
    """To the terminal, without secrets."""
    print(mask(text), file=sys.stderr, flush=True)
