"""Who is let in: keys, cookies, guesses; and that requests come from our own pages."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from era.ui.entry import COOKIE, LASTS_SECONDS, Entry, Guesses, Visitor
from tests.ui.conftest import Connect
from tests.ui.pages import KEY, Page, read

pytestmark = pytest.mark.anyio

SignedIn = tuple[httpx2.AsyncClient, Page]
SITE = "http://era.test"


async def test_without_keys_everybody_is_let_in(ui: httpx2.AsyncClient) -> None:
    page = read(await ui.get("/ui"))
    assert "Sign out" not in page.text
    answer = await ui.get("/ui/login")
    assert (answer.status_code, answer.headers["location"]) == (303, "/ui")


@pytest.mark.parametrize(
    "path",
    ["/ui", "/ui/sessions", "/ui/sessions/a", "/ui/run", "/ui/sessions/a/download/b", "/ui/no"],
)
async def test_with_a_key_nothing_is_shown_without_it(connect: Connect, path: str) -> None:
    client = await connect(keys=(KEY,))
    answer = await client.get(path)
    assert (answer.status_code, answer.headers["location"]) == (303, "/ui/login")
    assert answer.content == b""
    assert (await client.get("/ui/live/sessions/a")).status_code == 401
    posted = await client.post("/ui/sessions", data={"language": "python"})
    assert posted.headers["location"] == "/ui/login"
    with_key = await client.get(path, headers={"Authorization": f"Bearer {KEY}"})
    assert with_key.status_code == (200 if path in ("/ui", "/ui/sessions", "/ui/run") else 404)


async def test_a_key_opens_and_is_never_given_back(connect: Connect) -> None:
    client = await connect(keys=("another", KEY))
    refused = await client.post("/ui/login", data={"key": "a-key"})
    assert "not a key" in read(refused, 401).text
    assert "set-cookie" not in refused.headers
    answer = await client.post("/ui/login?next=//evil.example", data={"key": KEY})
    assert (answer.status_code, answer.headers["location"]) == (303, "/ui")
    cookie = answer.headers["set-cookie"]
    assert KEY not in cookie
    assert cookie.split("; ")[1:] == ["Max-Age=43200", "Path=/ui", "HttpOnly", "SameSite=Strict"]
    page = await client.get("/ui")
    assert KEY not in page.text
    assert "Sign out" in read(page).text


async def test_over_tls_the_cookie_stays_there(connect: Connect) -> None:
    client = await connect(keys=(KEY,), public_url="https://era.example")
    answer = await client.post("/ui/login", data={"key": KEY})
    assert answer.headers["set-cookie"].endswith("; Secure")


async def test_the_cookie_is_no_key_of_the_api(signed_in: SignedIn) -> None:
    client, _ = signed_in
    cookie = client.cookies[COOKIE]
    for headers in ({"Cookie": f"{COOKIE}={cookie}"}, {"Authorization": f"Bearer {cookie}"}):
        assert (await client.get("/api/sessions", headers=headers)).status_code == 401


async def test_signing_out(signed_in: SignedIn) -> None:
    client, page = signed_in
    assert (await client.post("/ui/logout", data={"token": "wrong"})).status_code == 403
    assert (await client.get("/ui")).status_code == 200
    answer = await client.post("/ui/logout", data={"token": page.token})
    assert (answer.status_code, answer.headers["location"]) == (303, "/ui/login")
    assert f"{COOKIE}=; Max-Age=0" in answer.headers["set-cookie"]
    assert (await client.get("/ui")).status_code == 303


def test_a_cookie_counts_for_its_time_and_its_key() -> None:
    entry = Entry(["one", "two"])
    cookie = entry.cookie("two", 1_000_000)
    assert cookie is not None
    header = [f"other=1; {COOKIE}=tossed; {COOKIE}={cookie}"]
    visitor = entry.visitor(None, header, 1_000_000)
    assert visitor is not None
    assert visitor.signed_in
    assert visitor.token not in cookie
    assert entry.visitor(None, header, 1_000_000 + LASTS_SECONDS * 1000 - 1) == visitor
    assert entry.visitor(None, header, 1_000_000 + LASTS_SECONDS * 1000) is None
    assert Entry(["two"]).visitor(None, header, 1_000_000) == visitor
    assert Entry(["one"]).visitor(None, header, 1_000_000) is None
    assert entry.cookie("three", 0) is None
    assert Entry([]).visitor(None, [], 0) == Visitor()


def test_a_cookie_that_was_changed_counts_for_nothing() -> None:
    entry = Entry(["one"])
    cookie = entry.cookie("one", 0)
    assert cookie is not None
    until, nonce, seal = cookie.split(".")
    for wrong in (
        f"{int(until) + 1}.{nonce}.{seal}",
        f"{until}.{nonce}x.{seal}",
        f"{until}.{nonce}.{'0' * 64}",
        f"{until}.{nonce}",
        cookie + "0",
        "",
    ):
        assert entry.visitor(None, [f"{COOKIE}={wrong}"], 0) is None
    assert entry.visitor(None, [f"{COOKIE}={cookie}"], 0) is not None


async def test_a_key_is_not_guessed(connect: Connect) -> None:
    now = [1_000_000]
    client = await connect(keys=(KEY,), trust_proxy=True, clock=lambda: now[0])

    async def tries(key: str, address: str) -> httpx2.Response:
        headers = {"X-Forwarded-For": f"10.9.9.9, {address}"}
        answer: httpx2.Response = await client.post("/ui/login", data={"key": key}, headers=headers)
        return answer

    for number in range(10):
        assert (await tries(f"guess {number}", "10.0.0.1")).status_code == 401
    refused = await tries(KEY, "10.0.0.1")
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "60"
    assert (await tries(KEY, "10.0.0.2")).status_code == 303
    now[0] += 60_000
    assert (await tries(KEY, "10.0.0.1")).status_code == 303


def test_of_many_clients_few_are_remembered() -> None:
    guesses = Guesses(most=1, places=2)
    for place in ("a", "b", "c"):
        guesses.was_wrong(place, 0)
    assert [guesses.wait_seconds(place, 0) for place in ("a", "b", "c")] == [0, 60, 60]


# --- requests that no page of ours has sent -----------------------------------------------------

FOREIGN: list[dict[str, str]] = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://era.test:8080"},
    {"Origin": SITE, "Sec-Fetch-Site": "cross-site"},
    {"Origin": SITE, "Sec-Fetch-Site": "same-site"},
]
OWN: list[dict[str, str]] = [
    {},
    {"Origin": SITE},
    {"Origin": SITE, "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "document"},
]


@pytest.mark.parametrize("headers", FOREIGN)
async def test_other_sites_change_nothing(
    connect: Connect, signed_in: SignedIn, headers: dict[str, str]
) -> None:
    client, page = signed_in
    form = {"language": "python", "id": "forged", "token": page.token}
    refused = await client.post("/ui/sessions", data=form, headers=headers)
    assert "does not come from a page" in read(refused, 403).text
    assert (await client.post("/ui/login", data={"key": KEY}, headers=headers)).status_code == 403
    live = await client.post(
        "/ui/live/run", data=form, headers={**headers, "X-Era-Token": page.token}
    )
    assert (live.status_code, live.json()["code"]) == (403, "foreign_request")
    opened = await connect()
    assert (await opened.post("/ui/sessions", data=form, headers=headers)).status_code == 403
    assert (await opened.get("/ui/sessions/forged")).status_code == 404


@pytest.mark.parametrize("headers", OWN)
async def test_our_own_pages_do(
    connect: Connect, signed_in: SignedIn, headers: dict[str, str]
) -> None:
    client, page = signed_in
    form = {"language": "python", "id": "mine", "token": page.token}
    assert (await client.post("/ui/sessions", data=form, headers=headers)).status_code == 303
    opened = await connect()
    form = {"language": "python", "id": "mine-too"}
    assert (await opened.post("/ui/sessions", data=form, headers=headers)).status_code == 303


FORMS: list[tuple[str, dict[str, Any]]] = [
    ("/ui/sessions", {"language": "python"}),
    ("/ui/sessions/mine/delete", {}),
    ("/ui/sessions/mine/run", {"code": "print(1)"}),
    ("/ui/sessions/mine/cancel", {}),
    ("/ui/sessions/mine/setup", {}),
    ("/ui/sessions/mine/remove", {"path": "a.txt"}),
    ("/ui/run", {"language": "python", "code": "print(1)"}),
    ("/ui/logout", {}),
]


@pytest.mark.parametrize(("path", "form"), FORMS)
async def test_a_form_needs_the_token_of_its_page(
    signed_in: SignedIn, connect: Connect, path: str, form: dict[str, str]
) -> None:
    client, page = signed_in
    await client.post(
        "/ui/sessions", data={"language": "python", "id": "mine", "token": page.token}
    )
    other = await connect(keys=(KEY,))
    await other.post("/ui/login", data={"key": KEY})
    strange = read(await other.get("/ui")).token
    assert strange != page.token
    for wrong in ({}, {"token": ""}, {"token": strange}):
        refused = await client.post(path, data={**form, **wrong})
        # The page that says so may be read by whoever has sent it.
        assert page.token not in refused.text
        assert "does not come from a page" in read(refused, 403).text
    answer = await client.post(path, data={**form, "token": page.token})
    assert answer.status_code in (200, 303, 404)


async def test_an_upload_needs_the_token_before_its_files(signed_in: SignedIn) -> None:
    client, page = signed_in
    await client.post(
        "/ui/sessions", data={"language": "python", "id": "mine", "token": page.token}
    )
    file = {"file": ("a.txt", b"x")}
    for form in ({}, {"token": "wrong"}):
        refused = await client.post("/ui/sessions/mine/upload", data=form, files=file)
        assert page.token not in refused.text
        assert refused.status_code == 403
    assert (await client.get("/ui/sessions/mine/files/a.txt")).status_code == 404
    form = {"token": page.token}
    answer = await client.post("/ui/sessions/mine/upload", data=form, files=file)
    assert answer.status_code == 303
    assert (await client.get("/ui/sessions/mine/files/a.txt")).status_code == 200


LIVE = [
    ("POST", "/ui/live/run"),
    ("POST", "/ui/live/sessions/mine/run"),
    ("POST", "/ui/live/sessions/mine/cancel"),
    ("GET", "/ui/live/sessions/mine"),
    ("GET", "/ui/live/sessions/mine/setup"),
]


@pytest.mark.parametrize(("method", "path"), LIVE)
async def test_what_scripts_call_needs_the_token(
    signed_in: SignedIn, connect: Connect, method: str, path: str
) -> None:
    client, page = signed_in
    await client.post(
        "/ui/sessions", data={"language": "python", "id": "mine", "token": page.token}
    )
    for headers in ({}, {"X-Era-Token": "wrong"}):
        refused = await client.request(method, path, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (403, "foreign_request")
    # Without keys there is no secret; that a header is there keeps plain forms away.
    opened = await connect()
    assert (await opened.request(method, path)).status_code == 403
    form = {"language": "python", "code": "print(1)", "token": page.token}
    data = form if method == "POST" else None
    headers = {"X-Era-Token": page.token, "Sec-Fetch-Dest": "empty"}
    answer = await client.request(method, path, headers=headers, data=data)
    assert answer.status_code == (404 if path.endswith("setup") else 200)


@pytest.mark.parametrize("wanted", ["empty", "iframe", "frame", "script", "image", "object"])
async def test_pages_of_boxes_do_not_get_ours(signed_in: SignedIn, wanted: str) -> None:
    """`/proxy` shows pages of boxes under the same origin, to which a browser sends the cookie."""
    client, page = signed_in
    headers = {"Sec-Fetch-Dest": wanted, "Sec-Fetch-Site": "same-origin"}
    for path in ("/ui", "/ui/sessions", "/ui/run", "/ui/no"):
        refused = await client.get(path, headers=headers)
        assert page.token not in refused.text
        assert refused.status_code == 403
    for path in ("/ui/login", "/ui/sessions/no/run"):
        assert page.token not in (await client.post(path, headers=headers)).text
    assert page.token not in (await client.get("/ui/login", headers=headers)).text
    shown = await client.get("/ui", headers={**headers, "Sec-Fetch-Dest": "document"})
    assert page.token in shown.text


async def test_answers_are_out_of_reach_of_other_sites(signed_in: SignedIn) -> None:
    client, page = signed_in
    await client.post(
        "/ui/sessions", data={"language": "python", "id": "mine", "token": page.token}
    )
    for path in ("/ui", "/ui/sessions/mine", "/ui/no", "/ui/login"):
        headers = (await client.get(path, headers={"Origin": "http://evil.example"})).headers
        assert "access-control-allow-origin" not in headers
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"
        assert headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert (await client.get("/health")).headers["access-control-allow-origin"] == "*"
