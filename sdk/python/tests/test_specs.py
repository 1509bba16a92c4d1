"""Tasks as they are submitted."""

from __future__ import annotations

import itertools
import time
import uuid

from robeing._client.specs import new_task_id, task_ids


def test_ids_of_tasks_are_different_and_sort_by_the_time_of_their_creation() -> None:
    before = time.time_ns() // 1_000_000
    ids = [new_task_id(), *itertools.islice(task_ids(7), 1_000)]
    after = time.time_ns() // 1_000_000
    assert len({one[14:] for one in ids}) == len(ids)
    times = [int(one[:8] + one[9:13], 16) for one in ids]
    assert times == sorted(times)
    assert before <= times[0] <= times[-1] <= after
    for one in ids:
        read = uuid.UUID(one)
        assert (str(read), read.version, read.variant) == (one, 7, uuid.RFC_4122)
    # None of the other 74 bits is fixed.
    numbers = [uuid.UUID(one).int for one in ids]
    free = (1 << 62) - 1 | 0xFFF << 64
    assert [bit for bit in range(76) if free >> bit & 1 and len({number >> bit & 1 for number in numbers}) == 1] == []
