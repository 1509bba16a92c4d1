"""The same no-op handler by the SDK, as `bench.raw` has it by hand."""

from __future__ import annotations

import logging
import time

from robeing import App

app = App()


@app.task("noop")
async def noop(_: list[int]) -> None:
    """Does nothing."""


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    began = time.process_time()
    app.run()
    print(time.process_time() - began, flush=True)
