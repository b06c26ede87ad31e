"""Objectives, gradient balancing, and the training loop.

The module can be called: `from equipoise import train; train(config)` is `equipoise.train.job.train`, whatever has been
imported before.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from equipoise.configs.schema import RunConfig


class _CallableModule(ModuleType):
    """A package that trains when it is called, because `equipoise.train` names both the package and the function."""

    def __call__(self, config: "RunConfig", resume: bool = False, overwrite: bool = False) -> dict[str, Any] | None:
        """Train as configured and return the summary, or None where a signal stopped the run (it can be resumed).

        Args:
            config: from `equipoise.load_config`; its data have been prepared.
            resume: go on from the last checkpoint of this run.
            overwrite: replace an earlier run in the same folder.

        Raises:
            UserError: the config does not fit the data, the backbone or the run folder.
        """
        from equipoise.train.job import train

        return train(config, resume, overwrite)


sys.modules[__name__].__class__ = _CallableModule
