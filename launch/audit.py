"""equipoise audit: what is wrong with prepared data, as a table, a page and an exit code."""

import html
import json
from dataclasses import asdict
from pathlib import Path

from equipoise.common.atomic import atomic_write
from equipoise.common.console import new_console, new_table
from equipoise.configs.schema import RunConfig
from equipoise.data.audit import Finding, audit

PAGE, RECORD = "audit.html", "audit.json"


def audit_data(config: RunConfig, out: Path | None) -> int:
    """Print what is found in the prepared folder, write the page and its record, and return the number of errors.

    Args:
        config: of the data.
        out: folder of the page; None: the prepared folder's parent, under the prepared folder's name.

    Raises:
        UserError: the folder is not prepared.
    """
    findings, console = audit(config.data.folder), new_console()
    folder = out or config.data.folder.with_name(f"{config.data.folder.name}.audit")
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / RECORD) as partial:
        partial.write_text(json.dumps([asdict(finding) for finding in findings], indent=1, ensure_ascii=False) + "\n")
    with atomic_write(folder / PAGE) as partial:
        partial.write_text(_page(config.data.folder, findings), encoding="utf-8")
    if findings:
        table = new_table(f"audit of {config.data.folder}", ["", "check", "found"])
        for finding in findings:
            table.add_row(finding.level, finding.check, finding.sentence)
        console.print(table)
    errors = sum(finding.level == "error" for finding in findings)
    console.print(f"{errors} errors, {len(findings) - errors} warnings: {folder / PAGE}", soft_wrap=True)
    return errors


def _page(folder: Path, findings: list[Finding]) -> str:
    rows = "".join(
        f"<tr class={finding.level}><td>{finding.level}<td>{html.escape(finding.check)}"
        f"<td>{html.escape(finding.sentence)}"
        for finding in findings
    )
    title = html.escape(f"Audit of {folder}")
    body = f"<table>{rows}</table>" if findings else "<p>Nothing was found.</p>"
    style = "body{font:16px sans-serif;margin:2em}td{padding:.3em .8em;vertical-align:top}.error{color:#b00}"
    return f"<!doctype html><meta charset=utf-8><title>{title}</title><style>{style}</style><h1>{title}</h1>{body}\n"
