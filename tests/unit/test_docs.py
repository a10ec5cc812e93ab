"""Every `ray-distill` command of the documents is one that the tool takes; plans are run, the README's in tests/ray."""

import re
import shlex
from pathlib import Path

import pytest

from docs import tree
from ray_distill.cli import main, parse
from ray_distill.importers import load_run
from ray_distill.tune.space import load_sweep

ROOT = Path(__file__).parents[2]
MADE = "output/"  # configurations that a command before has written


def commands() -> list[str]:
    found = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for block in re.findall(r"^```\n(.*?)^```", path.read_text(), re.S | re.M):
            lines = [line.partition("  #")[0].strip() for line in block.replace("\\\n", "").splitlines()]
            found += [line for line in lines if line.startswith("ray-distill ")]
    return sorted(set(found))


def test_there_are_commands() -> None:
    assert len(commands()) >= 12


@pytest.mark.parametrize("line", commands())
def test_a_documented_command_is_taken(line: str) -> None:
    args = parse(shlex.split(line)[1:])
    if str(args.config).startswith(MADE):
        assert args.verb == "train"
    elif args.verb == "import":
        load_run(Path(args.overrides[0]), args.overrides[1:], environment={})
    elif args.verb == "track":
        assert str(args.config) == "sync" and args.overrides[0].startswith(MADE)
    elif args.verb == "tune":
        load_sweep(args.config, args.overrides)
    elif args.verb == "plan":
        assert main(shlex.split(line)[1:]) in (0, 1)
    else:
        load_run(args.config, args.overrides, environment={})


def documents() -> list[Path]:
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "cluster" / "README.md"]


def cited_paths(text: str) -> set[str]:
    """Files of the repository that a document names: links, and code spans that end like a file of source or text."""
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text)
    spans = re.findall(r"`((?:ray_distill|tests|docs|configs|cluster|examples|benchmarks|findings)/[\w./-]+)`", text)
    return {name for name in (*links, *spans) if Path(name).stem not in ("x", "test_x")}  # x stands for any name


def cited_tests(text: str) -> set[tuple[str, str]]:
    """(file, test) for each `unit/data/test_x[.py]::test_y` of a document; `::test_z` goes on in the file before it."""
    named, file = set(), ""
    for path, test in re.findall(
        r"`(?:tests/)?((?:unit|gang|ray|slow)/(?:\w+/)*test_\w+)?(?:\.py)?(?:::(\w+))?(?:\.\.\.|_\.\.\.)?`", text
    ):
        file = path or file
        if (path or (test and file)) and not file.endswith("/test_x"):
            named.add((file, test))
    return named


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_document_names_is_there(path: Path) -> None:
    text = path.read_text()
    gone = {name for name in cited_paths(text) if not any((base / name).exists() for base in (path.parent, ROOT))}
    assert gone == set()
    for file, test in cited_tests(text):
        place = ROOT / "tests" / file
        source = place.with_suffix(".py").read_text() if not place.is_dir() else None
        assert source is None or f"def {test}" in source, f"{file} has no test {test}"


def test_the_trees_are_those_of_the_files() -> None:
    """`python docs/tree.py` writes both; every module has a purpose that fits its line."""
    assert (ROOT / "ARCHITECTURE.md").read_text() == tree.architecture()
    assert (ROOT / "docs" / "tree.md").read_text() == tree.listing()
    assert len(tree.architecture().splitlines()) <= 160
    modules = sorted((ROOT / "ray_distill").rglob("*.py"))
    assert [path for path in modules if path.name != "__init__.py" and not tree.purpose(path)] == []


def test_oracles_are_those_of_the_document() -> None:
    """Every number that a test cites is in docs/oracles.md, and every oracle there has a test that cites it."""
    cited = set[int]()
    for path in (ROOT / "tests").rglob("*.py"):
        for first, rest in re.findall(r"[Oo]racles? (\d+)((?:, \d+| to \d+| and \d+)*)", path.read_text()):
            numbers = [int(first)]
            for word, number in re.findall(r"(,|to|and) (\d+)", rest):
                numbers += range(numbers[-1] + 1, int(number) + 1) if word == "to" else [int(number)]
            cited.update(numbers)
    stated = {int(n) for n in re.findall(r"^\*\*Oracle (\d+):", (ROOT / "docs" / "oracles.md").read_text(), re.M)}
    assert cited == stated


@pytest.mark.parametrize(
    ("text", "paths", "tests"),
    [
        ("see [docs](docs/gone.md#x) and `tests/unit/toys.py`", {"docs/gone.md", "tests/unit/toys.py"}, set()),
        ("`unit/test_rng::test_a`, `::test_b`", set(), {("unit/test_rng", "test_a"), ("unit/test_rng", "test_b")}),
        ("`gang/test_saving`", set(), {("gang/test_saving", "")}),
    ],
)
def test_names_are_found_in_text(text: str, paths: set[str], tests: set[tuple[str, str]]) -> None:
    assert (cited_paths(text), cited_tests(text)) == (paths, tests)
