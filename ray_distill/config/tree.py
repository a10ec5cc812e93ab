"""Parse YAML text into plain values in bounded time and memory; duplicate keys are errors.

YAML 1.1 with three differences: a key twice in one mapping is an error, ``1e3`` is a number, and if the schema's key is
text a value without quotes is that text: ``no``, ``2026``.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any

import yaml
from yaml.reader import Reader

from ray_distill.config.kinds import Kinds
from ray_distill.errors import ConfigError

LETTERS = 4 << 20
NODES = 100_000
"""Largest number of values of a document, each alias counted with its content."""
DEPTH = 50
PLAIN = {yaml.MappingNode: "tag:yaml.org,2002:map", yaml.SequenceNode: "tag:yaml.org,2002:seq"}
NULL, MERGE, TEXT = (f"tag:yaml.org,2002:{name}" for name in ("null", "merge", "str"))


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which alone would read ``1e3`` as text."""


Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+"), list("-+0123456789"))


class Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which alone writes U+0085 as the end of a line."""


Dumper.add_representer(
    str, lambda dumper, text: dumper.represent_scalar(TEXT, text, style='"' if "\x85" in text else None)
)


def one_line(value: Any) -> str:
    """``value`` as one line of YAML, as an override takes it; a text is quoted, so that it is no number or list."""
    quotes = '"' if isinstance(value, str) else None
    text: str = yaml.dump(
        value, Dumper=Dumper, default_style=quotes, default_flow_style=True, allow_unicode=True, width=math.inf
    )
    return text.removesuffix("\n").removesuffix("\n...")


def comment(text: str) -> str:
    """``text`` in one line of letters that YAML takes in comments."""
    return " ".join(Reader.NON_PRINTABLE.sub(" ", text).splitlines())


def parse(text: str, kinds: Kinds, nodes: int = NODES, depth: int = DEPTH) -> Any:
    """The value of ``text``, None if it is empty; ConfigError if it is not valid YAML, or has more than ``nodes``
    values or ``depth`` levels. ``kinds`` are the kinds that the schema takes there."""
    if len(text) > LETTERS:
        raise ConfigError(
            f"the text has {len(text):,} letters, and a configuration at most {LETTERS:,}; give the path of a "
            "configuration"
        )
    try:
        _check_depth(text, depth)
        loader = Loader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        _count(root, nodes, {}, [])
        return _value(loader, root, kinds)
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a malformed date or number
        raise ConfigError(f"not valid YAML: {error}") from None


def override(text: str, kinds: Kinds) -> Any:
    """The value of ``key=text``. For a key of text it is ``text`` unchanged, including ``#`` and ``: ``, or the content
    of its quotes. Empty text is "", or null if the key takes null; ``null`` also means null."""
    if not kinds.text:
        return parse(text, kinds)
    text = text.strip()
    if text[:1] in ("'", '"') and text[-1:] == text[:1] and len(text) > 1:
        try:
            return parse(text, kinds)
        except ConfigError:  # quotes within a text, as in "a" and "b"
            return text
    if _is_null(text) and not (text == "~" and kinds.path and not kinds.null):  # ~ also means the home folder
        return "" if not text and not kinds.null else None
    return text


def _is_null(text: str) -> bool:
    return text in ("", "~", "null", "Null", "NULL")


def _check_depth(text: str, most: int) -> None:
    """ConfigError where ``text`` nests deeper than ``most``: PyYAML builds nodes recursively, and would overflow."""
    depth = 0
    for event in yaml.parse(text, Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > most:
                raise ConfigError(f"{_at(event)}: more than {most} nested levels; write fewer")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _at(node: Any) -> str:
    return f"line {node.start_mark.line + 1}"


def _count(node: Any, most: int, counts: dict[int, int], above: list[int]) -> int:
    """Number of values in ``node``, each alias counted with its content, without expanding any."""
    if id(node) in counts:
        return counts[id(node)]
    if id(node) in above:
        raise ConfigError(f"{_at(node)}: an alias inside its own anchor; write the value in place of the alias")
    total = 1
    if isinstance(node, yaml.CollectionNode):
        above.append(id(node))
        parts = node.value
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
            parts = [part for pair in parts for part in pair]
        total += sum(_count(part, most, counts, above) for part in parts)
        above.pop()
    if total > most:
        raise ConfigError(f"{_at(node)}: more than {most:,} values, with those of aliases; write fewer aliases")
    counts[id(node)] = total
    return total


def _value(loader: Loader, node: Any, kinds: Kinds) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return _scalar(loader, node, kinds)
    if node.tag != PLAIN[type(node)]:
        raise ConfigError(f"{_at(node)}: the tag {node.tag} is not supported; write the value without a tag")
    if isinstance(node, yaml.SequenceNode):
        return [_value(loader, item, kinds.child("0")) for item in node.value]
    return {name: _value(loader, value, kinds.child(name)) for name, value in _pairs(node).items()}


def _pairs(node: Any) -> dict[str, Any]:
    """Value nodes of a mapping by key, including those of merged mappings (`<<`): its own keys override theirs, and an
    earlier merged mapping overrides a later one. PyYAML 6.0.4 loses some keys that a merged mapping overrides
    itself."""
    own, merged = dict[str, Any](), dict[str, Any]()
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError(f"{_at(key)}: a key must be a word, and this one is a list or a mapping")
        if key.tag != MERGE:
            own[key.value] = value
            continue
        for source in reversed(value.value if isinstance(value, yaml.SequenceNode) else [value]):
            if not isinstance(source, yaml.MappingNode):
                raise ConfigError(f"{_at(source)}: << takes a mapping or a list of mappings")
            merged |= _pairs(source)
    return merged | own


def _scalar(loader: Loader, node: Any, kinds: Kinds) -> Any:
    if not kinds.text or node.style is not None:
        return loader.construct_object(node)
    if node.tag == NULL:
        return "" if not node.value and not kinds.null and not kinds.path else None
    return node.value


def _check_keys(node: Any) -> None:
    """ConfigError with both lines for a key that appears twice in a mapping. A key may override a merged mapping."""
    counted = Counter(key.value for key, _ in node.value if key.tag != MERGE and isinstance(key, yaml.ScalarNode))
    for name, count in counted.items():
        if count > 1:
            first, again = [key.start_mark.line + 1 for key, _ in node.value if key.value == name][:2]
            raise ConfigError(f"{name!r} occurs on line {first} and again on line {again}; keep one of the two lines")
