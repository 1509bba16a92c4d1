"""What the documentation and the examples show works."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from typing import TYPE_CHECKING

from tests import dev
from tests.fakes.agent import FakeAgent
from tests.fakes.fleet import fleet_of
from tests.fakes.waiting import SOON, until
from tests.test_program import program

if TYPE_CHECKING:
    from pathlib import Path

REPOSITORY = dev.REPOSITORY
PAGE = REPOSITORY / "docs" / "python.md"
EXAMPLES = REPOSITORY / "examples" / "python"


def blocks(file: Path, language: str) -> list[str]:
    """Returns the fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", file.read_text(), re.MULTILINE | re.DOTALL)


def test_the_page_begins_with_five_lines() -> None:
    assert re.match(r"# Python\n\n```python\n(?:.+\n){5}```\n", PAGE.read_text())
    assert blocks(PAGE, "python")[0] == (EXAMPLES / "app.py").read_text()


async def test_the_five_lines_run(tmp_path: Path) -> None:
    async with FakeAgent() as agent, program(tmp_path, blocks(PAGE, "python")[0], agent):
        assert (await (await agent.attached()).run("sum", b"[1,2,3]")).output == b"6"


async def test_the_clients_of_the_page_run(tmp_path: Path) -> None:
    async with fleet_of() as [coordinator]:
        coordinator.state.work = lambda spec: ValueError("no") if spec.kind == "divide" else b"6"
        for number, block in enumerate(one for one in blocks(PAGE, "python") if "Fleet.connect()" in one):
            file = tmp_path / f"client-{number}.py"
            file.write_text(
                block.replace("100_000", "100").replace("Fleet.connect()", f"Fleet.connect({coordinator.endpoint!r})")
            )
            process = await asyncio.create_subprocess_exec(
                sys.executable, str(file), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
            )
            said, _ = await asyncio.wait_for(process.communicate(), SOON)
            assert process.returncode == 0, said.decode()
            assert said.decode().splitlines()[0].startswith("6")


def test_type_checkers_accept_the_programs_of_the_page_and_the_examples(tmp_path: Path) -> None:
    files = sorted(EXAMPLES.glob("*.py"))
    for number, block in enumerate(blocks(PAGE, "python")):
        files.append(tmp_path / f"block_{number}.py")
        files[-1].write_text(block)
    assert len(files) > 9
    for file in files:
        command = [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--config-file=",
            "--cache-dir",
            str(tmp_path / "cache"),
            str(file),
        ]
        checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, f"{file.read_text()}\n{checked.stdout}"


def test_every_error_and_option_is_on_the_page() -> None:
    from robeing import TaskOptions, errors  # noqa: PLC0415

    text = PAGE.read_text()
    of_handlers = {"RobeingError", "BadValueError", "NotStartedError"}
    for name in [*(set(errors.__all__) - of_handlers), *TaskOptions.__annotations__]:
        assert f"`{name}`" in text or f"`{name}=" in text or f"`robeing.{name}`" in text, name


@dev.needs_program
async def test_the_example_prints_what_its_readme_says() -> None:
    (expected,) = re.findall(r"It prints:\n\n```\n(.*?)```", (EXAMPLES / "README.md").read_text(), re.DOTALL)
    with dev.running(EXAMPLES / "robeingcluster.yaml") as fleet:
        words = fleet.start(EXAMPLES / "words.py")
        await until(
            "the program is attached to both agents", lambda: fleet.program_said().count("attached to own-") == 2
        )
        submitted = await asyncio.create_subprocess_exec(
            sys.executable, str(EXAMPLES / "submit.py"), env=fleet.environment, stdout=asyncio.subprocess.PIPE
        )
        said, _ = await asyncio.wait_for(submitted.communicate(), 2 * SOON)
        assert said.decode() == expected
        words.terminate()
        assert await asyncio.to_thread(words.wait, SOON) == 0
