"""Docstrings begin with the verb, or with the noun that a function returns: the part of the rule that a parser sees."""

import ast
import re
from pathlib import Path

HEADLESS = re.compile(r"(What|Where|Who|Whose|How|Whether|That|Which|Those|Of|Why|When|As|If|To|With)\b")
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
