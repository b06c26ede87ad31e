"""What heads read of a request beside its prompts: the log-odds of priors, and the things that are compared.

One way for `score`, `recommend`, `price`, the server and exports: raw features and computed columns go through the same
`Priors` as in training, and texts have the same vectors and counts as in the prepared folder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from equipoise.common.errors import UserError
from equipoise.data.thing_columns import RIVAL, SIMILAR, TOGETHER, CoPurchase, Rivals, rival_gap, similar
from equipoise.data.things import SlateThings, ThingTexts
from equipoise.modeling.frozen_text import FrozenText, TextVectors
from equipoise.modeling.priors import Priors

TEXTS, VECTORS, CO_PURCHASE, RIVALS = "things.parquet", "things.npy", "co_purchase.npz", "rivals.npz"
"""Files of a prepared folder and of an export: texts by thing_index, their vectors, counts of pairs of them, and, of an
export, which are substitutes."""
NO_TEXTS = ThingTexts((), ())


@dataclass(frozen=True)
class Things:
    """The things that are known, and how others are read.

    Attributes:
        index: thing_index by text.
        vectors: of all texts.
        max_events: most things of a history.
        co_purchase: the final counts; None where there are none.
        rivals: which candidates are substitutes; None where prices are held against nothing.
    """

    index: Mapping[str, int]
    vectors: TextVectors
    max_events: int
    co_purchase: CoPurchase | None = None
    rivals: Rivals | None = None

    @classmethod
    def read(
        cls,
        folder: Path,
        max_events: int,
        frozen: FrozenText,
        vectors: np.ndarray | None = None,
        rivals: Rivals | None = None,
    ) -> "Things":
        """Those of an export or of a prepared folder.

        Args:
            folder: with TEXTS and, where there are some, CO_PURCHASE and VECTORS.
            max_events: most things of a history.
            frozen: makes the vectors of other texts.
            vectors: float (T, D) in place of those in the folder.
            rivals: see the class.

        Raises:
            UserError: a file is missing or broken.
        """
        index = {text: number for number, text in enumerate(read_texts(folder / TEXTS))}
        if vectors is None and (folder / VECTORS).is_file():
            vectors = np.load(folder / VECTORS, mmap_mode="r")
        if vectors is not None and len(vectors) != len(index):
            raise UserError(f"{folder} has {len(vectors):,} vectors of {len(index):,} things: export or prepare again")
        counts = CoPurchase.read(folder / CO_PURCHASE) if (folder / CO_PURCHASE).is_file() else None
        return cls(index, TextVectors(frozen, index, vectors), max_events, counts, rivals)

    def gaps(self, offered: Sequence[str], prices_M: np.ndarray, of_P: np.ndarray, prices_P: np.ndarray) -> np.ndarray:
        """The column RIVAL of candidates that are offered at other prices, all others at theirs: float32 (P,).

        Args:
            offered: the thing of each candidate of the slate, "" where there is none.
            prices_M: what each costs, NaN where unknown.
            of_P: int, which candidate each price is of.
            prices_P: those prices.
        """
        assert self.rivals is not None, "the caller asks where there are rivals"
        known = [text.strip() for text in offered]
        rows = {text: row for row, text in enumerate(dict.fromkeys(text for text in known if text))}
        vectors = self.vectors.of(list(rows))
        own_MD = np.stack([vectors[rows[text]] if text else np.zeros(vectors.shape[1], np.float32) for text in known])
        unread_M = np.array([not text for text in known])
        hidden_MM = unread_M[:, None] | (unread_M | np.isnan(prices_M))[None] | np.eye(len(known), dtype=bool)
        weights_MM = self.rivals.weights(own_MD, hidden_MM)
        return rival_gap(weights_MM[of_P], np.log(prices_P), np.log(prices_M))

    def of(self, texts: ThingTexts, names: Sequence[str]) -> tuple[SlateThings, dict[str, np.ndarray]]:
        """What candidates are compared with, and the columns `names` among SIMILAR and TOGETHER, float32 (C,) each."""
        history = [text for text in dict.fromkeys(text.strip() for text in texts.history) if text][: self.max_events]
        candidates = [text.strip() for text in texts.candidates]
        rows = {text: row for row, text in enumerate(dict.fromkeys([*history, *(text for text in candidates if text)]))}
        vectors = self.vectors.of(list(rows))
        history_H = np.array([rows[text] for text in history], np.int64)
        candidate_C = np.array([rows.get(text, -1) for text in candidates], np.int64)
        columns = {name: np.asarray(values, np.float32) for name, values in texts.computed.items()}
        if not columns.keys() >= set(names) & set(SIMILAR):
            found = similar(history_H, candidate_C, vectors[history_H], vectors[candidate_C])
            columns = dict(zip(SIMILAR, found.T, strict=True)) | columns
        if self.co_purchase is not None and not columns.keys() >= set(names) & set(TOGETHER):
            # Numbers from the table's size on are things that nobody took.
            number = [self.index.get(text, len(self.index) + row) for text, row in rows.items()]
            numbers = np.array([*number, -1], np.int64)
            found = self.co_purchase.together(numbers[history_H], numbers[candidate_C])
            columns = dict(zip(TOGETHER, found.T, strict=True)) | columns
        return SlateThings(history_H, candidate_C, vectors), columns


class BesideText:
    """Reads requests for the heads of one model.

    Args:
        features: names of all features, in the order in which requests bring their raw values.
        priors: of the model, none where it has none.
        things: None where nothing is compared.
        compares: whether heads compare; things may be there for priors alone.
    """

    def __init__(
        self, features: Sequence[str], priors: Priors | None = None, things: Things | None = None, compares: bool = True
    ) -> None:
        self.features, self.priors, self.things = list(features), priors, things
        self.compares = compares and things is not None

    def of(
        self, features: Sequence[Sequence[float]] | np.ndarray | None, texts: ThingTexts | None
    ) -> tuple[np.ndarray | None, SlateThings | None]:
        """The priors' log-odds, float32 (C, priors), and what is compared; each None where the model reads none.

        Args:
            features: raw values, (C, features), NaN where unknown.
            texts: of the things; None where nothing is known of them.
        """
        texts = NO_TEXTS if texts is None else texts
        columns_CF, things = self.columns(features, texts)
        if self.priors is None or not self.priors.names:
            return None, things if self.compares else None
        return self.priors.log_odds(columns_CF), things if self.compares else None

    def columns(
        self, features: Sequence[Sequence[float]] | np.ndarray | None, texts: ThingTexts
    ) -> tuple[np.ndarray, SlateThings | None]:
        """All columns that priors read, float32 (C, F) in their order, and what is compared; arguments as of `of`."""
        names = self.priors.columns if self.priors is not None else []
        count = len(texts.candidates) if features is None else len(features)
        raw = np.zeros((count, 0)) if features is None else np.asarray(features, np.float64).reshape(count, -1)
        known: dict[str, Any] = {name: raw[:, number] for number, name in enumerate(self.features[: raw.shape[1]])}
        things = None
        if self.things is not None:
            if len(texts.candidates) != count:
                texts = ThingTexts(texts.history, [""] * count, texts.computed)
            things, computed = self.things.of(texts, names)
            known = dict(computed) | known
            if self.things.rivals is not None and RIVAL in names and RIVAL not in known:
                prices = np.asarray(known[self.things.rivals.price], np.float64)
                known[RIVAL] = self.things.gaps(texts.candidates, prices, np.arange(count), prices)
        nothing = np.full(count, np.nan)
        columns = [np.asarray(known.get(name, nothing), np.float32) for name in names]
        return np.stack(columns, 1) if columns else np.zeros((count, 0), np.float32), things


def read_texts(path: Path) -> list[str]:
    """The texts of things, by thing_index.

    Raises:
        UserError: the file is missing or broken.
    """
    try:
        return pq.read_table(path, columns=["text"]).column("text").to_pylist()
    except (OSError, pa.ArrowException, KeyError) as error:
        raise UserError(f"{path} is missing or broken: prepare, or export, again") from error
