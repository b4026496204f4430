"""``autoslim worker``: make this machine a part of a cluster: a bench where times are taken, or more cores for work."""

import json
import os
import subprocess
import sys
from typing import Annotated

import typer


def add(app: typer.Typer) -> None:
    app.command(
        "worker",
        help="Join a Ray cluster and stay until Ctrl-C. With --target, times of that target are taken here and nothing else runs here. "
        "Example: autoslim worker --target raspberry --address 192.0.2.1:6379",
    )(worker)


def worker(
    address: Annotated[str, typer.Option("--address", help="The cluster's head, host:port.")],
    target: Annotated[str | None, typer.Option("--target", help="Name of the device that this machine is; studies ask for it.")] = None,
    cpus: Annotated[int | None, typer.Option("--cpus", min=0, help="Cores for other work; default: none on a bench, else all.")] = None,
) -> int:
    """Stay in the cluster until Ctrl-C; exit status 0."""
    from autoslim.errors import UserError
    from autoslim.executors import _cluster
    from autoslim.host import physical_cores, processor

    if target is not None and not target.replace("-", "").replace("_", "").isalnum():
        raise UserError(f"--target: got {target!r}, allowed: letters, digits, - and _")
    if ":" not in address:
        raise UserError(f"--address: got {address!r}, allowed: host:port of the cluster's head")
    try:
        _cluster.quiet_ray()
    except ModuleNotFoundError:
        raise UserError("worker: needs the package 'ray', which is not installed; pip install 'autoslim[ray]'") from None
    given = (0 if target else physical_cores()) if cpus is None else cpus
    words = ["start", "--address", address, "--num-cpus", str(given), "--block", "--disable-usage-stats"]
    words += ["--resources", json.dumps({_cluster.BENCH + target: 1})] if target else []
    typer.echo(f"{f'bench {target}' if target else 'worker'}: {processor()}, {physical_cores()} cores, {given} of them for work", err=True)
    done = subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", *words], env=dict(os.environ), stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode in (0, 130, -2, -15, 143):
        return 0
    raise UserError(
        f"worker: `ray start` ended with status {done.returncode}; the lines above say why (docs/cluster.md, tokens and versions)"
    )
