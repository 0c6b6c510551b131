"""A lease kept while its holder waits for something that may take long, such as the source."""

from __future__ import annotations

import logging
import threading

from audiencesync.errors import AudiencesyncError, LeaseLost
from audiencesync.store import leases
from audiencesync.store.connect import Store

LOGGER = logging.getLogger(__name__)


class Kept:
    """A lease that a thread renews while its holder waits for the source; `lost` says that another process has it."""

    def __init__(self, store: Store, lease: leases.Lease) -> None:
        self.lease = lease
        self.lost = False
        self._store, self._said = store, False
        self._ended = threading.Event()
        self._thread: threading.Timer | None = None
        self._again()

    def _again(self) -> None:
        self._thread = threading.Timer(self.lease.life.total_seconds() / 3, self._renew)
        self._thread.daemon = True
        self._thread.start()

    def _renew(self) -> None:
        if self._ended.is_set():
            return
        try:
            leases.renew(self._store, self.lease)
        except LeaseLost:
            self.lost = True
            return
        except AudiencesyncError as error:
            if not self._said:
                LOGGER.warning("lease not renewed", extra={"lease": self.lease.name, "reason": str(error)})
            self._said = True
        self._again()

    def end(self) -> None:
        """Renew it no more."""
        self._ended.set()
        if self._thread is not None:
            self._thread.cancel()
