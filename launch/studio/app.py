"""The studio's application: what the page asks for, answered from folders, and commands that it starts.

It listens on the loopback address alone. Every answer but the empty page needs the token; the header Host must name
this machine, so that no other site can reach it through a name of its own.
"""

from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware

from equipoise.common.errors import UserError
from equipoise.common.page.whole_page import HEADERS, icon, whole_page
from equipoise.launch.studio.commands import COMPARISON, Start, arguments, export_of
from equipoise.launch.studio.draft import proposed
from equipoise.launch.studio.jobs import Jobs
from equipoise.launch.studio.run_state import run_rows, run_state
from equipoise.launch.studio.workspace import OWN, Workspace
from equipoise.serving.server.middleware import FaultMiddleware, TokenMiddleware
from equipoise.serving.server.refusal import error_answer, install

LOOPBACK = ("127.0.0.1", "localhost")
MOST_JOBS = 60
"""Of the list; older ones stay in their folders."""


class Draft(BaseModel):
    """What a first configuration is proposed from."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,40}$")
    tables: list[str] = Field(min_length=1, max_length=20)
    formats: list[str] = Field(default=[], max_length=100)
    backbone: str = Field(min_length=1, max_length=400)
    steps: int = Field(200, ge=1, le=10_000_000)


class Text(BaseModel):
    """The text of a config."""

    model_config = ConfigDict(extra="forbid")
    text: str


@cache
def _page() -> str:
    return whole_page("equipoise.launch.studio.page")


def create_studio(folder: Path, token: str, known: frozenset[str]) -> FastAPI:
    """The application of one workspace.

    Args:
        folder: the workspace.
        token: that every request for data must bring.
        known: names of the commands that this installation has.
    """
    workspace = Workspace(folder)
    jobs = Jobs(workspace.folder / OWN / "jobs", workspace.folder)
    app = FastAPI(title="Equipoise studio", docs_url=None, redoc_url=None, redirect_slashes=False)
    install(app)

    @app.exception_handler(UserError)
    async def refused(request: Request, error: UserError) -> JSONResponse:
        return error_answer(422, str(error), "body")

    @app.get("/", response_class=HTMLResponse)
    async def page() -> HTMLResponse:
        return HTMLResponse(_page(), headers=HEADERS)

    @app.get("/favicon.ico")
    async def favicon() -> Response:
        return Response(icon(), media_type="image/svg+xml")

    def busy() -> set[str]:
        return {job.subject for job in jobs.all() if job.state == "running" and job.command == "train"}

    @app.get("/api/state")
    def state() -> dict[str, Any]:
        """Configs, runs and jobs, as they are now."""
        return {
            "workspace": str(workspace.folder),
            "configs": workspace.configs(),
            "runs": run_rows(workspace, busy()),
            "jobs": [asdict(job) for job in jobs.all()[:MOST_JOBS]],
            "commands": sorted(known),
            "comparison": (workspace.folder / COMPARISON).is_file(),
        }

    @app.get("/api/tables")
    def tables() -> list[dict[str, Any]]:
        """The table files of the workspace."""
        return [asdict(table) for table in workspace.tables()]

    @app.post("/api/draft")
    def propose(asked: Draft) -> dict[str, str]:
        """What `equipoise init` proposes of some tables; nothing is written."""
        listed = {table.path for table in workspace.tables()}
        for path in asked.tables:
            if path not in listed:
                raise UserError(f"'{path[:80]}' is no table of this workspace: choose one of the list")
        options = [("--name", asked.name), ("--backbone", asked.backbone), ("--steps", str(asked.steps))]
        options += [("--format", each) for each in asked.formats]
        text, said = proposed(asked.tables, options, workspace.folder)
        return {"config": f"{asked.name}.yaml", "text": text, "said": said}

    @app.get("/api/configs/{name}", response_class=PlainTextResponse)
    def config(name: str) -> str:
        return workspace.read_config(name)

    @app.put("/api/configs/{name}")
    def save(name: str, asked: Text) -> dict[str, str]:
        workspace.write_config(name, asked.text)
        return {"config": name}

    @app.post("/api/jobs")
    def start(asked: Start) -> dict[str, Any]:
        """Start one of the commands."""
        if asked.command not in known:
            raise UserError(f"this installation has no command {asked.command}: update it")
        given, subject = arguments(asked, workspace)
        return asdict(jobs.start(asked.command, given, subject))

    @app.get("/api/jobs/{name}")
    def job(name: str) -> dict[str, Any]:
        """A job and what it has printed."""
        return {**asdict(jobs.read(name)), "output": jobs.output(name)}

    @app.post("/api/jobs/{name}/stop")
    def stop(name: str) -> dict[str, Any]:
        """Ask a job to end."""
        jobs.stop(name)
        return asdict(jobs.read(name))

    @app.get("/api/run")
    def run(run: str) -> dict[str, Any]:
        """All that is known of a run so far."""
        found = run_state(workspace.run_path(run), run in busy())
        export = export_of(run)
        return {**found, "export": export if (workspace.folder / export / "serving.json").is_file() else None}

    @app.get("/api/report", response_class=PlainTextResponse)
    def report(run: str) -> str:
        """The report of a run, as `equipoise report` wrote it."""
        return _text(workspace.run_path(run) / "report.html", "make the report first")

    @app.get("/api/comparison", response_class=PlainTextResponse)
    def comparison() -> str:
        """The page of the last comparison."""
        return _text(workspace.folder / COMPARISON, "compare some runs first")

    app.add_middleware(FaultMiddleware)
    app.add_middleware(TokenMiddleware, token=token)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK), www_redirect=False)
    return app


def _text(path: Path, way_out: str) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise UserError(f"{path.name} is not there: {way_out}") from error
