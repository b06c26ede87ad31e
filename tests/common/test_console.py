"""The console of commands: no table is cut where the output is no terminal."""

import pytest

from equipoise.common.console import new_console, new_table


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


def test_other_processes_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    new_console(quiet=True).print("step 1")
    assert capsys.readouterr().out == ""
