"""What the docs show as code: fenced blocks by language, and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`(equipoise [^`]+)`")
OPTIONAL = re.compile(r"\[(-[^\]]*|[A-Z][^\]]*)\]")


@dataclass(frozen=True)
class Block:
    """A fenced text of a page."""

    page: str
    number: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}-{self.language}-{self.number}"


def blocks(language: str) -> list[Block]:
    """All of a language."""
    found = []
    for page in PAGES:
        for number, match in enumerate(BLOCK.finditer(page.read_text("utf-8")), 1):
            if match[1] == language:
                found.append(Block(page.name, number, language, match[2]))
    return found


def command_lines(text: str) -> Iterator[list[str]]:
    """The commands of a block in words: comments, continued lines and what stands behind pipes are taken apart."""
    for line in _whole_lines(text.replace("\\\n", " ")):
        words = shlex.split(OPTIONAL.sub(r"\1", line) if "'" not in line else line, comments=True)
        command: list[str] = []
        for word in [*words, ";"]:
            if word in (";", "|", "&&", "&") and command:
                yield command
                command = []
            elif word not in (";", "|", "&&", "&"):
                command.append(word)


def _whole_lines(text: str) -> Iterator[str]:
    """Lines, joined where a quote goes on."""
    line = ""
    for part in text.splitlines():
        line = f"{line}\n{part}" if line else part
        try:
            shlex.split(line, comments=True)
        except ValueError:
            continue
        yield line
        line = ""
    assert not line, f"a quote is never closed: {line}"


def inline_commands(page: Path) -> Iterator[list[str]]:
    """Commands of ours within sentences, down to the first word that stands for others."""
    for match in INLINE.finditer(re.sub(BLOCK, "", page.read_text("utf-8"))):
        try:
            yield shlex.split(OPTIONAL.sub(r"\1", match[1]))
        except ValueError:  # a quote whose other half is behind a line's end
            continue
