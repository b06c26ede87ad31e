"""The picture shows what was measured: every point, the line of the front, the chosen points with their names."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from equipoise.evaluation.front.choice import by_constraint, by_knee, by_weights
from equipoise.evaluation.front.constraint import parse_constraints
from equipoise.evaluation.front.pareto import Front
from equipoise.evaluation.front.plot import draw, figure_of

AXES = ("ndcg", "ild", "exposure_ratio")


@pytest.fixture
def drawn(measured):
    angle = np.linspace(0, np.pi / 2, 9)
    values = np.stack([np.cos(angle), np.sin(angle), np.sin(2 * angle)], axis=1)
    values = np.vstack([values, [[0.3, 0.3, 0.1], [-2.0, 0.2, 0.1]]])
    measurement = measured(values, AXES, noise=0.02, resamples=50)
    choices = {
        "knee": by_knee(measurement, AXES),
        "weights": by_weights(measurement, {"ndcg": 3.0, "ild": 1.0}),
        "constraint": by_constraint(measurement, parse_constraints("ild>=0.9", AXES, 10), "ndcg"),
    }
    return measurement, Front(values, AXES), choices


def test_every_point_and_every_choice_is_in_every_panel(drawn):
    measurement, front, choices = drawn
    figure = figure_of(measurement, front, choices, "title", 10)
    assert [panel.get_xlabel() for panel in figure.axes] == ["ILD@10", "exposure min/max@10"]
    assert figure.axes[0].get_ylabel() == "NDCG@10"
    for panel, axis in zip(figure.axes, AXES[1:], strict=True):
        seen = {str(group.get_label()): np.asarray(group.get_offsets()) for group in panel.collections}
        pair = measurement.of([axis, "ndcg"])
        assert seen["dominated"] == pytest.approx(pair[~front.mask])
        assert seen["on the front of NDCG, ILD, exposure min/max"] == pytest.approx(pair[front.mask])
        assert seen["pure relevance"] == pytest.approx(pair[:1])
        for way, choice in choices.items():
            (label,) = [label for label in seen if label.startswith(f"{way}: ")]
            assert seen[label] == pytest.approx(pair[[choice.point]])
            assert measurement.points[choice.point].words() in label
        assert {text.get_text() for text in panel.texts} == {*choices, "dominated points outside: 1"}
        low, high = panel.get_xlim()
        assert ((pair[front.mask, 0] > low) & (pair[front.mask, 0] < high)).all()


def test_file_is_a_picture_and_the_same_again(drawn, tmp_path: Path):
    for name in ("a.png", "b.png"):
        draw(tmp_path / name, figure_of(*drawn, "title", 10))
    picture = imread(tmp_path / "a.png")
    assert picture.shape[0] > 500 and picture.shape[1] > 1000 and picture.std() > 0.05
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2
