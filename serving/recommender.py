"""The library call: load an export, rank the candidates of shoppers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.limits import Limits
from serving.ranking import Ranking
from serving.request_error import RequestError
from serving.requests import ReadRequest

__all__ = ["Limits", "PreparedRequest", "Ranking", "Recommender", "RequestError"]


@dataclass(frozen=True)
class PreparedRequest:
    """A request that is ready for the model: its texts, and the token ids of its prefix and its candidates."""

    request: ReadRequest
    prefix_ids: list[int]
    candidate_ids: list[list[int]]

    @property
    def tokens(self) -> int:
        """Tokens of prefix and candidates."""
        return len(self.prefix_ids) + sum(map(len, self.candidate_ids))


class Recommender:
    """Ranks candidates with the adapters of one export."""

    export: Path
    name: str
    listwise: tuple[str, ...]
    pointwise: tuple[str, ...]
    operating_point: Mapping[str, float]
    bounds: Mapping[str, tuple[float, float]]
    limits: Limits
    examples: list[dict[str, Any]]

    @classmethod
    def load(cls, export: str | Path, *, device: str = "cpu", cache_mb: int = 256) -> "Recommender":
        """Load an export. Raises UserError where the folder is none."""
        raise NotImplementedError

    def prepare(self, request: Mapping[str, Any]) -> PreparedRequest:
        """Read, render and tokenise one request. Raises RequestError."""
        raise NotImplementedError

    def score_prepared(self, prepared: Sequence[PreparedRequest]) -> list[Ranking]:
        """Rank several requests in one pass of the model; one caller at a time."""
        raise NotImplementedError
