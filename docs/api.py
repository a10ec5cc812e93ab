"""Write API pages of types, diffusion, methods and models: python docs/api.py [FOLDER]"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pdoc

ROOT = Path(__file__).parents[1]
FOLDERS = ("types", "diffusion", "methods", "models")


def modules() -> list[str]:
    """Names of the modules that get a page: all except the scripts of exports, which run only beside their weights."""
    paths = sorted(path for name in FOLDERS for path in (ROOT / "ray_distill" / name).rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    return [name.removesuffix(".__init__") for name in names if not name.rpartition(".")[2].startswith("sample")]


def write(folder: Path) -> None:
    """Write a page for each of :func:`modules`, with an index and a search, into ``folder``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about annotations in inherited constructors, and about the scripts of exports
        pdoc.pdoc(*modules(), "!.*\\.sample.*", output_directory=folder)


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "api")
