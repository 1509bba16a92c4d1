"""Adds numbers, and counts the words of texts: each text in a process of its own, and all texts together by subtasks.

`python words.py` runs the tasks.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from robeing import App, Context, PermanentError

app = App()
log = logging.getLogger("words")


@app.task("sum", slots=8)
async def add(xs: list[int]) -> int:
    """Adds numbers."""
    return sum(xs)


@dataclass
class Words:
    """What a text has."""

    file: str
    words: int
    most: str


@app.task("count-words", run_in="process")
def count(file: str, context: Context) -> Words:
    """Counts the words of a text. A file that is missing now will be missing later, so this is not tried again."""
    try:
        text = Path(file).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise PermanentError(f"there is no text {file}", code=2) from error
    counted: Counter[str] = Counter()
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        counted.update(re.findall(r"[a-z']+", line.lower()))
        context.progress(number / len(lines), f"{number} of {len(lines)} lines")
    log.info("%s has %d words", file, counted.total())
    most = counted.most_common(1)[0][0] if counted else ""
    return Words(file, counted.total(), most)


@app.task("count-all")
async def count_all(files: list[str], context: Context) -> int:
    """Counts the words of all texts, each as a task. Should this attempt end, the next one finds those that are done."""
    texts = await context.gather("count-words", files)
    return sum(text["words"] for text in texts)


@app.task("note")
async def note(text: str, context: Context) -> str:
    """Writes a note once, though it may be tried more than once: an earlier attempt comes too late to change it."""
    file = Path(f"/tmp/robeing-note-{context.task_id}")
    newest = int(file.read_text().split()[0]) if file.exists() else 0
    if context.fence.attempt >= newest:
        file.write_text(f"{context.fence.attempt} {text}")
    return str(file)


if __name__ == "__main__":
    app.run()
