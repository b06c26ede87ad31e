"""Balanced multi-objective LoRA fine-tuning of language-model backbones for e-commerce recommendation.

    from equipoise import Recommender, evaluate, export_run, front, load_config, prepare, train

    config = load_config("my_shop.yaml", ["train.lr=3e-4"])
    prepare(config)
    train(config)
    report = evaluate(config.output)
    front(config.output, where="ndcg>=98%", maximize="exposure_ratio")
    export_run(config.output, "exports/my_shop")
    Recommender.load("exports/my_shop").rank(user, candidates)

The names of `__all__` are the public interface. Each is loaded when it is first asked for, so that `import equipoise`
loads neither torch nor transformers.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from equipoise.common.errors import UserError
    from equipoise.configs.load import load_config
    from equipoise.configs.schema import RunConfig
    from equipoise.evaluation.evaluate_run import evaluate_run as evaluate
    from equipoise.evaluation.front.front_of_run import front_of_run as front
    from equipoise.export.write import export_run
    from equipoise.serving.recommender import Recommender
    from equipoise.train.balancing.gradient_stats import Weighting
    from equipoise.train.job import train
    from equipoise.train.objectives.base import Objective
    from equipoise.train.prepare_run import prepare_data as prepare

    __version__: str

__all__ = [
    "Objective",
    "Recommender",
    "RunConfig",
    "UserError",
    "Weighting",
    "__version__",
    "evaluate",
    "export_run",
    "front",
    "load_config",
    "prepare",
    "train",
]

# `train` is a room and a function at once: the room's module can be called (equipoise/train/__init__.py).
_SOURCES = {
    "Objective": ("equipoise.train.objectives.base", "Objective"),
    "Recommender": ("equipoise.serving.recommender", "Recommender"),
    "RunConfig": ("equipoise.configs.schema", "RunConfig"),
    "UserError": ("equipoise.common.errors", "UserError"),
    "Weighting": ("equipoise.train.balancing.gradient_stats", "Weighting"),
    "evaluate": ("equipoise.evaluation.evaluate_run", "evaluate_run"),
    "export_run": ("equipoise.export.write", "export_run"),
    "front": ("equipoise.evaluation.front.front_of_run", "front_of_run"),
    "load_config": ("equipoise.configs.load", "load_config"),
    "prepare": ("equipoise.train.prepare_run", "prepare_data"),
}


def _version() -> str:
    """The installed version, or in a checkout that is not installed the one that it would have."""
    from importlib import metadata

    try:
        return metadata.version("equipoise")
    except metadata.PackageNotFoundError:
        import tomllib
        from pathlib import Path

        project = Path(__file__).resolve().parents[1] / "pyproject.toml"
        return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])


if not TYPE_CHECKING:  # type checkers would take any name for one of ours

    def __getattr__(name: str) -> Any:
        """Load a public name when it is first asked for."""
        if name in __all__:
            importlib.import_module("equipoise.common.library_noise").leave_out_noise()
        if name == "train":
            return importlib.import_module("equipoise.train")
        if name == "__version__":
            value = _version()
        elif name in _SOURCES:
            module, source = _SOURCES[name]
            value = getattr(importlib.import_module(module), source)
        else:
            raise AttributeError(f"module 'equipoise' has no attribute '{name}'")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return list(__all__)
