"""Write docs/keys.md, every key of a run's configuration, from the schema: python docs/keys.py"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from ray_distill.config.explain import Key, all_keys

TOP = "top level"
PAGE = Path(__file__).with_name("keys.md")
HEAD = """\
# Every key of a configuration

Written by `python docs/keys.py` from the schema. `ray-distill check CONFIG --explain KEY` prints a key with its value
in CONFIG, and `--all` prints all keys. NAME stands for any name, such as a role's, and N for a number. A key without a
default is required. [methods.md](methods.md) has the formulas of `method`, and [data.md](data.md) examples of `data`.
"""


def section(key: Key) -> str:
    """The heading under which a key stands."""
    head = key.name.split(".")[0]
    return head if "." in key.name else TOP


def rows(keys: Iterable[Key], with_methods: bool) -> Iterator[str]:
    """Lines of a table of keys."""
    yield "| key | value | default | meaning |" + " methods |" * with_methods
    yield "|---|---|---|---|" + "---|" * with_methods
    for key in keys:
        default = "" if key.default is None else f"`{key.default}`" if key.default else '`""`'
        meaning = key.meaning.replace("``", "`").replace("|", "\\|")
        yield f"| `{key.name}` | {key.kind} | {default} | {meaning} |" + f" {', '.join(key.methods)} |" * with_methods


def page() -> str:
    """Current text of docs/keys.md."""
    ordered = sorted(all_keys(), key=lambda key: section(key) != TOP)
    parts = (
        f"\n## {head.capitalize() if head == TOP else f'`{head}`'}\n\n" + "\n".join(rows(keys, head == "method")) + "\n"
        for head, keys in groupby(ordered, section)
    )
    return HEAD + "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
