"""Set keys in the text of a configuration, and leave every other line, comments included, as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

WIDTH = 120


@dataclass(frozen=True)
class Edit:
    """A dotted ``key`` with its value, and the reason that is written beside it. It replaces the line of ``key`` or of
    ``other``, a key of the same section; without either it becomes the section's first line."""

    key: str
    value: Any
    why: str
    other: str = ""


def apply(text: str, edit: Edit) -> str:
    """``text`` with the edit; the section of its key must be a block with keys."""
    *sections, last = edit.key.split(".")
    node: Any = yaml.compose(text, yaml.SafeLoader)
    line = indent = 0
    for section in sections:
        key, node = next(pair for pair in node.value if pair[0].value == section)
        line, indent = key.start_mark.line + 1, node.start_mark.column
    new = lines_of(" " * indent + last, edit)
    lines = text.splitlines(keepends=True)
    for key, value in node.value:
        if key.value in (last, edit.other):
            lines[key.start_mark.line : end_of(value, lines)] = new
            break
    else:
        lines[line:line] = new
    return "".join(lines)


def end_of(value: Any, lines: list[str]) -> int:
    """Number of the line behind a value and before the comments that follow it."""
    end: int = value.end_mark.line
    if isinstance(value, yaml.ScalarNode):
        return end if value.style in ("|", ">") else end + 1  # a block's end is where the next line begins
    if value.flow_style:
        return end + 1
    while not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#"):
        end -= 1
    return end


def lines_of(start: str, edit: Edit) -> list[str]:
    """The line of an edit, with its reason beside it, or above it where the line would be too long."""
    text = yaml.safe_dump(edit.value, default_flow_style=True, allow_unicode=True, width=1 << 20, sort_keys=False)
    line = f"{start}: {text.splitlines()[0]}"  # a scalar's second line is "...", the end of a document
    beside = f"{line}  # init: {edit.why}"
    if len(beside) <= WIDTH:
        return [f"{beside}\n"]
    indent = start[: len(start) - len(start.lstrip())]
    return [f"{indent}# init: {edit.why}\n", f"{line}\n"]
