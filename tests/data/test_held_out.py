"""Users held out of training: the same ones everywhere, and gone from train and valid only."""

import hashlib
from collections.abc import Callable

import duckdb
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.common.errors import UserError
from equipoise.configs.schema import DataConfig, SplitConfig
from equipoise.data.prepare.slates import prepare


def held_out(user_id: str, share: float) -> bool:
    """Whether a user is held out where `share` of all users, 0 to 1, are: what the SQL does, in Python."""
    return int(hashlib.md5(user_id.encode(), usedforsecurity=False).hexdigest()[:8], 16) < share * 16**8


def test_the_share_is_about_that_of_the_users() -> None:
    chosen = [held_out(f"user {n}", 0.1) for n in range(20_000)]
    assert 0.09 < sum(chosen) / len(chosen) < 0.11
    assert all(held_out(f"user {n}", 0.3) for n in range(20_000) if chosen[n])  # a larger share keeps the smaller one's


def test_nobody_and_everybody() -> None:
    assert not any(held_out(f"{n}", 0.0) for n in range(1000))
    assert held_out("0", 1.0)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20))
def test_duckdb_agrees(user: str) -> None:
    digits = duckdb.execute("SELECT CAST('0x' || substr(md5(?), 1, 8) AS UBIGINT)", [user]).fetchone()
    assert digits is not None
    for share in (0.1, 0.5, 0.9):
        assert held_out(user, share) == (digits[0] < share * 16**8)


def users(config: DataConfig, split: str) -> set[str]:
    files = sorted((config.folder / "slates").glob(f"{split}-*.parquet"))
    return {user for file in files for user in pq.read_table(file).column("user_id").to_pylist()}


def rows_of(number: int) -> list[dict]:
    return [
        {"request_id": f"r{n}", "timestamp": f"2024-01-{1 + n // 3:02d} 00:00:00", "user_id": f"u{n % 30}",
         "item_id": "ab"[place], "click": (n + place) % 2, "conversion": (n + place) % 2, "bought": 1}
        for n in range(number)
        for place in range(2)
    ]  # fmt: skip


def test_prepare_drops_their_training_requests(rows: dict, make_config: Callable[..., DataConfig]) -> None:
    share = 0.3
    config = make_config({**rows, "impressions": rows_of(90)}, split=SplitConfig(holdout_users=share))
    manifest = prepare(config)
    gone = {f"u{n}" for n in range(30) if held_out(f"u{n}", share)}
    assert 0 < len(gone) < 30
    for split in ("train", "valid"):
        assert users(config, split) and not users(config, split) & gone
    assert users(config, "test") & gone
    left_out = manifest.dropped["train and valid requests of held-out users"]
    assert left_out + manifest.counts["requests"] == 90
    assert any(f"{len(gone)} users are held out" in note for note in manifest.notes)


def test_holding_out_all_is_one_sentence(rows: dict, make_config: Callable[..., DataConfig]) -> None:
    config = make_config({**rows, "impressions": rows_of(90)}, split=SplitConfig(holdout_users=0.9999))
    with pytest.raises(UserError, match=r"empty train split: lower data\.split\.holdout_users"):
        prepare(config)
