"""Checks beside those of schemathesis: the codes of errors are those that the document names, and a
request as the document wants it is refused only for what no schema can say."""

from __future__ import annotations

import json
from typing import Any

import schemathesis
from schemathesis.generation import GenerationMode

BEYOND_SCHEMAS = frozenset(
    "conflicting_fields timeout_too_large no_code no_fields port_required invalid_path reserved_path"
    " data_too_large metadata_too_large code_too_large body_too_large invalid_setup"
    " invalid_proxy_path unknown_field".split()
)
"""Codes with which a request may be refused that keeps to the document."""
WORDS = (
    "cursor must be",
    "update_data must be",
    "files must be",
    "vm_id is",
    "exceed",
    "command must",
)
"""Errors of `invalid_field` and `missing_field` about what depends on other members, or on state."""


def _codes(case: Any, status: int) -> set[str]:
    described = case.operation.definition.raw["responses"].get(str(status), {})
    return set(described.get("description", "").split(", "))


@schemathesis.check
def documented_codes(_context: Any, response: Any, case: Any) -> None:
    """The code of an error is named by the operation."""
    if response.status_code < 400 or case.method == "HEAD":
        return
    if response.status_code in (405, 404) and case.operation.method.upper() != case.method.upper():
        return
    error = json.loads(response.content)
    if error["code"] in ("method_not_allowed", "not_found"):
        return
    if response.headers.get("x-era-exit-code"):
        return
    known = _codes(case, response.status_code)
    assert error["code"] in known, f"{error['code']} is not among {sorted(known)}"


@schemathesis.check
def refused_for_a_reason(_context: Any, response: Any, case: Any) -> None:
    """A request that keeps to the document is refused for nothing that the document could say."""
    meta = case.meta
    if response.status_code not in (400, 413) or case.method == "HEAD" or meta is None:
        return
    if meta.generation.mode is not GenerationMode.POSITIVE:
        return
    error = json.loads(response.content)
    fine = error["code"] in BEYOND_SCHEMAS or any(words in error["error"] for words in WORDS)
    assert fine, f"{error['code']}: {error['error']}"


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    """No Go: the first program compiles its whole library, which takes minutes."""
    if isinstance(case.body, dict) and case.body.get("language") in ("go", "golang"):
        case.body["language"] = "python"
