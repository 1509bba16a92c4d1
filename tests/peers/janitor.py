"""Removes folders once the process that has started it is gone, whatever ended it: it then reads the end of its input."""

import os
import shutil
import signal
import sys
import time

# How long what that process has started may write to the folders after it, seconds.
LAST_WRITES = 4

for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
sys.stdin.read()
deadline = time.monotonic() + LAST_WRITES
folders = sys.argv[1:]
while any(map(os.path.exists, folders)) and time.monotonic() < deadline:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    time.sleep(0.1)
