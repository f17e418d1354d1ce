"""Whatever a client sends, the answer is the service's own: never a 500."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from typing import Any

import anyio
import httpx2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from era.api import parse
from era.api.app import create_app
from era.api.options import Bounds, Options
from era.errors import CODES, EraError
from era.sessions.service import Sessions

anything = st.text(st.characters(exclude_categories=()), max_size=20)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats(allow_nan=False, allow_infinity=False)
    | anything,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(anything, inner, max_size=4),
    max_leaves=8,
)
NAMES = (
    "code language timeout timeout_ms env envs files stdin args allowInternetAccess cpu_count "
    "memory_mib command update_data wait_for_setup cancel_on_disconnect id session_id new_id "
    "persistent metadata data setup allowPublicAccess default_timeout include_files description"
).split()
likely = st.sampled_from(
    ["x", "python", "", 0, -1, 1, 1.5, True, {}, [], ["a"], {"A": "b"}, {"a": {"content": ""}}]
)
bodies = st.dictionaries(st.sampled_from(NAMES) | anything, likely | values, max_size=6)

BOUNDS = Bounds()

PARSERS = (
    lambda members: parse.execute(members, BOUNDS),
    lambda members: parse.run(members, BOUNDS, "http://b"),
    lambda members: parse.create(members, BOUNDS),
    lambda members: parse.patch(members, BOUNDS),
    lambda members: parse.copy(members, BOUNDS),
    lambda members: parse.setup(members),
    lambda members: parse.stored_code(members, BOUNDS),
)


@given(bodies, st.sampled_from(PARSERS))
@settings(max_examples=400)
def test_a_body_is_a_value_or_a_refusal(members: dict[str, Any], parser: Any) -> None:
    error = None
    try:
        parser({name: value for name, value in members.items() if value is not None})
    except EraError as refusal:
        error = refusal
    assert error is None or 400 <= error.status < 500


class Nobody:
    """Stands where the sessions stand, and must not be reached with a body that is refused."""

    takeover_seconds = None

    def __getattr__(self, name: str) -> Any:
        async def refuse(*_: Any, **__: Any) -> Any:
            raise EraError("server_busy")

        return refuse


targets = st.sampled_from(
    [
        ("POST", "/api/execute"),
        ("POST", "/api/sessions"),
        ("PATCH", "/api/sessions/s"),
        ("POST", "/api/sessions/s/run"),
        ("POST", "/api/sessions/s/duplicate"),
        ("POST", "/api/sessions/s/setup"),
        ("PUT", "/api/sessions/s/code"),
    ]
)
texts = st.binary(max_size=60) | values.map(lambda value: json.dumps(value).encode())


@given(targets, texts)
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_any_bytes_get_an_answer_of_the_service(target: tuple[str, str], content: bytes) -> None:
    async def send() -> httpx2.Response:
        async with AsyncExitStack() as stack:
            sessions: Sessions = Nobody()  # type: ignore[assignment]
            transport = httpx2.ASGITransport(create_app(sessions, Options(clock=lambda: 0)))
            http = httpx2.AsyncClient(transport=transport, base_url="http://era.test")
            client = await stack.enter_async_context(http)
            return await client.request(*target, content=content)

    answer = anyio.run(send)
    assert answer.status_code in (400, 413, 429)
    body = json.loads(answer.content)
    assert CODES[body["code"]].status == answer.status_code
    assert body["error"]
