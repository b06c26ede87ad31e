"""Serving: requests per second and latency of a real server process, and what it does with hostile requests.

    python -m benchmarks.serving [--quick] --json FILE [--export FOLDER]

Without --export: MiniLM cut as the demo cuts it, with random adapters of two pointwise and two list-wise objectives,
random items of about 17 tokens, shoppers of 100 tokens. The clients run in another process on the same cores as the
server, so part of these is theirs. Servers of all variants stand ready at once and are loaded in turns, so that
whatever else the machine does hits all of them alike. Shoppers return: their prefixes fit the cache and have been seen
before measuring begins. `item_cache_ratio_mCANDIDATES`: answers of an export with `backbone.trunk: apart`, all of whose
items have been seen, over those of a joint one, by turns.
"""

import argparse
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import figure, report, show, write
from benchmarks.serving_export import Size, bodies, longest_prefix, make_export
from benchmarks.serving_hostile import CASES, exchange
from benchmarks.serving_process import VARIANTS, Loaded, Server, Variant, serving

Cell = tuple[int, int, int]
"""Clients, candidates, tokens of the prefix."""


@dataclass(frozen=True)
class Plan:
    """Clients × slates at `prefix` tokens, the cache at `long_prefix` too; each cell for `rounds` × `seconds`."""

    seconds: float
    rounds: int
    clients: tuple[int, ...] = (1, 8, 32)
    slates: tuple[int, ...] = (20, 100)
    prefix: int = 100
    long_prefix: int = 256
    shoppers: int = 40


APART = Variant(apart=True)
WHOLE, QUICK = Plan(8.0, 3), Plan(1.5, 1, shoppers=12)


class Measurements:
    """Loads the servers in turns and keeps what the clients saw, by variant and cell."""

    def __init__(self, plan: Plan, export: Path, servers: dict[Variant, Server]) -> None:
        self.plan, self.export, self.servers = plan, export, servers
        self.loads: dict[tuple[Variant, Cell], list[Loaded]] = {}

    def run(self, cell: Cell, variants: tuple[Variant, ...] = VARIANTS) -> None:
        """Measure a cell, each round beginning with another variant."""
        clients, candidates, prefix = cell
        requests = bodies(self.export, self.plan.shoppers, prefix, candidates)
        for variant in variants:  # every shopper once, if there is a cache that could remember
            self.servers[variant].load(1, 0.0, requests, least=len(requests) if variant.cache else 2)
        for turn in range(self.plan.rounds):
            first = turn % len(variants)
            for variant in variants[first:] + variants[:first]:
                loaded = self.servers[variant].load(clients, self.plan.seconds, requests)
                if not loaded.answered:
                    raise RuntimeError(f"no request was answered: {loaded.statuses}")
                self.loads.setdefault((variant, cell), []).append(loaded)

    def rates(self, variant: Variant, cell: Cell) -> np.ndarray:
        """Answers per second of each round."""
        return np.array([loaded.rate for loaded in self.loads[variant, cell]])

    def ratio(self, name: str, cell: Cell, above: Variant, below: Variant) -> dict[str, Any]:
        """Median over rounds of the ratio of answers per second."""
        ratios = self.rates(above, cell) / self.rates(below, cell)
        where = dict(zip(("clients", "candidates", "prefix_tokens"), cell, strict=True))
        lowest = round(float(ratios.min()), 3)
        return figure(name, float(np.median(ratios)), "×", rounds=len(ratios), lowest=lowest, **where)

    def figures(self) -> list[dict[str, Any]]:
        """Rates and latencies of every cell at the usual prefix: medians over rounds, percentiles over all answers."""
        entries = []
        for (variant, (clients, candidates, prefix)), rounds in self.loads.items():
            if prefix != self.plan.prefix:
                continue
            name = f"c{clients}_m{candidates}{variant.suffix}"
            seconds = np.concatenate([loaded.seconds for loaded in rounds])
            where = {"answers": len(seconds)}
            entries += [
                figure(f"rps_{name}", float(np.median([loaded.rate for loaded in rounds])), "requests/s", **where),
                figure(f"p50_ms_{name}", 1000 * float(np.quantile(seconds, 0.5)), "ms", **where),
                figure(f"p99_ms_{name}", 1000 * float(np.quantile(seconds, 0.99)), "ms", **where),
            ]
        return entries

    def server_errors(self) -> int:
        """5xx that clients saw."""
        return sum(loaded.server_errors for rounds in self.loads.values() for loaded in rounds)


HEALTH = b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


def slowest_beside(server: Server, sent: bytes) -> tuple[bytes, float]:
    """Send a request, and ask for the server's health while it is being answered; its answer, and the longest of these
    waits in seconds."""
    waits: list[float] = []
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(exchange, server.host, server.port, sent)
        while not waits or not answer.done():
            begin = time.perf_counter()
            exchange(server.host, server.port, HEALTH)
            waits.append(time.perf_counter() - begin)
    return answer.result(), max(waits)


def try_hostile(server: Server, request: list[str]) -> tuple[int, int, float]:
    """Send every hostile request, an ordinary one after some.

    Returns:
        How many, how many 5xx came back, and the longest that somebody else waited meanwhile, in seconds.

    Raises:
        RuntimeError: an ordinary request was not answered.
    """
    errors, slowest = 0, 0.0
    for name, case in CASES.items():
        answer, waited = slowest_beside(server, case.sent)
        slowest = max(slowest, waited)
        errors += answer.startswith(b"HTTP/1.1 5")
        after = server.load(1, 0.0, request) if name in ("deep lists", "a broken chunk") else None
        if after is not None and not after.answered:
            raise RuntimeError(f"after '{name}' an ordinary request was not answered: {after.statuses}")
    after = server.load(1, 0.0, request)
    if not after.answered:
        raise RuntimeError(f"after the hostile requests an ordinary one was not answered: {after.statuses}")
    return len(CASES), errors + after.server_errors, slowest


def measure(plan: Plan, export: Path, apart: Path | None) -> list[dict[str, Any]]:
    """All figures of an export; `apart`: one of the same kind whose trunk sees candidates apart."""
    short, long = (min(tokens, longest_prefix(export)) for tokens in (plan.prefix, plan.long_prefix))
    if short != plan.prefix:
        raise RuntimeError(f"{export} reads {short} tokens of a shopper, fewer than the {plan.prefix} to be measured")
    usual, uncached = Variant(), Variant(cache=False)
    fewest, most, slate = min(plan.clients), max(plan.clients), min(plan.slates)
    middle = sorted(plan.clients)[len(plan.clients) // 2]
    with ExitStack() as stack:
        servers = {}
        for variant in VARIANTS:
            print(f"starting a server{variant.suffix.replace('_', ', ')} …", flush=True)
            servers[variant] = stack.enter_context(serving(export, variant))
        if apart is not None:
            servers[APART] = stack.enter_context(serving(apart, APART))
        measured = Measurements(plan, export, servers)
        for clients in plan.clients:
            for candidates in plan.slates:
                print(f"{clients} clients, slates of {candidates} …", flush=True)
                measured.run((clients, candidates, short), tuple(servers) if clients == fewest else VARIANTS)
        print(f"prefixes of {long} tokens …", flush=True)
        measured.run((middle, slate, long), (usual, uncached))
        tried, errors, slowest = try_hostile(servers[usual], bodies(export, 1, short, slate))
    return [
        *measured.figures(),
        measured.ratio("prefix_cache_ratio", (middle, slate, long), usual, uncached),
        measured.ratio("prefix_cache_ratio_short", (middle, slate, short), usual, uncached),
        measured.ratio("batching_ratio", (most, slate, short), usual, Variant(batching=False)),
        *(
            measured.ratio(f"item_cache_ratio_m{candidates}", (fewest, candidates, short), APART, usual)
            for candidates in (plan.slates if apart is not None else ())
        ),
        figure("hostile_requests", tried, "requests"),
        figure("slowest_hostile_ms", 1000 * slowest, "ms"),
        figure("server_errors", measured.server_errors() + errors, "5xx answers"),
    ]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Serving: speed of a real server, and hostile requests.")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--quick", action="store_true", help="shorter and fewer rounds: below 5 minutes")
    parser.add_argument("--export", type=Path, help="an export to serve, instead of MiniLM with random adapters")
    asked = parser.parse_args()
    plan = QUICK if asked.quick else WHOLE
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory() as folder:
        export, apart = asked.export, None
        if export is None:
            export, apart = (make_export(Path(folder) / trunk, Size(trunk=trunk)) for trunk in ("joint", "apart"))
        figures = measure(plan, export, apart)
    served = str(asked.export) if asked.export else "random adapters"
    write(asked.json, report("serving", figures, quick=asked.quick, export=served, plan=asdict(plan)))
    show("Serving", figures)


if __name__ == "__main__":
    main()
