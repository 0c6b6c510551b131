"""The file destination: the contract of destinations, and lines that stay whole whatever happens to the writer."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import orjson
import pytest
from pydantic import ValidationError

from audiencesync.destinations.file import File
from audiencesync.destinations.segment import Segment
from audiencesync.errors import AccountRefused, NotTaken
from audiencesync.model import Batch, Call
from tests.contract import DestinationContract, Place, content
from tests.servers import said_in

CALLS = [Call(f"u{number}", 0, True, None) for number in range(3)]


def batch() -> Batch:
    return File(path=Path("x")).packer(content()).pack(CALLS).batches[0]


def send(path: Path) -> None:
    with closing(File(path=path).channel()) as channel:
        assert channel.send(batch(), seconds=1) == {}


class TestFile(DestinationContract):
    destination = File

    @contextmanager
    def place(self, tmp_path: Path) -> Iterator[Place]:
        path = tmp_path / "calls.jsonl"
        yield Place(File(path=path), lambda: {told[:2]: told[2] for told in lines(path.read_bytes())})

    def read(self, batch: Batch) -> Sequence[tuple[str, str, object]]:
        return lines(batch.body)

    def test_a_check_makes_no_file(self, tmp_path: Path) -> None:
        path = tmp_path / "calls.jsonl"
        assert list(File(path=path).check())
        assert not path.exists()


def lines(text: bytes) -> list[tuple[str, str, object]]:
    assert text.endswith(b"\n")
    return said_in(orjson.loads(line) for line in text[:-1].split(b"\n"))


def test_a_line_is_the_call_that_segment_would_be_sent() -> None:
    [sent] = Segment.model_validate(Segment.example).packer(content()).pack(CALLS).batches
    assert b'{"batch":[%b]}' % b",".join(batch().body.splitlines()) == sent.body


@pytest.mark.parametrize("torn", [
    batch().body[:1], batch().body[:13], batch().body[:60], batch().body[:40] + b"x" * 200_000])
@pytest.mark.parametrize("before", [b"", b'{"whole":1}\n', b'{"whole":1}\n' + b"y" * 100_000 + b"\n"])
def test_a_line_torn_by_a_killed_process_is_cut_away(tmp_path: Path, before: bytes, torn: bytes) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_bytes(before + torn)
    send(path)
    assert path.read_bytes() == before + batch().body


@pytest.mark.parametrize("last", [b"x", b"[1, 2]", b'{"type":"identify","userId":"u1"}', b"y" * 200_000])
@pytest.mark.parametrize("before", [b"", b"a,b\n", batch().body])
def test_a_last_line_that_is_not_ours_is_never_cut(tmp_path: Path, before: bytes, last: bytes) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_bytes(before + last)
    with pytest.raises(AccountRefused, match="did not write; choose another path"):
        send(path)
    assert path.read_bytes() == before + last


def test_what_stands_there_already_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "calls.jsonl"
    send(path)
    send(path)
    assert path.read_bytes() == batch().body * 2


def test_a_new_file_is_for_its_owners_eyes(tmp_path: Path) -> None:
    send(tmp_path / "calls.jsonl")
    assert (tmp_path / "calls.jsonl").stat().st_mode & 0o777 == 0o600


def test_a_batch_that_does_not_fit_leaves_nothing_behind_and_fits_later(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    send(path)
    size = path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with closing(File(path=path).channel()) as channel:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, hard))
            with pytest.raises(NotTaken, match="nothing of this batch is in it"):
                channel.send(batch(), seconds=1)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, before)
        assert path.stat().st_size == size
        channel.send(batch(), seconds=1)
    assert path.read_bytes() == batch().body * 2


def test_a_path_that_cannot_be_written_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x\n")
    for path in (tmp_path, tmp_path / "plain" / "calls.jsonl", Path(os.devnull)):
        with pytest.raises(AccountRefused, match="check path"):
            send(path)
    for path in (tmp_path, tmp_path / "plain" / "calls.jsonl"):
        with pytest.raises(AccountRefused, match="check path"):
            list(File(path=path).check())


def test_a_folder_that_is_yet_to_be_made_is_no_fault(tmp_path: Path) -> None:
    assert list(File(path=tmp_path / "new" / "deep" / "calls.jsonl").check())
    assert not (tmp_path / "new").exists()


def test_a_relative_path_starts_at_the_project(tmp_path: Path) -> None:
    assert File(path=Path("out/calls.jsonl")).resolve(tmp_path).path == tmp_path / "out" / "calls.jsonl"
    assert File(path=Path("/abs/calls.jsonl")).resolve(tmp_path).path == Path("/abs/calls.jsonl")


def test_nothing_settles_and_one_writes_at_a_time() -> None:
    made = File(path=Path("x"))
    assert (made.settle, made.concurrency, made.pace()) == (timedelta(0), 1, None)
    with pytest.raises(ValidationError):
        File(path=Path("x"), concurrency=2)


def test_another_file_is_another_account_and_so_is_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(tmp_path)
    made = File(path=tmp_path / "calls.jsonl")
    assert made.fingerprint() == File(path=tmp_path / "linked" / "calls.jsonl").fingerprint()
    others = [File(path=tmp_path / "other.jsonl"), Segment.model_validate(Segment.example)]
    assert made.fingerprint() not in {other.fingerprint() for other in others}
