"""Versions of the libraries against the package's own requirements, from metadata alone: none is imported."""

from __future__ import annotations

import platform
import re
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from ray_distill.machine.line import Line

PACKAGE = "ray_distill"
CHECKOUT = Path(__file__).parents[2]


def libraries(checkout: Path = CHECKOUT) -> Iterator[Line]:
    """A line for Python, and one for each requirement. A checkout also has the versions of its tests."""
    python, needed = requirements(checkout)
    version = platform.python_version()
    if SpecifierSet(python).contains(version, prereleases=True):
        yield Line("ok", "python", version)
    else:
        yield Line("missing", "python", f"{version}, outside {python}", f"install Python {python}")
    tested = pins(checkout)
    install = "pip install -c constraints.txt" if tested else "pip install"
    for requirement in needed:
        wants = f"{requirement.name}{extras(requirement)}{requirement.specifier}"
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield Line("missing", requirement.name, "not installed", f"{install} '{wants}'")
            continue
        pin = tested.get(canonical(requirement.name), version)
        note = "" if version.partition("+")[0] == pin else f" (tests ran with {pin})"
        if requirement.specifier.contains(version, prereleases=True):
            yield Line("ok", requirement.name, version + note)
        else:
            yield Line(
                "missing", requirement.name, f"{version}, outside {requirement.specifier}", f"{install} '{wants}'"
            )


def requirements(checkout: Path) -> tuple[str, list[Requirement]]:
    """Python's bounds, and the requirements that hold on this platform: of the checkout, else of the installed
    package."""
    project = checkout / "pyproject.toml"
    if project.is_file():
        table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        python, lines = table["requires-python"], table["dependencies"]
    else:
        package = metadata.metadata(PACKAGE)
        python, lines = package["Requires-Python"], metadata.requires(PACKAGE) or []
    needed = [Requirement(line) for line in lines]
    return python, [one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]


def pins(checkout: Path) -> dict[str, str]:
    """Versions of constraints.txt by name; empty without the file."""
    file = checkout / "constraints.txt"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    pairs = [line.split("==") for line in lines if "==" in line and not line.startswith("#")]
    return {canonical(name): version.strip() for name, version in pairs}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def extras(requirement: Requirement) -> str:
    return f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
