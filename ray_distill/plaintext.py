"""Decode bytes to text by one rule, for captions, manifests, prompts and configurations.

A byte order mark names the encoding; without a mark it is UTF-8. No other encoding is guessed, and no character is
replaced: text that cannot be decoded is refused, with the number of its line.
"""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

MARKS = (  # UTF-32 first: its little-endian mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
MARK, NUL = "\ufeff", "\0"
ESCAPE = "ray_distill.half_surrogate"


class NotText(ValueError):
    """Error: bytes that are no text."""


def lines_of(file: BinaryIO) -> Iterator[tuple[str, str]]:
    """Yield (line without its end, why it is no text, "" for a good line). Line ends are those of Unix, Windows and old
    Macs; a caption may contain the other characters that Python takes for a line's end."""
    encoding, start = _marked(file.read(4))
    file.seek(start)
    for line in io.TextIOWrapper(file, encoding, errors=ESCAPE):
        text = line.removesuffix("\n").lstrip(MARK)  # joined files have a mark at the seam
        yield text, _fault(text, encoding)


def text_of(content: bytes) -> str:
    """Decode ``content``; NotText names the line of the first fault."""
    encoding, start = _marked(content[:4])
    text = content[start:].decode(encoding, errors=ESCAPE).lstrip(MARK)
    if fault := _fault(text, encoding):
        bad = next(number for number, character in enumerate(text) if _is_bad(character))
        line = text.count("\n", 0, bad) + 1
        raise NotText(f"line {line}: {fault}" if "\n" in text.rstrip() else fault)
    return text


def read_text(path: Path) -> str:
    """A file's text; NotText names the file."""
    try:
        return text_of(path.read_bytes())
    except NotText as error:
        raise NotText(f"{path}: {error}") from None


def json_of(text: str) -> Any:
    """The value of ``text`` as JSON; ValueError where it is invalid, or nested too deep for Python."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"not valid JSON: {error}") from None
    except RecursionError:
        raise ValueError("not valid JSON: nested too deep") from None


def list_of(content: bytes) -> list[tuple[Any, str]]:
    """(entry, why it is no text, "" for a good one) for each entry of a JSON list. ValueError where ``content`` is no
    JSON."""
    try:
        return [(value, "") for value in json_of(text_of(content))]
    except NotText as error:
        encoding, start = _marked(content[:4])
        try:
            values = json_of(content[start:].decode(encoding, errors=ESCAPE).lstrip(MARK))
        except ValueError:
            raise error from None
        faults = (_fault(json.dumps(value, ensure_ascii=False), encoding) for value in values)
        return [(None if fault else value, fault) for value, fault in zip(values, faults, strict=True)]


def blank(text: str) -> bool:
    """True for a text without a visible character."""
    return not any(character.isprintable() and not character.isspace() for character in text)


def _marked(head: bytes) -> tuple[str, int]:
    """The encoding that a file's first four bytes name, and the length of the mark."""
    return next(((name, len(mark)) for mark, name in MARKS if head.startswith(mark)), ("utf-8", 0))


def _fault(text: str, encoding: str) -> str:
    bad = next((character for character in text if _is_bad(character)), "") if _may_be_bad(text) else ""
    if bad == NUL:
        return "not text: it holds NUL characters, as UTF-16 without a byte order mark does; save it as UTF-8"
    return f"not {encoding.upper()} (byte 0x{ord(bad) & 0xFF:02x}); save it as UTF-8" if bad else ""


def _may_be_bad(text: str) -> bool:
    """Quick check, since most lines are good: True where ``text`` has a character that cannot be encoded, or NUL."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return NUL in text


def _is_bad(character: str) -> bool:
    return character == NUL or "\ud800" <= character <= "\udfff"


def _escape(error: UnicodeError) -> tuple[str, int]:
    """Decode a bad byte as half a surrogate, which no text has: Python's surrogateescape works for UTF-8 alone."""
    assert isinstance(error, UnicodeDecodeError)
    return "".join(chr(0xDC00 | byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error(ESCAPE, _escape)
