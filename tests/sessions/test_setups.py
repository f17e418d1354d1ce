"""Setups from request to layer: status, results, sharing, retries, restarts, and what runs see."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from era import jsontext, layout
from era.errors import ConflictError, InternalError, NotFoundError
from era.models import Network, NewCopy, RunRequest, SetupState, SetupStatus
from era.sessions.layers import ARCHIVE, BYTECODE
from tests.fakes.driver import ProcessBox
from tests.sessions.conftest import World, setup_of, until

pytestmark = pytest.mark.anyio

WAIT = 'until [ -e "$GATE" ]; do sleep 0.02; done'


def result(state: SetupState) -> dict[str, Any]:
    """The `setup_result`, without what differs from run to run."""
    value: dict[str, Any] = jsontext.loads(state.result or "null")
    assert value.pop("duration_ms") >= 0
    return value


async def working(world: World, session_id: str = "s") -> None:
    """Wait until the setup has begun its first step."""

    async def begun() -> bool:
        return (await world.sessions.setup(session_id)).progress is not None

    await until(begun)


# --- what becomes of a setup ---------------------------------------------------------------------


async def test_no_setup_and_an_empty_one(world: World) -> None:
    view = await world.create()
    assert view.record.setup is None
    with pytest.raises(NotFoundError) as caught:
        await world.sessions.setup("s")
    assert caught.value.code == "not_found"
    view = await world.create("t", setup=setup_of())
    assert view.record.setup is not None
    assert view.record.setup.status is SetupStatus.COMPLETED


async def test_packages_and_commands_are_there_in_every_run(world: World) -> None:
    view = await world.create(
        persistent=False,
        setup=setup_of(
            pip=("alpha", "beta"),
            commands=(
                "echo made > made.txt; mkdir -p $TMPDIR/data; echo sample > $TMPDIR/data/sample",
                "echo home > $HOME/.rc; ln -s made.txt link",
                "PYTHONPATH= python3 -c 'import alpha' 2>/dev/null || echo none > without.txt",
                "python3 -c 'import alpha, os; print(os.getcwd(), alpha.VERSION)' > seen.txt",
            ),
        ),
    )
    assert view.record.setup is not None
    assert view.record.setup.status is SetupStatus.PENDING
    state = await world.settled()
    assert state.status is SetupStatus.COMPLETED
    found = result(state)
    assert found.pop("stdout") == "installing alpha\ninstalling beta\n"
    assert len(found.pop("commands_run")) == 4
    assert found.pop("installed") == {"pip": ["alpha==1.0", "beta==1.0"]}
    assert found == {"success": True, "cached": False, "pip_packages": ["alpha", "beta"]}
    code = (
        "import alpha, os; print(open('made.txt').read(), open('link').read(),"
        "open(os.environ['TMPDIR'] + '/data/sample').read(),"
        "open(os.environ['HOME'] + '/.rc').read(), os.path.exists('without.txt'))"
    )
    for _ in range(2):
        ended = await world.run(code)
        assert (ended.stderr, ended.stdout) == ("", "made\n made\n sample\n home\n True\n")
        assert ended.setup_status is SetupStatus.COMPLETED
    assert await world.paths() == []
    assert (await world.sessions.get("s")).record.file_count == 0


async def test_layer_files_are_no_session_files_and_the_sessions_own_win(world: World) -> None:
    await world.create(setup=setup_of(commands=("echo layer > a; echo layer > b; mkdir d",)))
    await world.put("a", b"mine")
    await world.settled()
    ended = await world.run(
        "print(open('a').read(), open('b').read());"
        "open('b', 'a').write('changed'); open('d/c', 'w').write('new')"
    )
    assert ended.stdout == "mine layer\n\n"
    assert ended.files_modified == ("d/c",)
    assert (await world.run("print(open('b').read())")).stdout == "layer\n\n"


async def test_runs_attach_the_layer_below_space_of_their_own(world: World) -> None:
    await world.create(setup=setup_of(pip=("alpha",), commands=("echo h > $HOME/h",)))
    await world.settled()
    await world.run("pass")
    spec = world.driver.specs[-1]
    assert spec.binds == ()
    assert [overlay.target for overlay in spec.overlays] == [layout.LAYER, layout.HOME]
    assert all(overlay.lowers for overlay in spec.overlays)
    assert len(spec.workspace) == 1


async def test_a_setup_box_has_its_own_limits_and_network(world: World) -> None:
    await world.restart_setups(network=Network.REGISTRIES, memory_mib=333, cpus=1.5)
    await world.create(setup=setup_of(pip=("alpha",)))
    await world.settled()
    spec = world.driver.specs[0]
    assert (spec.network, spec.limits.memory_bytes, spec.limits.cpus) == (
        Network.REGISTRIES,
        333 << 20,
        1.5,
    )
    assert all(spec.network is Network.OFFLINE for spec in world.driver.specs[1:])


async def test_secrets_and_caches_stay_out_of_the_layer(world: World) -> None:
    commands = (
        "mkdir -p sub .aws $HOME/.ssh $HOME/.npm/_cacache $TMPDIR/.era-setup .env.local.d",
        "for f in .env sub/.ENV .aws/credentials $HOME/.ssh/id_rsa $TMPDIR/secrets.yml"
        " $HOME/.npm/_cacache/x $TMPDIR/.era-setup/x .aws/config kept .env.local.d/kept;"
        " do echo x > $f; done; mkfifo pipe",
    )
    await world.create(setup=setup_of(commands=commands))
    await world.settled()
    ended = await world.command("find . $HOME $TMPDIR -type f -o -type p | sort")
    names = sorted(line.rsplit("/", 1)[-1] for line in ended.stdout.splitlines())
    assert names == [".session_data.json", "config", "kept", "kept"]


# --- failures ------------------------------------------------------------------------------------


async def test_a_failed_package_step(world: World) -> None:
    await world.create(setup=setup_of(pip=("alpha", "broken"), commands=("echo never",)))
    state = await world.settled()
    assert (state.status, state.layer) == (SetupStatus.FAILED, None)
    assert result(state) == {
        "success": False,
        "cached": False,
        "stdout": "installing alpha\n",
        "stderr": "no such package: broken\n",
        "error": "Pip install failed",
        "step": "pip",
        "exit_code": 7,
    }
    ended = await world.run("print('usable')")
    assert (ended.stdout, ended.setup_status) == ("usable\n", SetupStatus.FAILED)
    assert len(ended.warnings) == 1


async def test_a_failed_command_stops_the_others(world: World) -> None:
    await world.create(setup=setup_of(commands=("echo one", "echo bad >&2; exit 4", "echo three")))
    found = result(await world.settled())
    assert found == {
        "success": False,
        "cached": False,
        "commands_run": ["echo one"],
        "stdout": "one\n",
        "stderr": "bad\n",
        "error": "Custom command failed",
        "step": "commands",
        "command": "echo bad >&2; exit 4",
        "exit_code": 4,
    }


async def test_the_whole_setup_has_a_deadline(world: World) -> None:
    await world.restart_setups(timeout_seconds=0.5)
    await world.create(setup=setup_of(commands=("echo up; sleep 600",)))
    found = result(await world.settled())
    assert (found["error"], found["stdout"]) == ("Setup timed out", "up\n")


async def test_a_layer_has_a_bound(world: World) -> None:
    await world.restart_setups(layer_bytes=1 << 20)
    await world.create(setup=setup_of(commands=("head -c 2000000 /dev/zero > big",)))
    found = result(await world.settled())
    assert (found["success"], found["error"]) == (False, "Setup too large")
    assert await world.records.layer_keys(used=False) == frozenset()


async def test_only_the_last_output_is_kept(world: World) -> None:
    await world.create(setup=setup_of(commands=("seq 1 100000; echo end",)))
    stdout = result(await world.settled())["stdout"]
    assert len(stdout) == 64 << 10
    assert stdout.endswith("99999\n100000\nend\n")


async def test_a_failure_of_the_service_fails_the_setup_and_not_the_worker(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("a path of the host: /srv/x")

    monkeypatch.setattr(ProcessBox, "run", broken)
    await world.create(setup=setup_of(commands=("true",)))
    state = await world.settled()
    assert result(state)["error"] == "Setup interrupted"
    assert "/srv" not in (state.result or "")
    monkeypatch.undo()
    await world.create("t", setup=setup_of(commands=("true",)))
    assert (await world.settled("t")).status is SetupStatus.COMPLETED


# --- progress and bounds -------------------------------------------------------------------------


async def test_progress_is_told_while_it_runs(world: World, gate: Path) -> None:
    envs = {"GATE": str(gate)}
    await world.create(setup=setup_of(pip=("slow",), commands=("true",), envs=envs))

    async def told() -> bool:
        progress = (await world.sessions.setup("s")).progress
        return progress is not None and progress.last_line == "downloading slow"

    await until(told)
    state = await world.sessions.setup("s")
    assert state.status is SetupStatus.RUNNING
    assert state.progress is not None
    assert (state.progress.step, state.progress.step_index, state.progress.steps_total) == (
        "pip",
        1,
        2,
    )
    gate.touch()
    assert (await world.settled()).progress is None


async def test_so_many_at_a_time_and_no_more(world: World, gate: Path) -> None:
    await world.restart_setups(concurrent=2)
    for name in "abc":
        await world.create(name, setup=setup_of(commands=(WAIT,), envs={"GATE": str(gate)}))
    await working(world, "a")
    await working(world, "b")
    assert (await world.sessions.setup("c")).status is SetupStatus.PENDING
    gate.touch()
    for name in "abc":
        assert (await world.settled(name)).status is SetupStatus.COMPLETED


# --- runs and an unfinished setup ----------------------------------------------------------------


async def test_a_run_waits_for_the_first_setup(world: World, gate: Path) -> None:
    await world.create(setup=setup_of(pip=("slow",), envs={"GATE": str(gate)}))
    task = asyncio.create_task(world.run("import slow; print('imported')"))

    async def queued() -> bool:
        view = await world.sessions.get("s")
        return view.queued_runs == 1 and not view.running

    await until(queued)
    gate.touch()
    ended = await task
    assert (ended.stdout, ended.stderr) == ("imported\n", "")


async def test_a_run_that_does_not_wait_is_refused_at_once(world: World, gate: Path) -> None:
    await world.create(setup=setup_of(commands=(WAIT,), envs={"GATE": str(gate)}))
    accepted: list[bool] = []
    with pytest.raises(ConflictError) as caught:
        await world.sessions.run(
            "s",
            RunRequest(code="pass", wait_for_setup=False),
            accepted=lambda: accepted.append(True),
        )
    error = caught.value
    assert (error.code, error.retry_after_seconds, accepted) == ("setup_pending", 5, [])
    assert error.extra["setup_status"] in ("pending", "running")
    gate.touch()


async def test_a_run_does_not_wait_for_ever(world: World, gate: Path) -> None:
    await world.restart_setups(wait_seconds=0.2)
    await world.create(setup=setup_of(commands=(WAIT,), envs={"GATE": str(gate)}))
    await working(world)
    with pytest.raises(ConflictError) as caught:
        await world.run("pass")
    assert (caught.value.code, caught.value.extra) == ("setup_pending", {"setup_status": "running"})
    gate.touch()


async def test_deleting_a_session_ends_its_setup_and_the_runs_that_wait(
    world: World, gate: Path
) -> None:
    await world.create(setup=setup_of(commands=(WAIT,), envs={"GATE": str(gate)}))
    await working(world)
    task = asyncio.create_task(world.run("pass"))
    await until(lambda: _queued(world))
    await world.sessions.delete("s")
    assert not world.driver.boxes
    with pytest.raises(NotFoundError):
        await task
    await world.create(setup=setup_of(commands=("true",)))
    assert (await world.settled()).status is SetupStatus.COMPLETED


async def _queued(world: World) -> bool:
    return (await world.sessions.get("s")).queued_runs == 1


# --- sharing and caching -------------------------------------------------------------------------


async def version(world: World, session_id: str, package: str = "alpha") -> str:
    ended = await world.run(f"import {package}; print({package}.VERSION)", session_id)
    assert ended.stderr == ""
    return ended.stdout


async def test_an_identical_recipe_is_installed_once(world: World) -> None:
    await world.create("a", setup=setup_of(pip=("alpha", "beta")))
    await world.settled("a")
    boxes = len(world.driver.specs)
    await world.create("b", setup=setup_of(pip=("beta", "alpha")))
    state = await world.settled("b")
    assert result(state)["cached"] is True
    assert result(state)["pip_packages"] == ["beta", "alpha"]
    assert result(state)["installed"] == {"pip": ["alpha==1.0", "beta==1.0"]}
    assert len(world.driver.specs) == boxes
    assert await version(world, "a") == await version(world, "b")


async def test_another_recipe_is_not_shared(world: World) -> None:
    await world.create("a", setup=setup_of(pip=("alpha",)))
    await world.create("b", setup=setup_of(pip=("alpha",), envs={"FLAVOUR": "other"}))
    await world.settled("a")
    assert result(await world.settled("b"))["cached"] is False
    assert "other" in await version(world, "b")
    assert "plain" in await version(world, "a")


async def test_identical_recipes_under_way_are_shared(world: World, gate: Path) -> None:
    envs = {"GATE": str(gate)}
    await world.create("a", setup=setup_of(pip=("slow",), envs=envs))
    await world.create("b", setup=setup_of(pip=("slow",), commands=("echo own > f",), envs=envs))
    await working(world, "a")
    await working(world, "b")
    assert len(world.driver.boxes) == 1
    gate.touch()
    first, second = result(await world.settled("a")), result(await world.settled("b"))
    assert (first["cached"], second["cached"]) == (False, False)
    assert second["commands_run"] == ["echo own > f"]
    assert await version(world, "a", "slow") == await version(world, "b", "slow")
    assert (await world.command("cat f", "b")).stdout == "own\n"
    assert (await world.command("cat f", "a")).exit_code == 1


async def test_a_shared_installation_outlives_the_session_that_began_it(
    world: World, gate: Path
) -> None:
    envs = {"GATE": str(gate)}
    await world.create("a", setup=setup_of(pip=("slow",), envs=envs))
    await working(world, "a")
    await world.create("b", setup=setup_of(pip=("slow",), envs=envs))
    await working(world, "b")
    await world.sessions.delete("a")
    assert len(world.driver.boxes) == 1
    gate.touch()
    assert (await world.settled("b")).status is SetupStatus.COMPLETED


async def test_output_of_one_sessions_commands_is_not_shown_to_another(
    world: World, gate: Path
) -> None:
    envs = {"GATE": str(gate)}
    for name in "ab":
        commands = (f"echo private-{name}",)
        await world.create(name, setup=setup_of(pip=("slow",), commands=commands, envs=envs))
    await working(world, "a")
    await working(world, "b")
    gate.touch()
    for name, other in ("ab", "ba"):
        state = await world.settled(name)
        assert f"private-{name}" in result(state)["stdout"]
        assert f"private-{other}" not in (state.result or "")


async def test_packages_are_cached_and_commands_run_anew(world: World) -> None:
    spec = setup_of(pip=("alpha",), commands=("echo $RANDOM$RANDOM > stamp",))
    for name in "ab":
        await world.create(name, setup=spec)
        await world.settled(name)
    assert result(await world.settled("a"))["cached"] is False
    assert result(await world.settled("b"))["cached"] is True
    assert await version(world, "a") == await version(world, "b")
    stamps = [(await world.command("cat stamp", name)).stdout for name in "ab"]
    assert stamps[0] != stamps[1]


async def test_an_old_layer_serves_its_session_and_no_new_one(world: World) -> None:
    await world.create("a", setup=setup_of(pip=("alpha",)))
    await world.settled("a")
    world.clock.ahead_ms += 8 * 86_400_000
    await world.create("b", setup=setup_of(pip=("alpha",)))
    assert result(await world.settled("b"))["cached"] is False
    assert await version(world, "a") != await version(world, "b")


async def test_a_lost_cache_is_made_again_from_the_archive(world: World) -> None:
    await world.create(setup=setup_of(pip=("alpha",), commands=("echo x > f",)))
    await world.settled()
    before = await version(world, "s")
    for name in os.listdir(world.parts.layers_dir):
        os.rename(f"{world.parts.layers_dir}/{name}", f"{world.parts.layers_dir}/x.tmp-{name}")
    await world.restart()
    assert not [n for n in os.listdir(world.parts.layers_dir) if not n.startswith("boot-")]
    results = await asyncio.gather(*(version(world, "s") for _ in range(3)))
    assert results == [before] * 3
    assert (await world.command("cat f")).stdout == "x\n"


async def test_a_layer_serves_before_it_is_archived_and_is_archived_at_the_next_start(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object) -> None:
        raise InternalError

    monkeypatch.setattr("era.sessions.archives.archive", never)
    await world.create(setup=setup_of(pip=("alpha",)))
    await world.settled()
    key = (await world.sessions.setup("s")).layer or ""
    assert await world.records.layer(key + ARCHIVE) is None
    before = await version(world, "s")
    monkeypatch.undo()
    await world.restart()
    await world.settled()
    assert await world.records.layer(key + ARCHIVE) is not None
    await world.sessions._layers.forget(key)
    assert await version(world, "s") == before


@pytest.mark.parametrize("commands", [(), ("echo x > f",)])
async def test_a_lost_layer_is_made_anew_by_the_next_run(
    world: World, commands: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine went down before the archive was stored."""

    async def never(*_: object) -> None:
        raise InternalError

    monkeypatch.setattr("era.sessions.archives.archive", never)
    request = jsontext.dumps({"pip": ["alpha"], "commands": list(commands)})
    await world.create(setup=setup_of(pip=("alpha",), commands=commands, request=request))
    await world.settled()
    for name in os.listdir(world.parts.layers_dir):
        os.rename(f"{world.parts.layers_dir}/{name}", f"{world.parts.layers_dir}/x.tmp-{name}")
    await world.restart()
    world.clock.ahead_ms += 120_000
    results = await asyncio.gather(*(world.run("import alpha; print(1)") for _ in range(3)))
    assert [(ended.stdout, ended.stderr) for ended in results] == [("1\n", "")] * 3
    assert (await world.sessions.setup("s")).status is SetupStatus.COMPLETED


async def test_modules_are_compiled_behind_the_setup(world: World) -> None:
    await world.create(setup=setup_of(pip=("alpha",)))
    await world.settled()
    layer = (await world.sessions.setup("s")).layer
    compiled = f"{world.parts.layers_dir}/{layer}{BYTECODE}"
    assert [name.split(".")[0] for name in os.listdir(f"{compiled}/python/__pycache__")] == [
        "alpha"
    ]
    await world.run("pass")
    whole = next(one for one in world.driver.specs[-1].overlays if one.target == layout.LAYER)
    assert whole.lowers == (compiled, f"{world.parts.layers_dir}/{layer}")
    await world.sessions.delete("s")
    world.clock.ahead_ms += 8 * 86_400_000
    await world.sessions._sweeper.sweep()
    assert not os.path.exists(compiled)


# --- retries and restarts ------------------------------------------------------------------------


async def test_a_retry_runs_the_stored_setup_again(world: World, gate: Path) -> None:
    request = jsontext.dumps({"commands": [f"[ -e {gate} ]"]})
    await world.create(setup=setup_of(commands=(f"[ -e {gate} ]",), request=request))
    assert (await world.settled()).status is SetupStatus.FAILED
    gate.touch()
    view = await world.sessions.retry_setup("s")
    assert view.record.setup is not None
    assert not view.record.setup.status.finished
    assert (await world.settled()).status is SetupStatus.COMPLETED


async def test_the_old_layer_serves_until_the_new_one_is_complete(world: World, gate: Path) -> None:
    await world.create(setup=setup_of(commands=("echo old > f",)))
    await world.settled()
    later = setup_of(commands=(WAIT, "echo new > f"), envs={"GATE": str(gate)})
    await world.sessions.retry_setup("s", later)
    await working(world)
    with pytest.raises(ConflictError) as caught:
        await world.sessions.retry_setup("s", later)
    assert caught.value.code == "setup_pending"
    assert (await world.command("cat f")).stdout == "old\n"
    gate.touch()
    await world.settled()
    assert (await world.command("cat f")).stdout == "new\n"
    await world.sessions.retry_setup("s", setup_of(commands=("exit 1",)))
    assert (await world.settled()).status is SetupStatus.FAILED
    ended = await world.command("cat f")
    assert (ended.stdout, ended.setup_status) == ("new\n", SetupStatus.FAILED)
    assert len(ended.warnings) == 1


async def test_secrets_are_sealed_used_and_erased(world: World, gate: Path) -> None:
    request = jsontext.dumps({"commands": ["x"], "envs": {"TOKEN": "***", "GATE": "***"}})
    await world.create(
        setup=setup_of(
            commands=(WAIT, '[ "${TOKEN%-17}" = sesame ] && echo right > f'),
            envs={"GATE": str(gate), "TOKEN": "sesame-17"},
            request=request,
        )
    )
    await working(world)
    assert b"sesame-17" not in world.stored()
    gate.touch()
    state = await world.settled()
    assert state.status is SetupStatus.COMPLETED
    assert "sesame-17" not in repr(state)
    assert (await world.command("cat f")).stdout == "right\n"
    assert b"sesame-17" not in world.stored()


SAYS = 'printf %s "${TOKEN%%-*}"; sleep 0.1; echo "-${TOKEN##*-}"; echo "as $MODE, $TOKEN" >&2'
"""Writes the token, once in two pieces, and a value that is no secret."""


@pytest.mark.parametrize("pip", [(), ("alpha",)], ids=["commands alone", "packages found"])
@pytest.mark.parametrize("ends", ["true", "exit 3", WAIT])
async def test_values_of_variables_are_not_returned(
    world: World, gate: Path, pip: tuple[str, ...], ends: str
) -> None:
    envs = {"TOKEN": "sesame-17", "MODE": "dev", "GATE": str(gate)}
    spec = setup_of(pip=pip, commands=(f"{SAYS}; {ends}",), envs=envs)
    await world.create("before", setup=setup_of(pip=pip, envs=envs))
    await world.settled("before")
    await world.create(setup=spec)
    if ends == WAIT:

        async def told() -> bool:
            progress = (await world.sessions.setup("s")).progress
            return progress is not None and progress.last_line == "as dev, ***"

        await until(told)
        gate.touch()
    state = await world.settled()
    assert (result(state)["stdout"], result(state)["stderr"]) == ("***\n", "as dev, ***\n")
    assert "sesame" not in repr(state)
    assert b"sesame" not in world.stored()


async def test_a_retry_of_a_setup_with_secrets_runs_without_them(world: World) -> None:
    request = jsontext.dumps({"commands": ["echo [$TOKEN]"], "envs": {"TOKEN": "***"}})
    await world.create(
        setup=setup_of(commands=("echo [$TOKEN]",), envs={"TOKEN": "t"}, request=request)
    )
    assert result(await world.settled())["stdout"] == "[t]\n"
    await world.sessions.retry_setup("s")
    state = await world.settled()
    assert result(state)["stdout"] == "[]\n"
    assert "envs" not in state.request


async def test_a_copy_has_the_layer_of_a_finished_setup(world: World) -> None:
    await world.create(setup=setup_of(pip=("alpha",)))
    await world.settled()
    boxes = len(world.driver.specs)
    view = await world.sessions.duplicate("s", NewCopy(id="copy"))
    assert view.record.setup is not None
    assert view.record.setup.status is SetupStatus.COMPLETED
    assert len(world.driver.specs) == boxes
    await world.sessions.delete("s")
    await world.sessions._sweeper.sweep()
    assert await version(world, "copy")


async def test_a_copy_of_an_unfinished_setup_has_a_job_of_its_own(world: World, gate: Path) -> None:
    spec = setup_of(commands=(WAIT, 'echo "$ERA_SESSION_ID" > id'), envs={"GATE": str(gate)})
    await world.create(setup=spec)
    await working(world)
    view = await world.sessions.duplicate("s", NewCopy(id="copy"))
    assert view.record.setup is not None
    assert view.record.setup.status is SetupStatus.PENDING
    gate.touch()
    for name in ("s", "copy"):
        assert (await world.settled(name)).status is SetupStatus.COMPLETED
        assert (await world.command("cat id", name)).stdout == f"{name}\n"


async def test_an_interrupted_setup_starts_again(world: World, gate: Path) -> None:
    await world.create(setup=setup_of(pip=("slow",), envs={"GATE": str(gate)}))
    await working(world)
    await world.restart()
    assert (await world.sessions.setup("s")).status is not SetupStatus.FAILED
    gate.touch()
    assert (await world.settled()).status is SetupStatus.COMPLETED
    assert await version(world, "s", "slow")


async def test_after_three_interrupted_attempts_it_has_failed(world: World, gate: Path) -> None:
    await world.create(setup=setup_of(commands=(WAIT,), envs={"GATE": str(gate)}))
    for _ in range(3):
        await until(lambda: len(world.driver.boxes) == 1)
        await world.restart()
    state = await world.settled()
    assert state.status is SetupStatus.FAILED
    assert result(state)["error"] == "Setup interrupted"
    assert (await world.run("print(1)")).stdout == "1\n"


@pytest.mark.parametrize("turns", range(6))
async def test_the_worker_ends_though_it_was_just_woken(world: World, turns: int) -> None:
    for _ in range(10):
        await asyncio.sleep(0.001)
        world.sessions._setups.wake()
        for _ in range(turns):
            await asyncio.sleep(0)
        await world.restart()


async def test_the_environment_of_steps(world: World) -> None:
    await world.restart(public_url="http://host:1")
    await world.create(
        setup=setup_of(
            commands=("env | grep -o '^\\(ERA_[A-Z_]*\\|MINE\\)=.*' | sort > env.txt",),
            envs={"MINE": "m", "ERA_SESSION_ID": "other"},
        )
    )
    await world.settled()
    assert (await world.command("cat env.txt")).stdout == (
        "ERA_BASE_URL=http://host:1\nERA_LANGUAGE=python\n"
        "ERA_PROXY_URL=http://host:1/proxy/s\nERA_SESSION=true\nERA_SESSION_ID=s\nMINE=m\n"
    )
