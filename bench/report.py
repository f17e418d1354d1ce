"""Results as text, as the tables of `docs/performance.md`, and as a picture."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
RESULTS: Final = ROOT / "bench" / "results.json"
PAGE: Final = ROOT / "docs" / "performance.md"
PICTURE: Final = ROOT / "docs" / "performance.svg"
PART: Final = re.compile(r"(<!-- measured (\w+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)

BASELINES: Final = (
    ("python", "bare python3 -c"),
    ("pandas", "bare python, pandas"),
    ("node", "bare node -e"),
    ("typescript", "tsx"),
    ("deno", "bare deno eval"),
)
"""What a subject is compared with, by how its name begins."""

Results = Mapping[str, Any]
Row = Mapping[str, Any]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown; numbers are everything but the first column."""
    lines = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def baseline_of(row: Row, rows: Sequence[Row]) -> Row | None:
    """The bare start that a row is compared with, in the same part and at as many clients."""
    if row["name"].startswith(("bare", "tsx", "bubblewrap")):
        return None
    name = next((base for start, base in BASELINES if row["name"].startswith(start)), None)
    same = (r for r in rows if r["part"] == row["part"] and r["clients"] == row["clients"])
    return next((r for r in same if name is not None and r["name"].startswith(name)), None)


def ms(value: float | None) -> str:
    """Milliseconds for a table."""
    if value is None:
        return "n/a"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def of(results: Results, part: str, *, spaced: bool) -> list[Row]:
    """The rows of a part: with idle gaps, or with clients at once."""
    return [r for r in results["rows"] if r["part"] == part and (r["clients"] == 0) is spaced]


def latency(results: Results, part: str) -> str:
    """Latency at one client with idle gaps."""
    rows = of(results, part, spaced=True)
    head = ("", "p50", "p95", "p99", "of bare", "CPU", "kernel", "of it the run", "runs")
    return table(head, (_latency_cells(row, rows) for row in rows))


def _latency_cells(row: Row, rows: Sequence[Row]) -> tuple[str, ...]:
    base = baseline_of(row, rows)
    ratio = "" if base is None else f"**{row['p50'] / base['p50']:.2f}**"
    usage = row["extra"].get("usage")
    return (
        row["name"] + (" (noisy)" if row["noisy"] else ""),
        *(ms(row[name]) for name in ("p50", "p95", "p99")),
        ratio,
        ms(row["cpu"]),
        ms(row["kernel"]),
        "" if usage is None else ms(usage),
        str(row["runs"]),
    )


def throughput(results: Results, part: str) -> str:
    """Runs a second by clients."""
    rows = of(results, part, spaced=False)
    clients = sorted({row["clients"] for row in rows})
    names = list(dict.fromkeys(row["name"] for row in rows))
    most = clients[-1] if clients else 0
    head = (
        "runs/s with clients",
        *map(str, clients),
        f"of bare at {most}",
        f"p50 at {most}",
        "CPU",
    )
    return table(head, (_throughput_cells(name, clients, rows) for name in names))


def _throughput_cells(name: str, clients: Sequence[int], rows: Sequence[Row]) -> tuple[str, ...]:
    mine = {row["clients"]: row for row in rows if row["name"] == name}
    most = mine[clients[-1]]
    base = baseline_of(most, rows)
    ratio = "" if base is None else f"**{most['per_second'] / base['per_second']:.2f}**"
    noisy = any(row["noisy"] for row in mine.values())
    rates = (f"{mine[count]['per_second']:.0f}" if count in mine else "" for count in clients)
    return (name + (" (noisy)" if noisy else ""), *rates, ratio, ms(most["p50"]), ms(most["cpu"]))


def steps(results: Results) -> str:
    """Where the time of a run goes."""
    parts = []
    for language, found in results["steps"].items():
        rows = ((step["text"], ms(step["took_ms"]), ms(step["at_ms"])) for step in found)
        parts.append(table((f"{language}: until", "took", "at"), rows))
    return "\n\n".join(parts)


def ends(results: Results) -> str:
    """How soon a run that had to be killed is over."""
    rows = (
        (one["name"], *(ms(one[key]) for key in ("answered_ms", "worst_ms", "gone_ms")))
        for one in results["ends"]
    )
    return table(("after deadline and grace", "answered", "at worst", "nothing left"), rows)


def memory(results: Results) -> str:
    """What waiting boxes hold."""
    rows = ((r["kind"], str(r["boxes"]), f"{r['pss_mib']:.1f}") for r in results["idle"])
    return table(("a waiting box for", "boxes", "MiB each (PSS)"), rows)


def machine(results: Results) -> str:
    """What it was measured on."""
    about = {**results["machine"], "measured": results["measured"]}
    text = table(("", ""), about.items())
    worst = max((row["foreign"] for row in results["rows"]), default=0.0)
    noisy = sum(row["noisy"] for row in results["rows"])
    verdict = f"Other work took at most {worst:.2f} CPUs while a batch ran"
    if noisy:
        verdict += f"; {noisy} rows are marked noisy and are not to be relied on"
    client = results.get("client_cpu_ms")
    if client is not None:
        verdict += f". The client of the service, whose CPU no figure counts, took {client:.2f} ms a request"
    return f"{text}\n\n{verdict}."


PARTS: Final = {
    "machine": machine,
    "engine": lambda r: f"{latency(r, 'engine')}\n\n{throughput(r, 'engine')}",
    "http": lambda r: f"{latency(r, 'http')}\n\n{throughput(r, 'http')}",
    "steps": steps,
    "ends": ends,
    "memory": memory,
}


def page(results: Results, text: str) -> str:
    """The page with its measured parts made anew."""
    return PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]](results)}\n\n{part[3]}", text)


def as_text(results: Results) -> str:
    """Everything measured, for a terminal."""
    there = {row["part"] for row in results["rows"]} | {"machine"}
    there |= {name for name in ("steps", "ends") if results[name]}
    there |= {"memory"} if results["idle"] else set()
    shown = (f"== {name} ==\n\n{make(results)}" for name, make in PARTS.items() if name in there)
    return "\n\n".join(shown)


# -- the picture --

_WIDTH: Final = 760
_LABEL: Final = 230
_BAR: Final = 18
_GAP: Final = 8
_COLOURS: Final = {"engine": "#2a6f97", "http": "#61a5c2", "bare": "#adb5bd"}


def picture(results: Results) -> str:
    """Median latencies as bars on a logarithmic scale, each beside the bare start it answers to."""
    rows = [row for part in ("http", "engine") for row in of(results, part, spaced=True)]
    rows = [row for row in rows if row["part"] == "http" or baseline_of(row, rows)]
    rows.sort(key=lambda row: row["p50"])
    height = len(rows) * (_BAR + _GAP) + 60
    longest = max((row["p50"] for row in rows), default=1.0)
    bars = "\n".join(_bar(index, row, longest) for index, row in enumerate(rows))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">\n'
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>\n'
        '<text x="10" y="20" font-size="14">hello, median at one client (ms)</text>\n'
        f"{bars}\n{_legend(height)}\n</svg>\n"
    )


def _colour(row: Row) -> str:
    bare = row["name"].startswith(("bare", "tsx", "bubblewrap"))
    return _COLOURS["bare" if bare else row["part"]]


def _bar(index: int, row: Row, longest: float) -> str:
    y = 34 + index * (_BAR + _GAP)
    length = max(2.0, (_WIDTH - _LABEL - 70) * row["p50"] / longest)
    end = _LABEL + length
    return (
        f'<text x="{_LABEL - 8}" y="{y + 13}" text-anchor="end">{row["name"]}</text>'
        f'<rect x="{_LABEL}" y="{y}" width="{length:.1f}" height="{_BAR}" fill="{_colour(row)}"/>'
        f'<text x="{end + 6:.1f}" y="{y + 13}">{ms(row["p50"])}</text>'
    )


def _legend(height: int) -> str:
    names = {"http": "over HTTP", "engine": "the driver alone", "bare": "bare start"}
    parts = []
    for index, (key, text) in enumerate(names.items()):
        x = 10 + index * 150
        parts.append(
            f'<rect x="{x}" y="{height - 18}" width="12" height="12" fill="{_COLOURS[key]}"/>'
        )
        parts.append(f'<text x="{x + 18}" y="{height - 8}">{text}</text>')
    return "".join(parts)


def publish(results: Results) -> None:
    """Keep the results, and write page and picture anew."""
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    PAGE.write_text(page(results, PAGE.read_text()))
    PICTURE.write_text(picture(results))
