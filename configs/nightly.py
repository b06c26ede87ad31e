"""Settings of `equipoise nightly`: what a night trains on, and what may replace the model of the day before."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from equipoise.configs.section import Fraction, Section, Share

Rise = Annotated[float, Field(ge=0.0)]


class NightlyConfig(Section):
    """A training every night, from the run of the night before, and the decision whether it is served."""

    state: Path | None = None
    """Folder of the prepared days, runs, exports and decisions, with the link `current`; null takes OUTPUT-nightly."""
    label_days: Annotated[int, Field(ge=0)] = 0
    """Days after which the labels of a day are known: on the night of day D the newest day that is read is D less
    these. 0 where all that happens to an impression happens on its day."""
    replay: Fraction = 0.2
    """Fraction of the requests of older days that are trained on again beside the new ones, drawn anew every night."""
    replay_days: PositiveInt | None = 28
    """Days before the newest one from which they are drawn; null draws from all."""
    valid_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Fraction of requests that are never trained on, by a hash of their id: the valid split of every night."""
    epochs: PositiveFloat | None = None
    """Passes over the new and replayed requests; null takes `train.epochs`."""
    lr_ratio: PositiveFloat = 1.0
    """Learning rates of a night that goes on from an earlier one, as a fraction of those of `train`."""
    prior: Literal["keep", "refit"] = "keep"
    """Priors of the run before, or fitted again on what a night trains on (`train.start_prior`)."""
    promote: Literal["not_worse", "better"] = "not_worse"
    """Whether tonight's model is served where it is not surely worse than the one that is served, or only where it is
    surely better: by 95 % intervals of the paired difference in AUC on the newest day."""
    most_loss: Rise = 0.01
    """Loss of AUC that refuses tonight's model whatever its interval says."""
    most_ece_rise: Rise = 0.02
    """Rise of the expected calibration error that refuses it."""
    most_ne_rise: Rise = 0.02
    """Rise of the normalised entropy that refuses it, where the interval of the difference is above 0."""
    most_slice_loss: Rise = 0.03
    """Loss of AUC in one group of `data.user_groups`, or on new items, that refuses it, where the interval of the
    difference is below 0."""
    most_exposure_drop: Rise = 0.05
    """Drop of the exposure ratio of provider groups that refuses it, where an objective reads providers."""
    most_slowdown: PositiveFloat = 2.0
    """Seconds of scoring the newest day, as a multiple of those of the model that is served, that refuse it."""
    most_day_drop: Share = 0.5
    """Fraction of what the served model's AUC is above 0.5 that may be gone on a new day; a day on which more is gone
    is refused, for its labels or columns are not what they were, and is never trained on."""
    drift: PositiveFloat = 0.25
    """Population stability index (PSI) above which a column, a label rate or the scores are said to have drifted."""
    golden: PositiveInt = 32
    """Golden prompts of each export."""
