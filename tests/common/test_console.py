"""The console of commands: no table is cut where the output is no terminal."""

import logging

import pytest

from equipoise.common.console import PlainConsole, bold, new_console, new_table
from equipoise.common.logs import Rendered, show_messages
from equipoise.common.progress import ProgressBar


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    console, words = new_console(), "a sentence of many words " * 20
    table = new_table("[all] of it", ["name", "why"], ["value [s]", *("x" * 30 for _ in range(8))])
    table.add_row("first", "w" * 200, "1.5", *("9" * 30 for _ in range(8)))
    console.print(table)
    console.print(words.strip(), markup=False)
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_a_file_has_room_for_everything(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    lines = printed(capsys)
    title, head, _, row, *_ = [line for line in lines if line]
    assert title == "[all] of it" and "value [s]" in head
    assert row.split() == ["first", "w" * 200, "1.5", *["9" * 30] * 8]
    assert lines[-1] == ("a sentence of many words " * 20).strip()


def test_columns_that_are_asked_for_are_kept(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert max(map(len, printed(capsys))) <= 60


def test_a_narrow_terminal_moves_columns_together_before_it_folds_cells() -> None:
    numbers = ["AUC", "GAUC", "UAUC", "log loss", "NE", "ECE", "mean p", "NDCG@10"]
    table = new_table("a title that is longer than the names in it", [""], numbers)
    table.add_row("times_bought", *["0.5186*"] * 8)
    for width, gap in ((80, " "), (120, "  ")):
        with (console := PlainConsole(width=width)).capture() as captured:
            console.print(table)
        rows = [line.strip() for line in captured.get().splitlines() if line.strip()]
        assert rows[0] == "a title that is longer than the names in it"
        assert rows[-1].startswith("times_bought") and rows[-1].endswith(gap.join(["0.5186*"] * 2))


def test_other_processes_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    new_console(quiet=True).print("step 1")
    assert capsys.readouterr().out == ""


HOSTILE = "[red]tea[/red] [/] \x1b]0;owned\x07\x1b[2J :smile: a\u202eb"
SHOWN = "[red]tea[/red] [/] \\x1b]0;owned\\x07\\x1b[2J :smile: a\\u202eb"


def test_names_are_shown_as_they_are_and_steer_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    console, table = new_console(), new_table(HOSTILE, [HOSTILE], [HOSTILE])
    table.add_row(HOSTILE, bold(HOSTILE))
    console.print(table)
    console.print(HOSTILE, soft_wrap=True)
    out = capsys.readouterr().out
    assert out.count(SHOWN) == 6 and "\x1b" not in out and "\x07" not in out


def test_messages_steer_no_terminal_but_tables_keep_their_colours(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_messages()
    log = logging.getLogger("equipoise.test")
    log.info(f"left out: {HOSTILE}\nnext")
    log.info(Rendered("\x1b[1mours\x1b[0m"))
    log.warning("%s", HOSTILE)
    found = capsys.readouterr()
    assert found.out == f"left out: {SHOWN}\nnext\n\x1b[1mours\x1b[0m\n"
    assert found.err == f"{SHOWN}\n"


def test_a_progress_bar_takes_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar("[/] of [red]", 2, "things") as bar:
        bar.advance(2)
    assert "MarkupError" not in capsys.readouterr().err
