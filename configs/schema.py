"""The schema of a run configuration.

Nothing heavy is imported here, so a config is checked in milliseconds and without a GPU. Every class refuses unknown
keys; settings that cannot live together are refused with the name of the one to change.
"""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from equipoise.configs.balancing import BalancingConfig
from equipoise.configs.features import FeatureConfig
from equipoise.configs.objectives import ObjectivesConfig
from equipoise.configs.relevance import default_relevance, parse_relevance
from equipoise.configs.renamed import with_new_names
from equipoise.configs.section import Section, Share

DEFAULT_MAX_TOKENS = 8192


class TablesConfig(Section):
    """The three tables of a data set, and optionally its events: Parquet, CSV or JSONL, by file ending."""

    impressions: Path
    items: Path
    users: Path | None = None
    events: Path | None = None


class SplitConfig(Section):
    """How requests are split in time: by a column of `impressions`, by two dates, or by shares of the latest ones.

    `holdout_users`: that share of all users is kept out of train and valid, so that their test requests are of new
    shoppers.
    """

    column: str | None = None
    valid_from: datetime | None = None
    test_from: datetime | None = None
    valid_fraction: Share = 0.1
    test_fraction: Share = 0.2
    holdout_users: Share = 0.0

    @model_validator(mode="after")
    def _one_way(self) -> "SplitConfig":
        if (self.valid_from is None) != (self.test_from is None):
            raise ValueError("valid_from and test_from belong together: give both or neither")
        if self.column and self.valid_from:
            raise ValueError("column and valid_from/test_from exclude each other: drop one of them")
        if self.valid_from and self.test_from and (self.valid_from.tzinfo is None) != (self.test_from.tzinfo is None):
            raise ValueError("valid_from and test_from must both have a time zone or both have none")
        if self.valid_from and self.test_from and self.valid_from >= self.test_from:
            raise ValueError("valid_from must be earlier than test_from")
        if self.valid_fraction + self.test_fraction >= 1:
            raise ValueError("valid_fraction + test_fraction must be below 1: lower one of them")
        return self


class HistoryConfig(Section):
    """Which events before a request are told in its prefix.

    `items`: also keep of which catalogue items they were, and how often, for recall.
    """

    max_events: Annotated[int, Field(ge=0)] = 12
    order: Literal["recent", "frequent"] = "recent"
    kinds: list[str] | None = None
    label: str = "bought before: "
    items: bool = False


class PromptConfig(Section):
    """Templates, piece by piece: a piece such as "age {age}" vanishes where one of its fields is missing.

    `{field|count}`, `{field|days}`, `{field|money}` and `{field|share}` render numbers as coarse words. `prefix` pieces
    read request and user fields, `item` pieces the items table, `context` pieces fields of the single impression.
    """

    prefix: list[str] = Field(default_factory=list)
    item: list[str] = Field(default_factory=lambda: ["{title}"])
    context: list[str] = Field(default_factory=list)
    separator: str = ", "

    @field_validator("item")
    @classmethod
    def _some_item_text(cls, value: list[str]) -> list[str]:
        if not value:
            raise ValueError("needs at least one piece, such as '{title}'")
        return value


class DataConfig(Section):
    """Where the tables come from, how they are cut into slates, and where the prepared slates lie.

    `features`: columns (of impressions, and where one has none there, of items, then of users) that the heads read
    beside the texts: numbers such as a price, a count with `scale: log1p`, a segment with `scale: category`.
    `behaviour` names the fields of the prompt, and the features, that only a shopper with a past has, `profile` those
    that a new one may have told: what `equipoise newcomers` and `train.feature_dropout` leave out, with the history.
    """

    folder: Path
    source: Literal["tables", "complete_journey", "complete_journey_products"] = "tables"
    tables: TablesConfig | None = None
    split: SplitConfig = Field(default_factory=SplitConfig)
    history: HistoryConfig = Field(default_factory=HistoryConfig)
    prompt: PromptConfig = Field(default_factory=PromptConfig)
    max_candidates: Annotated[int, Field(ge=2)] = 512
    fields: list[str] = Field(default_factory=list)
    features: list[FeatureConfig] = Field(default_factory=list)
    user_groups: list[str] = Field(default_factory=list)
    behaviour: list[str] = Field(default_factory=list)
    profile: list[str] = Field(default_factory=list)
    shard_requests: PositiveInt = 20_000
    memory_limit: str = "4GB"

    @model_validator(mode="after")
    def _source_and_tables(self) -> "DataConfig":
        if self.source == "tables" and self.tables is None:
            raise ValueError("source: tables needs data.tables.impressions and data.tables.items")
        if self.source != "tables" and self.tables is not None:
            raise ValueError(f"source: {self.source} brings its own tables: drop data.tables or set source: tables")
        names = self.feature_names
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"features names '{twice[0]}' twice: drop one")
        return self

    @property
    def feature_names(self) -> list[str]:
        """Names of the features, in their order."""
        return [feature.name for feature in self.features]


class TokensConfig(Section):
    """Token limits. Longer prefixes and candidates are cut at the end, counted and reported."""

    max_prefix: Annotated[int, Field(ge=8)] = 160
    max_candidate: Annotated[int, Field(ge=4)] = 48
    max_row: PositiveInt = 1024


class BackboneConfig(Section):
    """The frozen language model: a hub id, a folder, or `pkg://PACKAGE/FOLDER` inside an installed package.

    `pooling`: heads read a candidate's last token, so that the last layer runs for that one alone, or (encoders only)
    the mean of its tokens.
    """

    path: str
    tokenizer: str | None = None  # where the tokenizer lies, if not at `path`
    init: Literal["pretrained", "random"] = "pretrained"
    revision: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    split: PositiveInt | None = None
    checkpointing: bool = False
    attention: Literal["auto", "split", "sdpa", "flex"] = "auto"
    compile: bool = False
    pooling: Literal["last", "mean"] = "last"
    quantize: Literal["4bit"] | None = None


class LoraConfig(Section):
    """The shape of every adapter, shared and per objective.

    `scope: candidates`: the objectives' adapters leave prefix tokens alone, so that a prefix passes the upper layers
    once for all of them. `all`: ordinary LoRA, as servers such as vLLM apply it.
    """

    rank: PositiveInt = 16
    alpha: PositiveInt = 32
    dropout: Share = 0.0
    rslora: bool = False
    targets: Literal["attention", "all-linear"] | list[str] = "all-linear"
    scope: Literal["all", "candidates"] = "candidates"


class TrainConfig(Section):
    """The training loop.

    A batch is counted in tokens per process and micro-batch (`max_tokens`, 8192 where nothing is set), or in slates
    (`batch_size`); one of the two is null.
    """

    epochs: PositiveFloat = 1.0
    max_steps: PositiveInt | None = None
    batch_size: PositiveInt | None = None
    max_tokens: PositiveInt | None = None
    accumulate: PositiveInt = 1
    negatives: PositiveInt | None = 16
    feature_dropout: Share = 0.0
    lr: PositiveFloat = 1e-3
    head_lr: PositiveFloat = 1e-3
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    warmup: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05
    min_lr_ratio: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05
    max_grad_norm: PositiveFloat = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"
    workers: Annotated[int, Field(ge=0)] = 0
    log_every: PositiveInt = 10
    eval_every: PositiveInt | None = None
    eval_requests: PositiveInt = 64
    save_every: PositiveInt | None = None
    keep_checkpoints: PositiveInt = 2
    max_nonfinite: PositiveInt = 20
    self_check: bool = True

    @model_validator(mode="after")
    def _one_measure(self) -> "TrainConfig":
        if self.batch_size is not None and self.max_tokens is not None:
            raise ValueError("batch_size and max_tokens exclude each other: set one of them to null")
        if self.batch_size is None and self.max_tokens is None:
            object.__setattr__(self, "max_tokens", DEFAULT_MAX_TOKENS)
        return self


class EvaluateConfig(Section):
    """Offline evaluation, in batches of `max_tokens`. `omegas` are operating points: {} is pure relevance."""

    omegas: list[dict[str, float]] | None = None
    cutoffs: list[PositiveInt] = Field(default_factory=lambda: [5, 10])
    max_requests: PositiveInt | None = None
    max_tokens: PositiveInt = 16_384
    field_baselines: list[str] = Field(default_factory=list)


class WandbConfig(Section):
    """Weights & Biases through Accelerate's tracker."""

    mode: Literal["online", "offline", "disabled"] = "disabled"
    project: str = "equipoise"
    entity: str | None = None
    group: str | None = None
    job_type: str = "train"
    tags: list[str] = Field(default_factory=list)


class RunConfig(Section):
    """One run: everything that the commands need, from the tables to the exported adapters."""

    name: str
    output: Path
    seed: Annotated[int, Field(ge=0)] = 17
    data: DataConfig
    tokens: TokensConfig = Field(default_factory=TokensConfig)
    backbone: BackboneConfig
    lora: LoraConfig = Field(default_factory=LoraConfig)
    objectives: ObjectivesConfig
    relevance: str | None = None
    balancing: BalancingConfig = Field(default_factory=BalancingConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    wandb: WandbConfig = Field(default_factory=WandbConfig)
    tensorboard: bool = False
    mlflow: bool = False

    @model_validator(mode="before")
    @classmethod
    def _new_names(cls, value: Any) -> Any:
        return with_new_names(value)[0]  # so that what older versions wrote is read, wherever it lies

    @model_validator(mode="after")
    def _settings_that_meet(self) -> "RunConfig":
        if self.tokens.max_row < self.tokens.max_prefix + self.tokens.max_candidate:
            raise ValueError(
                "tokens.max_row must hold one prefix and one candidate: raise it to at least "
                f"{self.tokens.max_prefix + self.tokens.max_candidate} or lower tokens.max_prefix"
            )
        if self.backbone.dtype == "bfloat16" and self.train.precision == "fp32":
            raise ValueError("backbone.dtype: bfloat16 needs train.precision: bf16, or set backbone.dtype: float32")
        self.relevance_exponents()
        for name in self.balancing.named_objectives():
            if name not in self.objectives.active():
                raise ValueError(
                    f"balancing.options names '{name}', which is no objective of this run: add it to objectives or "
                    "drop it from the options"
                )
        missing = set(self.evaluate.field_baselines) - set(self.data.fields)
        if missing:
            name = sorted(missing)[0]
            raise ValueError(f"evaluate.field_baselines names '{name}', which is not kept: add it to data.fields")
        listwise = self.objectives.of_kind("listwise")
        for omega in self.evaluate.omegas or []:
            for name in omega:
                if name not in listwise:
                    raise ValueError(
                        f"evaluate.omegas names '{name}', which is no list-wise objective of this run: "
                        "add it to objectives or drop it from the operating point"
                    )
        return self

    def relevance_exponents(self) -> dict[str, float]:
        """v of the objectives in r = Σ v log p: those of `relevance`, or 1 of ctr and cvr.

        Raises:
            ValueError: the formula cannot be read, or names what this run does not have.
        """
        known = [name for name, spec in self.objectives.specs().items() if spec.in_relevance]
        return parse_relevance(self.relevance or default_relevance(known), known)
