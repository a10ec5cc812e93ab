"""Plain English, as far as a parser sees it: the first words of docstrings, and names that are nouns or verbs."""

import ast
import re
from pathlib import Path

HEADLESS = re.compile(r"(What|Where|Who|Whose|How|Whether|That|Which|Those|Of|Why|When|As|If|To|With)\b")
PARTICIPLES = {
    "batched",
    "begun",
    "filled",
    "found",
    "given",
    "held",
    "known",
    "located",
    "looked_up",
    "made",
    "placed",
}
PARTICIPLES |= {"claimed", "masked", "published", "said", "sought", "told", "validated", "wanted"}
"""A noun names the value (``rows``, ``section``), and a participle names what happened to it."""
PACKAGE = Path(__file__).parents[2] / "ray_distill"


def headless(source: str) -> list[str]:
    """First words of the docstrings of ``source`` that begin with a relative, a conjunction or a preposition."""
    nodes = [
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
    ]
    texts = [text for node in nodes if (text := ast.get_docstring(node))]
    return [" ".join(text.split()[:6]) for text in texts if HEADLESS.match(text)]


def test_no_docstring_begins_with_a_relative():
    found = {
        str(path.relative_to(PACKAGE)): words for path in PACKAGE.rglob("*.py") if (words := headless(path.read_text()))
    }
    assert found == {}


def test_a_planted_one_is_seen():
    source = 'def f():\n    """What is there."""\n\nclass A:\n    """Whatever it is."""\n'
    assert headless(source) == ["What is there."]


def participles(source: str) -> list[str]:
    """Participles that ``source`` binds as names: functions, classes, arguments, variables, fields and imports."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                names.add(name)
            case ast.alias(name=name, asname=other):
                names.add(other or name)
    return sorted(name for name in names if name.strip("_").lower() in PARTICIPLES)


def test_no_name_is_a_participle():
    bound = {
        str(file.relative_to(PACKAGE)): names
        for file in PACKAGE.rglob("*.py")
        if (names := participles(file.read_text()) or sorted({file.stem} & PARTICIPLES))
    }
    assert bound == {}


def test_planted_participles_are_seen():
    source = "from a import known\ndef told(held):\n    self._made = found = 1\nclass Given:\n    wanted: int\n"
    assert participles(source) == ["Given", "_made", "found", "held", "known", "told", "wanted"]
    assert participles("def mask(text):\n    known_rows = rows.held = text.found\n") == ["held"]
