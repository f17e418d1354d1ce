"""`era doctor`: whether the server could start here, and what is missing."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from era import logs
from era.assemble.diagnose import diagnose, plan
from era.cli.common import Common
from era.config import ConfigError, load
from era.errors import EraError

CANNOT_START = 1


def run(state_dir: str | None, show_plan: bool, common: Common) -> int:
    """Print the report; 1 when the server could not start."""
    try:
        settings = load({"AGENT_STATE_DIR": state_dir})
        logs.configure(settings.log_level)  # what is printed is the report alone
        if show_plan:
            print(json.dumps(asyncio.run(plan(settings)), indent=2))
            return 0
        report = asyncio.run(diagnose(settings))
    except ConfigError as error:
        report = _refused("configuration", error.text, error.hint)
    except EraError as error:
        report = _refused("box", error.text, str(error.extra.get("hint", "")))
    _show(report, as_json=common.json)
    return 0 if report["ok"] else CANNOT_START


def _refused(name: str, detail: str, remedy: str) -> dict[str, Any]:
    check = {"name": name, "ok": False, "required": True, "detail": detail, "remedy": remedy}
    return {"ok": False, "checks": [check]}


def _show(report: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(report, separators=(",", ":")))
    elif sys.stdout.isatty():
        _table(report)
    else:
        _lines(report)


def _mark(check: dict[str, Any]) -> str:
    if check["ok"]:
        return "ok"
    return "MISSING" if check["required"] else "note"


def _lines(report: dict[str, Any]) -> None:
    for check in report["checks"]:
        print(f"{_mark(check):8}{check['name']:17}{check['detail']}")
        if not check["ok"] and check.get("remedy"):
            print(f"{'':25}{check['remedy']}")
    print(_verdict(report))


def _verdict(report: dict[str, Any]) -> str:
    if not report["ok"]:
        return "The server cannot start here."
    gaps = ", ".join(report["unenforced"])
    if report["running"]:
        start = (
            "A server is running here; another one needs a state directory and a port of its own"
        )
    else:
        start = "The server can start"
    tier = f"{start}; isolation tier: {report['tier']}"
    return f"{tier}, without: {gaps}." if gaps else f"{tier}."


def _table(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    colours = {"ok": "green", "note": "yellow", "MISSING": "red"}
    table = Table(box=None, header_style="bold")
    for heading in ("", "check", "found", "remedy"):
        table.add_column(heading, overflow="fold")
    for check in report["checks"]:
        mark = _mark(check)
        remedy = "" if check["ok"] else check.get("remedy") or ""
        table.add_row(
            f"[{colours[mark]}]{mark}[/]",
            check["name"],
            escape(check["detail"]),
            escape(remedy),
        )
    console = Console()
    console.print(table)
    console.print(_verdict(report), highlight=False, markup=False)
