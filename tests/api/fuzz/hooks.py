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
    return set(described.get("x-codes", ()))


def _is_of_agents(case: Any) -> bool:
    """Whether errors are those of JSON-RPC, whose codes are numbers."""
    return bool(case.operation.path.startswith("/mcp"))


@schemathesis.check
def documented_codes(_context: Any, response: Any, case: Any) -> None:
    """The code of an error is named by the operation."""
    if response.status_code < 400 or case.method == "HEAD":
        return
    if response.status_code in (405, 404) and case.operation.method.upper() != case.method.upper():
        return
    if _is_of_agents(case) and response.status_code in (400, 403):
        return
    if response.headers.get("x-era-exit-code"):  # it is stored code that answers
        return
    error = json.loads(response.content)
    if error["code"] in ("method_not_allowed", "not_found"):
        return
    known = _codes(case, response.status_code)
    assert error["code"] in known, f"{error['code']} is not among {sorted(known)}"


@schemathesis.check
def refused_for_a_reason(_context: Any, response: Any, case: Any) -> None:
    """A request that keeps to the document is refused for nothing that the document could say."""
    meta = case.meta
    if response.status_code not in (400, 413) or case.method == "HEAD" or meta is None:
        return
    if meta.generation.mode is not GenerationMode.POSITIVE or _is_of_agents(case):
        return
    error = json.loads(response.content)
    fine = error["code"] in BEYOND_SCHEMAS or any(words in error["error"] for words in WORDS)
    assert fine, f"{error['code']}: {error['error']}"


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    """No Go, whose first program compiles its whole library, which takes minutes; no packages, which
    come from elsewhere; stored code that fails in no language, as a relay says what it does; and files
    of no type, as the fuzzer wants to understand those it knows."""
    body = case.body
    if "/files/" in case.operation.path and case.method == "PUT":
        case.media_type = "application/octet-stream"
    if not isinstance(body, dict):
        return
    if body.get("language") in ("go", "golang"):
        body["language"] = "python"
    if case.operation.path.endswith("/code") and _is_text(body.get("code")):
        body["code"] = "1"
    if isinstance(body.get("setup"), dict):
        body["setup"] = {n: v for n, v in body["setup"].items() if not _installs(n, v)}


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _installs(name: str, value: Any) -> bool:
    """Whether a member of a setup may be a list of packages that is in order, or a file of them."""
    if name not in ("pip", "npm", "go"):
        return False
    if isinstance(value, list):
        return len(value) <= 256 and all(isinstance(each, str) for each in value)
    return isinstance(value, dict)
