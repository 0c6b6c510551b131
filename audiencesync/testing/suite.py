"""What every suite stands on: the destination of its class, where it can be brought, and how its requests are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from audiencesync.model import Batch, Call, Content, Destination, Packed
from audiencesync.testing import pages
from audiencesync.testing.checked import Checked, unsealed
from audiencesync.testing.pages import SECRET, Limits, content_for
from audiencesync.testing.place import Place


class Suite:
    """A subclass sets `destination`, and says more where it can.

    `limits` are those of one request; `place`, `read` and `opened` give a suite eyes: without them it looks for a user
    and a value anywhere in a request.
    """

    destination: ClassVar[type[Destination]]
    limits: ClassVar[Limits] = Limits()

    @contextmanager
    def place(self, tmp_path: Path) -> Iterator[Place]:
        """The destination where it harms nobody: with its setting `path` in a folder of the test."""
        if "path" not in self.destination.model_fields:
            pytest.skip(f"{self.destination.type} has no setting `url`, so nothing brings it to a server on loopback")
        yield Place(self.made(path=str(tmp_path / "example")), opened=self.opened)

    def read(self, batch: Batch) -> Sequence[tuple[str, str, object]] | None:
        """The user, the name and the value of each trait that a request tells; None where a suite cannot tell.

        One that says nothing of computed traits leaves them to be looked for anywhere.
        """
        return None

    def opened(self, batch: Batch) -> bytes:
        """The text of a request, where its body has to be decoded first; base64 of a JSON object is."""
        return unsealed(batch)

    def made(self, **settings: object) -> Destination:
        """The destination of the example, with other settings where given."""
        return self.destination.model_validate({**self.destination.example, **settings})

    def checked(self, *, secret: bytes = SECRET) -> Checked:
        """A packer that is held to its promises."""
        made = self.made()
        return Checked(made, content_for(made, secret=secret), limits=self.limits, read=self.read, opened=self.opened)

    def packed(self, calls: Sequence[Call], *, secret: bytes = SECRET) -> Packed:
        """The first requests of a page."""
        return self.checked(secret=secret).pack(calls)

    def call(self, user: str, span: int = 0, *, value: bool = True, note: str = "") -> Call:
        """A call about a user who has whatever the destination needs."""
        return pages.call(self.destination.needs, user, span, value=value, note=note)

    def page(self, seed: int) -> list[Call]:
        """A page of both audiences, ordered by user, with ids that break careless rendering."""
        return pages.page(self.destination.needs, seed, emails=self.content().envelopes[0].id_kind == "email")

    def content(self) -> Content:
        """What calls are made of."""
        return content_for(self.made())

