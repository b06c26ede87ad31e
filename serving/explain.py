"""Why a candidate gets its scores: what each part of its prompts, and each term of its utility, contributes.

A part's contribution to a score is the score minus the score of the same request without it (leave one out): exact for
the part by itself, with no background data and no surrogate model. Parts that say the same thing share their effect, so
contributions do not add up to the score; the terms of the utility do.

Which candidate is explained is named or, by default, the best one. The slate is scored once, and once more per part;
all of these are requests of one list, which the model takes in as few passes as fit.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from equipoise.serving.limits import Limits
from equipoise.serving.prior_terms import PriorTerms
from equipoise.serving.prompt_parts import CutRequest, Part, cut
from equipoise.serving.ranking import Ranking, Scored
from equipoise.serving.request_error import RequestError
from equipoise.serving.requests import ReadRequest, RequestReader
from equipoise.serving.values import identifier, kind_of, mapping, sequence

MAX_NAMED = 3
"""Parts for and against that the sentences name."""
SMALL = 0.005
"""A contribution to the utility that rounds to nothing in the sentences."""
SMALLEST_COST = 5e-5
"""A cost of a place that rounds to nothing in the sentences."""


@dataclass(frozen=True)
class Contribution:
    """What one part does.

    Attributes:
        part: of the prompts.
        objectives: to log p of each pointwise and δ of each list-wise objective.
        utility: to the utility of the candidate.
    """

    part: Part
    objectives: dict[str, float]
    utility: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        fields = {**vars(self.part), "fields": list(self.part.fields)}
        return {**fields, "objectives": self.objectives, "utility": self.utility}


@dataclass(frozen=True)
class Explained:
    """One candidate.

    Attributes:
        scored: its scores.
        text: of the item.
        terms: of its utility by name; they add up to it.
        contributions: of all parts, in the order of the prompt.
        sentences: the same in words.
        priors: what each column adds to the simple model that an objective begins as.
    """

    scored: Scored
    text: str
    terms: dict[str, float]
    contributions: list[Contribution]
    sentences: list[str]
    priors: list[PriorTerms] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "item_id": self.scored.item_id,
            "position": self.scored.position,
            "rank": self.scored.rank,
            "text": self.text,
            "probabilities": dict(self.scored.probabilities),
            "deltas": dict(self.scored.deltas),
            "utility": self.scored.utility,
            "terms": self.terms,
            **({"place": dict(self.scored.place)} if self.scored.place else {}),
            "contributions": [entry.to_json() for entry in self.contributions],
            "sentences": self.sentences,
            **({"priors": [terms.to_json() for terms in self.priors]} if self.priors else {}),
        }


@dataclass(frozen=True)
class Explanation:
    """The explained candidates of one request, in the order in which they were named."""

    request_id: str | None
    candidates: list[Explained]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"request_id": self.request_id, "candidates": [candidate.to_json() for candidate in self.candidates]}


@dataclass(frozen=True)
class Variant:
    """The request without some parts: of a candidate's, by number."""

    position: int
    left_out: frozenset[int]


def split_request(request: Any) -> tuple[Any, Any]:
    """The request that is ranked, and which candidates it wants explained.

    Raises:
        RequestError: it is no object.
    """
    request = dict(mapping("the request", request))
    return request, request.pop("explain", None)


def check_slate(limits: Limits, cut: CutRequest) -> None:
    """Refuse a slate that would be scored too often.

    Raises:
        RequestError: names the limit.
    """
    count, most = len(cut.read.candidates), limits.explained_slate
    if count > most:
        raise RequestError(
            "candidates",
            f"has {count:,} entries, and an explanation scores all of them once per part of the prompt: give at most "
            f"{most:,}, such as the best ones of /rank",
        )


def check_work(most: int, candidates: int, variants: int) -> None:
    """Refuse an explanation that would take more scores than `most`.

    Raises:
        RequestError: names the ways to ask for less.
    """
    if candidates * variants > most:
        raise RequestError(
            "explain",
            f"takes {candidates * variants:,} scores, of {candidates:,} candidates without each of {variants:,} parts "
            f"of the prompts: give fewer candidates or a shorter history, or explain one at a time (at most {most:,})",
        )


def positions_of(limits: Limits, cut: CutRequest, named: Any, ranking: Ranking) -> list[int]:
    """Positions of the candidates to explain: those named by position or item_id, or the first by rank.

    Raises:
        RequestError: there are too many, or one names no candidate.
    """
    if named is None:
        return [ranking.candidates[0].position]
    named, most = sequence("explain", named), limits.explained
    if not 1 <= len(named) <= most:
        hint = f"give 1 to {most}, and ask again for further ones"
        raise RequestError("explain", f"names {len(named):,} candidates: {hint}")
    ids = [candidate.item_id for candidate in cut.read.candidates]
    positions = [_place(f"explain[{number}]", entry, ids) for number, entry in enumerate(named)]
    return list(dict.fromkeys(positions))


def _place(field: str, named: Any, ids: Sequence[str | None]) -> int:
    if isinstance(named, int) and not isinstance(named, bool):
        if not 0 <= named < len(ids):
            raise RequestError(field, f"is {str(named)[:40]}: give a place from 0 to {len(ids) - 1}, or an item_id")
        return named
    if not isinstance(named, str):
        raise RequestError(field, f"is {kind_of(named)}: give a place or an item_id")
    name = identifier(field, named, 4_000)
    if name not in ids:
        raise RequestError(field, f"is '{name[:40]}', which is none of the candidates: give the item_id of one")
    return ids.index(name)


def variants_of(cut: CutRequest, positions: Sequence[int]) -> list[Variant]:
    """Every part left out by itself; those of the shopper once for all candidates, and no item is left without text."""
    shared = [Variant(positions[0], frozenset([number])) for number in range(len(cut.shopper))]
    own = []
    for position in positions:
        kept = {len(cut.shopper)} if len(cut.items[position]) == 1 else set()
        numbers = range(len(cut.shopper), len(cut.parts(position)))
        own += [Variant(position, frozenset([number])) for number in numbers if number not in kept]
    return shared + own


def without_parts(cut: CutRequest, variants: Sequence[Variant]) -> list[ReadRequest]:
    """The request without the parts of each variant."""
    return [cut.without(variant.position, variant.left_out) for variant in variants]


def explanation(
    cut: CutRequest,
    positions: Sequence[int],
    ranking: Ranking,
    variants: Sequence[Variant],
    rankings: Sequence[Ranking],
    prior_terms: Callable[[ReadRequest, int], list[PriorTerms]] = lambda read, position: [],
) -> Explanation:
    """Put the scores of the whole request and of its variants together.

    Args:
        cut: the request.
        positions: of the explained candidates.
        ranking: of the whole request.
        variants: from `variants_of`.
        rankings: of the variants.
        prior_terms: of a request's candidate at a position.
    """
    explained = []
    for position in positions:
        parts, contributions = cut.parts(position), []
        for variant, without in zip(variants, rankings, strict=True):
            (number,) = variant.left_out
            if number < len(cut.shopper) or variant.position == position:
                contributions.append(contribution(parts[number], ranking.given[position], without.given[position]))
        explained.append(_explained(cut, ranking, position, contributions, prior_terms(cut.read, position)))
    return Explanation(cut.read.request_id, explained)


def contribution(part: Part, full: Scored, without: Scored) -> Contribution:
    """The difference that a part makes to the scores of a candidate."""
    objectives = {name: log - without.log_probabilities[name] for name, log in full.log_probabilities.items()}
    objectives |= {name: delta - without.deltas[name] for name, delta in full.deltas.items()}
    return Contribution(part, objectives, full.utility - without.utility)


def _explained(
    cut: CutRequest, ranking: Ranking, position: int, contributions: list[Contribution], priors: list[PriorTerms]
) -> Explained:
    scored = ranking.given[position]
    terms = ranking.weights.terms(scored.log_probabilities, scored.deltas, scored.value, scored.boost)
    text = cut.read.candidates[position].text
    sentences = _sentences(scored, text, terms, contributions, len(ranking.given))
    sentences += [sentence for prior in priors if (sentence := prior_sentence(prior))]
    return Explained(scored, text, terms, contributions, sentences, priors)


def prior_sentence(prior: PriorTerms) -> str | None:
    """What most moves a prior, in words; None where no column does."""
    shown = [term for term in prior.terms if abs(term.adds) >= SMALL][:MAX_NAMED]
    if not shown:
        return None
    columns = ", ".join(
        f"{term.column}{'' if term.value is None else f' {term.value:g}'} ({term.adds:+.2f})" for term in shown
    )
    return f"The numbers alone say {prior.log_odds:+.2f} for {prior.objective}, most of all by {columns}."


def _sentences(
    scored: Scored, text: str, terms: Mapping[str, float], contributions: Sequence[Contribution], count: int
) -> list[str]:
    chances = ", ".join(f"p{name.upper()} {_percent(value)}" for name, value in scored.probabilities.items())
    sentences = [f"“{text}” is number {scored.rank} of {count}, with {chances}."]
    terms_text = [f"{name} {value:+.2f}" for name, value in terms.items() if abs(value) >= SMALL]
    sentences.append(f"Its utility {scored.utility:.2f} is the sum of {', '.join(terms_text) or 'nothing'}.")
    if scored.place:
        sentences.append(place_sentence(scored.place))
    ordered = sorted(contributions, key=lambda entry: -entry.utility)
    best = [entry for entry in ordered if entry.utility >= SMALL][:MAX_NAMED]
    worst = [entry for entry in reversed(ordered) if entry.utility <= -SMALL][:MAX_NAMED]
    for opening, entries in (("Most for it speaks", best), ("Most against it speaks", worst)):
        if entries:
            sentences.append(
                f"{opening} {', '.join(f'{_named(entry.part)} ({entry.utility:+.2f})' for entry in entries)}."
            )
    if not best and not worst:
        sentences.append("No single part of the prompts changes its utility by itself.")
    return sentences


def place_sentence(place: Mapping[str, float]) -> str:
    """What decided the place, in shares of the ideal list's relevance, and what it cost."""
    terms = [f"{name} {value:+.4f}" for name, value in place.items() if name != "cost"]
    text = f"At its place it counts {', '.join(terms)}"
    if place["cost"] < SMALLEST_COST:
        return f"{text}; nothing more relevant was left."
    return f"{text}; the place gives up {place['cost']:.4f} of relevance against the most relevant candidate left."


def _named(part: Part) -> str:
    places = {"history": "in the history", "number": "as a number", "category": "as a category"}
    return f"“{part.text}” {places.get(part.where, f'of the {part.where}')}"


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def explain_request(
    reader: RequestReader,
    request: Mapping[str, Any],
    score: Callable[[Sequence[ReadRequest]], list[Ranking]],
    prior_terms: Callable[[ReadRequest, int], list[PriorTerms]] = lambda read, position: [],
) -> Explanation:
    """Explain candidates of one request.

    Args:
        reader: of the export.
        request: as for `Recommender.prepare`, and `explain`: positions or item_ids, or null for the first by rank.
        score: ranks read requests with the model.
        prior_terms: of a request's candidate at a position.

    Raises:
        RequestError: names the field that is wrong and the way out.
        UserError: a score is not a finite number.
    """
    request, named = split_request(request)
    full = cut(reader, request, reader.read(request))
    check_slate(reader.limits, full)
    ranking = score([full.read])[0]
    positions = positions_of(reader.limits, full, named, ranking)
    variants = variants_of(full, positions)
    return explanation(full, positions, ranking, variants, score(without_parts(full, variants)), prior_terms)
