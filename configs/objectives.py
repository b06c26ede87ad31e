"""Objectives in a run configuration: their options, and which of them a run has."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PositiveFloat, model_serializer, model_validator

from equipoise.configs.section import Section, Share

POINTWISE_KINDS = ("ctr", "cvr")
LISTWISE_KINDS = ("diversity", "fairness", "coverage")


class ObjectiveConfig(Section):
    """What every objective has: a positive weight, its preference in the balancing."""

    weight: PositiveFloat = 1.0


class CtrConfig(ObjectiveConfig):
    """Click-through: binary cross-entropy on click."""


class CvrConfig(ObjectiveConfig):
    """Conversion over the entire space (ESMM), or by inverse propensity / doubly robust on clicks (ESCM²)."""

    estimator: Literal["esmm", "ips", "dr"] = "esmm"
    min_propensity: Annotated[float, Field(gt=0.0, le=1.0)] = 0.02


class ListwiseConfig(ObjectiveConfig):
    """What list-wise objectives share: the exposure's temperature τ and the pull β back to pure relevance."""

    temperature: PositiveFloat = 1.0
    beta: Annotated[float, Field(ge=0.0)] = 0.1


class DiversityConfig(ListwiseConfig):
    """J = Σ_ij π_i π_j S_ij, S from a path of item attributes (coarse to fine) or from frozen text embeddings."""

    similarity: Literal["attributes", "text"] = "attributes"
    attributes: list[str] = Field(default_factory=lambda: ["category"])


class GroupedConfig(ListwiseConfig):
    """Exposure of the groups of one item attribute, over the global batch with a moving average."""

    attribute: str
    momentum: Share = 0.9


class FairnessConfig(GroupedConfig):
    """Provider-side exposure against a target: the group's share of candidates (parity) or of relevance (merit)."""

    attribute: str = "provider"
    target: Literal["parity", "merit"] = "parity"


class CoverageConfig(GroupedConfig):
    """Negative entropy of the exposure over the values of one item attribute."""

    attribute: str = "category"


class RecallConfig(ObjectiveConfig):
    """Finding items in the whole catalogue: vectors of shoppers and items, by sampled softmax with log-Q correction.

    Each micro-batch of a process draws `shoppers` training requests and one clicked item of each; all of those items
    and `negatives` others, drawn evenly from the catalogue, compete for every shopper.
    """

    dimension: Annotated[int, Field(ge=8)] = 128
    shoppers: Annotated[int, Field(ge=2)] = 32
    negatives: Annotated[int, Field(ge=0)] = 128


class ObjectivesConfig(Section):
    """The objectives of a run, by name; leave one out and its tower is not built.

    Frozen, and written without the absent ones: a null is read as "with its defaults".
    """

    model_config = ConfigDict(frozen=True)

    ctr: CtrConfig | None = None
    cvr: CvrConfig | None = None
    diversity: DiversityConfig | None = None
    fairness: FairnessConfig | None = None
    coverage: CoverageConfig | None = None
    recall: RecallConfig | None = None

    def active(self) -> dict[str, ObjectiveConfig]:
        """The configured objectives, in the fixed order of this class."""
        named = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: options for name, options in named.items() if options is not None}

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
        return value

    @model_validator(mode="after")
    def _ctr_first(self) -> "ObjectivesConfig":
        active = self.active()
        if not active:
            raise ValueError("at least one objective is needed: add objectives.ctr")
        if "ctr" not in active:
            others = ", ".join(active)
            raise ValueError(f"{others} build on pCTR: add objectives.ctr")
        return self
