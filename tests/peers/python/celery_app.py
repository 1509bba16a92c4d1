"""What Celery's worker loads.

PEER_BROKER is the URL of the broker, which keeps the results, too; PEER_AHEAD is how many tasks the worker takes ahead
for each process; PEER_LATE is 1 if tasks are acknowledged after they ran, and 0 if before.
"""

from __future__ import annotations

import os

from celery import Celery

LATE = os.environ["PEER_LATE"] == "1"

app = Celery("peer", broker=os.environ["PEER_BROKER"], backend=os.environ["PEER_BROKER"])
app.conf.update(
    broker_connection_retry_on_startup=True,
    task_acks_late=LATE,
    task_reject_on_worker_lost=LATE,
    worker_prefetch_multiplier=int(os.environ["PEER_AHEAD"]),
)


@app.task(name="noop")  # type: ignore[untyped-decorator]
def noop(_: list[int]) -> None:
    """Does nothing."""
