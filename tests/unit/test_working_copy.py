"""No test names a folder that runs leave in the working copy: the tests are green whatever stands there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEFT = ("data", "cache", "runs", "models", "output", "mlruns", "mlartifacts")
"""What .gitignore keeps out of the repository because runs and users put it there."""
PATTERNS = [
    rf"""ROOT\s*/\s*f?["']({"|".join(LEFT)})\b""",
    r"chdir\((ROOT|Path\(__file__\))",
    rf"""Path\(["']({"|".join(LEFT)})/""",
]


def uses(text: str) -> list[str]:
    return [match[0] for pattern in PATTERNS for match in re.finditer(pattern, text)]


def test_no_test_uses_what_a_run_has_left() -> None:
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {f"/{name}/" for name in LEFT} <= set(ignored)
    here = Path(__file__)
    found = {str(path): uses(path.read_text()) for path in (ROOT / "tests").rglob("*.py") if path != here}
    assert {path: names for path, names in found.items() if names} == {}


def test_relative_paths_mean_an_empty_clone(checkout: Path) -> None:
    assert Path.cwd() == checkout and Path("configs/quickstart.yaml").is_file()
    assert [name for name in LEFT if Path(name).exists()] == []


@pytest.mark.parametrize(
    "planted",
    ['read(ROOT / "output/quickstart")', "ROOT / 'data'", "monkeypatch.chdir(ROOT)", 'Path("mlruns/mlflow.db")'],
)
def test_a_planted_use_is_seen(planted: str) -> None:
    assert uses(planted)
