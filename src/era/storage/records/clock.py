"""The database's clock, which all nodes share."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction


class db_now_ms(GenericFunction[int]):  # noqa: N801 - as SQL writes it
    """Unix milliseconds by the database's clock, as of now and not of the transaction's start."""

    type = BigInteger()
    inherit_cache = True


@compiles(db_now_ms, "postgresql")
def _now_postgresql(element: db_now_ms, compiler: SQLCompiler, **kw: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"


@compiles(db_now_ms, "sqlite")
def _now_sqlite(element: db_now_ms, compiler: SQLCompiler, **kw: Any) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"
