"""A local Ray cluster, and gangs that are placement groups."""

import logging
import os
import signal

# Nothing is sent to anybody.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import ray
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group, remove_placement_group

# It warns of settings that nobody here has made.
logging.getLogger("ray").setLevel(logging.ERROR)
# How long a gang may take, seconds.
CALL = 20
# No workers are started ahead: they are not needed, and would take processor time meanwhile.
SYSTEM = {"prestart_worker_first_driver": False, "enable_worker_prestart": False}


class Ray:
    """A cluster, which keeps its state in memory. With several nodes, each member of a gang is on another one."""

    def __init__(self, folder, nodes, cpus, size):
        self.name = f"ray, {nodes} node{'s' if nodes > 1 else ''}"
        self.bundles = [{"CPU": 1}] * size
        self.strategy = "STRICT_SPREAD" if nodes > 1 else "PACK"
        # Else what it writes to /tmp/ray is shared with other clusters of this machine.
        folder.mkdir()
        os.environ["RAY_TMPDIR"] = str(folder)
        head = {"num_cpus": cpus, "include_dashboard": False, "_system_config": SYSTEM}
        self.cluster = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)
        try:
            for _ in range(nodes - 1):
                self.cluster.add_node(num_cpus=cpus)
            self.cluster.wait_for_nodes()
        except BaseException:
            self.stop()
            raise

    def begin(self):
        """Connects to the cluster: a process can do so with one at a time."""
        ended_by = signal.getsignal(signal.SIGTERM)
        ray.init(address=self.cluster.address, log_to_driver=False, configure_logging=False)
        # Its own one waits for Ray, which may be gone.
        signal.signal(signal.SIGTERM, ended_by)

    def end(self):
        """Leaves the cluster."""
        ray.shutdown()

    def create(self):
        """Creates a gang, all or nothing."""
        group = placement_group(self.bundles, strategy=self.strategy)
        if not group.wait(CALL):
            raise RuntimeError(f"{self.name}: a gang was not placed")
        return group

    def remove(self, group):
        """Removes a gang."""
        remove_placement_group(group)

    def stop(self):
        """Ends the cluster's processes."""
        self.cluster.shutdown()
