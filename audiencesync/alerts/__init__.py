"""Tells people of trouble, at Slack or any webhook; once, because who calls it knows whether it must go again."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlsplit

from audiencesync.addresses import check_url
from audiencesync.alerts.message import message, page_of
from audiencesync.errors import AccountRefused
from audiencesync.model.definitions import AlertChannel
from audiencesync.model.troubles import Trouble

__all__ = ["message", "page_of", "send"]

_SHORTEST = 6
"""Characters from which a piece of an address is taken for a secret; shorter ones are words such as `hook`."""


def send(channel: AlertChannel, trouble: Trouble, *, recovered: bool, project: str, seconds: float = 10.0) -> None:
    """Tell `channel` that `trouble` began, or is over, within `seconds`; raises a DeliveryError when it was not taken.

    The address is a secret: whoever knows it may write there. No error shows more of it than the host.
    """
    import orjson

    from audiencesync.http import Client

    setting = f"the url of alert {channel.name}"
    try:
        check_url(channel.url, allow_http=True)  # whether http is allowed was decided when the project was read
    except ValueError as error:
        raise AccountRefused(f"{setting} cannot be sent to: {error}") from None
    text = message(channel.type, trouble, recovered=recovered, project=project, now=datetime.now(UTC))
    with closing(Client(account=setting, address=setting, secrets=_secrets(channel.url))) as client:
        client.post(channel.url, orjson.dumps(text), {"Content-Type": "application/json"}, seconds=seconds)


def _secrets(url: str) -> tuple[str, ...]:
    """The address and every piece of it that a server may repeat, longest first, so that no piece uncovers another."""
    parts = urlsplit(url)
    pieces = {url, parts.path, parts.query, *parts.path.split("/"), *(value for _, value in parse_qsl(parts.query))}
    return tuple(sorted((piece for piece in pieces if len(piece) >= _SHORTEST), key=len, reverse=True))
