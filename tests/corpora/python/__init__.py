"""Python programs whose results must not tell how their box was made."""

from __future__ import annotations

from tests.corpora.python import (
    endings,
    errors,
    modules,
    processes,
    signals,
    streams,
    surroundings,
    texts,
    traces,
)

PROGRAMS = (
    *endings.PROGRAMS,
    *errors.PROGRAMS,
    *modules.PROGRAMS,
    *processes.PROGRAMS,
    *signals.PROGRAMS,
    *streams.PROGRAMS,
    *surroundings.PROGRAMS,
    *texts.PROGRAMS,
    *traces.PROGRAMS,
)
