"""The library call: load an export, rank the candidates of shoppers.

recommender = Recommender.load("exports/demo")
ranking = recommender.rank({"age": "35-44"}, ["tea", "soap"], history=["Cheese"], omega={"diversity": 1.0})
"""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from equipoise.common.digest import KEY as DIGEST
from equipoise.common.digest import record_digest
from equipoise.common.errors import UserError
from equipoise.common.lists import UNKNOWN, ListRule
from equipoise.data.features import NumberScale, Scales, read_scales
from equipoise.data.rates import FOLDER as RATES_FOLDER
from equipoise.data.rates import RateLookup
from equipoise.data.recall_texts import TextLayout
from equipoise.export.files import open_record, readable
from equipoise.export.load import load_export, open_beside_text
from equipoise.export.request_schema import request_schema
from equipoise.export.serving_record import calibrations_of, with_base
from equipoise.modeling.cached_scorer import TokenSlate
from equipoise.modeling.folded import fold_shared
from equipoise.modeling.precision import narrow_base, settled
from equipoise.modeling.prefix_cache import PrefixCache
from equipoise.serving.export_parts import make_reader, open_catalogue, read_examples
from equipoise.serving.export_tokens import read_tokenizer
from equipoise.serving.first import first_candidates
from equipoise.serving.items import read_items
from equipoise.serving.kernels import KERNELS, settle_kernels
from equipoise.serving.limits import Limits
from equipoise.serving.omega import read_operating_point
from equipoise.serving.price_request import read_question
from equipoise.serving.priced_pairs import with_replicates, with_rivals
from equipoise.serving.pricing import Goal, PriceQuestion, Pricing
from equipoise.serving.prior_terms import PriorTerms, terms_of
from equipoise.serving.prompt_parts import CutRequest, cut
from equipoise.serving.ranking import Ranking
from equipoise.serving.request_error import RequestError
from equipoise.serving.request_scorer import RequestScorer, RequestTokenizer
from equipoise.serving.requests import ReadRequest, RequestReader
from equipoise.serving.retrieve import PreparedRecall, RecallCatalogue, Recalled
from equipoise.serving.values import filled

if TYPE_CHECKING:
    from pandas import DataFrame

    from equipoise.serving.explain import Explanation

P = TypeVar("P")
DTYPES = ("auto", "fp32", "bf16")
"""In which a recommender may compute."""

__all__ = ["Limits", "PreparedRequest", "Ranking", "Recommender", "RequestError"]


@dataclass(frozen=True)
class PreparedRequest:
    """A request that is ready for the model: its texts and token ids.

    Attributes:
        request: of the candidates that are to be scored.
        slate: their token ids.
        pointwise: whether only probabilities are wanted.
        positions: of these candidates among those that were given; None: they are all.
    """

    request: ReadRequest
    slate: TokenSlate
    pointwise: bool = False
    positions: tuple[int, ...] | None = None


class Recommender:
    """Ranks candidates with the adapters of one export. `load` makes one.

    Attributes:
        export: the folder.
        name: of the run.
        pointwise, listwise: names of the objectives.
        reader: reads requests, and knows the fields of the prompts and the scales of the features.
        cache: kv_cache of the prefixes of returning shoppers, and what an apart trunk makes of items.
        examples: requests as JSON with a `name` and the positions that were `clicked` and `converted`.
        catalogue: what `recall` searches; None where the run had no such objective.
        version: of the export: the name of the run and the beginning of its record's digest.
    """

    def __init__(
        self,
        export: Path,
        name: str,
        scorer: RequestScorer,
        cache: PrefixCache,
        reader: RequestReader,
        tokenizer: RequestTokenizer,
        examples: list[dict[str, Any]],
        catalogue: RecallCatalogue | None = None,
        schema: Mapping[str, Any] | None = None,
        version: str = "",
    ) -> None:
        self.export, self.name, self.examples, self.version = export, name, examples, version
        self.reader, self.cache, self.catalogue = reader, cache, catalogue
        self._scorer, self._tokenizer, self._schema = scorer, tokenizer, dict(schema or {})
        self._texts = TextLayout(tokenizer.tokenizer, tokenizer.tokenizer.limits.max_row)

    @classmethod
    def load(
        cls,
        export: str | Path,
        *,
        device: str = "cpu",
        dtype: str = "fp32",
        kernels: str = "auto",
        cache_mb: int = 256,
        max_candidates: int | None = None,
        rates: str | Path | None = None,
        base: str | None = None,
    ) -> "Recommender":
        """Load an export and the base model that it belongs to.

        Args:
            export: the folder that `equipoise export` wrote.
            device: of the model, by torch's name.
            dtype: in which it computes: fp32, as the golden requests; bf16, about twice as fast where the device
                multiplies in it, with logits that differ by about 0.01; auto takes bf16 there.
            kernels: `fused` computes layers in few kernels (Llama, Mistral, Qwen2, Qwen3, BERT, RoBERTa, ModernBERT),
                all towers as one batch; `plain` as the stock classes; `auto` takes fused ones on GPUs in bf16, where
                they give the same.
            cache_mb: MiB of the kv_cache of prefixes and of what is kept of items; 0 keeps none.
            max_candidates: of one request; None leaves the export's own limit.
            rates: the folder that `equipoise rates update --out` wrote; None takes the export's own.
            base: folder or hub id of the base model, where it is elsewhere than at export.

        Raises:
            UserError: the folder is no whole export, the base model is missing or another one, or there is no such
                device.
        """
        folder = Path(export)
        record = with_base(open_record(folder), base)
        if cache_mb < 0:
            raise UserError(f"cache_mb is {cache_mb}: give 0 or more")
        if dtype not in DTYPES:
            raise UserError(f"dtype is {dtype}: give one of {', '.join(DTYPES)}")
        if kernels not in KERNELS:
            raise UserError(f"kernels is {kernels}: give one of {', '.join(KERNELS)}")
        with readable(folder, record):
            return cls._load(folder, record, (device, dtype, kernels), cache_mb << 20, max_candidates, rates)

    @classmethod
    def _load(
        cls,
        folder: Path,
        record: Mapping[str, Any],
        computing: tuple[str, str, str],
        cache_bytes: int,
        max_candidates: int | None,
        rates: str | Path | None,
    ) -> "Recommender":
        """What `load` gives, of a record that agrees with its files; `computing`: device, dtype and kernels."""
        device, dtype, kernels = computing
        for part in ("catalogue", "limits"):
            if part not in record:
                raise UserError(f"{folder} is of an earlier version, without {part}: export the run again")
        scales = read_scales(record.get("features", {}))
        own = Path(rates) if rates is not None else folder / RATES_FOLDER
        lookup = RateLookup.read(own / name for name in record.get("rates", []))
        lists = ListRule.of(record.get("lists"))
        attributes = lists.attributes() if lists else ()
        known = read_items(folder / record["catalogue"]["items"], scales, lookup.keys, attributes)
        examples = read_examples(folder / record["catalogue"]["examples"])
        model = load_export(folder, record)
        fold_shared(model)
        try:
            model = model.to(torch.device(device))
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"device '{device}' cannot be used ({reason}): take cpu or another one") from error
        precision = settled(dtype, torch.device(device).type)
        if precision == "bf16":
            narrow_base(model, packed=bool(record["base"]["quantization"]))
        settle_kernels(model, kernels, precision)
        tokenizer = read_tokenizer(folder, record, model.backbone.encoder)
        point = read_operating_point(record, model.listwise, model.pointwise)
        reader = make_reader(record, known, point, scales, max_candidates, lookup)
        cache = PrefixCache(cache_bytes)
        calibrations = calibrations_of(record)
        max_row = record["limits"]["max_row"]
        scorer = RequestScorer(
            model, tokenizer.pad_id, max_row, cache=cache, calibrations=calibrations, precision=precision
        )
        catalogue = open_catalogue(folder, record, known)
        tokens = RequestTokenizer(tokenizer, scales, open_beside_text(folder, record, device=device))
        schema = request_schema(record, lookup.keys)
        version = f"{record['run']}@{(record.get(DIGEST) or record_digest(record))[:12]}"
        return cls(folder, record["run"], scorer, cache, reader, tokens, examples, catalogue, schema, version)

    def with_limits(self, limits: Limits) -> "Recommender":
        """The same, sharing the model, with other limits of a request."""
        reader = self.reader.with_limits(limits)
        shared = (self._scorer, self.cache, reader, self._tokenizer, self.examples, self.catalogue, self._schema)
        return Recommender(self.export, self.name, *shared, version=self.version)

    @property
    def prior_columns(self) -> list[str]:
        """The columns that its priors read; none where it has no priors."""
        beside = self._tokenizer.beside
        return list(beside.priors.columns) if beside is not None and beside.priors is not None else []

    @property
    def pointwise(self) -> tuple[str, ...]:
        """Names of the objectives with a probability."""
        return self._scorer.model.pointwise

    @property
    def listwise(self) -> tuple[str, ...]:
        """Names of the objectives with an adjustment δ."""
        return self._scorer.model.listwise

    @property
    def operating_point(self) -> Mapping[str, float]:
        """ω of the export, by the names of all list-wise objectives."""
        return self.reader.operating_point.omega

    @property
    def bounds(self) -> Mapping[str, tuple[float, float]]:
        """Least and most ω that a request may ask for."""
        return self.reader.operating_point.bounds

    @property
    def limits(self) -> Limits:
        """What one request may hold."""
        return self.reader.limits

    @property
    def scales(self) -> Scales:
        """How the features are standardised, by name; empty where the heads read none."""
        return self.reader.scales

    @property
    def fields(self) -> dict[str, list[str]]:
        """The fields that the prompts read, of `user`, `item` and `context`, and the `features`."""
        return self.reader.fields

    @property
    def request_schema(self) -> dict[str, Any]:
        """The JSON Schema of requests, with the export's names and bounds; `request_schema.json` of the export."""
        return self._schema

    def prepare(self, request: Mapping[str, Any], first: int | None = None) -> PreparedRequest:
        """Read, render and tokenise one request (serving/requests.py gives its form), in any thread, without the model.

        Args:
            request: as JSON.
            first: how many candidates pass the model, those that the priors put first; None: all.

        Raises:
            RequestError: names the field that is wrong and the way out.
        """
        read = self.reader.read(request)
        if first is None or len(read.candidates) <= first:
            return self.tokenized(read)
        log_odds = self._prior_log_odds(read)
        kept = first_candidates(self._scorer, self._prior_names, log_odds, read, first)
        prepared = self.tokenized(read.only(kept))
        # What the priors say of a candidate may depend on the others of its slate, so it is kept.
        slate = replace(prepared.slate, prior=log_odds[kept])
        return replace(prepared, slate=slate, positions=tuple(kept))

    @property
    def _prior_names(self) -> list[str]:
        beside = self._tokenizer.beside
        return list(beside.priors.names) if beside is not None and beside.priors is not None else []

    def _prior_log_odds(self, read: ReadRequest) -> np.ndarray:
        """What the priors say of all candidates, float32 (C, priors)."""
        beside = self._tokenizer.beside
        log_odds = None if beside is None else beside.of([c.features for c in read.candidates], read.things)[0]
        if log_odds is None:
            raise RequestError("the export", "has no priors, by which candidates come first: leave `first` out")
        return log_odds

    def cut(self, request: Mapping[str, Any]) -> CutRequest:
        """Read one request and cut its prompts into the parts that an explanation leaves out.

        Raises:
            RequestError: as `prepare`.
        """
        return cut(self.reader, request, self.reader.read(request))

    def tokenized(self, read: ReadRequest) -> PreparedRequest:
        """The token ids of a read request, in any thread."""
        texts, contexts = [c.text for c in read.candidates], [c.context for c in read.candidates]
        features = [candidate.features for candidate in read.candidates]
        slate = self._tokenizer.slate(read.prefix, texts, contexts, features, read.things)
        return PreparedRequest(read, slate)

    def score_prepared(self, prepared: Sequence[PreparedRequest]) -> list[Ranking]:
        """Rank the candidates of several requests in one forward; not for several threads at once.

        Requests that would be too much for one forward together take further ones. The rankings are in the order of the
        requests, and none depends on the other requests beyond the last digits.

        Raises:
            UserError: a score is not a finite number.
        """
        rankings: dict[int, Ranking] = {}
        for pointwise in (False, True):
            chosen = [index for index, request in enumerate(prepared) if request.pointwise == pointwise]
            if chosen:
                of_kind = [prepared[index] for index in chosen]
                grouped = self._scorer.group([one.slate for one in of_kind], pointwise)
                rankings |= zip(chosen, self._rankings(of_kind, self._scorer.forward(grouped)), strict=True)
        return [rankings[index] for index in range(len(prepared))]

    def stream(
        self, portions: Iterable[Sequence[P]], prepared: Callable[[P], PreparedRequest], pointwise: bool = False
    ) -> Generator[tuple[Sequence[P], list[Ranking]], None, None]:
        """Portions of requests with their rankings, while a thread prepares the next portions.

        Args:
            portions: read in the thread.
            prepared: the request of each entry of a portion; all of them are `pointwise` or none.
            pointwise: only probabilities are wanted.

        Raises:
            UserError: a score is not a finite number.
        """
        scored = self._scorer.stream(portions, lambda portion: [prepared(entry).slate for entry in portion], pointwise)
        with closing(scored):
            for portion, scores in scored:
                yield portion, self._rankings([prepared(entry) for entry in portion], scores)

    def prepare_prices(self, request: Mapping[str, Any]) -> tuple[PriceQuestion, PreparedRequest]:
        """Read a request for prices (serving/price_request.py gives its form) and render it at every price.

        Raises:
            RequestError: names the field that is wrong and the way out.
        """
        if not {"ctr", "cvr"} <= set(self.pointwise):
            raise RequestError("the export", "has no cvr, so it knows no demand: train with objectives ctr and cvr")
        numbers = {name: scale for name, scale in self.reader.scales.items() if isinstance(scale, NumberScale)}
        seen = {name: (scale.least, scale.most) for name, scale in numbers.items()}
        question, beside = read_question(self.reader, request, seen), self._tokenizer.beside
        if beside is not None:
            question = with_rivals(question, beside)
            question = with_replicates(question, beside, self._scorer.model, self._scorer.calibrations)
        return question, replace(self.tokenized(question.request), pointwise=True)

    def price(
        self,
        user: Mapping[str, Any] | str | None,
        candidates: Sequence[Any],
        *,
        prices: Any = None,
        goal: Goal | None = None,
        field: str = "price",
        history: Sequence[Any] | Mapping[str, Sequence[Any]] = (),
        recent: Sequence[Any] | None = None,
        min_margin: float | None = None,
        endings: Sequence[float] | None = None,
        max_change: float | None = None,
        force: bool = False,
    ) -> Pricing:
        """The best allowed price of every candidate for one shopper, all prices in one pass of the model.

        Args:
            user, history, recent: as `rank` takes them.
            candidates: as `rank` takes them, mappings also with `cost` and `prices`.
            prices: allowed ones of all candidates without their own: a list, or a mapping (price_grid.py).
            goal: profit or revenue; by default profit where a candidate has a cost.
            field: what the price is called in the data.
            min_margin: least share of the price that must be left above the cost.
            endings: what prices end in, such as 0.49 and 0.99.
            max_change: largest change, as a share of the present price.
            force: advise a change where the data do not show that demand answers to the price.

        Raises:
            RequestError: names the field that is wrong and the way out.
        """
        request = {"history": filled(history), "candidates": candidates, "prices": prices, "goal": goal, "field": field}
        request |= {"recent": recent, "min_margin": min_margin, "endings": endings, "max_change": max_change}
        request["force"] = force
        request |= {"prefix": user} if isinstance(user, str) else {"user": user}
        question, prepared = self.prepare_prices(request)
        return question.of_ranking(self.score_prepared([prepared])[0])

    def prepare_recall(self, request: Mapping[str, Any]) -> PreparedRecall:
        """Read and tokenise a request for items (serving/retrieve.py gives its form), in any thread, without the model.

        Raises:
            RequestError: names the field that is wrong and the way out.
        """
        if self.catalogue is None:
            raise RequestError("the export", "has no objective recall: train with objectives.recall")
        text, prepared = self.catalogue.read(self.reader, request)
        return replace(prepared, text_ids=self._texts.shopper(self._tokenizer.prefix(text)))

    def recall_prepared(self, prepared: Sequence[PreparedRecall]) -> list[Recalled]:
        """Search the catalogue for several shoppers in one pass of the model; not for several threads at once."""
        if self.catalogue is None or not prepared:
            return []
        if not self.catalogue.own_dimension:  # the run scores without vectors
            return self.catalogue.search(np.empty((len(prepared), 0), np.float32), prepared)
        texts = [shopper.text_ids for shopper in prepared]
        shoppers = self._scorer.vectors(self.catalogue.name, self._texts, texts)
        return self.catalogue.search(shoppers, prepared)

    def recall(
        self,
        user: Mapping[str, Any] | str | None,
        top: int | None = None,
        *,
        history: Sequence[Any] | Mapping[str, Sequence[Any]] = (),
        bought: Mapping[str, float] | Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        exclude_bought: bool = False,
        quota: Mapping[str, int] | None = None,
    ) -> Recalled:
        """The best items of the whole catalogue for one shopper.

        Args:
            user, history: as `rank` takes them.
            top: how many; 100 where nothing is said.
            bought: item_ids and how often each was bought, or a list of item_ids.
            exclude: item_ids that must not come back.
            exclude_bought: nor may those of `bought`.
            quota: how many at least the shopper has never bought (`never_bought`), or nobody has (`new`).

        Raises:
            RequestError: names the field that is wrong and the way out.
        """
        request: dict[str, Any] = {"history": filled(history), "bought": bought, "exclude": exclude, "top": top}
        request |= {"prefix": user} if isinstance(user, str) else {"user": user}
        request |= {"exclude_bought": exclude_bought, "quota": quota}
        return self.recall_prepared([self.prepare_recall(request)])[0]

    def _rankings(self, requests: Sequence[PreparedRequest], scores: Mapping[str, np.ndarray]) -> list[Ranking]:
        for name, values in scores.items():
            if not np.isfinite(values).all():
                raise UserError(f"the model gave a score of {name} that is not a finite number: evaluate the run")
        ends = np.cumsum([len(one.request.candidates) for one in requests])[:-1]
        parts = {name: [part.tolist() for part in np.split(values, ends)] for name, values in scores.items()}
        return [
            self._ranking(one, {name: columns[index] for name, columns in parts.items()})
            for index, one in enumerate(requests)
        ]

    def _ranking(self, prepared: PreparedRequest, scores: Mapping[str, list[float]]) -> Ranking:
        request = prepared.request
        logits = {name: scores[name] for name in self.pointwise}
        deltas = {name: scores[name] for name in self.listwise if name in scores}
        candidates = request.candidates
        ids = [candidate.item_id for candidate in candidates]
        return Ranking.of(
            request.request_id,
            ids,
            logits,
            deltas,
            request.omega,
            request.top,
            weights=request.weights,
            values=[candidate.value for candidate in candidates],
            boosts=[candidate.boost for candidate in candidates],
            exponents=self._scorer.model.relevance.exponents,
            links=self._scorer.model.relevance.links,
            lists=self.reader.lists,
            attributes={
                name: [
                    UNKNOWN if (value := candidate.attributes[number]) is None else value for candidate in candidates
                ]
                for number, name in enumerate(self.reader.attributes)
            },
            positions=prepared.positions,
        )

    def rank(
        self,
        user: Mapping[str, Any] | str | None,
        candidates: Sequence[Any],
        *,
        history: Sequence[Any] | Mapping[str, Sequence[Any]] = (),
        recent: Sequence[Any] | None = None,
        omega: Mapping[str, float] | None = None,
        value_weight: float | None = None,
        top: int | None = None,
        first: int | None = None,
    ) -> Ranking:
        """Rank candidates for one shopper.

        Args:
            user: fields of the shopper and the request, or the prefix as a text, or None for an anonymous user.
            candidates: item_ids, or mappings as in a JSON request.
            history: titles of past events, in the order of the run's data.history; none with such a prefix.
                Of a data.history with several sections: such a list by the name of each section.
            recent: titles (or `{"item_id": …}`) of what the shopper took, the latest first, where heads compare; None:
                the history.
            omega: weights of list-wise objectives; the others keep the export's.
            value_weight: weight of log value, for which every candidate brings its `value`; None keeps the export's.
            top: how many of the best are wanted.
            first: how many candidates pass the model, those that the priors put first, and are in the ranking; None:
                all.

        Raises:
            RequestError: names the field that is wrong and the way out.
        """
        request: dict[str, Any] = {"history": filled(history), "candidates": candidates, "omega": omega, "top": top}
        request |= {"prefix": user} if isinstance(user, str) else {"user": user}
        request |= {"value_weight": value_weight, "recent": recent}
        return self.score_prepared([self.prepare(request, first)])[0]

    def score(
        self,
        user: Mapping[str, Any] | str | None,
        candidates: Sequence[Any],
        *,
        history: Sequence[Any] | Mapping[str, Sequence[Any]] = (),
        recent: Sequence[Any] | None = None,
        omega: Mapping[str, float] | None = None,
        value_weight: float | None = None,
    ) -> Ranking:
        """As `rank`, but all candidates stand in the order in which they were given."""
        ranking = self.rank(user, candidates, history=history, recent=recent, omega=omega, value_weight=value_weight)
        return ranking.as_given()

    def explain(
        self,
        user: Mapping[str, Any] | str | None,
        candidates: Sequence[Any],
        *,
        history: Sequence[Any] | Mapping[str, Sequence[Any]] = (),
        recent: Sequence[Any] | None = None,
        omega: Mapping[str, float] | None = None,
        value_weight: float | None = None,
        explain: Sequence[int | str] | None = None,
    ) -> "Explanation":
        """Why candidates get their scores; equipoise.serving.explain gives the meaning.

        Args:
            user, candidates, history, recent, omega, value_weight: as for `rank`.
            explain: positions or item_ids of at most `limits.explained` candidates; None for the one ranked first.

        Raises:
            RequestError: names the field that is wrong and the way out.
        """
        request = {"history": filled(history), "candidates": candidates, "omega": omega, "value_weight": value_weight}
        request |= {"prefix": user} if isinstance(user, str) else {"user": user}
        request["recent"] = recent
        return self.explain_request(request | {"explain": explain})

    def explain_request(self, request: Mapping[str, Any]) -> "Explanation":
        """Explain candidates of one request as JSON with a key `explain`; errors as those of `explain`."""
        from equipoise.serving.explain import explain_request

        return explain_request(self.reader, request, self._score_read, self.prior_terms)

    def prior_terms(self, read: ReadRequest, position: int) -> list[PriorTerms]:
        """What the columns of each prior add to the log-odds of one candidate; none where there are no priors."""
        features = [candidate.features for candidate in read.candidates]
        model, beside = self._scorer.model, self._tokenizer.beside
        return [] if beside is None else terms_of(model, beside, features, read.things, position)

    def _score_read(self, reads: Sequence[ReadRequest]) -> list[Ranking]:
        return self.score_prepared([self.tokenized(read) for read in reads])

    def rank_frame(
        self, requests: "DataFrame", omega: Mapping[str, float] | None = None, top: int | None = None
    ) -> "DataFrame":
        """Rank all requests of a pandas frame; equipoise.serving.frames gives its columns and those of the answer.

        Raises:
            RequestError: names the request, the field that is wrong and the way out.
        """
        from equipoise.serving.frames import rank_frame

        return rank_frame(
            self.reader,
            requests,
            self.prepare,
            self.score_prepared,
            (self.pointwise, self.listwise),
            {"omega": omega, "top": top},
        )
