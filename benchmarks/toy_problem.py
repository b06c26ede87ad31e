"""The two-dimensional problem of CAGrad (Liu et al. 2021, appendix), also used by Nash-MTL (2022) and FAMO (2023).

    L1 = c1·f1 + c2·g1,    L2 = c1·f2 + c2·g2
    f1 = log max(|(−x1 − 7)/2 − tanh(−x2)|, 5e-6) + 6          f2 = log max(|(−x1 + 3)/2 + tanh(−x2) + 2|, 5e-6) + 6
    g1 = ((−x1 + 7)² + (−x2 − 8)²/10)/10 − 20                  g2 = ((−x1 − 7)² + (−x2 − 8)²/10)/10 − 20
    c1 = max(tanh(x2/2), 0)                                    c2 = max(tanh(−x2/2), 0)

The upper half (x2 > 0) has two narrow valleys whose gradients conflict; below lies the Pareto set, near x2 = −8 between
x1 = −7 and 7. The sign of tanh in f2 is that of the authors' code (github.com/Cranial-XIX/CAGrad, toy.py), which makes
the problem symmetric. The five starts are those of Nash-MTL's code (experiments/toy/trainer.py). `max` lets the
gradient through where both sides are equal, as torch.clamp does: otherwise the start (0, 0) could not move.
"""

import numpy as np
from scipy.optimize import brentq

OBJECTIVES = ("L1", "L2")
STARTS = np.array([[-8.5, 7.5], [0.0, 0.0], [9.0, 9.0], [-7.5, -0.5], [9.0, -1.0]])
LEAST = np.array([-21.0, -21.0])
"""A lower bound of both losses (their minima are −19.995), for methods that read losses; FAMO's code takes the same."""

_SMALLEST = 5e-6


def losses_and_gradients(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both losses and their gradients.

    Args:
        points: float64 (…, 2).

    Returns:
        losses (…, 2) and gradients (…, 2 losses, 2 coordinates).
    """
    x1, x2 = points[..., 0], points[..., 1]
    half, tanh = np.tanh(x2 / 2), np.tanh(x2)
    slope_half, slope_tanh = (1 - half**2) / 2, 1 - tanh**2
    c1, c2 = np.maximum(half, 0.0), np.maximum(-half, 0.0)
    slope_c1, slope_c2 = np.where(half >= 0, slope_half, 0.0), np.where(half <= 0, -slope_half, 0.0)
    losses = np.empty(points.shape)
    gradients = np.empty((*points.shape[:-1], 2, 2))
    # What stands inside the logarithm, its slopes along x1 and x2, and the middle of the bowl.
    insides = ((-x1 - 7) / 2 + tanh, slope_tanh, 7.0), ((-x1 + 3) / 2 - tanh + 2, -slope_tanh, -7.0)
    for k, (inside, along_x2, middle) in enumerate(insides):
        size = np.maximum(np.abs(inside), _SMALLEST)
        f = np.log(size) + 6
        slope = np.where(np.abs(inside) >= _SMALLEST, np.sign(inside) / size, 0.0)
        g = ((x1 - middle) ** 2 + (x2 + 8) ** 2 / 10) / 10 - 20
        losses[..., k] = c1 * f + c2 * g
        gradients[..., k, 0] = c1 * slope * -0.5 + c2 * (x1 - middle) / 5
        gradients[..., k, 1] = slope_c1 * f + c1 * slope * along_x2 + slope_c2 * g + c2 * (x2 + 8) / 50
    return losses, gradients


def pareto_set(count: int = 1001) -> np.ndarray:
    """Points that no other point beats in both losses, from the minimum of L1 to that of L2, float64 (count, 2).

    They minimise w·L1 + (1 − w)·L2 for w from 1 to 0. Below x2 = 0 that is c2(x2)·(A + (x2 + 8)²/100) with the same
    x1 = 14w − 7 for every x2, so that one equation in x2 is left for each w.
    """
    shares = np.linspace(1.0, 0.0, count)
    points = np.empty((count, 2))
    for k, w in enumerate(shares):
        x1 = 14 * w - 7
        bowl = (w * (x1 - 7) ** 2 + (1 - w) * (x1 + 7) ** 2) / 10 - 20

        def slope(x2: float, bowl: float = bowl) -> float:
            half = np.tanh(-x2 / 2)
            return float(half * (x2 + 8) / 50 - (1 - half**2) / 2 * (bowl + (x2 + 8) ** 2 / 100))

        points[k] = x1, brentq(slope, -12.0, -8.0, xtol=1e-12)
    return points


def distance_to_front(losses: np.ndarray, front: np.ndarray) -> np.ndarray:
    """Euclidean distance, in the plane of the losses, to the polyline through `front`.

    Args:
        losses: (…, 2).
        front: (P, 2), losses of neighbouring Pareto points.

    Returns:
        (…); points between the front and the ideal point cannot exist, so the distance has no sign.
    """
    start, along = front[:-1], np.diff(front, axis=0)
    offset = losses[..., None, :] - start
    share = np.clip((offset * along).sum(-1) / (along**2).sum(-1), 0.0, 1.0)
    return np.linalg.norm(offset - share[..., None] * along, axis=-1).min(-1)
