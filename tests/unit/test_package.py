"""The installed package holds every file that the checkout's has, and asks for what it imports."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "ray_distill"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_pattern_of_package_data_names_a_file_and_every_file_has_one() -> None:
    (patterns,) = PROJECT["tool"]["setuptools"]["package-data"].values()
    named = {pattern: {path for path in PACKAGE.glob(pattern) if path.is_file()} for pattern in patterns}
    assert [pattern for pattern, paths in named.items() if not paths] == []
    others = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert others - set().union(*named.values()) == set()
