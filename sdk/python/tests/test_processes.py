"""Handlers that run in processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

from robeing import App, Context
from robeing.worker.v1 import worker_pb2 as wire
from tests.fakes.waiting import until
from tests.test_worker import outcome_of, serving

if TYPE_CHECKING:
    from collections.abc import Callable

in_processes = App()


@in_processes.task("pid", run_in="process", slots=2)
def pid_of(number: int) -> list[int]:
    """Says where it runs."""
    return [number, os.getpid()]


@in_processes.task("hang", run_in="process", slots=2)
def hang(directory: str, context: Context) -> None:
    """Ends when it is stopped, and leaves a file that says so."""
    context.progress(0.5, "half")
    context.log("from a process")
    with open(f"{directory}/begun", "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write(str(os.getpid()))
    try:
        time.sleep(600)
    except asyncio.CancelledError:
        with open(f"{directory}/cancelled-{context.cancelled}", "w", encoding="utf-8"):  # noqa: PTH123
            pass
        raise


@in_processes.task("deaf", run_in="process", slots=2)
def deaf(directory: str) -> None:
    """Does not end when it is stopped."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open(f"{directory}/begun", "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write(str(os.getpid()))
    time.sleep(600)


@in_processes.task("die", run_in="process", slots=2)
def die() -> None:
    """Dies."""
    os.kill(os.getpid(), signal.SIGKILL)


@in_processes.task("raise", run_in="process", permanent=(ValueError,))
def raises() -> None:
    """Fails."""
    raise ValueError("wrong")


@in_processes.task("depends", run_in="process")
def depends(context: Context) -> list[object]:
    """Reads what its task depends on."""
    return [[given.task_id, given.succeeded, given.output.decode(), given.reason] for given in context.results]


def _is_gone(pid: int) -> Callable[[], bool]:
    def check() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False

    return check


async def test_functions_run_in_processes_that_are_kept() -> None:
    async with serving(in_processes) as (_, process):
        first = (await process.run("pid", b"1")).output
        second = (await process.run("pid", b"2")).output
        number, pid = eval(first)  # noqa: S307
        assert number == 1
        assert pid != os.getpid()
        assert eval(second) == [2, pid]  # noqa: S307
        failure = (await process.run("raise")).failure
        assert (failure.message, failure.permanent) == ("ValueError: wrong", True)
        assert 'raise ValueError("wrong")' in failure.details
    await until("no process is left", _is_gone(pid))


async def test_a_process_that_is_stopped_gets_cancelled_error(tmp_path: os.PathLike[str]) -> None:
    async with serving(in_processes) as (_, process):
        task = await process.give("hang", f'"{tmp_path}"'.encode())
        await until("it runs", lambda: os.path.exists(f"{tmp_path}/begun"))  # noqa: PTH110
        assert (await process.reports.get()) == wire.TaskProgress(
            task_id=task.task_id, attempt=1, progress=wire.Progress(fraction=0.5, text="half")
        )
        assert (await process.reports.get()) == wire.TaskLog(task_id=task.task_id, attempt=1, lines=["from a process"])
        await process.stop(task)
        assert outcome_of(await process.result()) == "stopped"
        assert os.path.exists(f"{tmp_path}/cancelled-True")  # noqa: PTH110
        assert (await process.run("pid", b"1")).HasField("output"), "others go on"


async def test_a_process_has_the_results_of_the_tasks_on_which_its_task_depends() -> None:
    async with serving(in_processes) as (_, process):
        failed = wire.GivenResult(task_id="b", state=wire.RESULT_STATE_FAILED, reason="bad luck")
        await process.give("depends", results=[wire.GivenResult(task_id="a", output=b"one"), failed])
        assert (await process.result()).output == b'[["a",true,"one",""],["b",false,"","bad luck"]]'
        assert (await process.run("depends")).output == b"[]", "the next task has none"


async def test_a_process_that_does_not_stop_is_killed(tmp_path: os.PathLike[str]) -> None:
    async with serving(in_processes) as (_, process):
        task = await process.give("deaf", f'"{tmp_path}"'.encode())

        def pid() -> str:
            with contextlib.suppress(OSError), open(f"{tmp_path}/begun", encoding="utf-8") as file:  # noqa: PTH123
                return file.read()
            return ""

        await until("it runs", pid)
        began = time.monotonic()
        await process.stop(task)
        assert outcome_of(await process.result()) == "stopped"
        assert time.monotonic() - began >= 1.4, "it had its time to end"
        assert _is_gone(int(pid()))()


async def test_a_process_that_dies_takes_only_its_attempt_with_it() -> None:
    async with serving(in_processes) as (_, process):
        failure = (await process.run("die")).failure
        assert failure.message == "the process that ran it was killed by SIGKILL"
        assert not failure.permanent
        assert (await process.run("die")).failure.message == failure.message, "another one was started"
