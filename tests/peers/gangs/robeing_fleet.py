"""A fleet of `robeing dev`, and gangs that are allocations of its resource pool."""

import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import uuid

import grpc
import grpc_tools
from grpc_tools import protoc

# How long the fleet may take to start and to end, and a call, seconds.
START, END, CALL = 60, 20, 20
POLL = 0.05

MANIFEST = """\
apiVersion: robeing.io/v1alpha1
kind: RobeingCluster
metadata: {{name: gangs-{coordinators}}}
spec:
  coordinators: {{replicas: {coordinators}}}
  pools:
  - name: machines
    replicas: {agents}
    slots: 1
    executor: {{echo: {{}}}}
    resources: {{limits: {{cpu: "{cpus}"}}}}
"""


def generate(root, folder):
    """Generates the client of the API into a folder, and returns its modules `resources` and `fleet`."""
    protos = root / "proto"
    names = [str(path.relative_to(protos)) for path in sorted(protos.glob("robeing/v1/*.proto"))]
    known = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{protos}", f"-I{known}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
    if protoc.main([*arguments, *names]) != 0:
        raise RuntimeError(f"the client can't be generated from {protos}")
    sys.path.insert(0, str(folder))
    load = lambda name: importlib.import_module(f"robeing.v1.{name}")
    return {name: (load(f"{name}_pb2"), load(f"{name}_pb2_grpc")) for name in ("fleet", "resources")}


class Robeing:
    """A fleet without TLS, which keeps its log on a disk. Gangs are requested from its leader."""

    def __init__(self, program, api, folder, coordinators, agents, cpus, size):
        self.name = f"robeing, {coordinators} coordinator{'s' if coordinators > 1 else ''}"
        self.api = api
        self.size = size
        self.channel = None
        self.folder = folder / f"robeing-{coordinators}"
        self.folder.mkdir()
        manifest = self.folder / "fleet.yaml"
        manifest.write_text(MANIFEST.format(coordinators=coordinators, agents=agents, cpus=cpus))
        arguments = [program, "dev", "-f", manifest, "--plaintext", "--plain", "--data", self.folder / "data"]
        # Its entry is found there, and no other fleet's.
        environment = {**os.environ, "XDG_RUNTIME_DIR": str(self.folder)}
        self.log = open(self.folder / "log", "wb")
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env=environment
        )
        try:
            self._wait(agents * cpus * 1_000)
        except BaseException:
            self.stop()
            raise

    def _wait(self, contributed):
        deadline = time.monotonic() + START
        why = "it does not say where it is"
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if self._is_ready(contributed):
                    return
                why = "not all agents contribute what they have"
            except (grpc.RpcError, RuntimeError) as error:
                why = error.details() if isinstance(error, grpc.RpcError) else str(error)
            time.sleep(POLL)
        log = (self.folder / "log").read_text(errors="replace")
        raise RuntimeError(f"{self.name} did not start: {why}\n{log}")

    def _is_ready(self, contributed):
        entries = list((self.folder / "robeing").glob("*.json"))
        if not entries:
            raise RuntimeError("it is not running yet")
        endpoint = json.loads(entries[0].read_text())["endpoints"][0]
        fleet, fleet_calls = self.api["fleet"]
        with grpc.insecure_channel(endpoint.removeprefix("http://")) as channel:
            status = fleet_calls.FleetStub(channel).GetStatus(fleet.GetStatusRequest(), timeout=CALL)
        if not status.leader_address:
            raise RuntimeError("it has no leader")
        if self.channel:
            self.channel.close()
        resources, calls = self.api["resources"]
        self.channel = grpc.insecure_channel(status.leader_address)
        self.calls = calls.ResourcesStub(self.channel)
        listed = self.calls.ListResources(resources.ListResourcesRequest(), timeout=CALL)
        if listed.sums.free.cpu_millis != contributed:
            return False
        # The fleet's version may only be about to have the pool.
        self.remove(self.create())
        return True

    def begin(self):
        """Prepares a measurement."""

    def end(self):
        """Ends a measurement."""

    def create(self):
        """Creates a gang: a processor of as many agents as it has members, all or nothing."""
        resources, _ = self.api["resources"]
        part = resources.ResourceAmounts(cpu_millis=1_000)
        request = resources.RequestResourcesRequest(id=str(uuid.uuid4()), parts=[part] * self.size, spread=True)
        allocation = self.calls.RequestResources(request, timeout=CALL).allocation
        if allocation.state != resources.ALLOCATION_STATE_GRANTED:
            raise RuntimeError(f"{self.name}: a gang was not granted")
        return allocation

    def remove(self, allocation):
        """Removes a gang."""
        resources, _ = self.api["resources"]
        request = resources.ReleaseResourcesRequest(id=allocation.id, token=allocation.token)
        self.calls.ReleaseResources(request, timeout=CALL)

    def stop(self):
        """Ends the fleet."""
        if self.channel:
            self.channel.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(END)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()
