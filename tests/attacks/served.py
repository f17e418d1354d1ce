"""A started server under attack: its clients, and everything it holds, counted from outside."""

from __future__ import annotations

import http.client
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import count as counter
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

from tests.e2e.harness import WatchedServer
from tests.sandbox.census import Process, groups_of, loops_naming, network_of, process, processes_in

T = TypeVar("T")

ANSWER_SECONDS: Final = 20
"""Within this bound another client is answered, whatever goes on."""
ATTACK_SECONDS: Final = 120
_GONE_SECONDS: Final = 30
"""Only a test that fails waits this long."""
_STILL_SECONDS: Final = 1.0
KEY: Final = "key-of-the-operator-5f1c"
SECRET: Final = "secret-of-the-operator-7ab2"
SMALL: Final = {
    "ERA_API_KEY": KEY,
    "ERA_SECRET_KEY": SECRET,
    "SECRET_OF_THE_SERVER": SECRET,
    "ERA_PYTHON_PACKAGES": "none",
    "ERA_RUN_MEMORY_MIB": "128",
    "ERA_RUN_PIDS": "64",
    "ERA_RUN_DISK_BYTES": "64 MiB",
    "ERA_MAX_SESSION_BYTES": "32 MiB",
    "ERA_MAX_SESSION_FILES": "2000",
    "ERA_MAX_CONCURRENT_RUNS": "6",
    "ERA_SHUTDOWN_GRACE": "0.5",
}
"""Settings under which a limit is met soon."""
AMPLE: Final = SMALL | {
    "ERA_PYTHON_PACKAGES": "none",
    "ERA_RUN_MEMORY_MIB": "1024",
    "ERA_RUN_PIDS": "12000",
    "ERA_RUN_DISK_BYTES": "1 GiB",
    "ERA_MAX_SESSION_BYTES": "1 GiB",
    "ERA_MAX_SESSION_FILES": "0",
}
"""The mirror of limits: settings under which the same programs meet none."""
PATHS: Final = {"cold": "0", "warm": "2"}
"""How boxes are made, on demand or ahead: the value of ERA_READY_BOXES."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        """Its body."""
        return json.loads(self.content)


class Client:
    """A client of the server.  Each request has a connection of its own."""

    def __init__(self, port: int, key: str | None = KEY, seconds: float = ATTACK_SECONDS) -> None:
        self._port = port
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._seconds = seconds

    def connect(self) -> http.client.HTTPConnection:
        """A connection."""
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=self._seconds)

    def begin(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> http.client.HTTPConnection:
        """Send a request and leave its answer to be read."""
        connection = self.connect()
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {**self._headers, "Connection": "close", **headers})
        return connection

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """One request, its path as it is."""
        connection = self.begin(method, path, body, **headers)
        try:
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def call(self, method: str, path: str, /, **members: Any) -> Answer:
        """One request with a JSON body."""
        return self.ask(method, path, json.dumps(members).encode() if members else None)

    def execute(self, code: str, language: str = "python", **members: Any) -> Any:
        """The result of a one-shot run."""
        answer = self.call("POST", "/api/execute", code=code, language=language, **members)
        assert answer.status == 200, answer
        return answer.json


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """What a server holds besides what it was asked to keep."""

    processes: Mapping[str, int]
    """By their name."""
    zombies: int
    groups: int
    """With a process."""
    empty_groups: int
    networks: int
    files: int
    """Of boxes and of working copies."""
    server_fds: int
    launcher_fds: int
    mounts: int
    loops: int


_AT_ONCE: Final = 12
_SLACK: Final = {
    "empty_groups": 4 * _AT_ONCE,
    "server_fds": 8 + 5 * _AT_ONCE,
    "launcher_fds": 12,
    "mounts": 12,
    "loops": 12,
}
"""What may be kept ready for later: empty scratch and cgroups (one for each hierarchy, with a
descriptor for each and one for its memory limit), as much as was ever used at once, and connections to
the records.  The same server meets every attack, so what each left of these would add up."""


class Served:
    """A running server, and a client with its key."""

    def __init__(self, server: WatchedServer) -> None:
        self.server = server
        self.client = Client(server.port)
        self._names = counter(1)
        self._baseline: Holdings | None = None

    # -- what it holds --

    def launcher(self) -> tuple[Process, Process]:
        """The outer process of the launcher, and the launcher."""
        (outer,) = Process(self.server.pid, "").children()
        (inner,) = outer.children()
        return outer, inner

    def holdings(self) -> Holdings:
        """Count."""
        family = Process(self.server.pid, "").family()
        outer, inner = family[0], family[0].children()[0]
        fds = _links(f"/proc/{inner.pid}/fd") + _links(f"/proc/{outer.pid}/fd")
        state = self.server.state_dir
        groups = groups_of(self.server.pid)
        return Holdings(
            processes=dict(Counter(_name(one.pid) for one in family)),
            zombies=sum(not one.alive for one in family),
            groups=sum(1 for path in groups if processes_in(path)),
            empty_groups=sum(1 for path in groups if not processes_in(path)),
            networks=len({network_of(one.pid) for one in family} - {""}),
            files=sum(1 for part in ("boxes", "trees") for _ in (state / part).rglob("*")),
            server_fds=len(_links(f"/proc/{self.server.pid}/fd")),
            launcher_fds=len([to for to in fds if not to.startswith(("user:", "net:"))]),
            mounts=len(Path(f"/proc/{inner.pid}/mountinfo").read_bytes().splitlines()),
            loops=len(loops_naming(str(state))),
        )

    def program(self, box: str) -> int:
        """The process that runs the program in the pid namespace `box`: the second one there."""
        family = Process(self.server.pid, "").family()
        (found,) = [one.pid for one in family if _place(one.pid) == (box, "2")]
        return found

    def rest(self) -> None:
        """Wait until nothing is being made ready any more, and remember what is held then."""
        deadline = time.monotonic() + ATTACK_SECONDS
        seen, since = self._idle(), time.monotonic()
        while time.monotonic() - since < _STILL_SECONDS:
            assert time.monotonic() < deadline, "the server does not come to rest"
            time.sleep(0.02)
            now = self._idle()
            if now is None or now != seen:
                seen, since = now, time.monotonic()
        assert seen is not None
        self._baseline = seen

    def _idle(self) -> Holdings | None:
        family = Process(self.server.pid, "").family()
        if any(_state(one.pid) in "RD" for one in family):
            return None
        return self._counted()

    def _counted(self) -> Holdings | None:
        try:
            return self.holdings()
        except (OSError, IndexError):  # something ended while it was looked at
            return None

    def settled(self, *but: str) -> None:
        """Wait until the server holds what it held at rest, `but` for these; fail when it never does."""
        deadline = time.monotonic() + _GONE_SECONDS
        while self.grown().keys() - but:
            assert time.monotonic() < deadline, f"left behind: {self.grown()}"
            time.sleep(0.01)

    def grown(self) -> dict[str, Any]:
        """What differs from the state at rest: name -> (then, now)."""
        assert self._baseline is not None
        now = self._counted()
        if now is None:
            return {"launcher": None}
        pairs = {name: (value, asdict(now)[name]) for name, value in asdict(self._baseline).items()}
        return {
            name: pair
            for name, pair in pairs.items()
            if (pair[1] > pair[0] + _SLACK[name] if name in _SLACK else pair[0] != pair[1])
        }

    # -- clients --

    def other(self, key: str | None = KEY) -> Client:
        """Another client, which waits for no answer longer than the bound."""
        return Client(self.server.port, key, ANSWER_SECONDS)

    def hello(self) -> None:
        """Another client is served."""
        result = self.other().execute("print('hello')")
        assert (result["exit_code"], result["stdout"]) == (0, "hello\n"), result

    @contextmanager
    def unharmed(self) -> Iterator[None]:
        """Whatever is done meanwhile: another client is served afterwards, and nothing is left.  What
        is left all the same is held against this one only."""
        self.settled()
        yield
        self.hello()
        try:
            self.settled()
        except AssertionError:
            self.rest()
            raise

    def attack(self, act: Callable[[], T]) -> T:
        """Carry out `act` while another client goes on being served; what it came to."""
        with ThreadPoolExecutor(1) as pool:
            acting = pool.submit(act)
            self.hello()
            while not acting.done():
                time.sleep(0.1)
                self.hello()
            return acting.result()

    def run(self, code: str, language: str = "python", **members: Any) -> Any:
        """`attack` by one program; the result of its run."""
        return self.attack(lambda: self.client.execute(code, language, **members))

    @contextmanager
    def session(self, language: str = "python", **members: Any) -> Iterator[Session]:
        """A new session, deleted afterwards."""
        session = Session(self.client, f"s{next(self._names)}")
        made = self.client.call(
            "POST", "/api/sessions", id=session.id, language=language, **members
        )
        assert made.status == 201, made
        try:
            yield session
        finally:
            assert self.client.call("DELETE", session.path).status in (200, 404)


@dataclass(frozen=True, slots=True)
class Session:
    """One session, as a client sees it."""

    client: Client
    id: str

    @property
    def path(self) -> str:
        """Where it is."""
        return f"/api/sessions/{self.id}"

    def run(self, code: str, **members: Any) -> Any:
        """The result of a run."""
        answer = self.client.call("POST", f"{self.path}/run", code=code, **members)
        assert answer.status == 200, answer
        return answer.json

    def command(self, command: str, **members: Any) -> Any:
        """The result of a shell command."""
        answer = self.client.call("POST", f"{self.path}/run", command=command, **members)
        assert answer.status == 200, answer
        return answer.json

    def file(self, method: str, name: str, content: bytes | None = None) -> Answer:
        """A request for one of its files."""
        return self.client.ask(method, f"{self.path}/files/{quote(name)}", content)

    def files(self) -> dict[str, Any]:
        """Its files: path -> entry."""
        listed = self.client.call("GET", f"{self.path}/files").json
        return {entry["path"]: entry for entry in listed["files"]}


def said(result: Any) -> str:
    """What a program printed that must have ended well."""
    assert (result["exit_code"], result["stderr"]) == (0, ""), result
    return str(result["stdout"])


def _place(pid: int) -> tuple[str, str]:
    """Pid namespace of a process, and its number there."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        numbers = status.partition("NSpid:")[2].split("\n")[0].split()
        return os.readlink(f"/proc/{pid}/ns/pid"), numbers[-1]
    except OSError:
        return "", ""


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def _state(pid: int) -> str:
    one = process(pid)
    return "X" if one is None else _stat(pid)


def _stat(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def _links(directory: str) -> list[str]:
    found = []
    for name in os.listdir(directory):
        try:
            found.append(os.readlink(f"{directory}/{name}"))
        except OSError:
            continue
    return found
