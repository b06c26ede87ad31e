"""Libraries log; the command line shows it."""

import logging
from typing import Any

import pytest
from rich.table import Table

from equipoise.common.logs import PACKAGE, MessageHandler, rendered, show_messages


@pytest.fixture
def logger() -> Any:
    """The package's logger as a new process has it."""
    logger = logging.getLogger(PACKAGE)
    before = logger.handlers[:], logger.level
    logger.handlers = []
    yield logger
    logger.handlers, logger.level = before[0], before[1]
    logger.setLevel(before[1])


def test_messages_are_shown_as_they_are(logger: Any, capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("equipoise.train.job")
    log.info("nobody asked")
    show_messages()
    show_messages()
    log.info("[step] 3%% of %s", "7")
    log.warning("rename it")
    log.debug("details")
    assert capsys.readouterr() == ("[step] 3% of 7\n", "rename it\n")
    assert sum(isinstance(handler, MessageHandler) for handler in logger.handlers) == 1


def test_other_processes_are_quiet(
    logger: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    show_messages()
    logging.getLogger("equipoise.train").info("step 1")
    logging.getLogger("equipoise.train").warning("broken")
    assert capsys.readouterr() == ("", "broken\n")


def test_a_table_is_a_message() -> None:
    table = Table("part", "parameters")
    table.add_row("shared", "12")
    assert "shared" in rendered(table) and not rendered(table).endswith("\n")
