"""equipoise explain: why a candidate gets its scores, as text, JSON and a picture (docs/explanations.md)."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from equipoise.common.atomic import atomic_write
from equipoise.common.console import new_console, new_table
from equipoise.common.errors import UserError
from equipoise.launch.options import ExplainOptions
from equipoise.serving.explain import Explained
from equipoise.serving.explanation_picture import draw
from equipoise.serving.recommender import Recommender
from equipoise.serving.request_error import RequestError


def explain_request(export: Path, path: Path, options: ExplainOptions) -> None:
    """Explain candidates of the request in a JSON file; the best one, unless items are named.

    Raises:
        UserError: a file cannot be read, or the request cannot be answered.
    """
    request = _read(path)
    if options.items:
        request["explain"] = list(options.items)
    recommender = Recommender.load(export, device=options.device, base=options.base)
    try:
        explanation = recommender.explain_request(request)
    except RequestError as error:
        raise UserError(f"{path}: {error}") from error
    console = new_console()
    for candidate in explanation.candidates:
        _print(console, candidate)
    if options.out is not None:
        with atomic_write(options.out) as partial:
            partial.write_text(json.dumps(explanation.to_json(), indent=1, ensure_ascii=False) + "\n", "utf-8")
    if options.picture is not None:
        draw(options.picture, explanation.candidates)
        console.print(f"picture: {options.picture}", soft_wrap=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        request = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a request ({error}): give the JSON of one request") from error
    if not isinstance(request, dict):
        raise UserError(f"{path} holds no object: give the JSON of one request")
    return request


def _print(console: Console, candidate: Explained) -> None:
    for sentence in candidate.sentences:
        console.print(sentence, soft_wrap=True)
    objectives = candidate.contributions[0].objectives if candidate.contributions else ()
    table = new_table(None, ["part", "text"], [*objectives, "utility"])
    for contribution in candidate.contributions:
        numbers = [f"{value:+.3f}" for value in (*contribution.objectives.values(), contribution.utility)]
        table.add_row(contribution.part.where, contribution.part.text, *numbers)
    console.print(table)
