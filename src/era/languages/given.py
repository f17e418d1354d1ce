"""Python packages that every box has: which are usual, what of them is imported ahead, who wants them.

Pure tables and functions; `runtimes/packages.py` finds the packages and lays them out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

USUAL: Final = ("numpy", "pandas", "matplotlib")
"""Distributions of the extra `data`: given wherever they are installed, unless a setting says other."""
INTERPRETER: Final = "python-data"
"""The Python that stands ready with the packages imported."""
DECIDED_AT_IMPORT: Final = (
    "OPENBLAS_",
    "OMP_",
    "MKL_",
    "GOTO_",
    "BLIS_",
    "NPY_",
    "NUMPY_",
    "NUMEXPR_",
)
"""Beginnings of variables that compiled packages read once, when they are imported."""
_ONE_THREAD: Final[Mapping[str, str]] = MappingProxyType({"OPENBLAS_NUM_THREADS": "1"})
"""A box has about one CPU, whatever the host's number; and a process with threads cannot be forked."""
_AHEAD: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "numpy": (
            *("numpy", "numpy.linalg", "numpy.fft", "numpy.random", "numpy.ma"),
            *("numpy.polynomial", "numpy.testing"),
        ),
        "pandas": ("pandas",),
        # Not itself: its import makes directories in HOME.
        "matplotlib": (
            *("PIL.Image", "PIL.PngImagePlugin", "contourpy", "cycler", "kiwisolver", "pyparsing"),
            *("dateutil.parser", "dateutil.relativedelta", "dateutil.rrule", "dateutil.tz"),
            *("packaging.version", "numpy.ma"),
        ),
    }
)
"""By distribution, what a Python that stands ready imports of it; of others all that they are."""

_IMPORT: Final = re.compile(
    r"^[^\S\n]*+(?:from[^\S\n]++(\w++)|import[^\S\n]++([\w., \t]++))", re.MULTILINE
)


def ahead(distribution: str, modules: Sequence[str]) -> tuple[str, ...]:
    """What to import ahead of a distribution whose top-level modules are `modules`."""
    return _AHEAD.get(distribution) or tuple(m for m in modules if not m.startswith("_"))


def variables(modules: Sequence[str]) -> Mapping[str, str]:
    """What the environment of programs has where `modules` are among the given ones."""
    return _ONE_THREAD if "numpy" in modules else {}


def wanted(code: str, modules: Sequence[str]) -> bool:
    """Whether the text of `code` has an import of one of `modules`; a look, not a proof."""
    return not set(modules).isdisjoint(_imported(code)) if modules else False


def _imported(code: str) -> Iterator[str]:
    for match in _IMPORT.finditer(code):
        for name in (match[1] or match[2]).split(","):
            yield re.split(r"\W", name.strip(), maxsplit=1)[0]
