"""The picture of a run: a PNG of sensible size that names every objective and every pair."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import yaml
from matplotlib import _pylab_helpers
from matplotlib.figure import Figure
from matplotlib.text import Text

from equipoise.common.errors import UserError
from equipoise.configs.load import load_config, save_config
from equipoise.evaluation.balance.balance_plot import MOST_COLUMNS, draw, figure_of
from equipoise.evaluation.balance.diagnosis import diagnose, read_history
from equipoise.train.averages import Averages
from equipoise.train.balancing.diagnostics import remember_cosines, remember_decision, remember_step
from equipoise.train.balancing.gradient_stats import condition

NAMES = ("ctr", "cvr", "diversity", "fairness", "coverage", "freshness", "margin", "retention")


def write_metrics(run: Path, count: int, records: int, layers: int = 0) -> None:
    """Records of a run whose last two objectives conflict from half way on, the last without gradient now and then."""
    rng = np.random.default_rng(0)
    names, averages = NAMES[:count], Averages()
    base = rng.standard_normal((count, count + 3)) * 10.0 ** -np.arange(count)[:, None]
    with (run / "metrics.jsonl").open("w") as file:
        for step in range(1, records + 1):
            vectors = base + 0.1 * rng.standard_normal(base.shape) * np.linalg.norm(base, axis=1, keepdims=True)
            if count > 1:
                vectors[-1] = (-1 if step > records / 2 else 1) * vectors[-2] * 0.1 + 0.1 * vectors[-1]
                vectors[-1] *= step % 7 > 0
            gram = vectors @ vectors.T
            conditioned = condition(gram, "l2", np.ones(count))
            weights = np.zeros(count)
            weights[conditioned.active] = conditioned.scales
            remember_decision(averages, names, conditioned, np.ones(count), weights)
            remember_cosines(averages, names, gram, "balance")
            remember_step(averages, names, gram, weights)
            for layer in range(layers if step % 5 == 0 else 0):
                remember_cosines(averages, names, gram, f"balance/layer-{layer}")
            file.write(json.dumps({"step": step, **averages.drain()}) + "\n")


def figure(run: Path, count: int) -> Figure:
    history = read_history(run)
    return figure_of(history, diagnose(history, NAMES[:count]), "a run")


def texts(figure: Figure) -> set[str]:
    return {text.get_text() for text in figure.findobj(Text)}


@pytest.mark.parametrize(("count", "records", "layers"), [(1, 3, 0), (2, 1, 0), (3, 40, 2), (8, 60, 6), (4, 700, 30)])
def test_every_objective_and_pair_is_named(tmp_path: Path, count: int, records: int, layers: int) -> None:
    write_metrics(tmp_path, count, records, layers)
    drawn = figure(tmp_path, count)
    drawn.savefig(tmp_path / "picture.png", dpi=50)
    written = texts(drawn)
    assert set(NAMES[:count]) <= written
    for j in range(count):
        for i in range(j):
            assert any(text.startswith(f"{NAMES[i]} – {NAMES[j]}  ") for text in written)
    assert ("trunk layer" in written) == bool(layers)
    assert len([axes for axes in drawn.axes if axes.get_title(loc="left")]) == 3 + (count > 1) + bool(layers)


def test_a_conflict_is_marked_where_it_begins(tmp_path: Path) -> None:
    write_metrics(tmp_path, 4, 60)
    strip = next(axes for axes in figure(tmp_path, 4).axes if "cosines of pairs" in axes.get_title(loc="left"))
    first, *_ = strip.get_yticklabels()
    assert first.get_text().startswith("diversity – fairness  −") and first.get_fontweight() == "bold"
    marks = [line for line in strip.lines if line.get_marker() == ">"]
    assert float(np.asarray(marks[0].get_xdata())[0]) == pytest.approx(30, abs=2)
    pairs = diagnose(read_history(tmp_path), NAMES[:4]).pairs
    assert pairs[0].conflicting and len(marks) == sum(pair.conflicting for pair in pairs)
    colours = strip.collections[0]
    assert colours.norm.vmin == -colours.norm.vmax  # white is no conflict


def test_a_long_run_is_averaged_down(tmp_path: Path) -> None:
    write_metrics(tmp_path, 2, 1000)
    strip = next(axes for axes in figure(tmp_path, 2).axes if "cosines of pairs" in axes.get_title(loc="left"))
    values = strip.collections[0].get_array()
    assert values is not None and values.shape == (1, MOST_COLUMNS)
    assert strip.get_xlim() == (0, 1000)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with a config of the three objectives and their metrics."""
    settings = {
        "name": "drawn",
        "output": str(tmp_path),
        "data": {"folder": "d", "tables": {"impressions": "i.csv", "items": "j.csv"}},
        "backbone": {"path": "b"},
        "objectives": {"ctr": {}, "cvr": {}, "diversity": {}},
        "balancing": {"method": "mgda", "level": {"layers": 2}},
    }
    (tmp_path / "given.yaml").write_text(yaml.safe_dump(settings))
    save_config(load_config(tmp_path / "given.yaml"), tmp_path / "config.yaml")
    write_metrics(tmp_path, 3, 20)
    return tmp_path


def test_draw_leaves_one_whole_png_and_no_global_figure(run: Path) -> None:
    before = sorted(p.name for p in run.iterdir())
    path = draw(run)
    assert path == run / "balance.png"
    assert sorted(p.name for p in run.iterdir()) == sorted([*before, "balance.png"])
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n") and data.endswith(b"IEND\xaeB`\x82")
    width, height = struct.unpack(">II", data[16:24])
    assert 1200 <= width <= 2400 and 500 <= height <= 2400
    assert not _pylab_helpers.Gcf.get_all_fig_managers()
    assert draw(run).read_bytes() == data  # and again over the old one, the same


def test_a_folder_without_run_or_records_is_refused(run: Path, tmp_path: Path) -> None:
    (run / "metrics.jsonl").write_text('{"step": 1, "train/lr": 0.1}\n')
    with pytest.raises(UserError, match="no balance records"):
        draw(run)
    (run / "config.yaml").unlink()
    with pytest.raises(UserError, match="holds no run"):
        draw(run)


def test_an_outlier_does_not_flatten_the_panels(tmp_path: Path) -> None:
    write_metrics(tmp_path, 3, 60)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    calm = [axis.get_ylim() for axis in figure(tmp_path, 3).axes[:2]]
    for name in NAMES[:3]:
        lines[30][f"balance/norm/{name}"] *= 1e12
        lines[30][f"balance/weight/{name}"] *= 25
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    drawn = figure(tmp_path, 3)
    weights, norms = (axis.get_ylim() for axis in drawn.axes[:2])
    assert weights[1] < 3 * calm[0][1]  # the spike is 25 times as high
    assert norms[1] < 1e4 * calm[1][1] and norms[0] > calm[1][0] / 1e4  # 10^12 times
    assert any(text.startswith("outside: 3 of 172 records") for text in texts(drawn))  # a log axis shows no 0
