"""Tasks and results that go together, in one message."""

from __future__ import annotations

import asyncio

from robeing import App, Context
from robeing._worker.outgoing import MAX_BATCH, MAX_BATCH_BYTES, MAX_BATCH_SUBTASKS, Outgoing
from robeing.worker.v1 import worker_pb2 as wire
from tests.fakes.waiting import until
from tests.test_worker import outcome_of, serving


def waiting() -> tuple[App, asyncio.Event]:
    """Returns an app whose handler waits for the event."""
    app = App()
    gate = asyncio.Event()

    @app.task("wait")
    async def wait(number: int) -> int:
        await gate.wait()
        return number

    return app, gate


async def test_what_ends_in_one_turn_of_the_event_loop_is_one_message() -> None:
    app, gate = waiting()
    async with serving(app) as (_, process):
        assert process.hello.takes_batches
        tasks = await process.give_all(*(("wait", str(number).encode()) for number in range(100)))
        await until("they run", lambda: app._runner.running == 100)
        gate.set()
        results = [await process.result() for _ in tasks]
        assert [len(message.batch.results) for message in process.said] == [100]
    assert [(result.task_id, result.output) for result in results] == [
        (task.task_id, str(number).encode()) for number, task in enumerate(tasks)
    ]


async def test_an_agent_that_takes_no_batches_gets_each_result_by_itself() -> None:
    app, gate = waiting()
    gate.set()
    async with serving(app, takes_batches=False) as (_, process):
        for number in range(20):
            await process.give("wait", str(number).encode())
        assert [(await process.result()).output for _ in range(20)] == [str(number).encode() for number in range(20)]
        assert [message.WhichOneof("message") for message in process.said] == ["result"] * 20


async def test_a_task_of_a_batch_is_stopped_by_the_next_message_and_what_it_gives_twice_runs_once() -> None:
    app = App()
    begun: list[int] = []

    @app.task("wait")
    async def wait(number: int) -> None:
        begun.append(number)
        await asyncio.Event().wait()

    async with serving(app) as (_, process):
        tasks = await process.give_all(("wait", b"1"), ("wait", b"2"))
        await process.stop(tasks[0])
        await process.outgoing.put(wire.ToProcess(batch=wire.ToProcessBatch(tasks=[tasks[1], tasks[1]])))
        result = await process.result()
        assert (result.task_id, outcome_of(result)) == (tasks[0].task_id, "stopped")
        await process.health()
        # It may have been stopped before it began.
        assert begun in ([1, 2], [2])
        await process.stop(tasks[1])
        assert (await process.result()).task_id == tasks[1].task_id


async def test_what_attempts_say_goes_with_their_results() -> None:
    app = App()
    gate = asyncio.Event()

    @app.task("say")
    async def say(context: Context) -> None:
        context.progress(0.5)
        context.log("a line")
        await gate.wait()

    async with serving(app) as (_, process):
        tasks = await process.give_all(("say", b""), ("say", b""))
        await until("they run", lambda: app._runner.running == 2)
        gate.set()
        for _ in tasks:
            await process.result()
        batches = [message.batch for message in process.said]
    assert [task.task_id for task in tasks] == [one.task_id for batch in batches for one in batch.progress]
    assert [task.task_id for task in tasks] == [one.task_id for batch in batches for one in batch.logs]


def result(output: bytes = b"") -> wire.TaskResult:
    """Returns a result."""
    return wire.TaskResult(task_id="t", attempt=1, output=output)


def sent(outgoing: Outgoing) -> list[int]:
    """Takes all messages, and returns of how many results each is the batch; 0: it is none."""
    lengths = []
    while outgoing:
        lengths.append(len(outgoing.take().batch.results))
    return lengths


def batching(*messages: wire.TaskResult | wire.FromProcess) -> Outgoing:
    """Returns what waits to be sent to an agent that takes batches."""
    outgoing = Outgoing()
    outgoing.takes_batches = True
    for message in messages:
        outgoing.add(message)
    return outgoing


def test_a_batch_has_no_more_than_so_many_messages() -> None:
    assert sent(batching(*[result()] * MAX_BATCH)) == [MAX_BATCH]
    assert sent(batching(*[result()] * (MAX_BATCH + 1))) == [MAX_BATCH, 0]
    assert sent(batching(*[result()] * (2 * MAX_BATCH + 2))) == [MAX_BATCH, MAX_BATCH, 2]


def test_a_batch_has_no_more_than_so_many_bytes_and_what_is_larger_is_sent_by_itself() -> None:
    half = MAX_BATCH_BYTES // 2
    fits = bytes(half - (result(bytes(half)).ByteSize() - half))
    assert sent(batching(result(fits), result(fits))) == [2]
    assert sent(batching(result(fits), result(fits + b"x"))) == [0, 0]
    large = result(bytes(MAX_BATCH_BYTES))
    assert sent(batching(result(), result(), large, result(), result())) == [2, 0, 2], "the order is kept"


def asking(count: int) -> wire.TaskResult:
    """Returns the result of an attempt that asks for so many subtasks."""
    return wire.TaskResult(task_id="t", attempt=1, suspend=wire.Suspend(subtasks=[wire.Subtask(kind="k")] * count))


def test_a_batch_asks_for_no_more_subtasks_than_agents_take() -> None:
    each = 1_000
    most = MAX_BATCH_SUBTASKS // each
    assert sent(batching(*[asking(each)] * most, result())) == [most + 1]
    assert sent(batching(*[asking(each)] * most, asking(1), result())) == [most, 2]
    assert sent(batching(asking(MAX_BATCH_SUBTASKS + 1), result(), result())) == [0, 2]


def test_other_messages_keep_their_place_between_batches() -> None:
    health = wire.FromProcess(health=wire.Health(seq=1))
    log = wire.FromProcess(log=wire.TaskLog(task_id="t", attempt=1, lines=["a line"]))
    outgoing = batching(log, result(), health, log, result(), result())
    assert len(outgoing) == 6
    first = outgoing.take().batch
    assert (len(first.logs), len(first.results)) == (1, 1)
    assert outgoing.take() == health
    last = outgoing.take().batch
    assert (len(last.logs), len(last.results)) == (1, 2)
    assert sent(outgoing) == []


def test_what_waits_alone_and_what_goes_to_an_agent_without_batches_is_sent_by_itself() -> None:
    assert batching(result(b"3")).take() == wire.FromProcess(result=result(b"3"))
    outgoing = batching(result(), result())
    outgoing.takes_batches = False
    assert sent(outgoing) == [0, 0]
