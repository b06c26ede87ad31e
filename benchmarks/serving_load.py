"""A load generator, run as a process of its own: clients that each send their next request when the last is answered.

    python -m benchmarks.serving_load < PLAN

PLAN is JSON: host, port, clients, seconds, least (requests of each client, whatever the time), bodies (a list of
texts). The answer, on stdout, is JSON as well: the seconds
of every answered request and how often each status came. Written on bare streams, so that it takes little of the cores
that it shares with the server.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> int:
    """Send a request on an open connection and read its whole answer; returns the status."""
    writer.write(request)
    await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head[9:12])
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(length)
    return status


async def client(
    host: str,
    port: int,
    requests: Sequence[bytes],
    until: float,
    least: int,
    seconds: list[float],
    statuses: Counter[int],
) -> None:
    """One client: requests one after another over one connection, until the time is over."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        turn = 0
        while (start := time.perf_counter()) < until or turn < least:
            statuses[await exchange(reader, writer, requests[turn % len(requests)])] += 1
            seconds.append(time.perf_counter() - start)
            turn += 1
    finally:
        writer.close()


def as_bytes(host: str, port: int, body: str) -> bytes:
    """A POST /rank."""
    content = body.encode()
    head = f"POST /rank HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content


async def load(host: str, port: int, clients: int, seconds: float, least: int, bodies: Sequence[str]) -> dict[str, Any]:
    """Run all clients; each begins at another place of the bodies."""
    requests = [as_bytes(host, port, body) for body in bodies]
    took: list[float] = []
    statuses: Counter[int] = Counter()
    start = time.perf_counter()
    step = max(1, len(requests) // clients)
    orders = [
        requests[number * step % len(requests) :] + requests[: number * step % len(requests)]
        for number in range(clients)
    ]
    await asyncio.gather(*(client(host, port, order, start + seconds, least, took, statuses) for order in orders))
    return {
        "elapsed": time.perf_counter() - start,
        "seconds": took,
        "statuses": {str(k): n for k, n in statuses.items()},
    }


if __name__ == "__main__":
    json.dump(asyncio.run(load(**json.load(sys.stdin))), sys.stdout)
