"""What is checked in, and what users install."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import robeing

if TYPE_CHECKING:
    from collections.abc import Iterator

SDK = Path(__file__).parent.parent
PACKAGE = SDK / "src" / "robeing"


def generated_in(folder: Path) -> Iterator[Path]:
    """Yields the generated files below a folder."""
    for package in ("v1", "worker"):
        for file in sorted((folder / package).rglob("*.py*")):
            if "__pycache__" not in file.parts:
                yield file.relative_to(folder)


def test_the_stubs_are_those_of_the_proto_files(tmp_path: Path) -> None:
    subprocess.run([sys.executable, SDK / "tools" / "stubs", tmp_path], check=True)
    generated = tmp_path / "robeing"
    assert list(generated_in(generated)) == list(generated_in(PACKAGE)), "run sdk/python/tools/stubs"
    stale = [
        str(file)
        for file in generated_in(generated)
        if (generated / file).read_bytes() != (PACKAGE / file).read_bytes()
    ]
    assert not stale, "run sdk/python/tools/stubs"


def test_the_wheel_has_everything_and_is_typed(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=SDK, check=True)
    (wheel,) = tmp_path.glob("robeing-*-py3-none-any.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    files = {str(file.relative_to(SDK / "src")) for file in PACKAGE.rglob("*") if file.is_file()}
    assert {name for name in files if "__pycache__" not in name} == {
        name for name in names if ".dist-info/" not in name
    }
    assert "robeing/py.typed" in names
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    program = "import robeing; print(robeing.__file__)"
    said = subprocess.run(
        [sys.executable, "-c", program],
        cwd=installed,
        env={"PYTHONPATH": str(installed)},
        capture_output=True,
        check=True,
    )
    assert said.stdout.decode().startswith(str(installed))


def test_the_version_is_that_of_the_project() -> None:
    def version(file: Path) -> str:
        found = re.search(r'^version = "([^"]+)"$', file.read_text(), re.MULTILINE)
        assert found is not None
        return found[1]

    assert version(SDK / "pyproject.toml") == version(SDK.parent.parent / "Cargo.toml")


def test_everything_public_is_there_and_documented() -> None:
    for name in robeing.__all__:
        assert getattr(robeing, name).__doc__, name
