"""Boosted trees (LightGBM): the settings that are tried, one fit, and their text."""

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from equipoise.common.errors import UserError
from equipoise.modeling.linear_model import Weighed

if TYPE_CHECKING:
    from lightgbm import Booster

MOST_TREES = 800
PATIENCE = 40
TREE_SETTINGS: tuple[dict[str, Any], ...] = (
    {"num_leaves": 31, "learning_rate": 0.05, "min_child_samples": 100},
    {"num_leaves": 15, "learning_rate": 0.05, "min_child_samples": 50, "lambda_l2": 5.0},
    {"num_leaves": 63, "learning_rate": 0.03, "min_child_samples": 200, "feature_fraction": 0.7},
    {
        "num_leaves": 7,
        "learning_rate": 0.08,
        "min_child_samples": 200,
        "lambda_l2": 20.0,
        "feature_fraction": 0.5,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
    },
)
"""What is tried on the validation rows; the first is the default without them, the last is for rare labels."""
DEFAULT_TREES = 300


def boost(parameters: dict[str, Any], trees: int, rows: Weighed, valid: Weighed | None = None) -> "Booster":
    """One fit, to `trees` trees or to the number that suits the validation rows best.

    Args:
        parameters: LightGBM's; `categorical_column`: positions of categories.
    """
    library = lightgbm_library()
    columns, label, weight = rows
    # Leaves of a hundred rows leave small data no split; at least fifty leaves must be possible.
    smallest = min(parameters["min_child_samples"], max(1, len(label) // 50))
    parameters = parameters | {"min_child_samples": smallest}
    kept = {key: value for key, value in parameters.items() if key != "categorical_column"}
    categories = parameters["categorical_column"]
    data = library.Dataset(
        columns, label, weight=weight, categorical_feature=categories, params=kept, free_raw_data=True
    )
    if valid is None:
        booster = library.train(kept, data, trees)
    else:
        tuned = library.Dataset(np.asarray(valid[0], np.float32), valid[1], weight=valid[2], reference=data)
        stop = library.early_stopping(PATIENCE, verbose=False)
        booster = library.train(kept, data, trees, valid_sets=[tuned], callbacks=[stop])
        booster = library.Booster(model_str=booster.model_to_string(num_iteration=booster.best_iteration))
    booster.fitted_as = (parameters, booster.num_trees())
    return booster


def refit_trees(model: "Booster", rows: Weighed) -> "Booster":
    """Trees of the same settings and number on other rows."""
    parameters, trees = model.fitted_as  # type: ignore[attr-defined]
    return boost(parameters, max(trees, 1), rows)


def read_trees(text: str) -> "Booster":
    """The trees of LightGBM's text.

    Raises:
        UserError: it is none, or LightGBM is not installed.
    """
    library = lightgbm_library()
    try:
        return library.Booster(model_str=text)
    except library.basic.LightGBMError as error:
        raise UserError(f"LightGBM cannot read the text of trees ({error}): fit them again") from error


def lightgbm_library() -> Any:
    """The module `lightgbm`, which is imported where trees are.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module("lightgbm")
    except (ImportError, OSError) as error:  # OSError: the system's libgomp is missing
        raise UserError("boosted trees need LightGBM: pip install -c constraints.txt 'equipoise[trees]'") from error
