"""What goes wrong without stopping anything, shown where a service would log it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import click


class _Shown(logging.Handler):
    """Writes a warning to stderr, as errors are."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        click.echo(f"warning: {record.getMessage()}", err=True)


@contextmanager
def warned() -> Iterator[None]:
    """Show what sources warn of, while a command asks them."""
    logger, shown = logging.getLogger("audiencesync.source"), _Shown(logging.WARNING)
    logger.addHandler(shown)
    try:
        yield
    finally:
        logger.removeHandler(shown)
