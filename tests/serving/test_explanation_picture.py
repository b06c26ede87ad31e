"""The picture of an explanation: what has no direction is not drawn as evidence."""

from pathlib import Path

from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from equipoise.common.page.colours import AGAINST, FOR, NEUTRAL
from equipoise.serving.explain import Contribution, Explained
from equipoise.serving.explanation_picture import draw
from equipoise.serving.prompt_parts import Part
from equipoise.serving.ranking import Scored


def test_log_terms_are_neither_for_nor_against(tmp_path: Path, monkeypatch) -> None:
    logs = {"ctr": -2.0, "cvr": -1.0}
    chances = {"ctr": 0.135, "cvr": 0.37}
    scored = Scored("i1", 0, 1, chances, 0.05, -3.0, {"diversity": 0.4}, -3.2, log_probabilities=logs)
    parts = [Contribution(Part("item", "tea", ()), {}, 0.3), Contribution(Part("context", "price 9", ()), {}, -0.2)]
    terms = {"ctr": -2.0, "cvr": -1.0, "diversity": 0.2, "boost": -0.4}
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: (figures.append(figure), Path(path).touch()))
    draw(tmp_path / "why.png", [Explained(scored, "tea", terms, parts, [])])
    of_parts, of_terms = ([to_hex(bar.get_facecolor()) for bar in axes.patches] for axes in figures[0].axes)
    assert of_parts == [FOR, AGAINST]
    assert of_terms == [NEUTRAL, NEUTRAL, FOR, AGAINST]
    names = [label.get_text() for label in figures[0].axes[1].get_yticklabels()]
    assert names == ["log p of ctr", "log p of cvr", "diversity", "boost"]
