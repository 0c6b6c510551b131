"""A destination that costs next to nothing: reads a request, counts its calls, answers 200 after a pause.

Prints its port, then serves until its input ends; each line of input makes it print and reset what it counted.
"""

from __future__ import annotations

import asyncio
import sys

REPLY = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 17\r\n\r\n{"success": true}'


class Counts:
    """What arrived since the last line of input."""

    requests = 0
    calls = 0


class Sink(asyncio.Protocol):
    """One connection, without pipelining, as HTTP clients use it."""

    def __init__(self, latency: float) -> None:
        self._latency = latency
        self._parts: list[bytes] = []
        self._missing = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep where to answer."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Collect a request; parts are joined once, so that a large body costs little."""
        self._parts.append(data)
        if self._missing < 0:
            head, mark, rest = b"".join(self._parts).partition(b"\r\n\r\n")
            if not mark:
                return
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            self._parts, self._missing = [rest], int(length[15:]) - len(rest)
        else:
            self._missing -= len(data)
        if self._missing == 0:
            Counts.requests += 1
            Counts.calls += b"".join(self._parts).count(b'"messageId":')
            self._parts, self._missing = [], -1
            asyncio.get_running_loop().call_later(self._latency, self._transport.write, REPLY)


async def main(latency: float) -> None:
    """Serve until standard input ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Sink(latency), "127.0.0.1", 0, backlog=256)
    print(server.sockets[0].getsockname()[1], flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(Counts.requests, Counts.calls, flush=True)
        Counts.requests = Counts.calls = 0
    server.close()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1])))
