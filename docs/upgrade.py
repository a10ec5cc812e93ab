"""Run the tests that hold the rows of docs/stack.md, and print the rows that no longer hold: python docs/upgrade.py

`make upgrade-check` runs it among the newest libraries that pyproject.toml allows, in an environment of its own.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
Test = tuple[str, str]
"""(file below tests/ without .py, test), and "" as the test where the whole file is meant."""


@dataclass(frozen=True)
class Row:
    """One behaviour of a library, and the ``tests`` that hold it."""

    library: str
    behaviour: str
    tests: frozenset[Test]


def cited_tests(text: str) -> set[Test]:
    """Tests that a text names as `unit/data/test_x[.py]::test_y`; `::test_z` goes on in the file before it."""
    cited, file = set[Test](), ""
    for path, test in re.findall(
        r"`(?:tests/)?((?:unit|gang|ray|slow)/(?:\w+/)*test_\w+)?(?:\.py)?(?:::(\w+))?(?:\.\.\.|_\.\.\.)?`", text
    ):
        file = path or file
        if (path or (test and file)) and not file.endswith("/test_x"):
            cited.add((file, test))
    return cited


def rows(text: str) -> list[Row]:
    """Rows of all tables of docs/stack.md, in order; the head and the rule of each table are left out."""
    found, library = list[Row](), ""
    for line in text.splitlines():
        if line.startswith("## "):
            library = line[3:].strip()
        elif line.startswith("| ") and not line.startswith("| behaviour"):
            found.append(Row(library, line.split(" | ")[0][2:], frozenset(cited_tests(line))))
    return found


def failed(report: Path) -> set[Test]:
    """Tests that failed or could not start, by pytest's JUnit report; ("file", "") for a file that does not import."""
    bad = set[Test]()
    for case in ElementTree.parse(report).iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            name, place = case.get("name", ""), case.get("classname", "")
            broken_file = not place
            file = (name if broken_file else place).removeprefix("tests.").replace(".", "/")
            bad.add((file, "" if broken_file else name.split("[")[0]))
    return bad


def changed(row: Row, bad: set[Test]) -> set[Test]:
    """The failed tests among those of a row."""
    whole = {file for file, test in row.tests if not test}
    return {(file, test) for file, test in bad if (file, test) in row.tests or file in whole or _gone(file, test, row)}


def _gone(file: str, test: str, row: Row) -> bool:
    return not test and any(file == other for other, _ in row.tests)


def moved() -> list[str]:
    """Libraries whose version is not the one of constraints.txt."""
    lines = []
    for name, pinned in re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M):
        try:
            here = version(name)
        except PackageNotFoundError:
            here = "not installed"
        if here.split("+")[0] != pinned.split("+")[0]:
            lines.append(f"{name} {pinned} -> {here}")
    return lines


def main() -> int:
    """Exit code 1 where a row no longer holds, as its tests say."""
    known = rows((ROOT / "docs" / "stack.md").read_text())
    tests = sorted({test for row in known for test in row.tests})
    print("moved:", ", ".join(moved()) or "nothing")
    print(f"{len(known)} rows, {sum(bool(row.tests) for row in known)} of them held by {len(tests)} tests or files")
    nodes = [f"tests/{file}.py" + (f"::{test}" if test else "") for file, test in tests]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        subprocess.run([sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *nodes], cwd=ROOT, check=False)
        bad = failed(report)
    late = [(row, tests) for row in known if (tests := changed(row, bad))]
    for row, tests in late:
        names = ", ".join(sorted(f"{file}::{test}" for file, test in tests))
        print(f"CHANGED  {row.library}: {row.behaviour}\n         {names}")
    print(f"{len(late)} rows changed" if late else "all rows that tests hold are as they were")
    return bool(late)


if __name__ == "__main__":
    sys.exit(main())
