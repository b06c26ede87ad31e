"""`equipoise explain`: the sentences, the JSON and the picture are those of the library."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from equipoise.launch.cli import main
from equipoise.serving.recommender import Recommender

REQUEST = {"user": {"age": 40}, "history": ["tea"], "candidates": ["i0", "i1", "i2"]}


def call(*arguments: Any) -> int | str | None:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def test_text_json_and_picture(tiny_export: Callable[..., Any], tmp_path: Path, capsys: Any) -> None:
    export, request = tiny_export("bert").folder, tmp_path / "request.json"
    request.write_text(json.dumps(REQUEST))
    out, picture = tmp_path / "why.json", tmp_path / "why.svg"
    assert not call("explain", export, request, "--item", "i2", "--out", out, "--picture", picture)
    expected = Recommender.load(export).explain({"age": 40}, ["i0", "i1", "i2"], history=["tea"], explain=["i2"])
    printed = capsys.readouterr().out
    assert all(sentence in printed for sentence in expected.candidates[0].sentences)
    assert json.loads(out.read_text())["candidates"][0]["terms"] == pytest.approx(expected.candidates[0].terms)
    assert b"<svg" in picture.read_bytes()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[1]", "holds no object"),
        ("{", "cannot be read as a request"),
        (json.dumps({**REQUEST, "explain": ["i9"]}), "explain[0] is 'i9', which is none of the candidates"),
    ],
)
def test_what_is_refused(
    tiny_export: Callable[..., Any], tmp_path: Path, capsys: Any, content: str, sentence: str
) -> None:
    request = tmp_path / "request.json"
    request.write_text(content)
    assert call("explain", tiny_export("bert").folder, request) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
