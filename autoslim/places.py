"""Places to write in, tried before any work: a folder or a file that cannot be written is told in one line, not after an hour."""

import tempfile
from pathlib import Path

from autoslim.errors import UserError


def writable_folder(path: Path, flag: str) -> Path:
    """The folder, made if it is not there yet. Raises UserError that names ``flag`` where no file can be written in it: one is written, since
    permissions alone do not tell (a read-only disk, root)."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise UserError(f"{flag}: got {str(path)!r}, allowed: a folder that can be written ({error.strerror}); give another one") from None


def writable_file(path: Path, flag: str) -> Path:
    """The path of a file that can be written; its folder is made. Raises UserError that names ``flag``."""
    if path.is_dir():
        raise UserError(f"{flag}: got {str(path)!r}, which is a folder, allowed: the path of a file; add a file name")
    writable_folder(path.parent, flag)
    return path
