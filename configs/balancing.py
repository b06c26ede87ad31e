"""The `balancing` section: which method combines the objectives' gradients, at which level, with which options."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, field_validator, model_validator

from equipoise.configs.section import Fraction, Section, Share


class NoOptions(Section):
    """The method has no settings of its own."""


class GradvacOptions(Section):
    """`momentum` of the moving average of each pair's cosine, which the method aims at."""

    momentum: Share = 0.99


class CagradOptions(Section):
    """`c`: radius of the search around the mean gradient, as a share of its length; 0 is the mean itself."""

    c: Share = 0.4


class FairgradOptions(Section):
    """`alpha` of α-fairness: below 1 toward the plain sum, 1 is proportional (Nash), above it toward max-min."""

    alpha: Annotated[float, Field(ge=0.5, le=20.0)] = 2.0


class PeLtrOptions(Section):
    """`floor`: the share of all weight that is dealt out by preference before the min-norm search; 0 is MGDA."""

    floor: Fraction = 0.4


class LexicographicOptions(Section):
    """`order` of priority (default: by preference); `tolerance`: the share of a higher one's progress it may lose."""

    order: list[str] | None = None
    tolerance: Fraction = 0.0


class PcdOptions(Section):
    """`primary` objective (default: the one of highest preference); the others are promised `tau` of their progress."""

    primary: str | None = None
    tau: Fraction = 0.02
    momentum: Share = 0.999


class EpsilonConstraintOptions(Section):
    """`bounds`: upper bound per named loss; `rate`: how fast a broken bound is mended; `momentum`: of the losses."""

    bounds: dict[str, float]
    rate: PositiveFloat = 1.0
    momentum: Share = 0.9


class UncertaintyOptions(Section):
    """`lr` of the learnt log-variances."""

    lr: PositiveFloat = 0.025


class DwaOptions(Section):
    """`temperature` of the softmax; losses are averaged over `window` steps, the paper's epoch."""

    temperature: PositiveFloat = 2.0
    window: PositiveInt = 20


class FamoOptions(Section):
    """`lr` and `decay` of the logits of the weights."""

    lr: PositiveFloat = 0.025
    decay: Annotated[float, Field(ge=0.0)] = 1e-3


class StchOptions(Section):
    """`mu`: smoothness of the maximum over losses; smaller is closer to the worst loss alone."""

    mu: PositiveFloat = 0.1


class GradnormOptions(Section):
    """`alpha`: pull back to a common training rate; `lr` of the weights."""

    alpha: Annotated[float, Field(ge=0.0)] = 1.5
    lr: PositiveFloat = 0.025


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


class Layers(Section):
    """Compare the gradients of the shared adapter in the last `layers` layers of the trunk."""

    layers: PositiveInt


class BalancingConfig(Section):
    """How the objectives' gradients are combined where trunk meets towers.

    Attributes:
        method: one of METHOD_OPTIONS, or `torchjd:NAME` for a Gramian weighting of TorchJD.
        options: the method's own settings; for TorchJD, the arguments of the weighting.
        level: whose gradients are compared: `boundary` (the cotangents at z, free), `{layers: n}` (the shared adapter
            in the last n trunk layers), `parameters` (in all of them: exact, about K trunk backwards more).
        normalize: bring the gradients to a common scale first: `l2` (the mean of their norms), `loss` (divide each by
            its loss), `none`. Left out: none for methods with a scale of their own, l2 for the others.
        gram_ema: momentum of a moving average of the Gram matrix; 0 is this step's alone.
        balance_every: measure and solve at every T-th step, and use the same weights in between.
        unbiased: take the processes' noise out of the Gram matrix (levels `layers` and `parameters`, ≥ 2 processes).
        probe_every: at every T-th step also measure the cosines in each trunk layer, for the log alone.
    """

    method: str = "pcgrad"
    options: dict[str, Any] = Field(default_factory=dict)
    level: Literal["boundary", "parameters"] | Layers = "boundary"
    normalize: Literal["none", "l2", "loss"] | None = None
    gram_ema: Share = 0.0
    balance_every: PositiveInt = 1
    unbiased: bool = False
    probe_every: PositiveInt | None = None

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
