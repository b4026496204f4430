"""Network namespaces joined by a bridge: computers on one machine whose cables can be cut. Needs Linux, root and iproute2."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time

import pytest

PREFIX = "aslim"


def ip(*words):
    return subprocess.run(["ip", *map(str, words)], check=True, capture_output=True, text=True, timeout=30).stdout


class Host:
    """One namespace with an address of its own, and the end of its cable on this side."""

    def __init__(self, name, cable, address):
        self.name, self.cable, self.address = name, cable, address

    def run(self, *words, **told):
        """A process inside."""
        return subprocess.Popen(["ip", "netns", "exec", self.name, *map(str, words)], **told)

    def cut(self):
        """Nothing gets through from now on, and nobody is told."""
        ip("link", "set", self.cable, "down")

    def mend(self):
        ip("link", "set", self.cable, "up")


@contextlib.contextmanager
def network(count):
    """(address on this side, hosts); what is not allowed here skips the test with its reason. Everything goes at the end: processes inside,
    cables, namespaces, the bridge; what a killed run has left goes first."""
    if shutil.which("ip") is None:
        pytest.skip("no `ip` (iproute2) to make network namespaces with")
    for name in left():
        remove(name)
    base, subnet = f"{PREFIX}{os.getpid()}", f"10.{200 + os.getpid() % 50}.{os.getpid() // 50 % 250}"
    try:
        try:
            made = [host(base, number, subnet) for number in range(count)]
        except (subprocess.CalledProcessError, OSError) as error:
            pytest.skip(f"network namespaces cannot be made here ({(getattr(error, 'stderr', '') or str(error)).strip()})")
        reachable(f"{subnet}.1", made)
        yield f"{subnet}.1", made
    finally:
        remove(base)


def host(base, number, subnet):
    if number == 0:
        ip("link", "add", base, "type", "bridge")
        ip("addr", "add", f"{subnet}.1/24", "dev", base)
        ip("link", "set", base, "up")
    name, cable, inside = f"{base}-{number}", f"{base}-{number}", "eth0"
    ip("netns", "add", name)
    ip("link", "add", cable, "type", "veth", "peer", "name", inside, "netns", name)
    ip("link", "set", cable, "master", base)
    ip("link", "set", cable, "up")
    for words in (("lo",), (inside,)):
        ip("-n", name, "link", "set", *words, "up")
    ip("-n", name, "addr", "add", f"{subnet}.{number + 2}/24", "dev", inside)
    return Host(name, cable, f"{subnet}.{number + 2}")


def reachable(address, hosts):
    """Skips where a firewall keeps the namespaces apart."""
    with socket.create_server((address, 0)) as server:
        for one in hosts:
            try:
                one.run("bash", "-c", f"exec 3<>/dev/tcp/{address}/{server.getsockname()[1]}", stderr=subprocess.DEVNULL).wait(5)
                server.settimeout(1)
                server.accept()[0].close()
            except (subprocess.TimeoutExpired, TimeoutError):
                pytest.skip("network namespaces can be made here, but a firewall lets nothing through between them")


def left():
    """What belongs to processes that are gone: bases of names."""
    names = {line.split()[0] for line in ip("netns", "list").splitlines() if line.startswith(PREFIX)}
    names |= {line.split(": ")[1].split("@")[0] for line in ip("-o", "link").splitlines() if f": {PREFIX}" in line}
    bases = {name.split("-")[0] for name in names}
    return [base for base in bases if not os.path.exists(f"/proc/{base.removeprefix(PREFIX)}")]


def remove(base):
    """End every process inside, then take everything away that bears the name."""
    names = [line.split()[0] for line in ip("netns", "list").splitlines() if line.startswith(f"{base}-")]
    stop = time.monotonic() + 20
    while (inside := [int(pid) for name in names for pid in ip("netns", "pids", name).split()]) and time.monotonic() < stop:
        for pid in inside:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    for name in names:
        ip("netns", "del", name)  # its end of the cable goes with it, and so the other
    if f": {base}:" in ip("-o", "link"):
        ip("link", "del", base)
