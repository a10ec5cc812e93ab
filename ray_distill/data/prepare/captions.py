"""Captions of one clip: none, one, or several, from which each sample draws one."""

from __future__ import annotations

import io
from pathlib import PurePosixPath
from typing import IO, Any

from ray_distill.plaintext import NotText, blank, json_of, lines_of, text_of

Captions = tuple[str, ...]
LIMIT = 16 << 20
"""Most bytes of a file that holds one clip's captions."""


def captions_of(value: Any) -> Captions:
    """The distinct captions in a table's value, which is a text or a list of texts; blank texts are left out.
    ValueError for another kind of value."""
    values = value if isinstance(value, list | tuple) else [value]
    wrong = next((each for each in values if not (each is None or isinstance(each, str))), None)
    if wrong is not None:
        raise ValueError(f"a caption is a text or a list of texts, not {type(wrong).__name__}")
    return tuple(dict.fromkeys(text.strip() for text in values if text is not None and not blank(text)))


def read_caption(name: str, content: IO[bytes], column: str, choices: bool) -> tuple[Captions, str]:
    """(captions, fault) of a .txt or .json called ``name``; the fault is "" for a good file. ``column`` is the
    caption's key in a .json. With ``choices`` each line of a .txt is a caption, else all lines together are one
    caption."""
    data = content.read(LIMIT + 1)
    if len(data) > LIMIT:
        return (), f"{name}: it has more than {LIMIT} bytes"
    try:
        if PurePosixPath(name).suffix.lower() == ".json":
            value = json_of(text_of(data))
            return captions_of(value.get(column) if isinstance(value, dict) else None), ""
        if choices:
            lines = list(lines_of(io.BytesIO(data)))
            if fault := next((f"line {number}: {fault}" for number, (_, fault) in enumerate(lines, 1) if fault), ""):
                raise NotText(fault)
            return captions_of([" ".join(line.split()) for line, _ in lines]), ""
        return captions_of(" ".join(text_of(data).split())), ""
    except ValueError as error:
        return (), f"{name}: {error}"
