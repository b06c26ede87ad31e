"""Pointwise metrics: how well each probability separates (AUC, GAUC) and how true it is (log loss, NE, ECE).

Every function returns NaN where a metric is undefined (no rows, one class only, a score that is NaN); none raises.
`weight`, (N,), says how much each row counts; None counts all alike. A row of weight 2 counts as the same row twice.
"""

import numpy as np

CLIP = 1e-7
BINS = 15

METRICS = ("auc", "gauc", "log_loss", "ne", "ece", "predicted", "observed")


def auc(label: np.ndarray, score: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Area under the ROC curve: the probability that a positive scores above a negative, ties counting half.

    Args:
        label: 0 or 1, (N,).
        score: any real score, (N,).
        weight: of the rows; a pair counts by the product of its two weights.
    """
    if not _two_classes(label) or not np.isfinite(score).all():
        return float("nan")
    from sklearn.metrics import roc_auc_score  # takes a second to import, and comparisons do without it

    return float(roc_auc_score(label, score, sample_weight=weight))


def request_auc(
    label: np.ndarray, score: np.ndarray, request: np.ndarray, weight: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """AUC of each request and its number of rows (or sum of weights), (R,), by ascending request number.

    A request with one class only is NaN. Counted from ties as the Mann-Whitney U of each request (Mann & Whitney 1947).
    """
    numbers, segment = np.unique(request, return_inverse=True)
    count = len(numbers)
    rows = np.bincount(segment, weight, minlength=count)
    order = np.lexsort((score, segment))
    segment, score = segment[order], score[order]
    if not len(order):
        return np.empty(0), rows
    mass = np.ones(len(order), np.int64) if weight is None else np.asarray(weight, np.float64)[order]
    positive = np.where(label[order] == 1, mass, 0)
    # A run is a set of equal scores in one request; a positive beats the negatives of the runs before its own.
    starts = np.flatnonzero(np.r_[True, (np.diff(segment) != 0) | (score[1:] != score[:-1])])
    positives = np.add.reduceat(positive, starts)
    negatives = np.add.reduceat(mass - positive, starts)
    run_segment = segment[starts]
    all_positives = np.bincount(run_segment, positives, count)
    all_negatives = np.bincount(run_segment, negatives, count)
    before_request = np.cumsum(all_negatives) - all_negatives
    beaten = np.cumsum(negatives) - negatives - before_request[run_segment]
    wins = np.bincount(run_segment, positives * (beaten + negatives / 2), count)
    pairs = all_positives * all_negatives
    return np.divide(wins, pairs, out=np.full(count, np.nan), where=pairs > 0), rows


def gauc(label: np.ndarray, score: np.ndarray, request: np.ndarray, weight: np.ndarray | None = None) -> float:
    """AUC per request, averaged with the impressions as weights, over requests with both labels (Zhu et al. 2017).

    Args:
        label: 0 or 1, (N,).
        score: any real score, (N,).
        request: request number, (N,), in any order.
        weight: of the rows; a request counts by its sum.
    """
    if not np.isfinite(score).all():
        return float("nan")
    return weighted_gauc(*request_auc(label, score, request, weight))


def uauc(label: np.ndarray, score: np.ndarray, user: np.ndarray, weight: np.ndarray | None = None) -> float:
    """AUC per user over all requests, averaged without weights over users with both labels.

    Args:
        label: 0 or 1, (N,).
        score: any real score, (N,).
        user: number or name of each row's user, (N,), in any order.
        weight: of the rows within each user; users count alike.
    """
    if not np.isfinite(score).all():
        return float("nan")
    aucs, _ = request_auc(label, score, np.unique(user, return_inverse=True)[1], weight)
    return weighted_gauc(aucs, np.ones(len(aucs)))


def weighted_gauc(aucs: np.ndarray, weights: np.ndarray) -> float:
    """The mean of per-request AUCs (R,) with weights (R,), leaving out those that are NaN."""
    kept = np.isfinite(aucs)
    total = weights[kept].sum()
    return float((aucs[kept] * weights[kept]).sum() / total) if total > 0 else float("nan")


def log_loss(label: np.ndarray, probability: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Mean binary cross-entropy in nats, probabilities clipped to [1e-7, 1 − 1e-7]; defined for one class too."""
    if not len(label):
        return float("nan")
    clipped = np.clip(probability.astype(np.float64), CLIP, 1 - CLIP)
    return float(-np.average(np.where(label == 1, np.log(clipped), np.log1p(-clipped)), weights=weight))


def normalized_entropy(label: np.ndarray, probability: np.ndarray, weight: np.ndarray | None = None) -> float:
    """NE: log loss over the entropy of the observed base rate (He et al. 2014); 1 is as good as the base rate."""
    if not _two_classes(label):
        return float("nan")
    rate = np.average(np.asarray(label, np.float64), weights=weight)
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
    return log_loss(label, probability, weight) / float(entropy)


def calibration_error(
    label: np.ndarray, probability: np.ndarray, bins: int = BINS, weight: np.ndarray | None = None
) -> float:
    """ECE: mean |observed − predicted| over bins of equal mass, weighted by rows (Naeini et al. 2015).

    Rows of equal probability share their mean label, so that the result does not depend on the order of rows.
    """
    if not len(label) or not np.isfinite(probability).all():
        return float("nan")
    if weight is not None:
        mass, predicted, observed, _ = bin_sums(label, probability, weight, bins)
        return float(np.abs(observed - predicted).sum() / mass.sum())
    values, mean_label, counts = tied_labels(label, probability)
    excess = np.repeat(mean_label - values, counts)
    gaps = [abs(part.sum()) for part in np.array_split(excess, bins)]
    return float(sum(gaps) / len(label))


def tied_labels(label: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct probabilities, ascending, the mean label of the rows of each, and how many there are."""
    values, run, counts = np.unique(probability, return_inverse=True, return_counts=True)
    return values, np.bincount(run, label) / counts, counts


def bin_sums(
    label: np.ndarray, probability: np.ndarray, weight: np.ndarray, bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Bins of equal weight by rising probability, whose ends may cut a row in two: float64 (bins,) each.

    Returns:
        sums over each bin: of weights, of weighted probabilities, of weighted labels (rows of equal probability share
        their mean label), and of squared weights.
    """
    values, run = np.unique(probability, return_inverse=True)
    mass = np.bincount(run, weight)
    reached = np.r_[0.0, np.cumsum(mass)]
    ends = np.linspace(0.0, reached[-1], bins + 1)

    def sums(column: np.ndarray) -> np.ndarray:
        return np.diff(np.interp(ends, reached, np.r_[0.0, np.cumsum(column)]))

    labels, squares = np.bincount(run, weight * label), np.bincount(run, weight**2)
    return sums(mass), sums(mass * values), sums(labels), sums(squares)


def target_metrics(
    label: np.ndarray,
    probability: np.ndarray,
    request: np.ndarray,
    user: np.ndarray | None = None,
    weight: np.ndarray | None = None,
) -> dict[str, float]:
    """All metrics of one target, keyed as METRICS; `predicted` and `observed` are the mean probability and label.

    Args:
        label: 0 or 1, (N,).
        probability: in [0, 1], (N,).
        request: request number, (N,).
        user: number or name of each row's user, (N,), for `uauc` beside the others.
        weight: how much each row counts, (N,); None counts all alike.
    """
    label = np.asarray(label)
    probability = np.asarray(probability, np.float64)
    empty = not len(label)
    return {
        "auc": auc(label, probability, weight),
        "gauc": gauc(label, probability, request, weight),
        **({} if user is None else {"uauc": uauc(label, probability, user, weight)}),
        "log_loss": log_loss(label, probability, weight),
        "ne": normalized_entropy(label, probability, weight),
        "ece": calibration_error(label, probability, weight=weight),
        "predicted": float("nan") if empty else float(np.average(probability, weights=weight)),
        "observed": float("nan") if empty else float(np.average(label.astype(np.float64), weights=weight)),
    }


def targets(
    click: np.ndarray, conversion: np.ndarray, pctr: np.ndarray, pcvr: np.ndarray | None, request: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(label, probability, request) of each target: ctr, and with pCVR also ctcvr and, on clicked rows, cvr."""
    click, conversion, request = np.asarray(click), np.asarray(conversion), np.asarray(request)
    pctr = np.asarray(pctr, np.float64)
    arrays = {"ctr": (click, pctr, request)}
    if pcvr is not None:
        pcvr = np.asarray(pcvr, np.float64)
        clicked = click == 1
        arrays["ctcvr"] = (click * conversion, pctr * pcvr, request)
        arrays["cvr"] = (conversion[clicked], pcvr[clicked], request[clicked])
    return arrays


def target_weight(target: str, click: np.ndarray, weight: np.ndarray | None) -> np.ndarray | None:
    """The weights of the rows that `targets` gives of a target; None where all count alike."""
    return weight[np.asarray(click) == 1] if weight is not None and target == "cvr" else weight


def pointwise_metrics(
    click: np.ndarray,
    conversion: np.ndarray,
    pctr: np.ndarray,
    pcvr: np.ndarray | None,
    request: np.ndarray,
    user: np.ndarray | None = None,
    weight: np.ndarray | None = None,
) -> dict[str, float]:
    """The metrics of all targets in one flat dict, for validation while training: "ctr/auc", "ctcvr/ne", …

    Args:
        click, conversion: 0 or 1, (N,).
        pctr: probability of a click, (N,).
        pcvr: probability of a conversion given a click, (N,), or None.
        request: request number, (N,), in any order.
        user: number or name of each row's user, (N,), for the UAUC of the targets of all rows.
        weight: how much each row counts, (N,); None counts all alike.

    Returns:
        TARGET/METRIC → value; NaN where undefined, also where a prediction is NaN.
    """
    return {
        f"{target}/{metric}": value
        for target, arrays in targets(click, conversion, pctr, pcvr, request).items()
        for metric, value in target_metrics(
            *arrays, None if target == "cvr" else user, target_weight(target, click, weight)
        ).items()
    }


def _two_classes(label: np.ndarray) -> bool:
    return len(label) > 0 and bool(label.min() != label.max())
