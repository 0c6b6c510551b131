"""A file on this machine, for trying out: what Segment would be sent, a line for each call."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from hashlib import blake2b
from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field

from audiencesync.destinations.identify import Renderer
from audiencesync.errors import AccountRefused, DeliveryError, NotTaken, Unanswered
from audiencesync.model import Batch, Call, Channel, Content, Destination, Packed, Packer, Refusal
from audiencesync.schedule import Duration

_OURS = (b'{"type":"identify","messageId":"as_', b'{"type":"track","event":')
"""How every line of ours begins."""


class File(Destination):
    """Appends identify calls as JSON lines; after a crash a line may stand there twice, with the same messageId."""

    type: ClassVar[str] = "file"
    sends: ClassVar[tuple[str, ...]] = ("identify", "track", "both")
    example: ClassVar[Mapping[str, object]] = {"path": "calls.jsonl"}

    path: Path = Field(description="The file to append to; relative to the folder of audiencesync.yml.")
    settle: Duration = Field(timedelta(0), description="Nothing written to a file arrives later.")
    concurrency: int = Field(1, ge=1, le=1, description="One writer at a time.")

    def resolve(self, root: Path) -> Self:
        """The same file, named from the project's folder."""
        return self.model_copy(update={"path": root / self.path.expanduser()})

    def fingerprint(self) -> str:
        """A hash of the file's full name: another file, like another account, was told nothing yet."""
        return blake2b(b"file:" + os.fsencode(os.path.realpath(self.path)), digest_size=8).hexdigest()

    def packer(self, content: Content) -> Packer:
        """Renderer of one sync."""
        return _Packer(content)

    def channel(self) -> Channel:
        """A handle that opens the file when the first batch comes."""
        return _Channel(self.path)

    def check(self) -> Iterator[str]:
        """Look whether the file, or the folder it is to be made in, can be written to; raises AccountRefused if not."""
        there = next(path for path in (self.path, *self.path.parents) if path.exists())
        if there.is_dir() == (there == self.path) or not os.access(there, os.W_OK):
            raise AccountRefused(f"{self.path} cannot be written to: check path")
        yield f"{self.path} can be written to"


class _Packer(Packer):
    """One batch a page: a file has no limits."""

    def __init__(self, content: Content) -> None:
        self._renderer = Renderer(content)

    def pack(self, calls: Sequence[Call]) -> Packed:
        if not calls:
            return Packed(())
        lines = "\n".join(self._renderer.render(calls))
        return Packed((Batch(tuple(calls), f"{lines}\n".encode()),))


class _Channel(Channel):
    """Writes a batch whole and flushed to the disk, or takes back what was written of it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def send(self, batch: Batch, *, seconds: float) -> Mapping[int, Refusal]:
        """Append the batch; raises AccountRefused, NotTaken, or Unanswered when the disk fails in the middle."""
        del seconds  # a disk has no deadline
        try:
            if self._file is None:
                self._file = _open(self._path)
            end = os.fstat(self._file).st_size
        except OSError as error:
            raise _unopened(self._path, error) from error
        try:
            _write(self._file, batch.body)
        except OSError as error:
            _take_back(self._path, self._file, end)
            raise NotTaken(f"{self._path} could not be written: {error.strerror}; nothing of this batch is in it") \
                from error
        return {}

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _open(path: Path) -> int:
    """Open for appending, only for the owner's eyes when new, behind the last whole line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        _cut_torn_line(path, file)
    except (OSError, AccountRefused):
        os.close(file)
        raise
    return file


def _cut_torn_line(path: Path, file: int) -> None:
    """Cut what a killed process left behind the last newline; those calls are sent again.

    Raises AccountRefused for a last line that is not ours: nothing of somebody else's file is ever cut.
    """
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    size = at = found.st_size
    while at > 0:
        start = max(0, at - 65536)
        newline = os.pread(file, at - start, start).rfind(b"\n")
        if newline >= 0:
            at = start + newline + 1
            break
        at = start
    if at == size:
        return
    if not any(ours.startswith(os.pread(file, len(ours), at)) for ours in _OURS):
        raise AccountRefused(f"{path} ends in an unfinished line that audiencesync did not write; choose another path")
    os.ftruncate(file, at)


def _write(file: int, body: bytes) -> None:
    rest = memoryview(body)
    while rest:
        rest = rest[os.write(file, rest):]
    os.fsync(file)


def _take_back(path: Path, file: int, end: int) -> None:
    """Cut a half-written batch away again, so that the next attempt writes it once."""
    try:
        os.ftruncate(file, end)
        os.fsync(file)
    except OSError as error:
        raise Unanswered(f"{path} was written in part: {error.strerror}") from error


def _unopened(path: Path, error: OSError) -> DeliveryError:
    """A path that cannot be is a setting to mend; anything else may pass."""
    lasting = (errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EROFS, errno.EINVAL,
               errno.ENAMETOOLONG, errno.ELOOP)
    kind = AccountRefused if error.errno in lasting else NotTaken
    return kind(f"{path} could not be opened: {error.strerror}; check path")
