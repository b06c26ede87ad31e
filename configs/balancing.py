"""The `balancing` section: which method combines the objectives' gradients, at which level, with which options."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, field_validator, model_validator

from equipoise.configs.section import Fraction, Section, Share


class NoOptions(Section):
    """The method has no settings of its own."""


class GradvacOptions(Section):
    """`momentum` of the moving average of each pair's cosine, which the method aims at."""

    momentum: Share = 0.99
    """Of the moving average of each pair's cosine, which the method aims at: 0 to below 1."""


class CagradOptions(Section):
    """`c`: radius of the search around the mean gradient, as a share of its length; 0 is the mean itself."""

    c: Share = 0.4
    """Radius of the search around the mean gradient, as a fraction of its length; 0 is the mean itself."""


class FairgradOptions(Section):
    """`alpha` of α-fairness: below 1 toward the plain sum, 1 is proportional (Nash), above it toward max-min."""

    alpha: Annotated[float, Field(ge=0.5, le=20.0)] = 2.0
    """α of α-fairness, 0.5 to 20: below 1 toward the plain sum, 1 proportional (Nash), above toward max-min."""


class PeLtrOptions(Section):
    """`floor`: the share of all weight that is dealt out by preference before the min-norm search; 0 is MGDA."""

    floor: Fraction = 0.4
    """Fraction of all weight that is dealt out by preference before the min-norm search; 0 is MGDA."""


class LexicographicOptions(Section):
    """`order` of priority (default: by preference); `tolerance`: the share of a higher one's progress it may lose."""

    order: list[str] | None = None
    """Objectives by priority, the highest first; null orders them by preference."""
    tolerance: Fraction = 0.0
    """Fraction of a higher objective's progress that it may lose: 0 to 1."""


class PcdOptions(Section):
    """`primary` objective (default: the one of highest preference); the others are promised `tau` of their progress."""

    primary: str | None = None
    """The main objective; null takes the one of highest preference."""
    tau: Fraction = 0.02
    """Fraction of their own progress that the other objectives are promised: 0 to 1."""
    momentum: Share = 0.999
    """Of the moving average of the gradients' norms: 0 to below 1."""


class EpsilonConstraintOptions(Section):
    """`bounds`: upper bound per named loss; `rate`: how fast a broken bound is mended; `momentum`: of the losses."""

    bounds: dict[str, float]
    """Objective → upper bound of its loss."""
    rate: PositiveFloat = 1.0
    """How fast the multiplier of a broken bound rises, above 0."""
    momentum: Share = 0.9
    """Of the moving average of the losses: 0 to below 1."""


class UncertaintyOptions(Section):
    """`lr` of the learnt log-variances."""

    lr: PositiveFloat = 0.025
    """Learning rate of the learnt log-variances."""


class DwaOptions(Section):
    """`temperature` of the softmax; losses are averaged over `window` steps, the paper's epoch."""

    temperature: PositiveFloat = 2.0
    """Of the softmax over the losses' rates; larger is nearer to equal weights."""
    window: PositiveInt = 20
    """Steps over which losses are averaged, the paper's epoch."""


class FamoOptions(Section):
    """`lr` and `decay` of the logits of the weights."""

    lr: PositiveFloat = 0.025
    """Learning rate of the weights' logits."""
    decay: Annotated[float, Field(ge=0.0)] = 1e-3
    """Pull of the logits toward equal weights; 0 is none."""


class StchOptions(Section):
    """`mu`: smoothness of the maximum over losses; smaller is closer to the worst loss alone."""

    mu: PositiveFloat = 0.1
    """Smoothness of the maximum over losses; smaller is nearer to the worst loss alone."""


class GradnormOptions(Section):
    """`alpha`: pull back to a common training rate; `lr` of the weights."""

    alpha: Annotated[float, Field(ge=0.0)] = 1.5
    """Strength of the pull to a common training rate; 0 levels the norms alone."""
    lr: PositiveFloat = 0.025
    """Learning rate of the weights."""


METHOD_OPTIONS: dict[str, type[Section]] = {
    "weighted": NoOptions,
    "mgda": NoOptions,
    "pcgrad": NoOptions,
    "gradvac": GradvacOptions,
    "cagrad": CagradOptions,
    "nash": NoOptions,
    "imtl_g": NoOptions,
    "aligned": NoOptions,
    "fairgrad": FairgradOptions,
    "upgrad": NoOptions,
    "dualproj": NoOptions,
    "pe_ltr": PeLtrOptions,
    "lexicographic": LexicographicOptions,
    "pcd": PcdOptions,
    "epsilon_constraint": EpsilonConstraintOptions,
    "uncertainty": UncertaintyOptions,
    "dwa": DwaOptions,
    "rlw": NoOptions,
    "famo": FamoOptions,
    "stch": StchOptions,
    "gradnorm": GradnormOptions,
}
"""Every method and what it can be told."""

OWN_SCALE = ("weighted", "aligned", "pcd", "uncertainty", "dwa", "rlw", "famo", "stch", "gradnorm")
"""Methods that settle the scale of the gradients themselves, or are about the losses: `normalize` is none for them."""

TORCHJD = "torchjd:"
WITHOUT_GRAM = {
    "NashMTL": "keeps solver objects that no checkpoint can hold: set balancing.method=nash",
    "MoDo": "needs gradients of two independent batches",
    "SDMGrad": "needs gradients of two independent batches",
    "ExcessMTL": "needs the gradients themselves, not their Gram matrix",
    "ConFIG": "needs the gradients themselves, not their Gram matrix",
    "GradDrop": "needs the gradients themselves, not their Gram matrix",
    "TrimmedMean": "needs the gradients themselves, not their Gram matrix",
    "CRMOGM": "wraps another weighting: name that one, and set balancing.gram_ema",
}
"""What TorchJD has and no Gram matrix can serve, and why."""


class Layers(Section):
    """Compare the gradients of the shared adapter in the last `layers` layers of the trunk."""

    layers: PositiveInt
    """Number of the trunk's last layers whose shared adapter's gradients are compared."""


class BalancingConfig(Section):
    """How the objectives' gradients are combined where trunk meets towers."""

    method: str = "pcgrad"
    """Name of a weighting (docs/balancing.md), or torchjd:NAME for a Gramian weighting of TorchJD."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The method's own settings; for TorchJD, the arguments of the weighting."""
    level: Literal["boundary", "parameters"] | Layers = "boundary"
    """Whose gradients are compared: `boundary` (where trunk meets towers, free), {layers: n} (the shared adapter in
    the last n trunk layers) or `parameters` (in all of them: exact, about K trunk backwards more)."""
    normalize: Literal["none", "l2", "loss"] | None = None
    """Common scale before the weighting: `l2` (mean of the norms), `loss` (divide by the loss) or `none`. null: none
    for methods with a scale of their own, l2 for the others, since norms differ by 20 to 60 times."""
    gram_ema: Share = 0.0
    """Momentum of a moving average of the Gram matrix; 0 is this step's alone."""
    balance_every: PositiveInt = 1
    """Measure and weigh at every T-th step, and use the same weights in between."""
    unbiased: bool = False
    """Take the processes' noise out of the Gram matrix; needs a level of parameters and at least 2 processes."""
    significance: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """The method acts on pairs of objectives alone that surely conflict: the chance that one is taken for sure which is
    noise, such as 0.05; without any, the step is the plain sum by preference. null acts on every batch as it is."""
    map: list[str] = Field(default_factory=list)
    """Item attributes and `data.user_groups` by whose values conflicts are told apart: which products and shoppers
    objectives disagree about, at the boundary."""
    probe_every: PositiveInt | None = None
    """At every T-th step also measure the cosines in each trunk layer, for the log alone; null never."""

    @field_validator("level", mode="before")
    @classmethod
    def _known_level(cls, value: Any) -> Any:
        layers = value.layers if isinstance(value, Layers) else value.get("layers") if isinstance(value, dict) else None
        whole = isinstance(layers, int) and layers > 0 and (isinstance(value, Layers) or len(value) == 1)
        if not whole and value not in ("boundary", "parameters"):
            raise ValueError(f"must be boundary, parameters or {{layers: n}} with n ≥ 1, not {value!r}")
        return value

    def typed_options(self) -> Section:
        """The options as the method's own class; for TorchJD they are free and stay in `options`."""
        return METHOD_OPTIONS.get(self.method, NoOptions)(**self.options)

    @model_validator(mode="after")
    def _method_and_options(self) -> "BalancingConfig":
        if self.method.startswith(TORCHJD):
            name = self.method.removeprefix(TORCHJD)
            if name in WITHOUT_GRAM:
                raise ValueError(f"{self.method} cannot be used, for it {WITHOUT_GRAM[name]}")
            return self
        if self.method not in METHOD_OPTIONS:
            known = ", ".join(METHOD_OPTIONS)
            raise ValueError(f"unknown method '{self.method}': choose from {known}, or torchjd:NAME")
        try:
            options = METHOD_OPTIONS[self.method](**self.options)
        except ValidationError as error:
            fault = error.errors()[0]
            name = ".".join(str(part) for part in fault["loc"])
            known = ", ".join(METHOD_OPTIONS[self.method].model_fields) or "none"
            reasons = {"extra_forbidden": "is not one of them", "missing": "is missing"}
            reason = reasons.get(fault["type"], f"is refused ({fault['msg']})")
            raise ValueError(f"options.{name} {reason}: the options of {self.method} are {known}") from error
        object.__setattr__(self, "options", options.model_dump())  # resolved, so that the run's config shows them
        return self

    @model_validator(mode="after")
    def _resolve_normalize(self) -> "BalancingConfig":
        if self.normalize is None:
            # Gradient norms differ by 20-60x, so most methods need a common scale before angles mean anything.
            own = self.method in OWN_SCALE
            object.__setattr__(self, "normalize", "none" if own else "l2")
        return self

    @model_validator(mode="after")
    def _probes_meet_measurements(self) -> "BalancingConfig":
        if self.probe_every is not None and self.probe_every % self.balance_every:
            raise ValueError(
                f"probe_every: {self.probe_every} must be a multiple of balance_every: {self.balance_every}, since "
                "gradients are only measured at those steps"
            )
        return self

    @model_validator(mode="after")
    def _unbiased_needs_parameters(self) -> "BalancingConfig":
        if self.unbiased and self.level == "boundary":
            raise ValueError("unbiased: true needs a level of parameters: set level: parameters or level: {layers: n}")
        return self

    def named_objectives(self) -> list[str]:
        """Objectives that the options speak of."""
        options = self.options
        if self.method == "lexicographic":
            return list(options["order"] or [])
        if self.method == "pcd":
            return [options["primary"]] if options["primary"] else []
        return list(options["bounds"]) if self.method == "epsilon_constraint" else []
