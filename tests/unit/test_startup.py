"""What a process imports before its work begins, in modules of ours and heavy libraries, by the imports of its entry.

An import inside a function is paid where the function is called, and does not count here.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from ray_distill.models import FAMILIES

ROOT = Path(__file__).parents[2]
HEAVY = {
    *("torch", "diffusers", "transformers", "accelerate", "peft", "deepspeed", "mlflow", "matplotlib"),
    *("ray", "ray.data", "ray.train", "ray.tune", "optuna", "cv2"),
}
ENTRIES: dict[str, tuple[set[str], int]] = {  # the entry of a process -> its heavy libraries, most modules of ours
    "cli": (set(), 8),
    "machine.look": (set(), 14),
    "data.prepare.stages": (set(), 34),  # tasks that look into files, decode clips and write rows
    "data.prepare.encode": ({"torch"}, 48),  # actors with a codec or a text encoder
    "data.feed.stream": ({"ray.data"}, 20),  # tasks that fetch rows
    "train.wire.job": ({"ray", "ray.data", "ray.train"}, 30),  # Ray Train's controller
    "train.driver.system_metrics": ({"ray"}, 6),  # an actor on each node
    "train.worker.entry": (set(), 8),
    "train.worker.loop": ({"torch", "ray", "ray.data", "ray.train", "deepspeed"}, 134),
    "evaluate.generate": ({"torch", "ray", "cv2"}, 124),  # tasks that sample
    "tune.trial": ({"ray"}, 8),
    "train.driver.check": ({"torch", "cv2"}, 160),
    "train.launch": ({"torch", "cv2", "ray", "ray.data", "ray.train"}, 233),
    **{f"models.{name}.family": ({"torch"}, 30) for name in FAMILIES},
}


def file_of(module: str) -> Path | None:
    folder = ROOT / module.replace(".", "/")
    return next((path for path in (folder / "__init__.py", folder.with_suffix(".py")) if path.is_file()), None)


def at_import(nodes: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports that run with the module itself: not those in functions, nor those for type checkers."""
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If):
            yield from at_import(node.orelse if ast.unparse(node.test) == "TYPE_CHECKING" else node.body + node.orelse)
        elif isinstance(node, ast.Try | ast.With | ast.ClassDef):
            yield from at_import(node.body)


@cache
def imported(module: str) -> frozenset[str]:
    path = file_of(module)
    assert path is not None, module
    names: set[str] = set()
    for node in at_import(ast.parse(path.read_text()).body):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        else:
            assert node.module is not None
            parts = [f"{node.module}.{alias.name}" for alias in node.names]
            names |= {part if file_of(part) else node.module for part in parts}
    return frozenset(names)


def graph(entry: str) -> tuple[set[str], set[str]]:
    """(modules of ours, names of others) that importing ``entry`` imports."""
    ours, others, left = set[str](), set[str](), [entry]
    while left:
        name = left.pop()
        if not name.startswith("ray_distill"):
            others.add(name)
            continue
        parts = name.split(".")
        for module in (".".join(parts[:n]) for n in range(1, len(parts) + 1)):
            if module not in ours:
                ours.add(module)
                left += imported(module)
    return ours, others


@pytest.mark.parametrize(("entry", "heavy", "most"), [(entry, *row) for entry, row in ENTRIES.items()])
def test_a_process_imports_what_it_needs(entry: str, heavy: set[str], most: int) -> None:
    ours, others = graph(f"ray_distill.{entry}")
    found = {name for name in HEAVY for other in others if f"{other}.".startswith(f"{name}.")}
    assert found - {"ray"} == heavy - {"ray"} and ("ray" in found) == any(name.startswith("ray") for name in heavy)
    assert len(ours) <= most


def test_an_import_is_found_where_it_is_paid() -> None:
    source = (
        "import a\nif TYPE_CHECKING:\n    import b\nelse:\n    import c\ndef f():\n    import d\ntry:\n    import e\n"
    )
    names = [alias.name for node in at_import(ast.parse(source + "finally: pass").body) for alias in node.names]
    assert names == ["a", "c", "e"]


@pytest.mark.parametrize("line", [["--help"], ["train", "--help"], ["train", "run.yaml", "--seed", "1"]])
def test_help_and_wrong_flags_take_the_standard_library_alone(line: list[str]) -> None:
    code = (
        "import sys\nbefore = set(sys.modules)\nfrom ray_distill.cli import main\n"
        f"try:\n    main({line})\nexcept SystemExit:\n    pass\n"
        "roots = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print('imports', *sorted(roots - sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "imports ray_distill"
