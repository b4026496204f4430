"""Files that travel as bytes; the receiving side checks their hash."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from autoslim.errors import AutoSlimError


def pack(root: Path, paths: Iterable[Path]) -> dict[str, tuple[str, bytes]]:
    """{path relative to ``root``: (SHA-256, content)} of the paths that are files."""
    found = {}
    for path in paths:
        if path.is_file():
            content = path.read_bytes()
            found[path.relative_to(root).as_posix()] = (hashlib.sha256(content).hexdigest(), content)
    return found


def unpack(root: Path, files: Mapping[str, tuple[str, bytes]]) -> None:
    """Write them below ``root``, each whole or not at all. Raises AutoSlimError, before anything is written, for a content
    that is not what its hash says or a path that leads out of ``root``."""
    for name, (digest, content) in files.items():
        if hashlib.sha256(content).hexdigest() != digest:
            raise AutoSlimError(f"{name}: arrived damaged, its hash is not the one it was sent with")
        if not (root / name).resolve().is_relative_to(root.resolve()):
            raise AutoSlimError(f"{name}: leads out of the folder it is meant for")
    for name, (_, content) in files.items():
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.partial")
        partial.write_bytes(content)
        partial.replace(target)
