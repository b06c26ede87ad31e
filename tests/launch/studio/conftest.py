"""A studio in a thread of this process, on a folder of its own."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer.main

from equipoise.launch.cli import app
from equipoise.launch.studio.app import create_studio
from equipoise.launch.studio.serve_studio import HOST, read_token
from equipoise.launch.studio.workspace import OWN
from equipoise.serving.server.options import ServerOptions
from equipoise.serving.server.uvicorn_server import listen, make_server


@dataclass
class Studio:
    """A running studio."""

    folder: Path
    port: int
    token: str
    client: httpx.Client
    stop: Callable[[], None]

    @property
    def address(self) -> str:
        """As it is printed."""
        return f"http://{HOST}:{self.port}/?token={self.token}"


def commands() -> frozenset[str]:
    """Of this installation."""
    group: Any = typer.main.get_command(app)
    return frozenset(group.commands)


@pytest.fixture
def start_studio() -> Iterator[Callable[..., Studio]]:
    """Start studios; on a given port one takes the place of an earlier one."""
    running: list[Studio] = []

    def start(folder: Path, port: int = 0) -> Studio:
        token = read_token(folder / OWN)
        listener = listen(HOST, port)
        started = threading.Event()
        server = make_server(create_studio(folder, token, commands()), ServerOptions(port=0, timeout_s=1), started.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        assert started.wait(20)
        number = listener.getsockname()[1]
        headers = {"authorization": f"Bearer {token}"}
        client = httpx.Client(base_url=f"http://{HOST}:{number}", headers=headers, timeout=30, trust_env=False)

        def stop() -> None:
            client.close()
            server.should_exit = server.force_exit = True
            thread.join(20)
            assert not thread.is_alive()

        running.append(Studio(folder, number, token, client, stop))
        return running[-1]

    yield start
    for studio in running:
        studio.stop()
