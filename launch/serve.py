"""`equipoise serve EXPORT`: answers HTTP requests with the adapters of an export. docs/serving.md describes it."""

import ipaddress
import logging
import socket
import sys
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from rich.console import Console

from equipoise.common.console import new_console
from equipoise.common.errors import UserError
from equipoise.common.logs import show_messages
from equipoise.common.plain_text import without_controls
from equipoise.common.token import read_token
from equipoise.modeling.precision import settled
from equipoise.serving.explore import check_exploration
from equipoise.serving.first import check_first
from equipoise.serving.golden import refuse_wrong_answers
from equipoise.serving.recommender import Recommender
from equipoise.serving.server.options import ServerOptions
from equipoise.serving.shown_log import open_log

NEEDED = ("fastapi", "fastapi_offline", "uvicorn", "prometheus_client", "starlette", "h11")
"""What the extra brings."""
try:
    from equipoise.serving.server.app import create_app
    from equipoise.serving.server.switch import Followed
    from equipoise.serving.server.traces import check_collector
    from equipoise.serving.server.uvicorn_server import address_of, listen, serve
    from equipoise.serving.server.workers import Worker, end_with_parent, run_workers
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in NEEDED:
        raise
    raise UserError(f"serving needs {error.name}: pip install 'equipoise[serve]'") from error

log = logging.getLogger(__name__)


def serve_export(
    export: Path,
    options: ServerOptions,
    cache_mb: int = 256,
    token_env: str | None = None,
    token_file: Path | None = None,
    device: str = "cpu",
    dtype: str = "fp32",
    kernels: str = "auto",
    base: str | None = None,
) -> None:
    """Serve an export until SIGTERM or Ctrl-C.

    Args:
        export: folder that `equipoise export` wrote, or a symbolic link to one, as `equipoise nightly` keeps: what it
            comes to lead to is served in its place, without dropping a request.
        options: where to listen, and the limits.
        cache_mb: MiB that prefixes of returning shoppers, and items, may take; 0 keeps none.
        token_env: name of an environment variable that holds the bearer token.
        token_file: file that holds it.
        device: of the model, by torch's name.
        dtype: in which it computes: fp32, bf16, or auto.
        kernels: by which it computes: auto, fused or plain, as `Recommender.load` takes them.
        base: folder or hub id of the base model, where it is elsewhere than at export.

    Raises:
        UserError: `export` is none, an option makes no sense, or the address is taken.
    """
    check_options(options, cache_mb)
    if options.log is not None:
        open_log(options.log)  # before the model is loaded
    options = replace(options, token=read_token(token_env, token_file))
    if options.token is None and not is_loopback(options.host):
        log.warning(
            f"--host {options.host} is open to other machines, and no token is asked for: add --token-env or "
            "--token-file, or listen on 127.0.0.1"
        )
    model = ModelPlace(export, cache_mb, device, dtype, kernels, base, options.first)
    if options.workers == 1:
        listen(options.host, options.port).close()  # before the model is loaded; clients are not to wait for it
        console = new_console(soft_wrap=True)
        with console.status(f"loading {export}"):
            recommender = model.load()
        listener = listen(options.host, options.port)
        app = create_app(recommender, options, model.followed())
        serve(app, listener, options, lambda address: console.print(f"serving {export} at {address}"))
    else:
        console = _serve_by_workers(model, options)
    console.print("stopped")


@dataclass(frozen=True)
class ModelPlace:
    """What a process loads, and how; as for `serve_export`."""

    export: Path
    cache_mb: int
    device: str
    dtype: str
    kernels: str
    base: str | None
    first: int | None

    def load(self) -> Recommender:
        """The export of the moment, ready to answer."""
        return self._load(self.export.resolve() if self.export.is_symlink() else self.export)

    def followed(self) -> Followed | None:
        """The link that leads to the export, where it is one."""
        return Followed(self.export.absolute(), self._load_next) if self.export.is_symlink() else None

    def _load(self, folder: Path) -> Recommender:
        recommender = Recommender.load(
            folder,
            device=self.device,
            dtype=self.dtype,
            kernels=self.kernels,
            cache_mb=self.cache_mb,
            base=self.base,
        )
        check_first(self.first, recommender.prior_columns)
        warm_up(recommender)
        return recommender

    def _load_next(self, folder: Path) -> Recommender:
        recommender = self._load(folder)
        refuse_wrong_answers(recommender, settled(self.dtype, torch.device(self.device).type))
        return recommender


def _serve_by_workers(model: ModelPlace, options: ServerOptions) -> Console:
    """Serve by several processes, which share one socket; this one only keeps them alive."""
    console = new_console(soft_wrap=True)
    with listen(options.host, options.port) as listener:
        address = address_of(listener)
        with console.status(f"loading {model.export}") as status:

            def ready() -> None:
                status.stop()
                console.print(f"serving {model.export} at {address} by {options.workers} processes")

            run_workers(options.workers, answer_as_worker, (model, options, listener), ready)
    return console


def answer_as_worker(
    worker: Worker, told: Connection, model: ModelPlace, options: ServerOptions, listener: socket.socket
) -> None:
    """One of several processes that answer; `told` hears as soon as it does."""
    show_messages()
    end_with_parent()
    options = worker.own(options)
    torch.set_num_threads(worker.threads())
    try:
        app = create_app(model.load(), options, model.followed(), worker)
    except UserError as error:
        print(without_controls(f"error: {error}"), file=sys.stderr, flush=True)
        sys.exit(2)
    serve(app, listener, options, lambda _: told.send(True))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address, or the name of one."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def warm_up(recommender: Recommender) -> None:
    """Rank an example, so that the first shopper does not wait for what torch prepares at its first pass."""
    for example in recommender.examples[:1]:
        recommender.score_prepared([recommender.prepare(example)])
        recommender.cache.clear()


def check_options(options: ServerOptions, cache_mb: int) -> None:
    """Refuse options under which nothing could be answered.

    Raises:
        UserError: names the option.
    """
    least = {
        "--workers": (options.workers, 1),
        "--first": (1 if options.first is None else options.first, 1),
        "--max-candidates": (1 if options.max_candidates is None else options.max_candidates, 1),
        "--max-body-kb": (options.max_body_kb, 1),
        "--max-explained": (options.max_explained, 1),
        "--queue": (options.queue, 1),
        "--batch-candidates": (options.batch_candidates, 1),
        "--batch-wait-ms": (options.batch_wait_ms, 0),
        "--cache-mb": (cache_mb, 0),
    }
    for name in options.allowed_host:
        if not name or ("*" in name.removeprefix("*.") and name != "*") or any(sign in name for sign in "/: "):
            raise UserError(f"--allowed-host '{name}' is not the name of a host: give one, such as shop.example")
    for name, (value, bound) in least.items():
        if not value >= bound:
            raise UserError(f"{name} {value:g} is too small: give at least {bound}")
    check_exploration(options.explore, options.explore_seed)
    check_collector(options.traces)
    if not 0 < options.timeout_s <= 3600:
        raise UserError(f"--timeout-s {options.timeout_s:g} is out of range: give up to 3600 seconds")
    if not options.batch_wait_ms < options.timeout_s * 1000:
        raise UserError(f"--batch-wait-ms {options.batch_wait_ms:g} is longer than --timeout-s: lower it")
