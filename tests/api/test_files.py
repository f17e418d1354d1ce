"""Session files through the whole application: names, bytes, types, parts."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from era.api import answers_schema as schema
from era.api import media
from era.api.options import Bounds

pytestmark = pytest.mark.anyio

FILES = "/api/sessions/s/files"


@pytest.fixture
async def api(api: httpx2.AsyncClient) -> httpx2.AsyncClient:
    """A client, and a session `s`."""
    await api.post("/api/sessions", json={"id": "s", "language": "python"})
    return api


def encoded(name: str) -> str:
    return quote(name, safe="/")


async def put(api: httpx2.AsyncClient, name: str, content: bytes = b"x", **headers: str) -> Any:
    names = {key.replace("_", "-"): value for key, value in headers.items()}
    return await api.put(f"{FILES}/{encoded(name)}", content=content, headers=names)


NAMES = [
    "plain.txt",
    "a/b/c",
    "with space",
    "100%",
    "a#b",
    "a?b=c&d",
    "a\\b",
    "a%2e",
    "%2e%2e",
    "..hidden",
    "...",
    "~",
    "naïve/日本語/𝄞",
    "new\nline",
    "a+b;c=d,e:f@g!$&'()*",
    "-rf",
    "a" * 255,
    "/".join(["d" * 100] * 10),
]


@pytest.mark.parametrize("name", NAMES)
async def test_names_are_kept_exactly(api: httpx2.AsyncClient, name: str) -> None:
    stored = await put(api, name, name.encode())
    assert stored.status_code == 200, stored.text
    schema.StoredFile.model_validate(stored.json())
    assert stored.json() == {"path": name, "size": len(name.encode())}
    listed = (await api.get(FILES)).json()
    schema.FileList.model_validate(listed)
    assert [file["path"] for file in listed["files"]] == [name]
    assert (await api.get(f"{FILES}/{encoded(name)}")).content == name.encode()
    gone = await api.delete(f"{FILES}/{encoded(name)}")
    assert (gone.status_code, gone.json()) == (200, {"deleted": name})
    assert (await api.get(FILES)).json()["total_count"] == 0


IMPOSSIBLE = [
    "%2e%2e%2fx",
    "%2e%2e",
    "a/%2e%2e/b",
    "%2fetc/passwd",
    "a%2f%2fb",
    "a%2f",
    "a//b",
    "a/",
    "%2e",
    "a%00b",
    "%ff%fe",
    "%ed%a0%80",
    "x" * 256,
    "/".join(["d" * 100] * 11),
]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
@pytest.mark.parametrize("path", IMPOSSIBLE)
async def test_paths_refused(api: httpx2.AsyncClient, method: str, path: str) -> None:
    answer = await api.request(method, f"{FILES}/{path}")
    assert answer.status_code == 400
    if method != "HEAD":
        assert (answer.json()["error"], answer.json()["code"]) == (
            "invalid file path",
            "invalid_path",
        )
    unknown = await api.request(method, f"/api/sessions/none/files/{path}")
    assert unknown.status_code == 404


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize("path", [".session_data.json", ".era/x", ".era", "%2eera/x"])
async def test_reserved_paths(api: httpx2.AsyncClient, method: str, path: str) -> None:
    answer = await api.request(method, f"{FILES}/{path}")
    assert (answer.status_code, answer.json()["code"]) == (400, "reserved_path")
    assert answer.json()["error"] == "reserved file path"
    assert "data" in answer.json()["hint"]


async def test_putting_nowhere(api: httpx2.AsyncClient) -> None:
    for method in ("PUT", "DELETE"):
        answer = await api.request(method, f"{FILES}/")
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_path")
        assert (await api.request(method, FILES)).status_code == 405


async def test_files_that_are_not_there(api: httpx2.AsyncClient) -> None:
    await put(api, "d/f")
    for method, path in (("GET", "x"), ("GET", "d"), ("DELETE", "x"), ("GET", "d/f/g")):
        answer = await api.request(method, f"{FILES}/{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "file_not_found"), path
        assert answer.json()["error"] == "File not found"


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("PUT", "/f"), ("DELETE", "/f")])
async def test_files_of_no_session(api: httpx2.AsyncClient, method: str, path: str) -> None:
    for session in ("none", "a.b", "s%2ffiles"):
        answer = await api.request(method, f"/api/sessions/{session}/files{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "session_not_found")


async def test_files_in_the_way(api: httpx2.AsyncClient) -> None:
    await put(api, "f")
    await put(api, "d/g")
    for path in ("f/below", "d"):
        answer = await put(api, path)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_path")


async def test_directories_go_only_when_asked_for(api: httpx2.AsyncClient) -> None:
    for name in ("d/a", "d/e/b", "dx"):
        await put(api, name)
    assert (await api.delete(f"{FILES}/d")).status_code == 400
    assert (await api.delete(f"{FILES}/d?recursive=1")).status_code == 200
    assert [file["path"] for file in (await api.get(FILES)).json()["files"]] == ["dx"]


async def test_the_list(api: httpx2.AsyncClient) -> None:
    empty = await api.get(FILES)
    assert empty.text == '{"files":[],"count":0,"total_count":0,"total_size_bytes":0}'
    for name in ("b", "a/1", "a/2", "a/3"):
        await put(api, name, b"12345")
    some = (await api.get(f"{FILES}?prefix=a/&limit=2")).json()
    assert [file["path"] for file in some["files"]] == ["a/1", "a/2"]
    assert (some["count"], some["total_count"], some["total_size_bytes"]) == (2, 3, 15)
    rest = (await api.get(f"{FILES}?prefix=a/&limit=2&cursor={some['next_cursor']}")).json()
    assert [file["path"] for file in rest["files"]] == ["a/3"]
    assert "next_cursor" not in rest
    assert (rest["files"][0]["mode"], rest["files"][0]["size"]) == ("0644", 5)
    session = (await api.get("/api/sessions/s")).json()
    assert (session["file_count"], session["total_size_bytes"]) == (4, 20)


async def test_the_headers_of_a_download(api: httpx2.AsyncClient) -> None:
    name = 'd/é "q".txt'
    await put(api, name, b"hello")
    url = f"{FILES}/{encoded(name)}"
    for answer in (await api.get(url), await api.head(url)):
        assert answer.status_code == 200
        assert answer.headers["content-length"] == "5"
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.headers["etag"] == f'"{hashlib.sha256(b"hello").hexdigest()}"'
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == "sandbox"
        assert "content-disposition" not in answer.headers
    saved = await api.get(f"{url}?download=1")
    assert saved.headers["content-disposition"] == (
        "attachment; filename=\"_ _q_.txt\"; filename*=UTF-8''%C3%A9%20%22q%22.txt"
    )


async def test_an_empty_file(api: httpx2.AsyncClient) -> None:
    await put(api, "e", b"")
    answer = await api.get(f"{FILES}/e")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == "0"


async def test_what_the_client_has_already(api: httpx2.AsyncClient) -> None:
    await put(api, "f", b"one")
    tag = (await api.get(f"{FILES}/f")).headers["etag"]
    for known in (tag, f'"x", W/{tag}', "*"):
        answer = await api.get(f"{FILES}/f", headers={"If-None-Match": known})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == tag
    await put(api, "f", b"two")
    assert (await api.get(f"{FILES}/f", headers={"If-None-Match": tag})).content == b"two"


@pytest.mark.parametrize(
    ("asked", "status", "content", "shown"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=4-", 206, b"456789", "bytes 4-9/10"),
        ("bytes=-2", 206, b"89", "bytes 8-9/10"),
        ("bytes=-20", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=9-100", 206, b"9", "bytes 9-9/10"),
        ("bytes=10-", 200, b"0123456789", None),
        ("bytes=5-4", 200, b"0123456789", None),
        ("bytes=-0", 200, b"0123456789", None),
        ("bytes=-", 200, b"0123456789", None),
        ("bytes=0-1,3-4", 200, b"0123456789", None),
        ("lines=0-1", 200, b"0123456789", None),
        ("bytes=" + "9" * 400 + "-", 200, b"0123456789", None),
    ],
)
async def test_parts(
    api: httpx2.AsyncClient, asked: str, status: int, content: bytes, shown: str | None
) -> None:
    await put(api, "f", b"0123456789")
    answer = await api.get(f"{FILES}/f", headers={"Range": asked})
    assert (answer.status_code, answer.content) == (status, content)
    assert answer.headers.get("content-range") == shown
    assert answer.headers["content-length"] == str(len(content))
    changed = await api.get(f"{FILES}/f", headers={"Range": asked, "If-Range": '"old"'})
    assert changed.status_code == 200


@pytest.mark.parametrize(
    ("given", "name", "shown"),
    [
        ("image/x-own", "a.txt", "image/x-own"),
        ("text/plain; charset=latin-1", "a.json", "text/plain; charset=latin-1"),
        ("application/octet-stream", "a.json", "application/json"),
        ("application/x-www-form-urlencoded", "a.csv", "text/csv; charset=utf-8"),
        ("multipart/form-data; boundary=x", "a.PNG", "image/png"),
        ("no type", "a.md", "text/markdown; charset=utf-8"),
        ("text/html\x01", "a", "application/octet-stream"),
        ("text/plain; " + "x" * 500, "a.gz", "application/gzip"),
        (None, "a.svg", "image/svg+xml"),
        (None, "json", "application/octet-stream"),
        (None, "d.json/f", "application/octet-stream"),
        (None, "f.", "application/octet-stream"),
    ],
)
def test_types(given: str | None, name: str, shown: str) -> None:
    assert media.of_file(name, media.chosen(given)) == shown


async def test_a_type_given_at_upload(api: httpx2.AsyncClient) -> None:
    await put(api, "f.txt", content_type="application/x-own")
    assert (await api.get(f"{FILES}/f.txt")).headers["content-type"] == "application/x-own"


async def test_files_that_are_too_large(connect: Callable[..., Any]) -> None:
    api = await connect(bounds=Bounds(file_bytes=10))
    await api.post("/api/sessions", json={"id": "s", "language": "python"})
    assert (await put(api, "f", b"x" * 10)).status_code == 200

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b"y"

    for content in (b"y" * 11, pieces()):
        answer = await api.put(f"{FILES}/f", content=content)
        assert (answer.status_code, answer.json()["code"]) == (413, "file_too_large")
        assert answer.json()["error"] == "file exceeds 10 bytes"
    assert (await api.get(f"{FILES}/f")).content == b"x" * 10


async def test_links_lead_to_their_files(api: httpx2.AsyncClient) -> None:
    code = "import os; os.symlink('t.json', 'l'); os.symlink('none', 'n'); open('t.json','w').write('1234')"
    await api.post("/api/sessions/s/run", json={"code": code})
    files = {file["path"]: file for file in (await api.get(FILES)).json()["files"]}
    assert (files["l"]["symlink"], files["l"]["size"]) == ("t.json", 4)
    assert (await api.get(f"{FILES}/l")).content == b"1234"
    assert (await api.get(f"{FILES}/n")).status_code == 404


async def test_links_out_of_the_workspace_are_dropped(api: httpx2.AsyncClient) -> None:
    code = (
        "import os\n"
        "os.symlink('/etc/passwd', 'l'); os.symlink('/etc', 'd'); os.symlink('../..', 'up')\n"
        "os.mkdir('in'); os.symlink('../../etc/passwd', 'in/l'); os.symlink('l', 'second')\n"
    )
    result = (await api.post("/api/sessions/s/run", json={"code": code})).json()
    skipped = {file["path"]: file["reason"] for file in result["files_skipped"]}
    assert {"l", "d", "up", "in/l"} <= {p for p, why in skipped.items() if why == "outside_link"}
    for path in ("l", "d/passwd", "in/l", "second", "up/etc/passwd"):
        answer = await api.get(f"{FILES}/{path}")
        assert answer.status_code == 404, path
        assert "root:" not in answer.text
    put_through = await put(api, "d/x")
    assert put_through.status_code == 200
    assert (await api.get(f"{FILES}/d/x")).content == b"x"
