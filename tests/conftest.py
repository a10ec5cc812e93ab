"""Before anything imports Ray, which reads these when it is loaded: every Ray of the tests asks for a token."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)

pytest_plugins = ["tests.scripts"]

ROOT = Path(__file__).parents[1]
LINKED = ("configs", "examples", "docs", "benchmarks", "cluster", "tests", "README.md", "train.py")


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a clone in which nothing has run: no data/, no output/, no mlruns/."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture(scope="session", autouse=True)
def outside_the_working_copy(checkout: Path) -> Iterator[None]:
    """Relative paths mean the empty clone: what a run has left in the working copy is neither read nor written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(checkout)
        patch.setenv("XDG_CACHE_HOME", str(checkout.parent / "home"))
        yield
