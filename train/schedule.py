"""The learning rate as a plain function of the step, so that resuming needs no state."""

import math


def rate_factor(step: int, total: int, warmup: float, floor: float) -> float:
    """Linear warm-up over `warmup`·total steps, then half a cosine down to `floor`; step counts from 0."""
    ramp = max(1, round(warmup * total))
    if step < ramp:
        return (step + 1) / ramp
    done = min(1.0, (step - ramp) / max(1, total - ramp))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))
