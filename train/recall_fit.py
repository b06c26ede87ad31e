"""Fits what recall begins as: the weights of its sources, and projections of frozen vectors, on the latest requests.

The latest `fit_share` of the training requests are what is fitted on; for them purchases are counted in the earlier
ones alone, as they will be counted in all training requests for the requests to come.

Shape suffixes: B requests, C items that compete, K columns, Q width, D of the frozen vectors.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from equipoise.common.errors import UserError
from equipoise.configs.objectives import RecallConfig
from equipoise.configs.schema import RunConfig
from equipoise.data.ragged import Ragged
from equipoise.data.recall_texts import Positives
from equipoise.data.slate_set import ItemTable, SlateSet
from equipoise.data.token_cache import SplitTokens, TokenCache
from equipoise.modeling.frozen_text import FrozenText
from equipoise.modeling.recall_sources import NAMES, NEAREST, POPULARITY, Counts, RecallSources, projected, titles_alike

MOST_REQUESTS, MOST_ITEMS = 500, 20_000
"""Requests that the weights are fitted on, and items that compete there; of a larger catalogue some are drawn."""
MOST_SCORES = 1 << 27
"""Scores that are held while projections learn: requests times items that compete."""
BATCH = 128
RATE, SCALE_RATE = 1e-3, 0.1
PASSES, PATIENCE = 8, 2
"""Half passes over the requests that projections learn in at most, and those without a gain after which they end."""
HELD_OUT = 5
"""One user of so many is what projections are judged on."""
DAY = 86_400.0
SEED = 0
"""The sources are a property of the data, so that runs of several seeds share them."""


@dataclass(frozen=True)
class Purchases:
    """Training requests with a click, in time.

    Attributes:
        positives: of the split.
        tokens: of the split.
        seconds: float64, time of each request of `positives.rows`.
        late: bool, whether a request is one of those that are fitted on.
    """

    positives: Positives
    tokens: SplitTokens
    seconds: np.ndarray
    late: np.ndarray

    @classmethod
    def of(cls, slates: SlateSet, share: float) -> "Purchases":
        """Read the split; `share` of its requests are the late ones.

        Raises:
            UserError: there are no requests before the late ones.
        """
        positives = Positives(slates.tokens)
        seconds = slates.seconds()[positives.rows]
        late = seconds >= np.quantile(seconds, 1.0 - share) if len(seconds) else np.zeros(0, bool)
        if late.all():
            raise UserError(
                "objectives.recall: no training request with a click is earlier than the latest "
                f"{share:.0%} of them, so that nothing is counted before these: give requests their times, or set "
                "objectives.recall.sources=false"
            )
        return cls(positives, slates.tokens, seconds, late)

    def counts(self, options: RecallConfig, early: bool) -> Counts:
        """Of all requests, or of the early ones alone."""
        chosen = np.flatnonzero(~self.late) if early else np.arange(len(self.late))
        parts = [self.positives.of(int(index)) for index in chosen]
        taken = Ragged(np.concatenate(parts), np.cumsum([0, *map(len, parts)]))
        ends = self.seconds[self.late].min() if early else self.seconds.max()
        age = (ends - self.seconds[chosen]) / DAY
        items = len(self.tokens.cache.items)
        return Counts.of(taken, age, items, options.half_life_days, options.neighbours)

    def past(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """What the shopper of request `index` had bought: item numbers, ascending, and counts."""
        return past(self.tokens, int(self.positives.rows[index]))


def past(tokens: SplitTokens, row: int) -> tuple[np.ndarray, np.ndarray]:
    """What the shopper of a slate had bought: item numbers, ascending, and counts; nothing where it is not kept."""
    if tokens.bought is None or tokens.times is None:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    return np.asarray(tokens.bought[row], np.int64), np.asarray(tokens.times[row], np.int64)


def fit_sources(
    config: RunConfig, tokens: TokenCache, tell: Callable[[str, float], None] = lambda stage, fraction: None
) -> RecallSources:
    """Fit the sources of a prepared folder.

    Args:
        config: of the run.
        tokens: of its prepared folder.
        tell: is told the stage and how much of it is done.

    Raises:
        UserError: see `Purchases.of`.
    """
    options = config.objectives.recall
    assert options is not None, "the run has the objective"
    slates = SlateSet(config.data.folder, "train", tokens)
    purchases = Purchases.of(slates, options.fit_share)
    frozen = FrozenText(config.backbone, config.seed, device="cuda" if torch.cuda.is_available() else "cpu")
    texts = ItemTable(config.data.folder).texts
    vectors = frozen.vectors(texts, lambda fraction: tell("vectors of items", fraction))
    nothing = np.zeros((len(texts), 0), np.float32)
    early = RecallSources(
        purchases.counts(options, early=True),
        titles_alike(vectors, NEAREST),
        dict.fromkeys((*POPULARITY, *NAMES), 0.0),
        nothing,
        nothing,
        np.zeros((3, 0, vectors.shape[1]), np.float32),
        options.half_life_days,
        options.neighbours,
    )
    fit = _Fit(purchases, early, slates.users()[purchases.positives.rows])
    weighted = replace(early, weights=fit.weights(lambda fraction: tell("weights of sources", fraction)))
    axes = fit.axes(weighted, vectors, min(options.dimension, vectors.shape[1]), lambda f: tell("projections", f))
    of_item, of_history = projected(axes, vectors)
    counts = purchases.counts(options, early=False)
    return replace(weighted, counts=counts, axes=axes, of_item=of_item, of_history=of_history)


class _Fit:
    """A softmax over the catalogue on the late requests, each request's purchases sharing a weight of 1.

    Args:
        purchases: of the split.
        early: sources with the counts of the earlier requests.
        users: of the requests with a click.
    """

    def __init__(self, purchases: Purchases, early: RecallSources, users: np.ndarray) -> None:
        self.purchases, self.early = purchases, early
        rng = np.random.default_rng(SEED)
        self.late = rng.permutation(np.flatnonzero(purchases.late))
        _, code = np.unique(users[self.late], return_inverse=True)
        self.held_out = rng.permutation(int(code.max()) + 1)[code] % HELD_OUT == 0
        count = len(early)
        taken = np.unique(np.concatenate([purchases.positives.of(index) for index in self.late]))
        others = np.setdiff1d(np.arange(count), taken)
        drawn = rng.choice(others, min(len(others), max(MOST_ITEMS - len(taken), 0)), replace=False)
        self.items = np.sort(np.concatenate([taken, drawn]))
        # Of items that nobody took, those that are drawn stand for all: log-Q correction.
        correction = np.log(len(others) / len(drawn)) if len(drawn) else 0.0
        self.correction_C = torch.from_numpy(np.where(np.isin(self.items, drawn), correction, 0.0).astype(np.float32))

    def _targets(self, requests: np.ndarray) -> torch.Tensor:
        targets_BC = np.zeros((len(requests), len(self.items)), np.float32)
        for row, index in enumerate(requests):
            taken = np.searchsorted(self.items, self.purchases.positives.of(index))
            targets_BC[row, taken] = self._counts(index) / len(taken)
        return torch.from_numpy(targets_BC)

    def _counts(self, index: int) -> np.ndarray:
        """How much each purchase of a request counts, float32."""
        weight = self.purchases.positives.weight
        return np.ones(len(self.purchases.positives.of(index)), np.float32) if weight is None else weight[index]

    def weights(self, tell: Callable[[float], None]) -> dict[str, float]:
        """Fitted weights of POPULARITY and NAMES, by maximum likelihood (L-BFGS)."""
        chosen = self.late[: max(1, min(MOST_REQUESTS, int(MOST_REQUESTS * MOST_ITEMS / 2 / len(self.items))))]
        shared_C2 = torch.from_numpy(self.early.counts.popularity[:, self.items].T.copy())
        columns_BCK = torch.zeros(len(chosen), len(self.items), len(NAMES))
        for row, index in enumerate(chosen):
            items, columns = self.early.columns(*self.purchases.past(index))
            known = np.isin(items, self.items)
            columns_BCK[row, np.searchsorted(self.items, items[known])] = torch.from_numpy(columns[known])
            tell(0.5 * row / len(chosen))
        targets_BC = self._targets(chosen)
        weights = torch.zeros(len(POPULARITY) + len(NAMES), requires_grad=True)
        with torch.no_grad():
            weights[0] = 1.0
        solver = torch.optim.LBFGS([weights], max_iter=40, line_search_fn="strong_wolfe")

        def loss() -> torch.Tensor:
            solver.zero_grad()
            total = 1e-4 * weights.square().sum()  # keeps a column that is always 0 at 0
            total.backward()
            for part in torch.arange(len(chosen)).split(BATCH):
                scores_BC = columns_BCK[part] @ weights[2:] + shared_C2 @ weights[:2] + self.correction_C
                mean = -(targets_BC[part] * scores_BC.log_softmax(-1)).sum() / len(chosen)
                mean.backward()
                total = total + mean.detach()
            return total.detach()

        solver.step(loss)
        return dict(zip((*POPULARITY, *NAMES), weights.detach().tolist(), strict=True))

    def axes(
        self, sources: RecallSources, vectors: np.ndarray, width: int, tell: Callable[[float], None]
    ) -> np.ndarray:
        """Projections of frozen vectors as `RecallSources.axes` has them; of width 0 where they do not help.

        Args:
            sources: with fitted weights and the counts of the earlier requests.
            vectors: float32 (I, D), of the items' texts.
            width: of the projections.
            tell: is told the fraction that is done.
        """
        empty = np.zeros((3, 0, vectors.shape[1]), np.float32)
        if self.purchases.tokens.bought is None or not self.held_out.any() or self.held_out.all():
            return empty
        torch.manual_seed(SEED)
        mean = vectors.mean(axis=0)
        centred = torch.nn.functional.normalize(torch.from_numpy(vectors - mean), dim=-1)
        model = _Projections(vectors.shape[1], width)
        groups = [{"params": [model.item.weight, model.history.weight], "lr": RATE}]
        solver = torch.optim.AdamW([*groups, {"params": [model.scale], "lr": SCALE_RATE}], weight_decay=0.0)
        most = max(BATCH, MOST_SCORES // len(self.items))
        learn = self._scored(sources, self.late[~self.held_out][:most])
        tell(0.4)
        judge = self._scored(sources, self.late[self.held_out][:MOST_REQUESTS])
        tell(0.5)
        best, waited = self._judged(judge, centred, None), 0
        kept: np.ndarray | None = None
        half = -(-len(learn) // 2)
        for number in range(PASSES):
            for batch in learn[(number % 2) * half :][:half]:
                loss = batch.loss(model(centred, centred[self.items], batch.past))
                solver.zero_grad()
                loss.backward()
                solver.step()
            found = self._judged(judge, centred, model)
            tell(0.5 + 0.5 * (number + 1) / PASSES)
            if found < best:
                best, waited, kept = found, 0, model.axes(mean)
            else:
                waited += 1
                if waited >= PATIENCE:
                    break
        return empty if kept is None else kept

    @torch.no_grad()
    def _judged(self, batches: list["_Batch"], centred: torch.Tensor, model: "_Projections | None") -> float:
        """Mean loss with the model's scores added, or without any."""
        total = 0.0
        for batch in batches:
            scores = None if model is None else model(centred, centred[self.items], batch.past)
            total += float(batch.loss(scores)) * len(batch.past)
        return total / sum(len(batch.past) for batch in batches)

    def _scored(self, sources: RecallSources, requests: np.ndarray) -> list["_Batch"]:
        batches = []
        for begin in range(0, len(requests), BATCH):
            chosen = requests[begin : begin + BATCH]
            past_of = [self.purchases.past(index) for index in chosen]
            offsets = np.stack([sources.scores(*each)[self.items] for each in past_of])
            taken = [np.searchsorted(self.items, self.purchases.positives.of(index)) for index in chosen]
            counts = [self._counts(index) for index in chosen]
            batches.append(_Batch(torch.from_numpy(offsets) + self.correction_C, taken, counts, past_of))
        return batches


@dataclass(frozen=True)
class _Batch:
    """Some requests.

    Attributes:
        offsets: float32 (B, C), the scores of the other sources.
        taken: of each request, which of the C were taken.
        counts: how much each of these counts.
        past: what each shopper had bought.
    """

    offsets: torch.Tensor
    taken: list[np.ndarray]
    counts: list[np.ndarray]
    past: list[tuple[np.ndarray, np.ndarray]]

    def loss(self, added: torch.Tensor | None) -> torch.Tensor:
        """Mean cross-entropy in nats, a request's purchases sharing a weight of 1."""
        log_p_BC = (self.offsets if added is None else self.offsets + added).log_softmax(-1)
        sizes = [len(each) for each in self.taken]
        rows, columns = np.repeat(np.arange(len(sizes)), sizes), np.concatenate(self.taken)
        share = np.concatenate(self.counts) / np.repeat(np.array(sizes) * len(sizes), sizes)
        picked = log_p_BC[torch.from_numpy(rows), torch.from_numpy(columns)]
        return -(picked * torch.from_numpy(share.astype(np.float32))).sum()


class _Projections(nn.Module):
    """⟨mean of projected purchases, projected item⟩, which begins as 0 · the cosine of frozen vectors."""

    LENGTH = 10.0
    """The scale moves in these units, so that its rate suits it."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.item, self.history = nn.Linear(size, width, bias=False), nn.Linear(size, width, bias=False)
        nn.init.orthogonal_(self.item.weight)
        self.history.load_state_dict(self.item.state_dict())
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(
        self, centred_ID: torch.Tensor, items_CD: torch.Tensor, past: list[tuple[np.ndarray, np.ndarray]]
    ) -> torch.Tensor:
        """float32 (B, C)."""
        amounts = [np.log1p(times.astype(np.float32)) for _, times in past]
        amounts = [each / max(float(np.linalg.norm(each)), 1e-9) for each in amounts]
        numbers = torch.from_numpy(np.concatenate([items for items, _ in past]))
        owners = torch.from_numpy(np.repeat(np.arange(len(past)), [len(each) for each in amounts]))
        bought_ND = centred_ID[numbers] * torch.from_numpy(np.concatenate(amounts))[:, None]
        mean_BD = torch.zeros(len(past), centred_ID.shape[1]).index_add_(0, owners, bought_ND)
        return self.LENGTH * self.scale * self.history(mean_BD) @ self.item(items_CD).T

    def axes(self, mean: np.ndarray) -> np.ndarray:
        """Both projections, the scale in that of items, and the mean of the frozen vectors."""
        item = (self.LENGTH * self.scale * self.item.weight).detach().numpy()
        centre = np.zeros_like(item)
        centre[0] = mean
        return np.stack([item, self.history.weight.detach().numpy(), centre]).astype(np.float32)
