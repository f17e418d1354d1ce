"""The commands that talk to a server, against a real one."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from era.client import Era
from tests.cli.conftest import Cli
from tests.cli.program import environment
from tests.e2e.harness import WatchedServer

pytestmark = pytest.mark.xdist_group("cli")


@pytest.fixture(autouse=True)
def era(server: WatchedServer) -> Iterator[Era]:
    with Era(server.url) as era:
        yield era
        era.delete_sessions()


SHOUT = "import os, sys; print(sys.argv[1:], os.environ.get('A'), sys.stdin.read(), end='')"


def test_execute_gives_the_program_all_it_asks_for(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "p.py").write_text(f"{SHOUT}; print(open('d/n.csv').read(), open('in').read())")
    (tmp_path / "in").write_text("read")
    shown = cli(
        *("execute", "--language", "python", "--file", str(tmp_path / "p.py"), "--stdin", "-"),
        *("--attach", f"d/n.csv={tmp_path / 'in'}", "--attach", str(tmp_path / "in")),
        *("--env", "A=1", "--mem", "256", "--", "--json", "x y"),
        stdin="typed",
    )
    assert (shown.code, shown.out, shown.err) == (0, "['--json', 'x y'] 1 typedread read\n", "")
    shown = cli("execute", "--language", "python", stdin="print('from stdin')")
    assert (shown.code, shown.out) == (0, "from stdin\n")


def test_the_exit_code_is_the_programs_and_notes_say_more(cli: Cli) -> None:
    code = "import sys; print('o'); print('e', file=sys.stderr); sys.exit(7)"
    shown = cli("execute", "--language", "python", "--code", code)
    assert (shown.code, shown.out, shown.err) == (7, "o\n", "e\n")
    slow = ("execute", "--language", "python", "--code", "while 1: pass", "--timeout", "0.2")
    shown = cli(*slow)
    assert (shown.code, shown.out, shown.err) == (124, "", "era: the timeout ended the program\n")
    shown = cli(*slow, "--json")
    assert (shown.code, shown.err) == (124, "")
    assert shown.json["timed_out"] is True


@pytest.mark.parametrize("where", ["before", "after"])
def test_errors_are_json_too(cli: Cli, where: str) -> None:
    def tried(*arguments: str) -> list[str]:
        return ["--json", *arguments] if where == "before" else [*arguments, "--json"]

    shown = cli(*tried("execute", "--language", "cobol", "--code", "x"))
    assert (shown.code, shown.out) == (125, "")
    assert shown.error["code"] == "unsupported_language"
    shown = cli(*tried("session", "get", "nobody"))
    assert (shown.code, shown.error["code"]) == (125, "session_not_found")
    shown = cli(*tried("session", "get", "x", "--url", "http://127.0.0.1:1"))
    assert (shown.code, shown.error["code"]) == (125, "unreachable")
    assert "era serve" in shown.error["hint"]
    shown = cli(*tried("session", "delete"))
    assert (shown.code, shown.error["code"]) == (2, "wrong_usage")


def test_errors_in_words_name_the_remedy(cli: Cli) -> None:
    shown = cli("execute", "--language", "cobol", "--code", "x")
    assert (shown.code, shown.out) == (125, "")
    assert "era: unsupported language: cobol" in shown.err
    assert "supported: python" in shown.err
    shown = cli("session", "run", "nobody", "--code", "x")
    assert (shown.code, shown.err.splitlines()[0]) == (125, "era: Session not found")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["session", "delete"], "give the id of a session, or --all"),
        (["session", "delete", "x", "--all"], "give the id of a session, or --all"),
        (["session", "delete", "--all"], "add --yes"),
        (["session", "run", "x", "--command", "ls", "--code", "1"], "not both"),
        (["session", "run", "x", "--stdin", "-"], "not both"),
        (["session", "create", "--language", "go", "--data", "{"], "--data must be JSON"),
        (["session", "create", "--language", "go", "--requirements", "/none"], "no such file"),
        (["session", "patch", "x", "--default-timeout", "long"], "a number of seconds, or none"),
        (["session", "put", "x", "/none"], "no such file"),
        (["session", "put", "x", "-"], "give the path"),
        (["session", "code", "x", "--show", "--clear"], "one of"),
        (["session", "get"], "SESSION"),
        (["session", "get", "x", "--", "y"], "after --"),
        (["session", "host", "x"], "--port"),
        (["execute", "--language", "go", "--code", "x", "--attach", "/none"], "no such file"),
        (["vm", "stop"], "give --vm or --all"),
        (["vm", "run", "--vm", "x"], "--cmd"),
        (["completion", "tcsh"], "tcsh"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage(cli: Cli, arguments: list[str], words: str) -> None:
    shown = cli(*arguments)
    assert (shown.code, shown.out) == (2, "")
    assert words in shown.err


def test_a_session_from_its_making_to_its_end(cli: Cli, era: Era) -> None:
    shown = cli(
        *("session", "create", "--language", "python", "--id", "s", "--data", '{"n": 1}'),
        *("--metadata", '{"m": 2}', "--default-timeout", "9", "--public", "--allow-internet"),
    )
    assert (shown.code, shown.out, shown.err) == (0, "s\n", "")
    info = era.session("s").info()
    assert (info.data, info.metadata, info.default_timeout) == ({"n": 1}, {"m": 2}, 9)
    assert (info.allow_public, info.allow_internet, info.persistent) == (True, True, True)
    shown = cli("session", "run", "s", "--code", SHOUT, "--env", "A=b", "--", "-x")
    assert (shown.code, shown.out) == (0, "['-x'] b ")
    shown = cli("session", "run", "s", "--command", "cat; exit 3", "--stdin", "-", stdin="fed")
    assert (shown.code, shown.out) == (3, "fed")
    assert cli("session", "get", "s").json["id"] == "s"
    got = cli("session", "get", "s", "--json")
    assert got.json["data"] == {"n": 1}
    assert got.out.count("\n") == 1
    patched = cli(
        *("session", "patch", "s", "--no-public", "--default-timeout", "none", "--data", "[1]")
    )
    assert patched.json["data"] == [1]
    info = era.session("s").info()
    assert (info.allow_public, info.allow_internet, info.default_timeout) == (False, True, None)
    assert cli("session", "duplicate", "s", "copy").out == "copy\n"
    host = cli("session", "host", "s", "--port", "8000")
    assert host.out == f"{era.url}/proxy/s/8000\n"
    assert "allowPublicAccess" in host.err
    assert cli("session", "cancel", "s").out == "Nothing is running.\n"
    assert cli("session", "delete", "s").out == "Deleted s\n"
    assert cli("session", "delete", "s").code == 125
    assert cli("session", "delete", "--all", "--yes").out == "Deleted 1 sessions\n"
    shown = cli("session", "create", "--language", "go", "--no-persistent", "--json")
    assert (shown.json["persistent"], shown.json["language"]) == (False, "go")


def test_the_list(cli: Cli) -> None:
    assert cli("session", "list").out == "No sessions found.\n"
    for name in ("a-1", "a-2", "b"):
        cli("session", "create", "--language", "node", "--id", name)
    lines = cli("session", "list").out.splitlines()
    assert re.split(r"  +", lines[0])[:5] == ["ID", "Language", "Files", "Size", "Setup"]
    assert [line.split()[0] for line in lines[1:]] == ["a-1", "a-2", "b", "Total:"]
    assert lines[-1] == "Total: 3"
    assert cli("session", "list", "--prefix", "a", "--json").json["count"] == 2
    assert cli("session", "delete", "--all", "--prefix", "a", "--yes").code == 0
    assert cli("session", "list", "--json").json["count"] == 1


def test_stored_code(cli: Cli, tmp_path: Path) -> None:
    cli("session", "create", "--language", "python", "--id", "s")
    assert cli("session", "code", "s").code == 125
    (tmp_path / "c.py").write_text("print('é')")
    shown = cli("session", "code", "s", "--set", str(tmp_path / "c.py"), "--description", "d")
    assert shown.out == "Stored 10 characters\n"
    assert cli("session", "code", "s", "--show").out == "print('é')"
    assert cli("session", "code", "s", "--json").json["description"] == "d"
    assert cli("session", "run", "s").out == "é\n"
    assert cli("session", "code", "s", "--clear").out == "Cleared\n"
    assert cli("session", "run", "s").code == 125


def test_a_stream(cli: Cli) -> None:
    cli("session", "create", "--language", "python", "--id", "s")
    code = "import sys; print(1); print(2, file=sys.stderr); sys.exit(4)"
    shown = cli("session", "stream", "s", "--code", code)
    assert (shown.code, shown.out, shown.err) == (4, "1\n", "2\n")
    shown = cli("session", "stream", "s", "--code", code, "--json")
    events = [json.loads(line) for line in shown.out.splitlines()]
    assert [shown.code, events[-1]["type"], events[-1]["exit_code"]] == [4, "done", 4]
    assert "stdout" not in events[-1]
    assert "".join(e["content"] for e in events if e["type"] == "stdout") == "1\n"


def test_files(cli: Cli, tmp_path: Path) -> None:
    cli("session", "create", "--language", "python", "--id", "s")
    assert cli("session", "files", "s").out == "No files found.\n"
    (tmp_path / "a b.txt").write_text("content")
    assert cli("session", "put", "s", str(tmp_path / "a b.txt")).out == "a b.txt  7 B\n"
    assert cli("session", "put", "s", "-", "d/typed", stdin="typed é").code == 0
    lines = cli("session", "files", "s").out.splitlines()
    assert [re.split(r"  +", line)[:3] for line in lines[1:3]] == [
        ["a b.txt", "7 B", "0644"],
        ["d/typed", "8 B", "0644"],
    ]
    assert lines[-1] == "Total: 2, 15 B"
    assert cli("session", "files", "s", "d/", "--json").json["count"] == 1
    assert cli("session", "fetch", "s", "d/typed").out == "typed é"
    assert cli("session", "fetch", "s", "d/typed", str(tmp_path)).code == 0
    assert (tmp_path / "typed").read_text() == "typed é"
    assert cli("session", "fetch", "s", "nothing", str(tmp_path / "x")).code == 125
    assert not (tmp_path / "x").exists()
    assert cli("session", "rm", "s", "d").code == 125
    assert cli("session", "rm", "s", "d", "--recursive").out == "Deleted d\n"


def test_names_do_not_steer_the_terminal(cli: Cli, era: Era) -> None:
    session = era.create_session("python", id="s", data={"\x9b31m": "\x7f"})
    session.files.write("red \x1b[31m\né", "x")
    shown = cli("session", "files", "s")
    assert "red \\x1b[31m\\né  1 B" in shown.out
    shown = cli("session", "get", "s")
    assert "\\u009b31m" in shown.out
    assert shown.json["data"] == {"\x9b31m": "\x7f"}
    raw = cli("session", "files", "s", "--json")
    assert raw.json["files"][0]["path"] == "red \x1b[31m\né"
    assert not {"\x1b", "\x9b", "\x7f"} & set(shown.out + raw.out)


def test_upload(cli: Cli, era: Era, tmp_path: Path) -> None:
    for name in ("a.txt", "sub/b c.txt", "node_modules/x.js", ".env"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    session = era.create_session("python", id="s")
    shown = cli("upload", "s", str(tmp_path))
    assert (shown.code, shown.out) == (0, "Upload complete: 2 uploaded (16 B), 0 failed\n")
    assert [entry.path for entry in session.files.list()] == ["a.txt", "sub/b c.txt"]
    session.files.delete("sub", recursive=True)
    session.files.write("sub", "a file where a directory is needed")
    (tmp_path / ".era").mkdir()
    (tmp_path / ".era" / "x").write_text("")
    shown = cli("upload", "s", str(tmp_path), era.url)
    assert shown.code == 2
    assert shown.out.startswith("Upload complete: 1 uploaded")
    assert {line.split(":")[1].strip() for line in shown.err.splitlines()} == {
        "sub/b c.txt",
        ".era/x",
    }
    shown = cli("upload", "s", str(tmp_path), "--json")
    assert (shown.code, shown.json["failed"], len(shown.json["errors"])) == (2, 2, 2)
    assert cli("upload", "nobody", str(tmp_path)).code == 125
    assert cli("upload", "s", str(tmp_path / "a.txt")).code == 2


def test_waiting_for_a_setup(cli: Cli, tmp_path: Path) -> None:
    create = ("session", "create", "--language", "python", "--wait")
    shown = cli(
        *create, "--id", "s", "--setup-command", 'echo "$T" > made', "--setup-env", "T=told"
    )
    assert (shown.code, shown.out) == (0, "s\n")
    assert shown.err.splitlines()[-1] == "era: setup completed"
    assert cli("session", "run", "s", "--command", "cat made").out == "told\n"
    assert cli("session", "setup", "s", "--json").json["setup_status"] == "completed"
    shown = cli(*create, "--id", "f", "--setup-command", "echo why >&2; exit 9", "--json")
    assert shown.code == 1
    assert shown.json["setup_result"]["exit_code"] == 9
    assert "why" in shown.err
    assert cli("session", "setup", "f", "--wait").code == 1
    assert cli(*create).code == 0
    (tmp_path / "package.json").write_text('{"dependencies": {"x": "file:/etc"}}')
    refused = cli(*create, "--package-json", str(tmp_path / "package.json"))
    assert (refused.code, "invalid setup" in refused.err) == (125, True)


def test_version_flags(cli: Cli) -> None:
    for flag in ("--version", "-V"):
        assert cli(flag).out == cli("version").out
        assert set(cli(flag, "--json").json) == {"version", "python", "platform"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(cli: Cli, shell: str) -> None:
    script = cli("completion", shell).out
    for word in ("duplicate", "upload", "keep-persist"):
        assert word in script


@pytest.mark.parametrize("name", ["era", "agent"])
def test_bash_completes(cli: Cli, name: str) -> None:
    script = cli("completion", "bash").out
    ask = (
        f"COMP_WORDS=({name} session dup); COMP_CWORD=2; COMP_LINE='{name} session dup'\n"
        f'f=$(complete -p {name} | sed "s/.*-F \\([^ ]*\\).*/\\1/"); "$f" {name} dup session\n'
        'echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["duplicate"]


def test_other_shells_know_both_names(cli: Cli) -> None:
    zsh = cli("completion", "zsh").out
    assert zsh.startswith("#compdef era agent\n")
    assert "\n_cyclopts_era() {" in zsh
    assert "\n  compdef _cyclopts_era era agent\n" in zsh
    assert "\ncomplete -c agent -w era\n" in cli("completion", "fish").out


def on_a_terminal(url: str, *arguments: str, typed: str = "") -> str:
    """What a command shows where someone sits."""
    ours, theirs = pty.openpty()
    variables = environment({"ERA_API_URL": url, "COLUMNS": "160", "TERM": "xterm"})
    process = subprocess.Popen(
        [sys.executable, "-m", "era", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=variables,
    )
    os.close(theirs)
    os.write(ours, typed.encode())
    seen = b""
    try:
        while piece := os.read(ours, 65536):
            seen += piece
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert process.wait(60) == 0, seen
    return seen.decode()


def test_on_a_terminal(era: Era) -> None:
    era.create_session("python", id="s")
    shown = on_a_terminal(era.url, "session", "list")
    assert "\x1b[1mID" in shown
    assert "Total: 1" in shown
    assert "nothing was deleted" in on_a_terminal(
        era.url, "session", "delete", "--all", typed="n\n"
    )
    assert "Deleted 1" in on_a_terminal(era.url, "session", "delete", "--all", typed="y\n")


def test_a_reader_that_has_enough(era: Era) -> None:
    for number in range(30):
        era.create_session("python", id=f"s{number}")
    command = f"{sys.executable} -m era session list | head -n 1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        env=environment({"ERA_API_URL": era.url}),
        capture_output=True,
        text=True,
    )
    assert (done.stdout.split()[0], done.stderr) == ("ID", "")
