"""Imports go one way, and Ray, DeepSpeed and MLflow have one room each. Imports inside functions count."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "ray_distill"

# What stands directly below each package; it may import that and all that stands below that.
BELOW: dict[str, tuple[str, ...]] = {
    "diffusion": (),
    "methods": ("diffusion",),
    "models": ("diffusion",),
    "data": ("models",),
    "config": ("methods", "data"),
    "simpletuner": ("config",),
    "fastvideo": ("simpletuner",),
    "importers": ("simpletuner", "fastvideo"),
    "plan": ("config",),
    "machine": ("plan",),
    "checkpoint": ("config",),
    "track": ("config",),
    "evaluate": ("checkpoint",),
    "export": ("evaluate",),
    "report": ("evaluate", "plan", "track"),
    "train": ("export", "report"),
    "init": ("train",),
    "tune": ("train", "importers"),
    "terminal": (),
    "arguments": (),
    "endings": ("evaluate", "track"),
    "cli": ("tune", "init", "machine", "terminal", "arguments", "endings"),
}
EVERYWHERE = {  # they stand on nothing but each other
    *(
        "types",
        "rng",
        "plaintext",
        "durable",
        "sealed",
        "masking",
        "secrets",
        "errors",
        "jsonl",
        "settings",
        "columns",
        "aside",
        "bars",
        "memory",
        "collector",
        "sheets",
        "__version__",
    ),
}
ROOMS = {
    "ray": (
        "data/prepare/pipeline.py",
        "data/feed/stream.py",
        "data/feed/fetch.py",
        "data/feed/batches.py",
        "evaluate/",
        "train/",
        "tune/",
        "cli.py",
    ),
    "deepspeed": ("train/worker/light_deepspeed.py",),
    "mlflow": ("track/",),
    "tqdm": ("bars.py",),
    # DeepSpeed as `light_deepspeed` imports it.
    "ray_distill.train.worker.light_deepspeed": ("train/worker/zero.py", "train/worker/shards.py"),
}
BORDERS: dict[str, tuple[str, ...]] = {  # folder or file -> what nothing in it may import, files of its own apart
    "train/driver/": ("ray_distill.train.worker", "ray_distill.train.launch"),
    "train/wire/": ("ray_distill.train.worker", "ray_distill.train.driver", "ray_distill.train.launch", "torch"),
    "train/worker/": ("ray_distill.train.driver", "ray_distill.train.launch"),
    "train/worker/entry.py": ("torch",),
    "train/schedule.py": ("ray_distill.train",),
    "data/read/": ("ray_distill.data.prepare", "ray_distill.data.store", "ray_distill.data.feed"),
    "data/read/video.py": ("torch",),
    "data/store/": ("ray_distill.data.read", "ray_distill.data.prepare", "ray_distill.data.feed", "torch", "ray"),
    "data/feed/": ("ray_distill.data.read", "ray_distill.data.prepare"),
    "data/feed/order.py": ("torch",),
    "data/feed/stream.py": ("torch",),
    "data/feed/fetch.py": ("torch",),
    "data/source.py": ("torch",),
}
OPEN = {"ray_distill.train.worker.entry", "ray_distill.train.worker.entry.train_worker"}  # the one door of the worker
MATHEMATICS = {"torch", "typing", "dataclasses", "collections.abc", "math", "functools", "__future__"}


def below(package: str) -> set[str]:
    return {package}.union(*(below(other) for other in BELOW.get(package, ())))


def imports(tree: ast.AST, package: list[str]) -> Iterator[tuple[int, str]]:
    """Every imported dotted name with its line; ``package`` is what relative imports start from."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            # `from ray_distill.train import worker` may name a folder.
            names = [f"{module}.{alias.name}" for alias in node.names] if module.startswith("ray_distill") else [module]
            yield from ((node.lineno, name) for name in names)


def violations(path: str, source: str) -> list[str]:
    """``path`` is relative to the package, with slashes."""
    own = path.split("/")[0].removesuffix(".py")
    found: list[str] = []
    for line, name in imports(ast.parse(source), ["ray_distill", *path.split("/")[:-1]]):
        top, _, rest = name.partition(".")
        if top == "ray_distill":
            allowed = rest.split(".")[0] in below(own) | EVERYWHERE
            allowed &= all(path.startswith(rooms) for room, rooms in ROOMS.items() if f"{name}.".startswith(f"{room}."))
        elif own in ("methods", "diffusion"):
            allowed = top == "torch" or name in MATHEMATICS
        else:
            allowed = top not in ROOMS or path.startswith(ROOMS[top])
        for border, forbidden in BORDERS.items():
            if path.startswith(border) and name not in OPEN:
                allowed &= not any(f"{name}.".startswith(f"{banned}.") for banned in forbidden)
        if not allowed:
            found.append(f"{path}:{line} imports {name}")
    return found


def test_every_module_has_a_room() -> None:
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rooms - EVERYWHERE - {"__init__", "__main__"} <= BELOW.keys()


def test_imports_go_one_way() -> None:
    paths = sorted(PACKAGE.rglob("*.py"))
    assert paths
    found: list[str] = []
    for path in paths:
        found += violations(path.relative_to(PACKAGE).as_posix(), path.read_text())
    assert found == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("diffusion/flow.py", "from ray_distill.methods import dmd"),
        ("diffusion/flow.py", "from ray_distill import methods"),
        ("diffusion/flow.py", "from ..methods.dmd import DMD"),
        ("diffusion/flow.py", "from .. import methods"),
        ("methods/dmd.py", "import numpy as np"),
        ("methods/dmd.py", "def loss():\n    import ray_distill.models.wan.network"),
        ("models/wan/network.py", "from ray_distill.data import read"),
        ("evaluate/sample.py", "from ray_distill.train import step"),
        ("plan/memory.py", "from ray_distill.track import runs"),
        ("types/method.py", "from ray_distill.diffusion import flow"),
        ("config/run.py", "import ray"),
        ("config/load.py", "from ray_distill.simpletuner.convert import convert"),
        ("data/read.py", "import ray.data"),
        ("train/worker/engines.py", "from deepspeed.utils import safe_get_full_fp32_param"),
        ("train/worker/engines.py", "from ray_distill.train.worker.light_deepspeed import deepspeed"),
        ("train/worker/loop.py", "def log():\n    import mlflow"),
        ("train/driver/fit.py", "from ray_distill.train.worker.loop import work"),
        ("train/driver/fit.py", "from ray_distill.train import worker"),
        ("train/worker/loop.py", "from ray_distill.train.driver import fit"),
        ("train/wire/job.py", "def work():\n    from ray_distill.train.worker.loop import work"),
        ("train/wire/board.py", "import torch"),
        ("data/store/cache.py", "from ray_distill.data.prepare.index import finish"),
        ("data/feed/stream.py", "import torch"),
        ("data/read/video.py", "from ray_distill.data.store import cache"),
    ],
)
def test_a_planted_violation_is_found(path: str, source: str) -> None:
    assert len(violations(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            "methods/dmd.py",
            "from ray_distill.diffusion import flow\nfrom ray_distill.types import Batch\nimport torch.nn",
        ),
        ("methods/__init__.py", "from .dmd import DMD\nfrom . import lcm"),
        ("data/prepare/pipeline.py", "import ray.data\nfrom ray_distill.models import vae"),
        ("train/driver/fit.py", "from ray_distill.train.worker.entry import train_worker"),
        ("train/worker/light_deepspeed.py", "import deepspeed\nfrom ray_distill.checkpoint import manifest"),
        ("cli.py", "def main():\n    from ray_distill.tune import search"),
    ],
)
def test_what_is_allowed_passes(path: str, source: str) -> None:
    assert violations(path, source) == []


# Methods


def questions(source: str) -> list[int]:
    """The lines that ask what a method is or has (`isinstance`, `hasattr`, `getattr`), or what it is called."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
            if node.func.id in ("isinstance", "hasattr", "getattr", "type") and is_method(node.args[0]):
                lines.append(node.lineno)
        elif isinstance(node, ast.Compare):
            names = [part.value for part in (node.left, *node.comparators) if getattr(part, "attr", "") == "name"]
            if any(is_method(name) for name in names):  # type: ignore[attr-defined]
                lines.append(node.lineno)
    return lines


def is_method(node: ast.expr) -> bool:
    """Whether an expression is a method by its name: ``method``, ``config.method``, ``METHODS[...]``."""
    return ast.unparse(node).split(".")[-1] == "method"


def test_nobody_asks_which_method_it_is() -> None:
    """The trainer, the evaluation and the export know a method by its protocol alone."""
    paths = [path for path in sorted(PACKAGE.rglob("*.py")) if path.relative_to(PACKAGE).parts[0] != "methods"]
    asked = {path.name: lines for path in paths if (lines := questions(path.read_text()))}
    assert asked == {}


@pytest.mark.parametrize(
    "source",
    [
        'if getattr(config.method, "pairs", False): pass',
        "isinstance(method, DMD)",
        'hasattr(self.config.method, "pairs")',
        'if config.method.name == "dmd": pass',
        'x = "dmd" == method.name',
    ],
)
def test_a_planted_question_is_found(source: str) -> None:
    assert questions(source) == [1]
