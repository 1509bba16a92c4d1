"""A client of a fleet whose coordinators misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from grpc import StatusCode

from robeing import (
    App,
    BadValueError,
    Fleet,
    FleetError,
    NoFleetError,
    NotFoundError,
    RefusedError,
    Result,
    SubmitError,
    TaskCancelledError,
    TaskExpiredError,
    TaskFailedError,
    Text,
    UnavailableError,
)
from robeing._client import many, submissions
from robeing._client.results import output_of
from robeing.v1 import types_pb2 as types
from tests.fakes.fleet import Coordinator, fleet_of
from tests.fakes.waiting import SOON, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

app = App()


@app.task("sum")
async def add(xs: list[int]) -> int:
    """Adds numbers."""
    return sum(xs)


@app.task("shout")
def shout(text: Text) -> Text:
    """Shouts."""
    return text.upper()


@contextlib.asynccontextmanager
async def client(count: int = 1, **options: Any) -> AsyncIterator[tuple[Fleet, list[Coordinator]]]:
    """Starts a fleet, and connects to it."""
    async with fleet_of(count) as coordinators:
        endpoints = [coordinator.endpoint for coordinator in coordinators]
        async with Fleet.connect(*endpoints, **options) as fleet:
            yield fleet, coordinators


async def test_a_task_is_submitted_and_its_output_is_read() -> None:
    async with client() as (fleet, [coordinator]):
        assert await fleet.run("echo", {"a": [1]}) == {"a": [1]}
        assert await fleet.run("echo", b"\xff") == b"\xff"
        assert await fleet.run("echo") is None
        handle = await fleet.submit("echo", [1, 2])
        assert not handle.existing
        assert await handle == [1, 2]
        assert await handle.result() == [1, 2]
        assert (await handle.get()).kind == "echo"
        assert len(coordinator.state.tasks) == 4


async def test_the_types_of_a_handler_say_how_its_input_and_output_are_written() -> None:
    async with client() as (fleet, [coordinator]):
        coordinator.state.work = lambda spec: b"6" if spec.kind == "sum" else spec.input.upper()
        assert await fleet.run(add, [1, 2, 3]) == 6
        assert await fleet.run(shout, "plain") == "PLAIN"
        assert [spec.input for spec in coordinator.state.specs.values()] == [b"[1,2,3]", b"plain"]
        coordinator.state.work = lambda _: b'"six"'
        with pytest.raises(BadValueError, match="must be an integer"):
            await fleet.run(add, [1])

        def stranger() -> None: ...

        with pytest.raises(TypeError, match="is no handler"):
            await fleet.run(stranger)


async def test_options_are_those_of_the_task() -> None:
    template = types.TaskSpec(verify=types.Verify(agents=3, agree=2), kind="other")
    async with client() as (fleet, [coordinator]):
        await fleet.submit(
            "echo",
            id="00000000-0000-7000-8000-000000000001",
            key="k",
            priority=9,
            deadline=timedelta(minutes=1),
            delay=0.5,
            not_before=datetime(2027, 1, 1, tzinfo=timezone.utc),
            queue_expiry=3,
            progress_timeout=4,
            attempt_timeout=2,
            jitter=0.25,
            non_retryable=["ValueError"],
            max_attempts=7,
            initial_backoff=0.1,
            max_backoff=1,
            role="Specialist",
            specialization="math",
            slots=2,
            queue="batch",
            limit_key="customer",
            agents=3,
            depends_on=["a", "b"],
            result_ttl=3_600,
            submitter="ann",
            team="t",
            template=template,
        )
        (spec,) = coordinator.state.specs.values()
    assert (spec.id, spec.idempotency_key, spec.kind) == ("00000000-0000-7000-8000-000000000001", "k", "echo")
    assert (spec.priority, spec.required_role, spec.required_specialization) == (9, types.ROLE_SPECIALIST, "math")
    assert (spec.deadline_in.seconds, spec.delay.nanos, spec.attempt_timeout.seconds) == (60, 500_000_000, 2)
    assert (spec.retry.max_attempts, spec.retry.initial_backoff.nanos, spec.retry.max_backoff.seconds) == (7, 10**8, 1)
    assert (spec.not_before.seconds, spec.queue_expiry.seconds, spec.progress_timeout.seconds) == (1_798_761_600, 3, 4)
    assert (spec.retry.jitter_percent, [match.name for match in spec.retry.non_retryable]) == (25, ["ValueError"])
    assert (spec.slots, spec.queue, spec.limit_key, spec.agents) == (2, "batch", "customer", 3)
    assert [of.task for of in spec.depends_on] == ["a", "b"]
    assert (spec.result_ttl.seconds, spec.submitter, spec.team, spec.verify.agree) == (3_600, "ann", "t", 2)


async def test_wrong_options_are_refused_before_anything_is_sent() -> None:
    async with client() as (fleet, [coordinator]):
        for options, problem in [
            ({"prio": 3}, "prio is no option of a task"),
            ({"role": "boss"}, "no role; there are"),
            ({"deadline": -1}, "can't be negative"),
            ({"jitter": 2}, "from 0 to 1"),
            ({"non_retryable": "ValueError"}, "non_retryable is a list"),
            ({"depends_on": "an-id"}, "depends_on is a list"),
            ({"not_before": datetime(2027, 1, 1)}, "has no time zone"),
        ]:
            with pytest.raises((TypeError, ValueError), match=problem):
                await fleet.submit("echo", **options)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="many tasks can't have the same id or key"):
            await fleet.submit_many("echo", [1], key="k")
        assert coordinator.calls == 0


async def test_a_failed_task_raises_its_failure_with_the_remote_traceback() -> None:
    async with client() as (fleet, [coordinator]):
        coordinator.state.work = lambda _: ValueError("bad luck")
        with pytest.raises(TaskFailedError, match=r"failed after 2 attempts: bad luck\nTraceback: …") as error:
            await fleet.run("echo")
        assert error.value.failure is not None
        assert error.value.details == "Traceback: …"
        handle = await fleet.submit("echo")
        with pytest.raises(TaskFailedError):
            await handle


async def test_a_refused_task_raises_the_refusal_of_the_fleet() -> None:
    async with client() as (fleet, _):
        with pytest.raises(RefusedError, match=r"INVALID_ARGUMENT\): priority") as error:
            await fleet.submit("echo", priority=11)
        assert error.value.code == "INVALID_ARGUMENT"
        assert await fleet.run("echo", 1) == 1, "the stream goes on"


async def test_100_000_tasks_are_each_accepted_once_within_the_window() -> None:
    count = 100_000
    async with client() as (fleet, [coordinator]):
        coordinator.state.work = lambda _: None
        drawn = 0

        def inputs() -> Any:
            nonlocal drawn
            for number in range(count):
                assert number - len(coordinator.state.tasks) <= submissions.WINDOW, "inputs are taken as there is room"
                drawn = number + 1
                yield number

        handles = await fleet.submit_many("echo", inputs())
        assert drawn == count
        assert [coordinator.state.specs[handle.id].input for handle in handles[::9_999]] == [
            str(number).encode() for number in range(0, count, 9_999)
        ]
        assert len(coordinator.state.tasks) == count
        assert set(coordinator.state.accepted.values()) == {1}
        assert 1 < coordinator.state.largest_batch <= submissions.BATCH_TASKS


async def test_large_inputs_fill_a_message_to_its_bytes() -> None:
    async with client() as (fleet, [coordinator]):
        await fleet.submit_many("echo", (bytes(300_000) for _ in range(30)))
        assert coordinator.state.largest_batch == 3
        await fleet.submit("echo", bytes(3 * 1024 * 1024))
        assert len(coordinator.state.tasks) == 31


async def test_many_results_come_as_tasks_finish_and_no_more_are_out_than_the_window(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(many, "MAP_WINDOW", 50)
    async with client() as (fleet, [coordinator]):
        coordinator.state.work = lambda spec: None if spec.input == b"0" else spec.input
        first = ""
        seen = []
        async for result in fleet.map("echo", range(1_000)):
            seen.append(result.value)
            assert result.index == result.value
            if len(seen) == 500:
                assert coordinator.state.accepted.total() <= 500 + 50 + 1
                first = next(iter(coordinator.state.tasks))
                await coordinator.state.finish(first, types.TASK_STATE_SUCCEEDED, output=b"0")
        assert 0 in seen[499:]
        assert sorted(seen) == list(range(1_000))
        assert coordinator.state.most_unfinished <= 50


async def test_results_have_the_failures_of_their_tasks() -> None:
    async with client() as (fleet, [coordinator]):
        coordinator.state.work = lambda spec: ValueError("odd") if spec.input in b"13" else spec.input

        async def numbers() -> AsyncIterator[int]:
            for number in range(5):
                yield number

        results = [result async for result in fleet.map("echo", numbers())]
        assert sorted(result.index for result in results if result.error is not None) == [1, 3]
        failed = next(result for result in results if result.error is not None)
        with pytest.raises(TaskFailedError, match="odd"):
            _ = failed.value
        results = [result async for result in fleet.map("echo", [1], priority=11)]
        assert isinstance(results[0].error, RefusedError)
        assert results[0].task_id == ""


async def test_an_input_that_can_not_be_written_ends_the_submission() -> None:
    async with client() as (fleet, _):
        with pytest.raises(BadValueError, match="object"):
            await fleet.submit_many("echo", [1, object()])
        with pytest.raises(BadValueError, match="object"):
            async for _ in fleet.map("echo", [1, object()]):
                pass


async def test_some_of_many_that_are_refused_are_told_with_those_that_are_not() -> None:
    async with client() as (fleet, [coordinator]):
        coordinator.manners.full = 2
        with pytest.raises(
            SubmitError, match=r"2 of 5 tasks were not accepted; the first, number 0: .*queue is full"
        ) as error:
            await fleet.submit_many("echo", range(5), room_for=0)
        assert [index for index, _ in error.value.failures] == [0, 1]
        assert sorted(error.value.accepted) == [2, 3, 4]


async def test_many_tasks_wait_for_room_and_a_single_one_only_if_asked_to() -> None:
    async with client() as (fleet, [coordinator]):
        coordinator.manners.full = 3
        assert len(await fleet.submit_many("echo", range(5))) == 5
        coordinator.manners.full = 1
        with pytest.raises(RefusedError, match="RESOURCE_EXHAUSTED"):
            await fleet.submit("echo")
        coordinator.manners.full = 1
        await fleet.submit("echo", room_for=10)
        assert len(coordinator.state.tasks) == 6


async def test_gathered_outputs_are_in_order_and_a_failure_cancels_the_others() -> None:
    async with client() as (fleet, [coordinator]):
        assert await fleet.gather("echo", range(100)) == list(range(100))
        coordinator.state.work = lambda spec: ValueError("bad luck") if spec.input == b"7" else None
        with pytest.raises(TaskFailedError, match="bad luck"):
            await fleet.gather("echo", range(10))
        assert len(coordinator.state.cancelled) == 9
        # What was not submitted by then is not submitted afterwards either.
        taken = 0

        async def slowly() -> AsyncIterator[int]:
            nonlocal taken
            for number in range(7, 1_000):
                await asyncio.sleep(0)
                taken = number
                yield number

        with pytest.raises(TaskFailedError, match="bad luck"):
            await fleet.gather("echo", slowly())
        before, submitted = taken, len(coordinator.state.tasks)
        await fleet.status()
        assert (taken, len(coordinator.state.tasks)) == (before, submitted)
        assert len(coordinator.state.cancelled) == submitted - 100 - 2


async def test_a_stream_that_breaks_is_resumed_and_no_task_is_accepted_twice() -> None:
    async with client(3) as (fleet, coordinators):
        for coordinator in coordinators:
            coordinator.manners.break_after = 700
        results = [result.value async for result in fleet.map("echo", range(5_000))]
        assert sorted(results) == list(range(5_000))
        state = coordinators[0].state
        assert len(state.tasks) == 5_000
        assert set(state.accepted.values()) == {1}
        assert sum(coordinator.manners.break_after is None for coordinator in coordinators) == 3


async def test_what_was_accepted_before_a_stream_broke_is_watched() -> None:
    async with client(2) as (fleet, [first, second]):
        first.state.work = lambda _: None
        running = asyncio.ensure_future(fleet.run("echo", 1))
        await until("it is accepted", lambda: first.state.tasks)
        task_id = next(iter(first.state.tasks))
        await first.stop()
        await second.state.finish(task_id, types.TASK_STATE_SUCCEEDED, output=b"2")
        assert await running == 2
        assert second.state.accepted[task_id] == 1


async def test_a_coordinator_without_a_leader_is_left_for_another() -> None:
    async with client(2) as (fleet, [first, second]):
        first.manners.unavailable = 10**9
        assert await fleet.run("echo", 1) == 1
        assert (await fleet.status()).cluster_id == "fake"
        assert second.calls >= 2
        # Passing refusals of single tasks are tried again, too.
        second.manners.refuse = 2
        assert await fleet.run("echo", 2) == 2


async def test_a_silent_coordinator_is_left_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submissions, "ATTEMPT_TIMEOUT", 0.3)
    async with client(2) as (fleet, [first, second]):
        first.manners.deaf = second.manners.deaf = True
        running = asyncio.ensure_future(fleet.run("echo", 1))
        await until("one is called", lambda: first.calls + second.calls)
        (first if second.calls else second).manners.deaf = False
        assert await running == 1


async def test_a_fleet_that_does_not_answer_is_given_up_after_the_time_limit() -> None:
    async with client(2, request_timeout=0.7) as (fleet, coordinators):
        for coordinator in coordinators:
            coordinator.manners.unavailable = 10**9
        began = time.monotonic()
        with pytest.raises(UnavailableError, match=r"has not answered for .* \(no leader is known now\)"):
            await fleet.run("echo")
        with pytest.raises(UnavailableError):
            await fleet.get("x")
        assert 0.7 < time.monotonic() - began < 10
        for coordinator in coordinators:
            coordinator.manners.unavailable = 0
        assert await fleet.run("echo", 1) == 1, "the client can still be used"


async def test_a_caller_without_the_right_is_told_at_once() -> None:
    async with client(2) as (fleet, coordinators):
        for coordinator in coordinators:
            coordinator.manners.forbids = StatusCode.PERMISSION_DENIED
        for call in (fleet.run("echo"), fleet.submit_many("echo", range(5)), fleet.cancel("x")):
            with pytest.raises(FleetError) as error:
                await call
            assert "PERMISSION_DENIED" in str(error.value)
        assert sum(coordinator.calls for coordinator in coordinators) <= 6, "it is not tried again and again"


async def test_where_nothing_listens_there_is_no_fleet() -> None:
    fleet = Fleet.connect("127.0.0.1:1", "127.0.0.1:2")
    with pytest.raises(NoFleetError, match=r"no fleet answers at http://127.0.0.1:1, .* \(connection refused\)"):
        await fleet.run("echo")
    with pytest.raises(NoFleetError):
        await fleet.status()
    await fleet.close()


async def test_a_result_that_expired_is_told() -> None:
    async with client() as (fleet, [coordinator]):
        coordinator.state.work = lambda _: None
        running = asyncio.ensure_future(fleet.run("echo"))
        handle = await fleet.submit("echo")
        waiting = asyncio.ensure_future(handle.result())
        await until("both are accepted", lambda: len(coordinator.state.tasks) == 2)
        for task_id in list(coordinator.state.tasks):
            await coordinator.state.expire(task_id)
        for future in (running, waiting):
            with pytest.raises(TaskExpiredError):
                await future
        with pytest.raises(NotFoundError):
            await handle.get()


def test_a_stored_output_is_an_error_that_says_where_it_is() -> None:
    stored = types.BlobRef(sha256=bytes(32), bytes=5)
    task = types.Task(id="t", kind="k", state=types.TASK_STATE_SUCCEEDED, output_ref=stored)
    with pytest.raises(FleetError, match=r"of task t .k. has 5 bytes and is in the object store"):
        output_of(task, bytes)


async def test_tasks_are_cancelled() -> None:
    async with client() as (fleet, [coordinator]):
        coordinator.state.work = lambda spec: spec.input or None
        handle = await fleet.submit("echo")
        assert (await handle.cancel("not wanted")).state == types.TASK_STATE_CANCELLED
        with pytest.raises(TaskCancelledError, match="was cancelled: not wanted"):
            await handle
        done = await fleet.submit("echo", 1)
        assert (await done.cancel(wait=timedelta(milliseconds=1))).state == types.TASK_STATE_SUCCEEDED
        handles = await fleet.submit_many("echo", [None] * 2_500)
        results = await fleet.cancel(*(handle.id for handle in handles))
        assert [result.task_id for result in results] == [handle.id for handle in handles]


async def test_pages_are_put_together() -> None:
    async with client() as (fleet, _):
        handles = await fleet.submit_many("echo", range(5))
        assert [task.id async for task in fleet.tasks(kind="echo")] == [handle.id for handle in handles]
        assert [agent.name for agent in await fleet.agents()] == ["a", "b", "c"]


async def test_a_closed_client_ends_what_waits() -> None:
    async with client() as (fleet, [coordinator]):
        coordinator.state.work = lambda _: None
        running = asyncio.ensure_future(fleet.run("echo"))
        await until("it is accepted", lambda: coordinator.state.tasks)
        await fleet.close()
        with pytest.raises(UnavailableError, match="the client was closed"):
            await running
        with pytest.raises(UnavailableError):
            await fleet.run("echo")


async def test_a_waiter_that_is_cancelled_does_no_harm() -> None:
    async with client() as (fleet, [coordinator]):
        coordinator.state.work = lambda _: None
        running = asyncio.ensure_future(fleet.run("echo"))
        await until("it is accepted", lambda: coordinator.state.tasks)
        running.cancel()
        task_id = next(iter(coordinator.state.tasks))
        await coordinator.state.finish(task_id, types.TASK_STATE_SUCCEEDED)
        coordinator.state.work = lambda spec: spec.input
        assert await fleet.run("echo", 1) == 1


async def test_inputs_are_not_taken_any_more_once_the_fleet_does_not_answer() -> None:
    async with client(request_timeout=0.3) as (fleet, [coordinator]):
        for submitting in (fleet.submit_many, fleet.gather):
            coordinator.manners.unavailable = 10**9
            taken = 0

            def inputs() -> Any:
                nonlocal taken
                for number in range(100_000):
                    taken = number + 1
                    yield number

            with pytest.raises(UnavailableError):
                await submitting("echo", inputs())
            assert taken <= 2 * submissions.WINDOW + 2


async def test_a_cancellation_may_take_as_long_as_it_waits() -> None:
    async with client(2, request_timeout=0.3) as (fleet, [coordinator, _]):
        coordinator.state.work = lambda _: None
        handle = await fleet.submit("echo")
        assert (await handle.cancel(wait=0.6)).state == types.TASK_STATE_CANCELLED


@pytest.mark.parametrize("bound", ["WINDOW", "WINDOW_BYTES", "UNFINISHED"])
async def test_who_is_cancelled_while_waiting_for_room_takes_none(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submissions, bound, 2)
    async with client() as (fleet, [coordinator]):
        coordinator.manners.deaf = True
        # As many as there is room for; one counts more bytes than the window has.
        out = [asyncio.ensure_future(fleet.run("echo", 1)) for _ in range(1 if bound == "WINDOW_BYTES" else 2)]
        await until("they are sent", lambda: coordinator.calls)
        waiting = [asyncio.ensure_future(fleet.run("echo", 2)) for _ in range(5)]
        await asyncio.sleep(0)
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        coordinator.manners.deaf = False
        assert await asyncio.gather(*out) == [1] * len(out)
        assert all(spec.input == b"1" for spec in coordinator.state.specs.values())
        opened = await fleet._connection.open()
        rooms = (opened.submissions._window, opened.submissions._finishing)
        assert [room._free for room in rooms] == [submissions.WINDOW, submissions.UNFINISHED]
        assert await asyncio.wait_for(asyncio.gather(*(fleet.run("echo", 3) for _ in range(9))), SOON) == [3] * 9


async def test_no_more_results_are_awaited_than_allowed_and_other_submissions_do_not_wait_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(submissions, "UNFINISHED", 5)
    async with client() as (fleet, [coordinator]):
        coordinator.state.work = lambda spec: None if spec.input == b"1" else spec.input
        running = [asyncio.ensure_future(fleet.run("echo", 1)) for _ in range(20)]
        await until("there is no more room", lambda: coordinator.state.most_unfinished == 5)
        await fleet.submit("echo", 2)
        assert len(coordinator.state.tasks) == 6
        coordinator.state.work = lambda spec: spec.input
        for task_id, spec in list(coordinator.state.specs.items()):
            if spec.input == b"1":
                await coordinator.state.finish(task_id, types.TASK_STATE_SUCCEEDED, output=b"1")
        assert await asyncio.gather(*running) == [1] * 20
        assert coordinator.state.most_unfinished == 5


async def test_results_come_whatever_bounds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, bound in [(submissions, "WINDOW"), (submissions, "UNFINISHED"), (many, "MAP_WINDOW")]:
        with monkeypatch.context() as patch:
            patch.setattr(module, bound, 3)
            async with client() as (fleet, [coordinator]):
                coordinator.manners.full = 2
                seen = [result.value async for result in fleet.map("echo", range(50))]
                assert sorted(seen) == list(range(50))
                assert coordinator.state.most_unfinished <= (1_000 if bound == "WINDOW" else 3)


async def test_a_map_that_is_left_takes_no_more_inputs_and_leaves_room_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(submissions, "UNFINISHED", 3)
    async with client() as (fleet, [coordinator]):
        taken = 0

        async def inputs() -> AsyncIterator[int]:
            nonlocal taken
            for number in range(1_000):
                taken = number + 1
                yield number

        async with contextlib.aclosing(fleet.map("echo", inputs())) as coming:  # type: ignore[type-var]
            async for result in coming:
                assert result.value >= 0
                break
        before = taken
        assert await asyncio.wait_for(asyncio.gather(*(fleet.run("echo", 1) for _ in range(9))), SOON) == [1] * 9
        assert taken == before < 1_000
        assert len(coordinator.state.tasks) <= before + 9


def test_a_result_can_not_be_changed() -> None:
    result: Result[int] = Result(3, "t", types.Task(output=b"4"), None, False, types.TaskSpec(), int)
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.index = 4  # type: ignore[misc]
    assert (result.index, result.task_id, result.existing, result.value) == (3, "t", False, 4)
    assert dataclasses.replace(result, index=5).index == 5
    assert result == dataclasses.replace(result)
    assert result != dataclasses.replace(result, existing=True)
    assert repr(result).startswith("Result(index=3, task_id='t', task=")
    assert "spec" not in repr(result)
