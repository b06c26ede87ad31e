"""Objectives in a run configuration: their options, their specs, and which of them a run has."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PositiveFloat,
    SerializeAsAny,
    ValidationError,
    model_serializer,
    model_validator,
)

from equipoise.common.errors import UserError
from equipoise.configs.objective_spec import Axis, Form, ObjectiveSpec, load_own, nearest_name, own_objectives
from equipoise.configs.priors import PriorConfig
from equipoise.configs.section import Section, Share

RESERVED = {"shared", "losses", "embeddings", "ctcvr", "relevance", "utility", "value", "boost", "click", "conversion"}
"""Names that outputs, files and terms of the utility have already."""


class ObjectiveConfig(Section):
    """What every objective has: a positive weight, its preference in the balancing."""

    weight: PositiveFloat = 1.0
    """Preference in the balancing, above 0; only the ratio of the objectives' weights counts for most methods."""


class UserFairnessConfig(Section):
    """Groups of users whose clicks (or conversions) are to be foretold equally well (docs/objectives.md)."""

    field: str
    """One of `data.user_groups`."""
    method: Literal["worst", "parity"] = "worst"
    """`worst` serves the worst group more, as group DRO; `parity` draws all groups together."""
    strength: PositiveFloat = 2.0
    """How much more a group counts that is foretold worse than the mean: by exp(strength · share worse), or in
    proportion."""
    momentum: Share = 0.95
    """Of the moving averages of the groups' losses over batches: 0 to below 1."""


class PriorsConfig(ObjectiveConfig):
    """What binary objectives share: the prior that they begin as, and whom they serve alike."""

    prior: PriorConfig | None = None
    """The simple model that this objective begins as: `blend`, `trees`, `linear`, or `{column: NAME}`; null begins at
    the base rate."""
    user_fairness: UserFairnessConfig | None = None
    """Groups of users that are to be foretold equally well; null counts all candidates alike."""


class CtrConfig(PriorsConfig):
    """Click-through: binary cross-entropy on click."""


class CvrConfig(PriorsConfig):
    """Conversion over the entire space (ESMM), or by inverse propensity / doubly robust on clicks (ESCM²)."""

    estimator: Literal["esmm", "ips", "dr"] = "esmm"
    """`esmm` (entire space, the product with pCTR), `ips` (inverse propensity on clicks) or `dr` (doubly robust)."""
    min_propensity: Annotated[float, Field(gt=0.0, le=1.0)] = 0.02
    """Lower bound of pCTR as a propensity (ips and dr): an impression weighs at most 1 / this."""

    @model_validator(mode="after")
    def _fair_over_the_entire_space(self) -> "CvrConfig":
        if self.user_fairness is not None and self.estimator != "esmm":
            raise ValueError(f"user_fairness weighs losses of `estimator: esmm`, not of {self.estimator}: drop one")
        return self


class ListwiseConfig(ObjectiveConfig):
    """What list-wise objectives share: the exposure's temperature τ and the pull β back to pure relevance."""

    temperature: PositiveFloat = 1.0
    """τ of the exposure softmax over a slate; lower is nearer to the sorted list."""
    beta: Annotated[float, Field(ge=0.0)] = 0.1
    """Pull β back to pure relevance, 0 or more."""


class PlacedConfig(ListwiseConfig):
    """What list-wise objectives share whose lists are filled place after place (docs/lists.md).

    `form: greedy` learns by the lists that it makes: `samples` of every slate, scored by NDCG and the objective's own
    metric at `places`. `parallel` learns a number per candidate that is added to its log relevance, by the exposure.
    """

    form: Literal["greedy", "parallel"] = "greedy"
    """`greedy`: lists are filled place after place by what the places before hold; `parallel`: one number per candidate
    is added to its log relevance."""
    places: Annotated[int, Field(ge=2)] = 10
    """Places of a list that count (`greedy`), the same of all objectives; 2 or more."""
    samples: Annotated[int, Field(ge=2)] = 8
    """Lists of a slate that are drawn in a training step (`greedy`), 2 or more."""
    explore: PositiveFloat = 0.02
    """Spread of the lists that are drawn (`greedy`): temperature of the choice of a place, in shares of NDCG."""


class DiversityConfig(PlacedConfig):
    """Unlike items in a list: by a path of item attributes (coarse to fine) or by frozen text embeddings.

    As `parallel` J = Σ_ij π_i π_j S_ij. Text embeddings are not there while serving, so `similarity: text` is parallel.
    """

    similarity: Literal["attributes", "text"] = "attributes"
    """Of two items: by a path of `attributes`, or by frozen `text` embeddings."""
    attributes: list[str] = Field(default_factory=lambda: ["category"])
    """Columns of the items, coarse to fine."""

    @model_validator(mode="before")
    @classmethod
    def _text_is_parallel(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("similarity") == "text":
            return {"form": "parallel", **value}
        return value

    @model_validator(mode="after")
    def _greedy_by_attributes(self) -> "DiversityConfig":
        if self.similarity == "text" and self.form == "greedy":
            raise ValueError(
                "form: greedy compares items by attributes, which servers know: drop it, or similarity: text"
            )
        return self


class GroupedConfig(PlacedConfig):
    """Exposure of the groups of one item attribute, over the global batch with a moving average."""

    attribute: str
    """Column of the items whose values are the groups."""
    momentum: Share = 0.9
    """Of the moving average of the groups' exposure over batches: 0 to below 1."""


class FairnessConfig(GroupedConfig):
    """Provider-side exposure against a target: the group's share of candidates (parity) or of relevance (merit)."""

    attribute: str = "provider"
    """Column of the items whose values are the groups, such as the provider."""
    target: Literal["parity", "merit"] = "parity"
    """Fair exposure of a group: its fraction of candidates (`parity`) or of relevance (`merit`)."""


class CoverageConfig(GroupedConfig):
    """Exposure over the values of one item attribute; as `parallel` by its negative entropy."""

    attribute: str = "category"
    """Column of the items whose values are to be covered."""


class RecallConfig(ObjectiveConfig):
    """Finding items in the whole catalogue: vectors of shoppers and items, by sampled softmax with log-Q correction.

    Each micro-batch of a process draws `shoppers` training requests and one clicked item of each; all of those items
    and `negatives` others, drawn evenly from the catalogue, compete for every shopper.
    """

    dimension: Annotated[int, Field(ge=8)] = 128
    """Length of the vectors of shoppers and items, at least 8."""
    shoppers: Annotated[int, Field(ge=2)] = 32
    """Training requests per micro-batch and process, at least 2; each brings one clicked item."""
    negatives: Annotated[int, Field(ge=0)] = 128
    """Further items, drawn evenly from the catalogue, that compete for every shopper."""
    sources: bool = True
    """Begin as popularity, what was bought, co-purchase and titles alike, mixed by fitted weights; false lets the
    vectors begin alone, beside popularity and repeat purchases."""
    fit_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.25
    """The latest training requests, as a share of the time-ordered ones, on which the sources are fitted with counts of
    the earlier ones, above 0 and below 1; the vectors learn from them too."""
    half_life_days: PositiveFloat = 30.0
    """Days after which a purchase counts half in what is popular lately."""
    neighbours: Annotated[int, Field(ge=1)] = 2000
    """Items that each item keeps as bought together with it, those that met it most often; 1 or more."""


class ColumnConfig(ObjectiveConfig):
    """An objective on any column of the impressions, by config alone.

    `label`: the column. `given`: the binary objective after which it happens, such as click: the label of other
    impressions is not read, and of a binary one the chance of the whole chain is learnt over all impressions.
    """

    kind: Form
    """`binary` (0 or 1), `value` (any number) or `count` (whole numbers of 0 or more)."""
    label: str
    """Column of the impressions."""
    given: str | None = None
    """Binary objective after which it happens, such as click: elsewhere the label is not read; null reads it
    everywhere."""


class BinaryConfig(ColumnConfig, PriorsConfig):
    """A yes or no (0 or 1): cross-entropy over all impressions, of the product of the chain's probabilities."""

    kind: Literal["binary"]
    """`binary`: 0 or 1."""


class ValueConfig(ColumnConfig):
    """A number: Huber's or the squared loss of the standardised label, on impressions where `given` happened.

    `positive`: labels are never below 0, and predictions are above 0, so that relevance may name it.
    """

    kind: Literal["value"]
    """`value`: any number."""
    loss: Literal["huber", "squared"] = "huber"
    """Of the standardised label: `huber` (outliers count less) or `squared`."""
    positive: bool = False
    """Labels are never below 0 and predictions above 0, so that relevance may name it."""


class CountConfig(ColumnConfig):
    """A whole number of 0 or more: Poisson's loss with a log link, on impressions where `given` happened."""

    kind: Literal["count"]
    """`count`: whole numbers of 0 or more."""


KINDS: dict[str, type[ColumnConfig]] = {"binary": BinaryConfig, "value": ValueConfig, "count": CountConfig}
"""What `objectives.NAME.kind` may be."""

_LOSSES = "equipoise.train.objectives"
BUILT_IN = {
    spec.name: spec
    for spec in (
        ObjectiveSpec(
            "ctr",
            "pointwise",
            CtrConfig,
            f"{_LOSSES}.pointwise:Binary",
            "pCTR = P(click | impression)",
            form="binary",
            label="click",
            title="pCTR",
            metric="ctr/auc",
            axis=Axis("ndcg_click"),
        ),
        ObjectiveSpec(
            "cvr",
            "pointwise",
            CvrConfig,
            f"{_LOSSES}.cvr:Cvr",
            "pCVR = P(conversion | click)",
            form="binary",
            label="conversion",
            given="ctr",
            title="pCVR on clicks",
            metric="ctcvr/auc",
            axis=Axis("ndcg_conversion"),
        ),
        ObjectiveSpec(
            "diversity",
            "listwise",
            DiversityConfig,
            f"{_LOSSES}.diversity:Diversity",
            "δ: how much more of unlike items in a list a shopper wants; as parallel added to the log relevance",
            term="spread",
            axis=Axis("ild", attributes=lambda options: tuple(options.attributes)),
        ),
        ObjectiveSpec(
            "fairness",
            "listwise",
            FairnessConfig,
            f"{_LOSSES}.fairness:Fairness",
            "δ, added to the price of the candidate's provider group; as parallel to its log relevance",
            term="price",
            axis=Axis("exposure_ratio", attributes=lambda options: (options.attribute,)),
        ),
        ObjectiveSpec(
            "coverage",
            "listwise",
            CoverageConfig,
            f"{_LOSSES}.coverage:Coverage",
            "δ, added to the price of the candidate's value; as parallel to its log relevance",
            term="price",
            axis=Axis("coverage", attributes=lambda options: (options.attribute,)),
        ),
        ObjectiveSpec(
            "recall",
            "retrieval",
            RecallConfig,
            f"{_LOSSES}.recall:Recall",
            "vectors of shoppers and items: which items of the whole catalogue a shopper will take",
            metric="recall/all@200",
        ),
    )
}
"""The objectives of this package, by name."""


def spec_of(name: str, options: ObjectiveConfig) -> ObjectiveSpec:
    """The spec of a configured objective: built in, of a column, or of an installed package."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    if isinstance(options, ColumnConfig):
        return _column_spec(name, options)
    return _own_spec(name)


def known_spec(name: str, section: object) -> ObjectiveSpec | None:
    """The spec of an objective in a saved config; None where this installation does not know it."""
    try:
        options = ObjectivesConfig.model_validate({"ctr": {}, name: section if isinstance(section, dict) else {}})
        return options.specs()[name]
    except (ValueError, UserError, KeyError):
        return None


@lru_cache
def _own_spec(name: str) -> ObjectiveSpec:
    return load_own(name, own_objectives()[name], BUILT_IN)


def _column_spec(name: str, options: ColumnConfig) -> ObjectiveSpec:
    on = f"{options.given}" if options.given else "impression"
    meanings = {
        "binary": f"P({options.label} | {on})",
        "value": f"expected {options.label}, given {on}",
        "count": f"expected number of {options.label}, given {on}",
    }
    metrics = {"binary": "auc", "value": "rmse", "count": "deviance"}
    given = GIVEN_LABELS.get(options.given or "", options.given)
    return ObjectiveSpec(
        name,
        "pointwise",
        type(options),
        f"{_LOSSES}.pointwise:{options.kind.capitalize()}",
        f"{name} = {meanings[options.kind]}",
        form=options.kind,
        label=options.label,
        given=given,
        positive=getattr(options, "positive", False),
        title=f"p({name})" if options.kind == "binary" else name,
        metric=f"{name}/{metrics[options.kind]}",
    )


GIVEN_LABELS = {"click": "ctr", "conversion": "cvr"}
"""`given: click` says the same as `given: ctr`."""


class ObjectivesConfig(Section):
    """The objectives of a run, by name; leave one out and its tower is not built.

    Beside the built-in ones, NAME: {kind: binary | value | count, label: COLUMN, given: …} makes any column of the
    impressions an objective, and the name of one that an installed package brings takes that one. Frozen, and written
    without the absent ones: a null is read as "with its defaults".
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, SerializeAsAny[ObjectiveConfig]]

    ctr: CtrConfig | None = None
    """Click-through."""
    cvr: CvrConfig | None = None
    """Conversion."""
    diversity: DiversityConfig | None = None
    """Unlike items beside each other."""
    fairness: FairnessConfig | None = None
    """Exposure of providers."""
    coverage: CoverageConfig | None = None
    """Exposure over more of the catalogue."""
    recall: RecallConfig | None = None
    """Finding items in the whole catalogue."""

    _ORDER: ClassVar = {"pointwise": 0, "listwise": 1, "retrieval": 2}

    def active(self) -> dict[str, ObjectiveConfig]:
        """The configured objectives in the order of their towers: pointwise (`given` first), listwise, retrieval."""
        return {name: self.options(name) for name in self.specs()}

    def options(self, name: str) -> ObjectiveConfig:
        """The options of an active objective."""
        return getattr(self, name)

    def specs(self) -> dict[str, ObjectiveSpec]:
        """What each configured objective is, in the order of `active`."""
        named = {name: getattr(self, name) for name in type(self).model_fields} | dict(self.__pydantic_extra__ or {})
        every = {name: spec_of(name, options) for name, options in named.items() if options is not None}
        ranks = {name: (self._ORDER[spec.kind], len(chain(every, name))) for name, spec in every.items()}
        return {name: every[name] for name in sorted(every, key=lambda name: ranks[name])}

    def of_kind(self, kind: Literal["pointwise", "listwise", "retrieval"]) -> list[str]:
        """Names of the configured objectives of a kind, in order."""
        return [name for name, spec in self.specs().items() if spec.kind == kind]

    @model_serializer(mode="wrap")
    def _without_absent(self, serialize: Any) -> dict[str, Any]:
        # An empty key means defaults, so an absent objective must not be written as an empty key.
        return {name: options for name, options in serialize(self).items() if options is not None}

    @model_validator(mode="before")
    @classmethod
    def _empty_means_defaults(cls, value: Any) -> Any:
        if isinstance(value, dict):
            value = {name: {} if options is None else options for name, options in value.items()}
            value = {name: None if options is False else options for name, options in value.items()}
            faults: list[Any] = []
            for name in [name for name in value if name not in cls.model_fields]:
                if value[name] is None:
                    del value[name]
                elif not isinstance(value[name], ObjectiveConfig):
                    value[name] = _own_options(name, value[name], faults)
            if faults:
                raise ValidationError.from_exception_data("objectives", faults)
        return value

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler.resolve_ref_schema(handler(core_schema))
        schema["additionalProperties"] = {"anyOf": [{"type": "object"}, {"type": "null"}]}  # a class of its own each
        for options in [*schema["properties"].values(), schema["additionalProperties"]]:
            options["anyOf"].append({"const": False})
        return schema

    @model_validator(mode="after")
    def _ctr_first(self) -> "ObjectivesConfig":
        named = [name for name in type(self).model_fields if getattr(self, name) is not None]
        named += list(self.__pydantic_extra__ or {})
        if not named:
            raise ValueError("at least one objective is needed: add objectives.ctr")
        if "ctr" not in named:
            raise ValueError(f"{', '.join(named)} build on pCTR: add objectives.ctr")
        return self

    @model_validator(mode="after")
    def _places(self) -> "ObjectivesConfig":
        named = [name for name in type(self).model_fields if isinstance(getattr(self, name), PlacedConfig)]
        places = {name: getattr(self, name).places for name in named if getattr(self, name).form == "greedy"}
        if len(set(places.values())) > 1:
            raise ValueError(f"places differ ({', '.join(f'{n} {p}' for n, p in places.items())}): give all the same")
        return self

    @model_validator(mode="after")
    def _chains(self) -> "ObjectivesConfig":
        specs = {name: spec_of(name, getattr(self, name)) for name in (self.__pydantic_extra__ or {})}
        known = {name: BUILT_IN[name] for name in type(self).model_fields if getattr(self, name) is not None} | specs
        binary = [name for name, spec in known.items() if spec.form == "binary"]
        for name, spec in specs.items():
            if spec.given is not None and (spec.given not in binary or spec.given == name):
                raise ValueError(
                    f"{name}.given names '{spec.given}', which is not a binary objective of this run: name one of "
                    f"{', '.join(other for other in binary if other != name)}"
                )
            if len(chain(known, name)) > len(known):
                raise ValueError(f"{name}.given leads back to itself: leave one `given` of the circle out")
        return self


def chain(specs: Mapping[str, ObjectiveSpec], name: str) -> list[str]:
    """The binary objectives that come before `name`, the first one first; longer than `specs` where they are a circle.

    `ctr` before `cvr`: their labels must be 1 for the label of `name` to be observed.
    """
    before: list[str] = []
    given = specs[name].given
    while given is not None and len(before) <= len(specs):
        before.insert(0, given)
        given = specs[given].given if given in specs else None
    return before


def unknown_objective(name: str) -> str:
    """What to say of a name that neither this package nor an installed one knows."""
    near = nearest_name(name, [*BUILT_IN, *own_objectives()])
    return (
        f"unknown key 'objectives.{name}'{near.replace(' (', ': ').replace('?)', '?')} A column of the impressions "
        f"becomes an objective by `{name}: {{kind: binary, label: COLUMN}}` (or kind: value, count)"
    )


def _own_options(name: str, options: Any, faults: list[Any]) -> ObjectiveConfig | None:
    """The options of an objective that is not built in; what is wrong with them is added to `faults`."""

    def fault(text: str, *inside: str) -> None:
        faults.append(
            {"type": "value_error", "loc": (name, *inside), "input": options, "ctx": {"error": ValueError(text)}}
        )

    if not re.fullmatch(r"[a-z][a-z0-9_]*", str(name)) or name in RESERVED:
        fault(f"'{name}' cannot be the name of an objective: take another one, of small letters, digits and _")
        return None
    found = options.get("kind") if isinstance(options, dict) else None
    if found is None:
        own = own_objectives()
        if name not in own:
            faults.append({"type": "extra_forbidden", "loc": (name,), "input": options})
            return None
        kind: Any = _own_spec(name).options
    elif found in KINDS:
        kind = KINDS[found]
    else:
        fault(f"is '{found}': write {', '.join(KINDS)}", "kind")
        return None
    try:
        return kind.model_validate(options)
    except ValidationError as error:
        for each in error.errors():
            loc = (name, *each["loc"])
            if each["type"] == "extra_forbidden":
                fault(
                    f"is not known{nearest_name(str(each['loc'][-1]), list(kind.model_fields))}", *map(str, each["loc"])
                )
            else:
                faults.append({"type": each["type"], "loc": loc, "input": each["input"], "ctx": each.get("ctx", {})})
        return None
