"""The dashboard in a real browser, on a real server with real boxes.

The browser is the system's chromium.  Playwright has a thread of its own, so that its event loop is
never that of other tests.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, expect, sync_playwright

from local_server import LocalServer
from tests.ui.pages import KEY
from tests.ui.test_pages import EVIL

pytestmark = pytest.mark.xdist_group("browser")

PATIENCE_MS = 60_000
Script = Callable[[Page], None]
Visit = Callable[..., None]


class Service:
    """A running service with a key, and requests to its API."""

    def __init__(self, url: str) -> None:
        self.url = url

    def call(self, method: str, path: str, body: object = None) -> Any:
        data = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        request = urllib.request.Request(
            f"{self.url}{path}",
            data=None if method == "GET" else data,
            method=method,
            headers={"Authorization": f"Bearer {KEY}"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def new(self, name: str, **members: object) -> None:
        self.call("POST", "/api/sessions", {"id": name, "language": "python", **members})


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with tempfile.TemporaryDirectory(prefix="era-ui-") as folder:
        server = LocalServer(Path(folder) / "state", {"ERA_API_KEY": KEY, "ERA_READY_BOXES": "1"})
        server.start()
        try:
            yield Service(server.url)
        finally:
            server.stop()
            server.close()


def launched() -> tuple[Playwright, Browser]:
    program = shutil.which("chromium")
    assert program is not None, "these tests need a browser: apt-get install chromium"
    playwright = sync_playwright().start()
    # Its own sandbox refuses to work for root; what it shows here are our own pages.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    arguments.append("--disable-dev-shm-usage")
    return playwright, playwright.chromium.launch(executable_path=program, args=arguments)


@pytest.fixture(scope="module")
def visit(service: Service) -> Iterator[Visit]:
    """Runs a script with a page of a new browser profile: `signed_in` or not."""
    with ThreadPoolExecutor(1) as thread:
        playwright, browser = thread.submit(launched).result()

        def in_page(script: Script, signed_in: bool, options: dict[str, Any]) -> None:
            context = browser.new_context(base_url=service.url, **options)
            try:
                context.set_default_timeout(PATIENCE_MS)
                expect.set_options(timeout=PATIENCE_MS)
                page = context.new_page()
                if signed_in:
                    sign_in(page)
                script(page)
            finally:
                context.close()

        def visited(script: Script, *, signed_in: bool = True, **options: Any) -> None:
            thread.submit(in_page, script, signed_in, options).result()

        yield visited
        thread.submit(browser.close).result()
        thread.submit(playwright.stop).result()


def sign_in(page: Page, key: str = KEY) -> None:
    page.goto("/ui/login")
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()


def heading(page: Page, text: str) -> None:
    expect(page.get_by_role("heading", level=1)).to_contain_text(text)


def run(page: Page, code: str) -> None:
    page.get_by_label("Code", exact=True).fill(code)
    page.get_by_role("button", name="Run", exact=True).click()


def test_signing_in_and_out(visit: Visit) -> None:
    def script(page: Page) -> None:
        page.goto("/ui/sessions")
        heading(page, "Sign in")
        sign_in(page, "a wrong key")
        expect(page.get_by_role("alert")).to_contain_text("not a key")
        sign_in(page)
        heading(page, "Overview")
        assert page.evaluate("document.cookie") == ""
        assert KEY not in page.content()
        page.get_by_role("button", name="Sign out").click()
        heading(page, "Sign in")
        page.goto("/ui")
        heading(page, "Sign in")

    visit(script, signed_in=False)


def test_a_session_from_its_making_to_its_end(visit: Visit, service: Service) -> None:
    def script(page: Page) -> None:
        page.goto("/ui/sessions")
        if not page.get_by_label("Id", exact=True).is_visible():
            page.get_by_text("New session").click()
        page.get_by_label("Id", exact=True).fill("whole")
        page.get_by_role("button", name="Create session").click()
        heading(page, "whole")
        run(page, "open('made.txt', 'w').write('kept'); print('6 * 7 =', 6 * 7)")
        live = page.get_by_label("Output of the run")
        expect(live).to_contain_text("6 * 7 = 42")
        expect(live.get_by_role("status")).to_have_text("succeeded")
        expect(live).to_contain_text("exit code 0")
        # The list of files is that of after the run, without the page being loaded anew.
        page.get_by_role("link", name="made.txt", exact=True).click()
        heading(page, "made.txt")
        expect(page.get_by_label("Text of the file")).to_have_text("kept")
        with page.expect_download() as download:
            page.get_by_role("link", name="Download").click()
        assert download.value.suggested_filename == "made.txt"
        assert Path(download.value.path()).read_text() == "kept"
        page.goto("/ui/sessions/whole")
        page.get_by_label("Files", exact=True).set_input_files(
            {"name": "in.csv", "mimeType": "text/csv", "buffer": b"a,b"}
        )
        page.get_by_role("button", name="Upload").click()
        expect(page.get_by_role("link", name="in.csv", exact=True)).to_be_visible()
        page.on("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Delete in.csv").click()
        expect(page.get_by_role("link", name="in.csv", exact=True)).to_have_count(0)
        page.get_by_role("button", name="Delete session").click()
        heading(page, "Sessions")

    visit(script)
    answer = service.call("GET", "/api/sessions?prefix=whole")
    assert answer["sessions"] == []


def test_output_comes_while_a_program_runs_and_it_can_be_ended(
    visit: Visit, service: Service
) -> None:
    service.new("endless", default_timeout=300)

    def script(page: Page) -> None:
        page.goto("/ui/sessions/endless")
        run(page, "import time\nprint('begun', flush=True)\ntime.sleep(250)")
        live = page.get_by_label("Output of the run")
        expect(live).to_contain_text("begun")
        expect(live.get_by_role("status")).to_have_text("running")
        page.get_by_role("button", name="Cancel", exact=True).click()
        expect(live.get_by_role("status")).to_have_text("cancelled")
        expect(page.get_by_role("button", name="Run", exact=True)).to_be_enabled()

    visit(script)


def test_code_is_run_once(visit: Visit) -> None:
    def script(page: Page) -> None:
        page.goto("/ui/run")
        page.get_by_label("Language").select_option("node")
        page.get_by_text("Input, arguments, limits").click()
        page.get_by_label("Standard input").fill("typed")
        read = "require('fs').readFileSync(0, 'utf8')"
        run(page, f"console.error({read} + '!'); process.exitCode = 5")
        live = page.get_by_label("Output of the run")
        expect(live).to_contain_text("typed!")
        expect(live).to_contain_text("exit code 5")
        expect(live.get_by_role("status")).to_have_text("failed")
        run(page, "")
        expect(live.get_by_role("status")).to_have_text("not run")
        expect(live).to_contain_text("code is required")

    visit(script)


def test_a_setup_is_followed_to_its_end(visit: Visit, service: Service) -> None:
    service.new("preparing", setup={"commands": ["echo working; sleep 250"]})
    service.new("prepared", setup={"commands": ["echo '<b>ready</b>'"]})

    def script(page: Page) -> None:
        page.goto("/ui/sessions/preparing")
        section = page.get_by_role("region", name="Setup")
        expect(section.get_by_role("status")).to_have_text("running")
        expect(section.get_by_label("Last line of the setup")).to_have_text("working")
        page.on("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Delete session").click()
        heading(page, "Sessions")
        page.goto("/ui/sessions/prepared")
        page.get_by_label("Code", exact=True).fill("kept")
        expect(section.get_by_role("status")).to_have_text("completed")
        expect(page.get_by_label("Code", exact=True)).to_have_value("kept")
        section.get_by_text("What came of it").click()
        expect(section).to_contain_text("<b>ready</b>")

    visit(script)


def test_everything_works_without_javascript(visit: Visit, service: Service) -> None:
    service.new("plain")

    def script(page: Page) -> None:
        page.goto("/ui/sessions/plain")
        run(page, "import sys; print('out'); print('err', file=sys.stderr); sys.exit(4)")
        result = page.get_by_label("Result of the run")
        expect(result.get_by_role("status")).to_have_text("failed")
        expect(result).to_contain_text("exit code 4")
        expect(result.get_by_label("Output")).to_have_text("out")
        expect(result.get_by_label("Errors")).to_have_text("err")
        page.get_by_role("button", name="Delete session").click()
        heading(page, "Sessions")
        page.get_by_role("button", name="Sign out").click()
        heading(page, "Sign in")

    visit(script, java_script_enabled=False)


# --- attacks --------------------------------------------------------------------------------------

PWN = "<img src=/nothing onerror=\"document.title='pwned'\"><script>document.title='pwned'</script>"


def test_what_others_wrote_does_nothing(visit: Visit, service: Service) -> None:
    service.new("evil", data={"a": PWN}, metadata={"b": PWN}, setup={"commands": [f"echo '{PWN}'"]})
    name = PWN.replace("/", "_")
    path = quote(name, safe="")
    service.call("PUT", f"/api/sessions/evil/files/{path}", PWN.encode())
    service.call("PUT", f"/api/sessions/evil/files/{path}.html", PWN.encode())

    def script(page: Page) -> None:
        problems: list[str] = []
        page.on("dialog", lambda dialog: problems.append(dialog.message))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto("/ui/sessions/evil")
        code = (
            f"print({PWN!r})\nprint({EVIL!r})\nprint('\\x1b[31m\\u202e')\nopen({name!r} + '2', 'w')"
        )
        run(page, code)
        live = page.get_by_label("Output of the run")
        expect(live).to_contain_text("exit code 0")
        expect(live).to_contain_text(PWN)
        expect(live).to_contain_text("\u241b[31m\u27e8U+202E\u27e9")
        expect(page.get_by_role("link", name=f"{name}2", exact=True)).to_be_visible()
        assert page.locator("main img, main script").count() == 0
        assert "pwned" not in page.title()
        page.get_by_role("link", name=name, exact=True).click()
        expect(page.get_by_label("Text of the file")).to_have_text(PWN)
        assert page.locator("main img, main script").count() == 0
        assert problems == []
        # Were it taken for a page, this would be seen.
        page.goto("about:blank")
        page.set_content(PWN)
        page.wait_for_function("document.title === 'pwned'")

    visit(script)


SPY = """
const wanted = /data-token="[0-9a-f]{64}"/;
async function fetched() {
  const pages = ["/ui", "/ui/login", "/ui/no", "/ui/sessions/spy"];
  const texts = await Promise.all(pages.map(async (page) => (await fetch(page)).text()));
  texts.push(await (await fetch("/ui/run", { method: "POST", body: new URLSearchParams({}) })).text());
  return texts.some((text) => wanted.test(text));
}
function framed() {
  return new Promise((resolve) => {
    const frame = document.createElement("iframe");
    frame.onload = () => {
      let text = "";
      try { text = frame.contentDocument.documentElement.outerHTML; } catch { }
      resolve(wanted.test(text));
    };
    frame.src = "/ui";
    document.body.append(frame);
  });
}
function held(address) {
  const other = window.open(address);
  return () => {
    try { return [other.closed, other.document.body.dataset.token || other.document.title]; }
    catch (error) { return [other.closed, null]; }
  };
}
async function created() {
  const body = new URLSearchParams({ language: "python", id: "forged" });
  return (await fetch("/ui/sessions", { method: "POST", body })).status;
}
"""


def test_a_page_of_a_box_cannot_act_for_whoever_is_signed_in(
    visit: Visit, service: Service
) -> None:
    service.new("spy", allowPublicAccess=True)
    page_of_box = {
        "status": 200,
        "headers": {"Content-Type": "text/html", "Cross-Origin-Opener-Policy": "same-origin"},
        "body": f"<title>box</title><body>a page<script>{SPY}</script>",
    }
    code = f"import json; print(json.dumps({page_of_box!r}))"
    service.call("PUT", "/api/sessions/spy/code", {"code": code})

    def script(page: Page) -> None:
        page.goto("/proxy/spy/8000/")
        expect(page.locator("body")).to_contain_text("a page")
        assert page.evaluate("fetch('/health').then((answer) => answer.status)") == 200
        assert page.evaluate("fetched()") is False
        assert page.evaluate("framed()") is False
        assert page.evaluate("created()") == 403
        opened(page, "/ui", "Overview")
        assert page.evaluate("window.look()") == [True, None]
        # What it does to a page of its own.
        opened(page, "/proxy/spy/8000/", "box")
        assert page.evaluate("window.look()") == [False, "box"]
        # What it has looked for is there.
        page.goto("/ui")
        assert re.search('data-token="[0-9a-f]{64}"', page.content())

    visit(script)
    assert service.call("GET", "/api/sessions?prefix=forged")["sessions"] == []


def opened(page: Page, address: str, title: str) -> None:
    """Have the page open a window, and wait for what it shows."""
    context: BrowserContext = page.context
    with context.expect_page() as shown:
        page.evaluate("(address) => { window.look = held(address); }", address)
    expect(shown.value).to_have_title(re.compile(title))


# --- for everybody --------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "scheme"), [(340, "light"), (1280, "dark")])
def test_pages_fit_and_every_field_has_a_name(
    visit: Visit, service: Service, width: int, scheme: str
) -> None:
    name = f"wide-{width}"
    service.new(name, data={"long": "x" * 500})
    path = f"/api/sessions/{name}/files/{'long' * 40}.txt"
    service.call("PUT", path, b"y" * 2000)

    def script(page: Page) -> None:
        for address in ("/ui", "/ui/sessions", f"/ui/sessions/{name}", "/ui/run", "/ui/none"):
            page.goto(address)
            excess = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert page.evaluate(excess) == 0, address
            unnamed = page.evaluate(
                "[...document.querySelectorAll('input:not([type=hidden]), textarea, select')]"
                ".filter((field) => !field.labels.length).map((field) => field.outerHTML)"
            )
            assert unnamed == [], address
            assert page.locator("main, header, footer").count() == 3
            assert page.get_by_role("heading", level=1).count() == 1
        page.goto("/ui/run")
        page.keyboard.press("Tab")
        expect(page.locator(":focus")).to_have_text("Skip to the content")

    visit(script, viewport={"width": width, "height": 800}, color_scheme=scheme)
