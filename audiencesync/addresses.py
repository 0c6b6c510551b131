"""Which addresses a destination may have: the rule that keeps keys and people off the open wire."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit


def check_url(url: str, *, allow_http: bool = False) -> str:
    """The address as written; raise ValueError unless it is https, or http to loopback or with `allow_http: true`."""
    if not url.isprintable() or " " in url:
        raise ValueError("a URL has no blanks or line ends")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
        host.encode("idna")
    except ValueError as error:
        raise ValueError("this is not a URL; write https://host/path") from error
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError("this is not a URL that can be sent to; write https://host/path")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL with a user or password in it would end up in logs; give the key as a setting")
    if parts.scheme == "http" and not (allow_http or is_loopback(host)):
        raise ValueError("http would send keys and people in the clear; write https, or set allow_http: true")
    return url


def is_loopback(host: str) -> bool:
    """Whether a host's name or number means this very machine, so that nothing leaves it."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
