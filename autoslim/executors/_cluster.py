"""The connection to Ray: one on this machine, started and ended with the run, or a cluster that is there already."""

import os
import socket
import sys
from collections.abc import Mapping
from typing import Any

from autoslim.errors import UserError

BENCH = "bench:"
#: the bench of a Ray that a run starts on its own machine
LOCAL = "local"
OBJECT_STORE = 200 * 2**20
CONNECT_SECONDS = 10.0


def quiet_ray() -> Any:
    """The ray module, with what it would say by itself turned off and its token authentication on."""
    if "ray" not in sys.modules:  # it reads this once, when it is imported
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DISABLE_IMPORT_WARNING", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    return ray


def connect(address: str, cpus: int, gpus: float, dashboard: bool, runtime_env: Mapping[str, Any] | None) -> Any:
    """The ray module, connected. Without ``address`` a Ray of this machine alone is started, with ``cpus`` and the resource of the
    local bench. Raises UserError where no cluster answers."""
    ray = quiet_ray()
    told: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False, "runtime_env": dict(runtime_env or {}) or None}
    if address.startswith("ray://"):
        raise UserError(
            f"--address: got {address!r}, allowed: auto, or host:port of the cluster's head (Ray Client is not supported; run the command on a node)"
        )
    if address:
        refuse_silent(address)
    else:
        told |= {"num_cpus": cpus, "resources": {BENCH + LOCAL: 1}, "object_store_memory": OBJECT_STORE}
        told |= {"num_gpus": gpus} if gpus else {}
        told |= {"include_dashboard": dashboard, "dashboard_host": "127.0.0.1"}
    try:
        ray.init(address=address or "local", **told)
    except Exception as error:  # ConnectionError, RuntimeError and others, as the version pleases
        ray.shutdown()
        if dashboard and not address and "dashboard" in str(error).lower():
            raise UserError(
                "dashboard: got true, which needs more of Ray than is installed; pip install 'ray[default]', or say false"
            ) from None
        what = f"--address: no Ray cluster answers at {address!r}" if address else "ray: cannot be started on this machine"
        raise UserError(f"{what} ({' '.join(str(error).split())[:200]}); see docs/cluster.md") from None
    return ray


def refuse_silent(address: str) -> None:
    """Raise UserError where nothing listens at host:port; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not port.isdigit():  # auto, or a name that Ray knows
        return
    try:
        socket.create_connection((host or "127.0.0.1", int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise UserError(f"--address: no Ray cluster answers at {address!r} ({error}); see docs/cluster.md") from None


def nodes(ray: Any) -> list[dict[str, Any]]:
    """The nodes that are alive: {"NodeID", "Resources": {name: amount}, ...}."""
    return [node for node in ray.nodes() if node["Alive"]]


def bench_of(ray: Any, target: str) -> str:
    """The resource that only the target device's workers hold. Raises UserError where the target is not told and not clear."""
    if target:
        return BENCH + target
    found = sorted({name for node in nodes(ray) for name in node["Resources"] if name.startswith(BENCH)})
    if len(found) == 1:
        return found[0]
    known = ", ".join(name.removeprefix(BENCH) for name in found)
    what = (
        f"several benches ({known}), say which with --target"
        if found
        else "no bench; `autoslim worker --target NAME --address ...` makes one"
    )
    raise UserError(f"--target: got nothing, and the cluster has {what}")


def beside_driver(ray: Any, kind: type, calls: int = 1) -> Any:
    """An actor class whose actors answer so many calls at a time and run on this process's node and nowhere else, and take none of its cores."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(kind).options(num_cpus=0, max_concurrency=calls, scheduling_strategy=here)
