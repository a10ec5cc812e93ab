"""Write the trees of ARCHITECTURE.md (folders) and docs/tree.md (files) from module docstrings: python docs/tree.py"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ray_distill"
WIDTH = 28
BEGIN, END = "<!-- tree: python docs/tree.py -->\n```\n", "```\n<!-- end of tree -->"


def purpose(path: Path) -> str:
    """First line of a module's docstring, without its full stop."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0].rstrip(".")


def lines(folder: Path, depth: int, files: bool) -> Iterator[str]:
    """Yield one line per folder and, with ``files``, per file: name and purpose, indented by depth."""
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name)):
        indent = "  " * depth
        if path.suffix == ".py" and files and path.name != "__init__.py":
            yield f"{indent}{path.name:<{WIDTH - len(indent)}}{purpose(path)}"
        elif (path / "__init__.py").exists():
            yield f"{indent}{path.name + '/':<{WIDTH - len(indent)}}{purpose(path / '__init__.py')}"
            yield from lines(path, depth + 1, files)


def tree(files: bool) -> str:
    return "\n".join(["ray_distill/", *lines(PACKAGE, 1, files)]) + "\n"


def architecture() -> str:
    """ARCHITECTURE.md with its current tree."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    return before + BEGIN + tree(files=False) + END + after


def listing() -> str:
    """Current text of docs/tree.md."""
    head = "# Every file, with its purpose\n\nWritten by `python docs/tree.py` from the files' own first lines.\n\n"
    return f"{head}```\n{tree(files=True)}```\n"


if __name__ == "__main__":
    (ROOT / "ARCHITECTURE.md").write_text(architecture())
    (ROOT / "docs" / "tree.md").write_text(listing())
