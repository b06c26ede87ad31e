"""`equipoise serve EXPORT`: answers HTTP requests with the adapters of an export. docs/serving.md describes it."""

import ipaddress
import logging
from dataclasses import replace
from pathlib import Path

import torch

from equipoise.common.console import new_console
from equipoise.common.errors import UserError
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
    from equipoise.serving.server.uvicorn_server import listen, serve
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
    base: str | None = None,
) -> None:
    """Serve an export until SIGTERM or Ctrl-C.

    Args:
        export: folder that `equipoise export` wrote, or a symbolic link to one, as `equipoise nightly` keeps: what it
            comes to lead to is served in its place, without dropping a request.
        options: where to listen, and the limits.
        cache_mb: MiB that prefixes of returning shoppers may take; 0 keeps none.
        token_env: name of an environment variable that holds the bearer token.
        token_file: file that holds it.
        device: of the model, by torch's name.
        dtype: in which it computes: fp32, bf16, or auto.
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
    listen(options.host, options.port).close()  # before the model is loaded; clients are not to wait for it
    console = new_console(soft_wrap=True)

    def load(folder: Path) -> Recommender:
        recommender = Recommender.load(folder, device=device, dtype=dtype, cache_mb=cache_mb, base=base)
        check_first(options.first, recommender.prior_columns)
        warm_up(recommender)
        return recommender

    def load_next(folder: Path) -> Recommender:
        recommender = load(folder)
        refuse_wrong_answers(recommender, settled(dtype, torch.device(device).type))
        return recommender

    followed = Followed(export.absolute(), load_next) if export.is_symlink() else None
    with console.status(f"loading {export}"):
        recommender = load(export.resolve() if followed else export)
    listener = listen(options.host, options.port)
    app = create_app(recommender, options, followed)
    serve(app, listener, options, lambda address: console.print(f"serving {export} at {address}"))
    console.print("stopped")


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
