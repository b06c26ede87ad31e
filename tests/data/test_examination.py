"""Places: by hand, in the prepared folder and its tokens, in losses, and what is refused in one sentence."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy import sparse

from equipoise.common.errors import UserError
from equipoise.configs.schema import DataConfig, RunConfig
from equipoise.data.batches import build_columns
from equipoise.data.examination import PositionStats, check_position
from equipoise.data.manifest import Manifest
from equipoise.data.prepare.examination import fit_examination, power_law
from equipoise.data.prepare.slates import prepare
from equipoise.data.slate_set import SlateSet
from equipoise.evaluation.positions import position_note, position_report
from equipoise.train.calibration import calibration_rows
from equipoise.train.objectives.pointwise import as_shown
from equipoise.train.token_caches import find_tokens
from tests.tiny_run import run_settings


def test_one_item_at_two_places_by_hand() -> None:
    """Clicked 60 of 100 times at the first place and 15 of 100 at the second: looked at a fourth as often there."""
    place = np.repeat([0, 1], 100)
    click = np.r_[np.arange(100) < 60, np.arange(100) < 15]
    found = fit_examination(sparse.csr_matrix(np.ones((200, 1))), place, click, 2)
    assert found == pytest.approx([1.0, 0.25], rel=1e-3)
    assert power_law(found, np.array([100, 100])) == pytest.approx(2.0, rel=1e-3)


def test_good_items_on_top_are_no_effect_of_places() -> None:
    """Item 0 is liked .8 and mostly first, item 1 .4 and mostly second; both places are looked at alike."""
    rows = [(0, 0, 900, 720), (0, 1, 100, 80), (1, 0, 100, 40), (1, 1, 900, 360)]  # item, place, shown, clicked
    item, place = (np.concatenate([np.full(row[2], row[which]) for row in rows]) for which in (0, 1))
    click = np.concatenate([np.arange(shown) < clicked for _, _, shown, clicked in rows])
    columns = sparse.csr_matrix(np.stack([np.ones(len(item)), item == 0, item == 1], axis=1).astype(float))
    assert fit_examination(columns, place, click, 2)[1] > 0.97
    alone = fit_examination(sparse.csr_matrix(columns[:, :1]), place, click, 2)
    assert alone[1] == pytest.approx(0.44 / 0.76, rel=0.01)  # without knowing the items


def test_the_logit_of_a_place() -> None:
    logit = torch.tensor([-30.0, -2.0, 0.0, 3.0, 40.0, 1.5], dtype=torch.float64, requires_grad=True)
    looked = torch.tensor([0.5, 0.3, 0.9, 0.1, 0.5, 1.0], dtype=torch.float64)
    shown = as_shown(logit, looked)
    assert torch.allclose(torch.sigmoid(shown), looked * torch.sigmoid(logit), rtol=1e-12, atol=0)
    shown.sum().backward()
    assert logit.grad is not None and torch.isfinite(logit.grad).all() and logit.grad[-1] == 1
    assert as_shown(logit, None) is logit


def rows_of(requests: int, first: int = 1, **changes: Any) -> dict[str, list[dict[str, Any]]]:
    """Requests of four items in a random order: shown at place k (from `first`), looked at 1, 1/2, 1/4 or 1/8 there."""
    rng = np.random.default_rng(0)
    rows: dict[str, list[dict[str, Any]]] = {"impressions": [], "items": [], "users": []}
    for number in range(requests):
        day = 1 + (number >= 0.8 * requests) + (number >= 0.9 * requests)
        for place, item in enumerate(rng.permutation(4)):
            click = rng.random() < (0.9 - 0.15 * item) / 2**place
            rows["impressions"].append(
                {
                    "request_id": f"r{number}", "timestamp": f"2024-0{day}-01 00:{number // 60:02d}:{number % 60:02d}",
                    "user_id": f"u{number % 7}", "item_id": f"i{item}", "click": int(click), "conversion": 0,
                    "position": place + first, "bought": 1,
                }
                | changes
            )  # fmt: skip
    rows["items"] = [{"item_id": f"i{item}", "title": f"item {item}", "brand": "b"} for item in range(4)]
    rows["users"] = [{"user_id": f"u{user}", "age": "20"} for user in range(7)]
    return rows


def test_places_in_the_prepared_folder_and_its_tokens(make_config: Callable[..., DataConfig], tmp_path: Any) -> None:
    config = make_config(rows_of(1600), position="position")
    manifest = prepare(config, read=("click",))
    stats = manifest.position
    assert stats is not None and (stats.column, stats.first) == ("position", 1)
    assert stats.examination == pytest.approx([1, 1 / 2, 1 / 4, 1 / 8], rel=0.15)
    assert stats.eta == pytest.approx(np.log(8) / np.log(4), rel=0.15)
    assert any("data.position" in note for note in manifest.notes)
    table = pq.read_table(config.folder / "slates" / "test-00000.parquet")
    assert table.column("examination")[0].as_py() == pytest.approx(stats.examination)  # a slate is sorted by place
    settings = run_settings(tmp_path) | {"output": str(tmp_path / "run")}
    run = RunConfig.model_validate(settings | {"data": config.model_dump(mode="json"), "evaluate": {}})
    slates = SlateSet(config.folder, "test", find_tokens(run))
    batch = build_columns([slates.columns(0), slates.columns(1)])
    assert batch.examination is not None
    assert batch.examination.numpy() == pytest.approx(np.tile(stats.examination, 2))
    check_position(Manifest.read(config.folder).position, "position", config.folder)
    with pytest.raises(UserError, match=r"with data.position position, the config has null: run"):
        check_position(stats, None, config.folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"position": 1.5}, "is no place"), ({"position": None}, "is no place"), ({"position": 3}, "tells nothing")],
)
def test_what_is_no_place_is_refused(
    make_config: Callable[..., DataConfig], changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        prepare(make_config(rows_of(40, **changes), position="position"), read=("click",))


def test_a_column_that_is_not_there_is_refused(make_config: Callable[..., DataConfig]) -> None:
    with pytest.raises(UserError, match=r"'place', which data.position names"):
        prepare(make_config(rows_of(40), position="place"), read=("click",))


def test_clicks_are_calibrated_at_the_first_place_and_judged_as_shown() -> None:
    rng = np.random.default_rng(0)
    looked = np.tile([1.0, 0.5], 2000)
    chance = rng.uniform(0.2, 0.8, 4000)
    click = (rng.random(4000) < chance * looked).astype(np.int8)
    scores = {"click": click, "conversion": click * 0, "ctr": np.log(chance / (1 - chance)), "data:examination": looked}
    label, logit, user, weight = calibration_rows(scores, np.arange(4000), {}, {})["ctr"]
    assert len(label) == len(logit) == len(user) == 2000 and weight is None and (user % 2 == 0).all()
    table: Any = SimpleNamespace(
        click=click, conversion=click * 0, pctr=chance, pcvr=None, request=np.arange(4000) // 2, weight=None
    )
    stats = PositionStats(column="position", first=0, examination=[1.0, 0.5], impressions=[1, 1], eta=1.0, rows=4000)
    found = position_report(table, looked, stats)
    shown = found["as_shown"]["ctr"]
    assert found["read_at"] == 0 and shown["predicted"] == pytest.approx(shown["observed"], abs=0.03)
    assert abs(float(chance.mean()) - shown["observed"]) > 0.1
    assert "read at the first place (position 0)" in position_note(found)
