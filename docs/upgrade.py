"""Run the tests that hold the rows of docs/stack.md, and print the rows that no longer hold: python -m docs.upgrade

`make upgrade-check` runs it among the newest libraries that pyproject.toml allows, in an environment of its own. Name
kinds of tests to run these alone: `python -m docs.upgrade unit gang`. Each kind has HOURS; a row whose test did not end
in that time is printed as NOT RUN, and counts as a failure.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
KINDS = ("unit", "gang", "ray", "slow")
HOURS = 1.0
"""Longest run of one kind of tests, so that a test that hangs among new libraries does not hide what the others say."""
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
    return {test for test, bad in _cases(report) if bad}


def ended(report: Path) -> set[Test]:
    """Tests of a JUnit report that came to an end, skipped ones included."""
    return {test for test, _ in _cases(report)}


def _cases(report: Path) -> list[tuple[Test, bool]]:
    """Each test of a JUnit report, and whether it failed; a report that was never written has none."""
    cases = list[tuple[Test, bool]]()
    for case in ElementTree.parse(report).iter("testcase") if report.is_file() else ():
        name, place = case.get("name", ""), case.get("classname", "")
        broken_file = not place
        file = (name if broken_file else place).removeprefix("tests.").replace(".", "/")
        bad = case.find("failure") is not None or case.find("error") is not None
        cases.append(((file, "" if broken_file else name.split("[")[0]), bad))
    return cases


def run(tests: list[Test], report: Path) -> None:
    """Run tests of one kind by pytest, which writes its report also where it is interrupted after HOURS."""
    nodes = [f"tests/{file}.py" + (f"::{test}" if test else "") for file, test in tests]
    command = [sys.executable, "-m", "pytest", "-q", "--tb=line", f"--junitxml={report}", *nodes]
    process = subprocess.Popen(command, cwd=ROOT)
    for stop in (signal.SIGINT, signal.SIGKILL):
        try:
            process.wait(HOURS * 3600 if stop is signal.SIGINT else 60)
        except subprocess.TimeoutExpired:
            process.send_signal(stop)
    process.wait()


def changed(row: Row, bad: set[Test]) -> set[Test]:
    """The failed tests among those of a row."""
    whole = {file for file, test in row.tests if not test}
    return {(file, test) for file, test in bad if (file, test) in row.tests or file in whole or _gone(file, test, row)}


def _gone(file: str, test: str, row: Row) -> bool:
    return not test and any(file == other for other, _ in row.tests)


def moved() -> list[str]:
    """Installed libraries whose version is not the one of constraints.txt."""
    lines = []
    for name, pinned in re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M):
        try:
            here = version(name)
        except PackageNotFoundError:  # the one for other platforms, as decord2 where decord has wheels
            continue
        if here.split("+")[0] != pinned.split("+")[0]:
            lines.append(f"{name} {pinned} -> {here}")
    return lines


def main(kinds: Sequence[str] = KINDS) -> int:
    """Exit code 1 where a row no longer holds, as its tests say, or a test of it did not end."""
    known = rows((ROOT / "docs" / "stack.md").read_text())
    tests = sorted({test for row in known for test in row.tests if test[0].split("/")[0] in kinds})
    print("moved:", ", ".join(moved()) or "nothing")
    print(
        f"{len(known)} rows, {sum(bool(row.tests) for row in known)} of them held by tests;"
        f" {len(tests)} tests or files to run ({', '.join(kinds)})",
        flush=True,
    )
    bad, seen = set[Test](), set[Test]()
    with tempfile.TemporaryDirectory() as folder:
        for kind in kinds:
            report = Path(folder) / f"{kind}.xml"
            run([test for test in tests if test[0].startswith(f"{kind}/")], report)
            bad |= failed(report)
            seen |= ended(report)
    late = [(row, broken) for row in known if (broken := changed(row, bad))]
    files = {file for file, _ in seen}
    idle = [test for test in tests if test not in seen and not (test[1] == "" and test[0] in files)]
    for row, broken in late:
        print(f"CHANGED  {row.library}: {row.behaviour}\n         {_names(broken)}")
    for row in known:
        if missed := row.tests.intersection(idle):
            print(f"NOT RUN  {row.library}: {row.behaviour}\n         {_names(missed)}")
    print(f"{len(late)} rows changed" if late else "all rows whose tests ran are as they were")
    return bool(late or idle)


def _names(tests: Iterable[Test]) -> str:
    return ", ".join(sorted(f"{file}::{test}" for file, test in tests))


if __name__ == "__main__":
    sys.exit(main(tuple(sys.argv[1:]) or KINDS))
