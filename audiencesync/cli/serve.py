"""The command that runs for years: serve."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING

import click

from audiencesync.cli.context import Session, opened

if TYPE_CHECKING:
    from audiencesync.service import Service

LISTEN = "127.0.0.1:9464"


@click.command()
@click.option("--listen", metavar="HOST:PORT", default=None,
              help=f"Where /healthz, /readyz and /metrics answer; {LISTEN} unless given, `off` for nowhere.")
@click.option("--log", "form", type=click.Choice(["auto", "json", "text"]), default="auto",
              help="How log lines look; auto is text on a terminal and JSON elsewhere.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info",
              help="The least that is logged.")
@click.pass_obj
def serve(session: Session, listen: str | None, form: str, log_level: str) -> None:
    """Compute every audience on its schedule and keep every destination in step, until asked to end.

    SIGTERM and SIGINT end it after the pages at hand; SIGHUP has it read the definitions again, which it does by itself
    when a file changes. Any number of these processes may share one state.
    """
    from audiencesync.destinations import registry
    from audiencesync.service import Service
    from audiencesync.service.definitions import checked_address
    from audiencesync.service.logs import set_up

    address = None if listen == "off" else checked_address(listen or LISTEN)
    undo = set_up(sys.stderr, json={"json": True, "text": False}.get(form), level=log_level)
    try:
        service = Service(session.directory, dict(registry()), listen=address, listen_strictly=listen is not None)
        _listen_to_signals(service)
        service.serve(lambda url: opened(url, must_exist=service.definitions.project.state_must_exist))
    finally:
        undo()


def _listen_to_signals(service: Service) -> None:
    def end(number: int, _frame: FrameType | None) -> None:
        service.end(f"asked to end ({signal.Signals(number).name})")
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)

    def reload(_number: int, _frame: FrameType | None) -> None:
        service.reload()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGHUP, reload)
