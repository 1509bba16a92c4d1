"""Fleets on Kubernetes, as the user of a kubeconfig.

kubectl reads the kubeconfig, which may name plugins that log in, so all that is asked of the API server is asked by it:
the authorities that the fleet trusts, a token of the ServiceAccount that the operator made for users, and the
connection to a coordinator (`kubectl port-forward`). The user's own credentials never reach a coordinator.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import shutil
import threading
import time
from dataclasses import dataclass
from typing import Any

from robeing._client.credentials import Credentials
from robeing._client.target import Target
from robeing.errors import NoFleetError

log = logging.getLogger("robeing")

# The audience of tokens for coordinators, and the lifetime that is asked for, seconds.
AUDIENCE = "robeing"
TOKEN_LIFETIME = 3_600
# The port of coordinators in their pods.
PORT = 8080
# How long kubectl has to answer, and to forward a connection, seconds.
ANSWER_WITHIN = 10.0
FORWARD_WITHIN = 10.0
# Pause after a token was not renewed, seconds.
RENEW_AGAIN = 10.0
# How often the age of the token is looked at, and that of a forward that ended, seconds.
LOOK_EVERY = 1.0
# The longest answer of kubectl that is read, bytes.
MAX_ANSWER_BYTES = 16 * 1024 * 1024
# The most of an error of kubectl that is passed on, bytes.
MAX_SAID_BYTES = 4_096

_FORWARDED = re.compile(rb"Forwarding from 127\.0\.0\.1:(\d+)")


@dataclass(frozen=True)
class Location:
    """A `RobeingCluster`, and how it is reached. What is not given is as kubectl has it."""

    # Can be omitted if the namespace has only one.
    cluster: str | None = None
    namespace: str | None = None
    context: str | None = None
    kubeconfig: str | None = None
    # The ServiceAccount whose token is asked for; NAME.user of the cluster NAME unless given.
    service_account: str | None = None

    def command(self, *arguments: str) -> list[str]:
        """Returns a command line of kubectl."""
        options = {"--kubeconfig": self.kubeconfig, "--context": self.context, "--namespace": self.namespace}
        given = [f"{option}={value}" for option, value in options.items() if value is not None]
        return ["kubectl", *given, *arguments]


class Kubernetes:
    """The connections to a fleet on Kubernetes, and its credentials, until closed."""

    def __init__(self, location: Location) -> None:
        self._location = location
        self._cluster = ""
        self._token = ""
        self._renew_at = 0.0
        # Calls read the token in threads of gRPC.
        self._lock = threading.Lock()
        self._forwards: list[_Forward] = []
        self._renewing: asyncio.Task[None] | None = None

    async def open(self) -> list[Target]:
        """Finds the fleet, and returns its coordinators.

        Raises:
            NoFleetError: why there are none.
        """
        if shutil.which("kubectl") is None:
            raise NoFleetError(
                "fleets on Kubernetes are reached through kubectl, which is not in PATH; or name endpoints"
            )
        self._cluster = self._location.cluster or await self._only_cluster()
        trust = await self._ask("get", "configmap", f"{self._cluster}-trust", "--output=json")
        certificates = trust.get("data", {}).get("trust.crt")
        if not certificates:
            raise NoFleetError(f"the ConfigMap {self._cluster}-trust has no trust.crt; is there an operator?")
        await self._renew()
        pods = await self._pods()
        if not pods:
            raise NoFleetError(f"no coordinator of the RobeingCluster {self._cluster} is ready; see its status")
        source = f"the ConfigMap {self._cluster}-trust"
        credentials = Credentials(certificates.encode(), token=self._current_token, source=source)
        self._forwards = [_Forward(self._location, pod) for pod in pods]
        opened = await asyncio.gather(*(forward.open() for forward in self._forwards), return_exceptions=True)
        targets = []
        for pod, port in zip(pods, opened, strict=True):
            if isinstance(port, int):
                targets.append(Target(f"RobeingCluster {self._cluster}, pod {pod}", "127.0.0.1", port, credentials))
        if not targets:
            raise next(error for error in opened if isinstance(error, BaseException))
        self._renewing = asyncio.get_running_loop().create_task(self._keep_fresh())
        return targets

    async def close(self) -> None:
        """Ends the connections."""
        if self._renewing is not None:
            self._renewing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._renewing
        await asyncio.gather(*(forward.close() for forward in self._forwards))

    async def _only_cluster(self) -> str:
        found = (await self._ask("get", "robeingclusters.robeing.io", "--output=json"))["items"]
        names = [one["metadata"]["name"] for one in found]
        if len(names) != 1:
            listed = ", ".join(names) or "none"
            raise NoFleetError(f"say which RobeingCluster is meant by cluster=NAME; the namespace has {listed}")
        return str(names[0])

    async def _pods(self) -> list[str]:
        labels = f"app.kubernetes.io/instance={self._cluster},app.kubernetes.io/component=coordinator"
        found = await self._ask("get", "pods", f"--selector=app.kubernetes.io/name=robeing,{labels}", "--output=json")
        return [pod["metadata"]["name"] for pod in found["items"] if _is_ready(pod)]

    async def _keep_fresh(self) -> None:
        """Replaces the token when half of its life is over, and forwards connections again that ended."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            if time.monotonic() >= self._renew_at:
                try:
                    await self._renew()
                except NoFleetError as error:
                    log.warning("the token is not renewed: %s", error)
                    self._renew_at = time.monotonic() + RENEW_AGAIN
            for forward in self._forwards:
                await forward.keep_open()

    async def _renew(self) -> None:
        account = self._location.service_account or f"{self._cluster}.user"
        asked = time.monotonic()
        token = await _run(
            self._location.command(
                "create", "token", account, f"--audience={AUDIENCE}", f"--duration={TOKEN_LIFETIME}s"
            )
        )
        with self._lock:
            self._token = token.decode("ascii", "replace").strip()
        self._renew_at = asked + TOKEN_LIFETIME / 2

    def _current_token(self) -> str:
        with self._lock:
            return self._token

    async def _ask(self, *arguments: str) -> dict[str, Any]:
        answer = await _run(self._location.command(*arguments))
        try:
            parsed = json.loads(answer)
        except ValueError:
            raise NoFleetError(f"kubectl {arguments[0]} {arguments[1]} did not answer with JSON") from None
        if not isinstance(parsed, dict):
            raise NoFleetError(f"kubectl {arguments[0]} {arguments[1]} did not answer with an object")
        return parsed


def _is_ready(pod: dict[str, Any]) -> bool:
    status, is_going = pod.get("status", {}), "deletionTimestamp" in pod["metadata"]
    conditions = status.get("conditions", [])
    ready = any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)
    return ready and status.get("phase") == "Running" and not is_going


class _Forward:
    """A port of this machine's loopback interface that leads to a pod, as long as kubectl runs."""

    def __init__(self, location: Location, pod: str) -> None:
        self._location = location
        self._pod = pod
        self._port = 0
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    async def open(self) -> int:
        """Forwards connections, and returns the port.

        Raises:
            NoFleetError: kubectl can't.
        """
        ports = f"{self._port or ''}:{PORT}"
        command = self._location.command("port-forward", "--address=127.0.0.1", f"pod/{self._pod}", ports)
        process = await _start(command)
        self._process = process
        try:
            self._port = await asyncio.wait_for(self._said_port(process), FORWARD_WITHIN)
        except asyncio.TimeoutError:
            await self.close()
            raise NoFleetError(f"kubectl did not forward to the pod {self._pod} within {FORWARD_WITHIN:g} s") from None
        # What it says later must not fill the pipes.
        self._reading = asyncio.get_running_loop().create_task(_discard(process))
        return self._port

    async def _said_port(self, process: asyncio.subprocess.Process) -> int:
        if process.stdout is None or process.stderr is None:
            raise NoFleetError("kubectl has no output")
        while line := await process.stdout.readline():
            found = _FORWARDED.match(line)
            if found:
                return int(found[1])
        said = (await process.stderr.read(MAX_SAID_BYTES)).decode("utf-8", "replace").strip()
        raise NoFleetError(f"kubectl does not forward to the pod {self._pod}: {said}")

    async def keep_open(self) -> None:
        """Forwards again, at the same port, if kubectl has ended, as it does when the pod is gone."""
        if self._process is None or self._process.returncode is None or self._port == 0:
            return
        try:
            await self.open()
        except NoFleetError as error:
            log.debug("%s", error)

    async def close(self) -> None:
        """Ends it."""
        process, self._process = self._process, None
        if self._reading is not None:
            self._reading.cancel()
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _discard(process: asyncio.subprocess.Process) -> None:
    streams = [stream for stream in (process.stdout, process.stderr) if stream is not None]

    async def drain(stream: asyncio.StreamReader) -> None:
        while await stream.read(65_536):
            pass

    await asyncio.gather(*(drain(stream) for stream in streams))


async def _start(command: list[str]) -> asyncio.subprocess.Process:
    """Starts a command, whose output is read.

    Raises:
        NoFleetError: it can't be started.
    """
    pipe = asyncio.subprocess.PIPE
    try:
        return await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe
        )
    except OSError as error:
        raise NoFleetError(f"{command[0]} can't be started: {error.strerror or error}") from None


async def _run(command: list[str]) -> bytes:
    """Runs a command, and returns what it writes.

    Raises:
        NoFleetError: it fails.
    """
    process = await _start(command)
    words = " ".join(word for word in command[1:] if not word.startswith("--"))
    try:
        answer, said = await asyncio.wait_for(process.communicate(), ANSWER_WITHIN)
    except asyncio.TimeoutError:
        raise NoFleetError(f"kubectl {words} did not answer within {ANSWER_WITHIN:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise NoFleetError(f"kubectl {words} failed: {said.decode('utf-8', 'replace').strip()}")
    if len(answer) > MAX_ANSWER_BYTES:
        raise NoFleetError(f"kubectl {words} answered with more than {MAX_ANSWER_BYTES:,} bytes")
    return answer
