"""Report on the machine: libraries first, then the rest, for a run or for none in particular."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ray_distill.machine.libraries import libraries
from ray_distill.machine.line import text_of

if TYPE_CHECKING:
    from ray_distill.config import RunConfig


def report(read: Callable[[], RunConfig] | None) -> tuple[str, bool]:
    """The report, and whether nothing that is needed is missing. ``read`` reads the configuration of the run, which
    takes libraries: where one of them is missing, the report ends with them."""
    lines = list(libraries())
    if not any(line.state == "missing" for line in lines):
        from ray_distill.machine.look import look, needs_of, no_run

        lines += look(needs_of(read()) if read else no_run())
    names = [line.name for line in lines if line.state == "missing"]
    verdict = f"missing: {', '.join(names)}" if names else "nothing that is needed is missing"
    return f"{text_of(lines)}\n\n{verdict}", not names
