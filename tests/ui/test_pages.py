"""What the pages show, and that they show it harmlessly whatever it is."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from era.api.app import create_app
from era.api.options import Options
from era.cli.serve import areas
from era.config import load
from era.sessions.service import Sessions
from era.ui.render import indented, size, static_file, visible, when
from tests.api.conftest import now_ms
from tests.ui.conftest import Connect
from tests.ui.pages import KEY, Page, active, read

pytestmark = pytest.mark.anyio

EVIL = "<img src=x onerror=alert(1)>\"'><script>alert(2)</script>{{ 7*7 }}"


async def new(ui: httpx2.AsyncClient, name: str, **members: Any) -> None:
    body = {"id": name, "language": "python", **members}
    answer = await ui.post("/api/sessions", json=body)
    assert answer.status_code == 201, answer.text


async def test_the_overview(ui: httpx2.AsyncClient) -> None:
    await new(ui, "one")
    text = " ".join(read(await ui.get("/ui")).text.split())
    for shown in ("healthy", "Sessions 1 ", "Isolation process", "Memory of a run1 GiB", "3.x"):
        assert shown in text
    assert "deno not on this server" in text
    assert (await ui.get("/ui/")).headers["location"] == "/ui"


async def test_a_policy_holds_on_every_page(ui: httpx2.AsyncClient) -> None:
    await new(ui, "one")
    for path in ("/ui", "/ui/sessions", "/ui/sessions/one", "/ui/run", "/ui/no-page"):
        answer = await ui.get(path)
        policy = answer.headers["content-security-policy"]
        page = Page(answer.text)
        (script,) = page.of("script")
        assert policy.startswith("default-src 'none'; ")
        assert f"script-src 'nonce-{script['nonce']}';" in policy
        assert "unsafe" not in policy
        assert active(page) == []
        assert page.of("style") == []
        assert [tag for tag, attributes in page.tags if "style" in attributes] == []
    nonces = {Page((await ui.get("/ui")).text).of("script")[0]["nonce"] for _ in range(2)}
    assert len(nonces) == 2


async def test_style_and_script_are_the_packages_own(ui: httpx2.AsyncClient) -> None:
    page = read(await ui.get("/ui"))
    for address in (page.of("script")[0]["src"], page.of("link")[1]["href"]):
        answer = await ui.get(address)
        assert answer.status_code == 200
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "immutable" in answer.headers["cache-control"]
    for name in ("..%2frender.py", "render.py", "nothing"):
        assert (await ui.get(f"/ui/static/{name}")).status_code == 404


async def test_every_session_is_on_one_page(ui: httpx2.AsyncClient) -> None:
    for number in range(7):
        await new(ui, f"s{number}")
    await new(ui, "other")
    seen: list[str] = []
    address = "/ui/sessions?limit=3&prefix=s"
    while address:
        page = read(await ui.get(address))
        seen += [link.rpartition("/")[2] for link in page.links() if "/sessions/" in link]
        following = [a["href"] for a in page.of("a") if a.get("rel") == "next"]
        address = following[0] if following else ""
    assert seen == [f"s{number}" for number in range(7)]
    assert "no page" not in read(await ui.get("/ui/sessions?limit=0"), 400).text
    assert read(await ui.get("/ui/sessions?cursor=nonsense"), 400)


async def test_a_session_is_made_and_deleted(ui: httpx2.AsyncClient) -> None:
    form = {
        "language": "python",
        "id": "mine",
        "persistent": "1",
        "commands": "echo a\r\n\r\necho b",
    }
    answer = await ui.post("/ui/sessions", data=form)
    assert (answer.status_code, answer.headers["location"]) == (303, "/ui/sessions/mine")
    made = (await ui.get("/api/sessions/mine")).json()
    assert made["setup"] == {"commands": ["echo a", "echo b"]}
    assert (made["persistent"], made["allowInternetAccess"]) == (True, False)
    assert "already exists" in read(await ui.post("/ui/sessions", data=form), 409).text
    made_up = await ui.post("/ui/sessions", data={"language": "python", "internet": "1"})
    assert made_up.headers["location"].startswith("/ui/sessions/sess_")
    assert (await ui.post("/ui/sessions/mine/delete")).headers["location"] == "/ui/sessions"
    assert read(await ui.get("/ui/sessions/mine"), 404)
    assert read(await ui.post("/ui/sessions/mine/delete"), 404)


@pytest.mark.parametrize(
    ("form", "status", "told"),
    [
        ({"language": "python", "id": "a/b"}, 400, "must contain only letters"),
        ({"language": "cobol"}, 400, "unsupported language"),
        ({"language": "deno"}, 400, "unsupported language"),
        ({"language": "python", "pip": "--index-url=http://x"}, 400, "pip"),
        ({}, 400, "language"),
    ],
)
async def test_what_the_api_refuses_is_refused(
    ui: httpx2.AsyncClient, form: dict[str, str], status: int, told: str
) -> None:
    assert told in read(await ui.post("/ui/sessions", data=form), status).text


async def test_code_is_run_without_a_script(ui: httpx2.AsyncClient) -> None:
    await new(ui, "mine")
    code = "import sys\r\nprint(input(), sys.argv[1:])\r\nopen('made', 'w').close()\r\nsys.exit(3)"
    form = {"code": code, "stdin": "typed", "args": "one\r\ntwo words", "timeout": "9"}
    answer = await ui.post("/ui/sessions/mine/run", data=form)
    page = read(answer)
    assert "typed ['one', 'two words']" in page.text
    assert "exit code 3" in page.text
    assert "failed" in page.text
    assert "import sys\nprint(input()" in page.text, "what was typed is still there"
    assert "/ui/sessions/mine/files/made" in page.links()
    assert page.of("input")[-1]
    once = read(await ui.post("/ui/run", data={"language": "python", "code": "print(6*7)"}))
    assert "42" in once.text
    assert "exit code 0" in once.text


async def test_how_a_program_ended_is_said(ui: httpx2.AsyncClient) -> None:
    await new(ui, "mine")
    for form, told in (
        ({"code": "import time; time.sleep(60)", "timeout": "0.2"}, "timed out"),
        ({"code": "import os; os.kill(os.getpid(), 9)"}, "SIGKILL"),
        ({"code": "pass"}, "succeeded"),
    ):
        assert told in read(await ui.post("/ui/sessions/mine/run", data=form)).text


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ({"code": ""}, "no code"),
        ({"code": "pass", "timeout": "soon"}, "timeout must be"),
        ({"code": "pass", "timeout": "nan"}, "timeout must be"),
        ({"code": "pass", "timeout": "99999"}, "exceeds the maximum"),
        ({"code": "pass", "timeout": "-1"}, "timeout must be"),
    ],
)
async def test_a_run_that_is_refused(
    ui: httpx2.AsyncClient, form: dict[str, str], told: str
) -> None:
    await new(ui, "mine")
    assert told in read(await ui.post("/ui/sessions/mine/run", data=form), 400).text


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    found = re.findall(r"event: (\w+)\ndata: (.*)\n\n", text)
    return [(name, json.loads(data)) for name, data in found]


async def test_output_comes_as_events(ui: httpx2.AsyncClient) -> None:
    await new(ui, "mine")
    headers = {"X-Era-Token": ""}
    form = {"code": "print('out')", "language": "python"}
    for path in ("/ui/live/sessions/mine/run", "/ui/live/run"):
        answer = await ui.post(path, data=form, headers=headers)
        assert answer.headers["content-type"] == "text/event-stream"
        *output, (last, result) = events(answer.text)
        assert "".join(data["content"] for _, data in output) == "out\n"
        assert (last, result["exit_code"], result["outcome"]) == ("done", 0, "succeeded")
    refused = await ui.post("/ui/live/sessions/none/run", data=form, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (404, "session_not_found")


# --- what others have written -------------------------------------------------------------------


async def test_nothing_that_others_wrote_takes_effect(
    ui: httpx2.AsyncClient, sessions: Sessions
) -> None:
    await new(
        ui, "mine", data={"a": EVIL}, metadata={EVIL: EVIL}, setup={"commands": [f"echo '{EVIL}'"]}
    )
    name = EVIL.replace("/", "_")
    await ui.put(f"/api/sessions/mine/files/{quote(name, safe='')}", content=EVIL)
    await ui.put("/api/sessions/mine/code", json={"code": f"</textarea>{EVIL}"})
    code = f"import sys\nprint({EVIL!r})\nprint({EVIL!r}, file=sys.stderr)"
    pages = [
        read(await ui.get("/ui/sessions/mine")),
        read(await ui.get(f"/ui/sessions/mine/files/{quote(name, safe='')}")),
        read(await ui.post("/ui/run", data={"language": "python", "code": code})),
        read(await ui.get(f"/ui/sessions/{quote(EVIL, safe='')}"), 404),
        read(await ui.get(f"/ui/sessions?prefix={quote(EVIL)}")),
        read(await ui.post("/ui/sessions", data={"language": EVIL}), 400),
        read(await ui.get(f"/ui/{quote(EVIL)}"), 404),
    ]
    for page in pages:
        assert active(page) == []
        assert "49" not in page.text.replace(EVIL, "")
    for page in pages[:3]:
        assert "<script>alert(2)</script>" in page.text, "it is shown as it is"


def test_a_page_that_lets_it_through_is_found() -> None:
    assert len(active(Page(EVIL))) == 4


async def test_files_are_saved_and_never_shown_as_pages(ui: httpx2.AsyncClient) -> None:
    await new(ui, "mine")
    content = b"<script>alert(document.cookie)</script>"
    await ui.put(
        "/api/sessions/mine/files/a/evil%22%0d%0aX-Evil%3a%201.html",
        content=content,
        headers={"Content-Type": "text/html"},
    )
    page = read(await ui.get("/ui/sessions/mine"))
    (link,) = [link for link in page.links() if "/download/" in link]
    answer = await ui.get(link)
    assert answer.content == content
    assert answer.headers["content-disposition"].startswith("attachment; ")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert "x-evil" not in answer.headers
    assert (await ui.get("/ui/sessions/mine/download/none")).status_code == 404
    assert (await ui.get("/ui/sessions/mine/download/..%2f..%2fx")).status_code == 400


async def test_the_text_of_a_file(ui: httpx2.AsyncClient) -> None:
    await new(ui, "mine")
    files = "/api/sessions/mine/files"
    await ui.put(f"{files}/odd.txt", content="bell\x07 \u202eturned\r\n\xe6".encode())
    await ui.put(f"{files}/binary", content=b"\0\1\2")
    await ui.put(f"{files}/empty", content=b"")
    await ui.put(f"{files}/long", content=b"x" * 300_000)
    shown = {
        name: read(await ui.get(f"/ui/sessions/mine/files/{name}")).text
        for name in ("odd.txt", "binary", "empty", "long")
    }
    assert "bell\u2407 \u27e8U+202E\u27e9turned\n\xe6" in shown["odd.txt"]
    assert "no text" in shown["binary"]
    assert "is empty" in shown["empty"]
    assert "first 256 KiB" in shown["long"]
    assert shown["long"].count("x") < 263_000


async def test_files_come_and_go(ui: httpx2.AsyncClient) -> None:
    await new(ui, "mine")
    content = bytes(range(256)) * 3000
    files = [
        ("file", ("one.bin", content, "application/octet-stream")),
        ("file", ('two "quoted" \xe6.txt', b"2", "text/plain")),
        ("file", ("", b"", "application/octet-stream")),
    ]
    answer = await ui.post(
        "/ui/sessions/mine/upload", data={"token": "", "folder": "/in/"}, files=files
    )
    assert (answer.status_code, answer.headers["location"]) == (303, "/ui/sessions/mine#files")
    listed = (await ui.get("/api/sessions/mine/files")).json()["files"]
    assert [file["path"] for file in listed] == ["in/one.bin", 'in/two "quoted" \xe6.txt']
    assert (await ui.get("/api/sessions/mine/files/in/one.bin")).content == content
    await ui.post("/ui/sessions/mine/remove", data={"path": "in/one.bin"})
    assert read(await ui.post("/ui/sessions/mine/remove", data={"path": "in/one.bin"}), 404)
    assert (await ui.get("/api/sessions/mine")).json()["file_count"] == 1


@pytest.mark.parametrize(
    ("name", "folder", "told"),
    [
        ("x", "../..", "invalid file path"),
        (".session_data.json", "", "reserved file path"),
        ("", "", "file is required"),
    ],
)
async def test_an_upload_that_is_refused(
    ui: httpx2.AsyncClient, name: str, folder: str, told: str
) -> None:
    await new(ui, "mine")
    answer = await ui.post(
        "/ui/sessions/mine/upload", data={"folder": folder}, files={"file": (name, b"x")}
    )
    assert told in read(answer, 400).text
    assert (await ui.get("/api/sessions/mine")).json()["file_count"] == 0


async def test_an_upload_ends_at_the_bounds(connect: Connect, sessions: Sessions) -> None:
    from era.api.options import Bounds

    ui = await connect(bounds=Bounds(file_bytes=1000))
    await new(ui, "mine")
    answer = await ui.post(
        "/ui/sessions/mine/upload", data={"folder": ""}, files={"file": ("big", b"x" * (2 << 20))}
    )
    assert answer.status_code == 413
    for body, kind in (
        (b"--b\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\nx", "boundary=b"),
        (b"nonsense", "boundary=b"),
        (b"", "charset=b"),
        (b"--b\r\n" + b"X-Long: " + b"y" * 100_000, "boundary=b"),
    ):
        headers = {"Content-Type": f"multipart/form-data; {kind}"}
        answer = await ui.post("/ui/sessions/mine/upload", content=body, headers=headers)
        assert answer.status_code in (400, 413)
    assert (await ui.get("/api/sessions/mine")).json()["file_count"] == 0


async def test_switched_off_there_is_nothing(sessions: Sessions) -> None:
    for keys, status in (((), 404), ((KEY,), 401)):
        app = create_app(sessions, Options(clock=now_ms, api_keys=keys))
        async with httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app), base_url="http://era.test"
        ) as client:
            assert (await client.get("/ui")).status_code == status
            assert (await client.get("/uix")).status_code == status


def test_the_setting_switches_it_off() -> None:
    assert [area.prefix for area in areas(load({"ERA_UI": "1"}))] == ["/ui"]
    assert areas(load({"ERA_UI": "0"})) == ()


# --- texts --------------------------------------------------------------------------------------


@given(st.text())
def test_nothing_hidden_is_left(text: str) -> None:
    shown = visible(text)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e]", shown)
    plain = re.sub(r"[^ -~\n\t]", "", text)
    assert visible(plain) == plain


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_indented_json_is_the_same_json(value: object) -> None:
    compact = json.dumps(value, separators=(",", ":"))
    assert json.loads(indented(compact)) == value


def test_no_digit_of_a_number_is_changed() -> None:
    assert indented('{"a":1.10,"b":[1e400,{}]}') == (
        '{\n  "a": 1.10,\n  "b": [\n    1e400,\n    {}\n  ]\n}'
    )


def test_sizes_and_times() -> None:
    assert [size(n) for n in (0, 1023, 1024, 1536, 5 << 30)] == [
        "0 B", "1023 B", "1 KiB", "1.5 KiB", "5 GiB"
    ]  # fmt: skip
    assert when(None) == "\u2013"
    assert when(1_761_254_666_901) == "2025-10-23 21:24:26 UTC"


# --- colours ------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    digits = colour.removeprefix("#")
    digits = "".join(d * 2 for d in digits) if len(digits) == 3 else digits
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, two: str) -> float:
    low, high = sorted((luminance(one), luminance(two)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_can_be_read(scheme: int) -> None:
    colours = dict(re.findall(r"--([\w-]+): (#\w+)", style().split(":root {")[scheme + 1]))
    pairs = [(front, back) for front in ("text", "soft", "main") for back in ("page", "card")]
    pairs += [("text", "code"), ("bad", "code"), ("main-text", "main"), ("bad", "card")]
    pairs += [(name, f"{name}-back") for name in ("ok", "bad", "warn", "run")]
    faint = [pair for pair in pairs if contrast(colours[pair[0]], colours[pair[1]]) < 4.5]
    assert faint == []


def style() -> str:
    return static_file("dashboard.css").decode()


def test_contrast_is_measured() -> None:
    assert round(contrast("#000", "#ffffff"), 2) == 21
    assert contrast("#777", "#fff") < 4.5 < contrast("#767676", "#fff")
