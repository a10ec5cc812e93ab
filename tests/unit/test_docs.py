"""Every `ray-distill` command of the documents is one that the tool takes; plans are run, the README's in tests/ray."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from docs import keys, support, tree, upgrade
from docs.upgrade import cited_tests
from ray_distill.arguments import parse
from ray_distill.cli import main
from ray_distill.importers import load_run
from ray_distill.init.recipes import RECIPES
from ray_distill.plan.hardware import parse_cluster
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


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of docs/first_run.md, in a file."""
    path = tmp_path_factory.mktemp("first") / "first.yaml"
    (text,) = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs" / "first_run.md").read_text(), re.S | re.M)
    assert len(text.splitlines()) <= 20
    path.write_text(text)
    return path


def test_the_first_configuration_fits_its_cluster(first_run: Path) -> None:
    assert main(["plan", str(first_run), "cluster=8xH100-80GB"]) == 0


def test_there_are_commands() -> None:
    assert len(commands()) >= 12


@pytest.mark.parametrize("line", commands())
def test_a_documented_command_is_taken(line: str, first_run: Path) -> None:
    line = line.replace(" first.yaml", f" {first_run}")
    args = parse(shlex.split(line)[1:])
    if args.verb == "init":
        assert not args.output.exists() and args.goal in RECIPES[args.family][args.task] and parse_cluster(args.gpus)
    elif args.verb == "report":
        assert all(str(run).startswith(MADE) for run in args.runs)
    elif str(args.config).startswith(MADE) and args.verb != "track":
        assert args.verb == "train"
    elif args.verb == "import":
        load_run(args.config, args.overrides, environment={})
    elif args.verb == "track":
        assert args.action == "sync" and str(args.config).startswith(MADE)
    elif args.verb == "tune":
        load_sweep(args.config, args.overrides)
    elif args.verb == "plan" and args.config != first_run:
        assert main(shlex.split(line)[1:]) in (0, 1)
    elif args.config is None:
        assert args.verb == "check" and args.machine
    else:
        load_run(args.config, args.overrides, environment={})


def documents() -> list[Path]:
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "cluster" / "README.md"]


def cited_paths(text: str) -> set[str]:
    """Files of the repository that a document names: links, and code spans that end like a file of source or text."""
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text)
    spans = re.findall(r"`((?:ray_distill|tests|docs|configs|cluster|examples|benchmarks|findings)/[\w./-]+)`", text)
    return {name for name in (*links, *spans) if Path(name).stem not in ("x", "test_x")}  # x stands for any name


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


def test_the_keys_are_those_of_the_schema() -> None:
    """`python docs/keys.py` writes the page."""
    assert (ROOT / "docs" / "keys.md").read_text() == keys.page()


def test_the_table_of_families_is_what_they_declare() -> None:
    """`python docs/support.py` writes it."""
    assert (ROOT / "README.md").read_text() == support.page()


def test_each_folder_opens_with_a_guide() -> None:
    """Who runs there, what may be imported, what a new file owes: at most 15 lines."""
    for path in sorted((ROOT / "ray_distill").rglob("*/__init__.py")):
        guide = ast.get_docstring(ast.parse(path.read_text())) or ""
        assert 4 <= len(guide.splitlines()) <= 15, path
        assert "import" in guide and "owes" in guide, path


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


def test_each_row_of_stack_md_is_watched_by_its_tests(tmp_path: Path) -> None:
    """A row is printed where its own test fails; a file that does not import stands for all rows that cite it."""
    known = upgrade.rows((ROOT / "docs" / "stack.md").read_text())
    held = [row for row in known if row.tests]
    assert len(known) > 100 and len(held) > 60 and len({row.library for row in known}) >= 8
    file, test = next((file, test) for row in held for file, test in sorted(row.tests) if test)
    case = f'<testcase classname="tests.{file.replace("/", ".")}" name="{test}[a-1]"><failure/></testcase>'
    passed = f'<testcase classname="tests.{file.replace("/", ".")}" name="test_another"></testcase>'
    broken = f'<testcase classname="" name="tests.{file.replace("/", ".")}"><error/></testcase>'
    for text, expected in ((case, {(file, test)}), (passed, set()), (broken, {(file, "")})):
        (tmp_path / "report.xml").write_text(f"<testsuites><testsuite>{text}</testsuite></testsuites>")
        assert upgrade.failed(tmp_path / "report.xml") == expected
        late = [row for row in known if upgrade.changed(row, expected)]
        of_file = [row for row in known if any(name == file for name, _ in row.tests)]
        of_test = [row for row in known if (file, test) in row.tests or (file, "") in row.tests]
        assert late == (of_test if expected == {(file, test)} else of_file if expected else [])


def test_the_table_of_findings_is_what_the_scripts_say() -> None:
    """Each script has a row, in whose versions it installs its packages, and names versions, guess and what it saw."""
    table = (ROOT / "findings" / "README.md").read_text()
    rows = re.findall(r"^\| \[(\w+)\]\((\w+)\.sh\) \| ([^|]+) \|", table, re.M)
    scripts = {path.stem: path.read_text() for path in (ROOT / "findings").glob("*.sh")}
    assert {name for name, _, _ in rows} == set(scripts) and len(rows) == len(scripts)
    packages = {"PyAV": "av", "Ray": "ray", "Optuna": "optuna"}
    scripts["yaml_merge"] += "PyYAML==6.0.4 "  # it installs two versions, by a loop
    for name, link, versions in rows:
        head, _, body = scripts[name].partition("set -euo pipefail")
        assert name == link and all(
            f"# {word}: " in head or f"# {word} " in head for word in ("Versions", "Guess", "Seen")
        )
        for package, version in re.findall(r"([\w-]+) (\d[\d.]*\d)", versions):
            name_in_pip = re.escape(packages.get(package, package)) + r"(\[\w+\])?"
            assert re.search(rf"{name_in_pip}=={re.escape(version)}[\s\"]", body), (name, package)
            assert f"{package} {version}" in head, (name, package)
