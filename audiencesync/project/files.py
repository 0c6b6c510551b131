"""Which files a project is made of, and whether any of them has changed since somebody looked."""

from __future__ import annotations

import os
import stat
from pathlib import Path

FILE = "audiencesync.yml"
ENVIRONMENT = ".env"
FOLDERS = ("audiences", "traits")

DECLARED = (".yml", ".yaml")
"""How the files of traits without SQL end."""

_TESTS = tuple(f".test{ending}" for ending in DECLARED)

Signature = tuple[tuple[str, int, int, int], ...]


def definition_files(root: Path) -> tuple[list[Path], list[OSError]]:
    """Every file in the project's folders that defines something, and why a folder could not be looked into.

    They are .sql files and traits without SQL, in order.
    What is hidden, by a dot before its name, is left out; what vanishes meanwhile was never there.
    """
    found: list[Path] = []
    errors: list[OSError] = []
    for top in FOLDERS:
        for folder, folders, files in os.walk(root / top, onerror=errors.append):
            folders[:] = [name for name in folders if not name.startswith(".")]
            paths = (Path(folder, name) for name in files if not name.startswith("."))
            found += [path for path in paths if _defines(path.name.lower()) and is_file(path)]
    gone = (FileNotFoundError, NotADirectoryError)
    return sorted(found), [error for error in errors if not isinstance(error, gone)]


def _defines(name: str) -> bool:
    return name.endswith((".sql", *DECLARED)) and not name.endswith(_TESTS)


def is_file(path: Path) -> bool:
    """Whether there is a file, or something that only reading it will tell."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def signature(root: Path) -> Signature:
    """What changes when a file of the project is written, replaced, added or removed; it reads none and never fails."""
    root = Path(os.path.abspath(root))  # noqa: PTH100 - as it is loaded
    seen = []
    for path in (root / FILE, root / ENVIRONMENT, *definition_files(root)[0]):
        try:
            state = path.stat()
        except OSError:
            continue
        seen.append((path.relative_to(root).as_posix(), state.st_mtime_ns, state.st_size, state.st_ino))
    return tuple(seen)
