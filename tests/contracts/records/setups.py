"""Stored code, setups and layers."""

from __future__ import annotations

import asyncio

import pytest

from era.errors import ConflictError, NotFoundError
from era.models import (
    NewSession,
    SetupSpec,
    SetupStatus,
)
from era.storage.base import Records
from tests.contracts.records.kit import FAILED, PIP, blob, layer, make, progress, refuses


async def test_code_is_kept_with_its_description(records: Records) -> None:
    await make(records)
    with refuses("code_not_found", NotFoundError):
        await records.code("s")
    stored = await records.put_code("s", "print(1)", None, 2000)
    assert (stored.code, stored.description, stored.updated_at_ms) == ("print(1)", "", 2000)
    assert await records.code("s") == stored
    session = await records.get("s")
    assert (session.has_code, session.updated_at_ms) == (True, 2000)
    await records.put_code("s", "2", "words", 3000)
    kept = await records.put_code("s", "3", None, 4000)
    assert (kept.code, kept.description, kept.updated_at_ms) == ("3", "words", 4000)
    assert (await records.put_code("s", "3", "", 4000)).description == ""
    await records.delete_code("s", 5000)
    session = await records.get("s")
    assert (session.has_code, session.updated_at_ms) == (False, 5000)
    with refuses("code_not_found", NotFoundError):
        await records.delete_code("s", 6000)
    assert (await records.get("s")).updated_at_ms == 5000
    assert (await records.put_code("s", "4", None, 1)).description == ""


@pytest.mark.parametrize("text", ["é😀", "\ud800", "a\0b", "\r\n\t'\"", "x" * 1_000_000])
async def test_any_text_can_be_code(records: Records, text: str) -> None:
    await make(records)
    await records.put_code("s", text, text, 1)
    stored = await records.code("s")
    assert (stored.code, stored.description) == (text, text)


async def make_setup(records: Records, name: str, now: int = 1, spec: SetupSpec = PIP) -> int:
    new = NewSession(id=None, language="node", setup=spec)
    return (await records.create(name, new, now, f'{{"of":"{name}"}}')).uid


async def test_a_setup_with_nothing_to_do_is_completed_at_once(records: Records) -> None:
    await make_setup(records, "s", spec=SetupSpec(request='{"envs":{}}'))
    setup = (await records.get("s")).setup
    assert setup is not None
    assert (setup.status, setup.attempts) == (SetupStatus.COMPLETED, 0)
    assert setup.result == '{"success":true,"duration_ms":0,"cached":false}'
    assert (setup.request, setup.layer, setup.progress) == ('{"envs":{}}', None, None)
    assert await records.claim_setup() is None


async def test_a_setup_waits_is_claimed_and_ends(records: Records) -> None:
    uid = await make_setup(records, "s")
    setup = (await records.get("s")).setup
    assert setup is not None
    assert (setup.status, setup.request, setup.result) == (SetupStatus.PENDING, PIP.request, None)
    job = await records.claim_setup()
    assert job is not None
    assert (job.uid, job.session_id, job.language) == (uid, "s", "node")
    assert (job.spec, job.attempts) == ('{"of":"s"}', 1)
    assert await records.claim_setup() is None
    step = progress("npm install\n\ud800\0", 1, 3, 55, "é last")
    await records.setup_progress(uid, step)
    setup = (await records.get("s")).setup
    assert setup is not None
    assert (setup.status, setup.progress, setup.attempts) == (SetupStatus.RUNNING, step, 1)
    done = await records.finish_setup(uid, SetupStatus.COMPLETED, '{"ok":1}', "key")
    assert (done.status, done.result, done.layer) == (SetupStatus.COMPLETED, '{"ok":1}', "key")
    assert (done.progress, done.attempts) == (None, 1)
    assert (await records.get("s")).setup == done
    await records.setup_progress(uid, step)
    assert (await records.get("s")).setup == done


async def test_progress_of_a_setup_that_does_not_run_is_dropped(records: Records) -> None:
    pending, without = await make_setup(records, "s"), (await make(records, "t")).uid
    for uid in (pending, without):
        await records.setup_progress(uid, progress("x", 1, 1, 1))
    setup = (await records.get("s")).setup
    assert setup is not None
    assert setup.progress is None
    assert (await records.get("t")).setup is None


async def test_setups_are_claimed_oldest_first(records: Records) -> None:
    for name, now in (("b", 20), ("c", 30), ("a", 10), ("a2", 10)):
        await make_setup(records, name, now)
    jobs = [await records.claim_setup() for _ in range(5)]
    assert [job.session_id for job in jobs if job is not None] == ["a", "a2", "b", "c"]


async def test_setups_are_claimed_once_each(records: Records) -> None:
    for number in range(12):
        await make_setup(records, f"s{number}", number)
    jobs = await asyncio.gather(*(records.claim_setup() for _ in range(16)))
    claimed = [job.session_id for job in jobs if job is not None]
    assert sorted(claimed) == sorted(f"s{number}" for number in range(12))


async def test_running_setups_resume_until_they_tried_too_often(records: Records) -> None:
    uid = await make_setup(records, "s")
    await make_setup(records, "other", 2)
    for attempt in (1, 2):
        job = await records.claim_setup()
        assert job is not None
        assert (job.uid, job.attempts) == (uid, attempt)
        await records.setup_progress(uid, progress("x", 1, 1, 1))
        assert await records.reset_running_setups(3, FAILED) == 1
        setup = (await records.get("s")).setup
        assert setup is not None
        assert (setup.status, setup.progress) == (SetupStatus.PENDING, None)
    await records.claim_setup()
    assert await records.reset_running_setups(3, FAILED) == 0
    setup = (await records.get("s")).setup
    assert setup is not None
    assert (setup.status, setup.result, setup.attempts) == (SetupStatus.FAILED, FAILED, 3)
    other = (await records.get("other")).setup
    assert other is not None
    assert (other.status, other.attempts) == (SetupStatus.PENDING, 0)
    assert await records.reset_running_setups(3, FAILED) == 0


async def test_a_failed_setup_keeps_the_layer_it_had(records: Records) -> None:
    uid = await make_setup(records, "s")
    await records.claim_setup()
    await records.finish_setup(uid, SetupStatus.COMPLETED, "{}", "old")
    session = await records.restart_setup("s", '{"again":1}', '"spec"', 7)
    assert session.setup is not None
    assert (session.setup.status, session.setup.layer) == (SetupStatus.PENDING, "old")
    assert (session.setup.attempts, session.setup.result) == (0, None)
    assert session.setup.request == '{"again":1}'
    assert session == await records.get("s")
    job = await records.claim_setup()
    assert job is not None
    assert (job.spec, job.attempts) == ('"spec"', 1)
    done = await records.finish_setup(uid, SetupStatus.FAILED, FAILED, None)
    assert (done.status, done.layer, done.result) == (SetupStatus.FAILED, "old", FAILED)


async def test_an_unfinished_setup_cannot_be_restarted(records: Records) -> None:
    await make_setup(records, "s")
    for status in ("pending", "running"):
        with refuses("setup_pending", ConflictError) as caught:
            await records.restart_setup("s", "{}", "{}", 9)
        assert caught.value.extra["setup_status"] == status
        await records.claim_setup()
    setup = (await records.get("s")).setup
    assert setup is not None
    assert setup.request == PIP.request


async def test_a_setup_can_be_started_where_there_was_none(records: Records) -> None:
    await make(records)
    session = await records.restart_setup("s", '{"pip":[]}', '"spec"', 9)
    assert session.setup is not None
    assert session.setup.status is SetupStatus.PENDING
    job = await records.claim_setup()
    assert job is not None
    assert job.spec == '"spec"'


async def test_a_restarted_setup_queues_behind_those_that_wait(records: Records) -> None:
    uid = await make_setup(records, "s", 1)
    await records.claim_setup()
    await records.finish_setup(uid, SetupStatus.FAILED, FAILED, None)
    await make_setup(records, "t", 50)
    await records.restart_setup("s", "{}", "{}", 60)
    jobs = [await records.claim_setup() for _ in range(2)]
    assert [job.session_id for job in jobs if job] == ["t", "s"]


async def test_the_setup_of_a_deleted_session_cannot_end(records: Records) -> None:
    uid = await make_setup(records, "s")
    await records.claim_setup()
    await records.delete("s")
    await make_setup(records, "s")
    with refuses("session_not_found", NotFoundError):
        await records.finish_setup(uid, SetupStatus.COMPLETED, "{}", "key")
    with refuses("session_not_found", NotFoundError):
        await records.setup_progress(uid, progress("x", 1, 1, 1))
    setup = (await records.get("s")).setup
    assert setup is not None
    assert setup.status is SetupStatus.PENDING


async def test_a_session_without_setup_has_none_to_finish(records: Records) -> None:
    session = await make(records)
    with refuses("not_found", NotFoundError):
        await records.finish_setup(session.uid, SetupStatus.COMPLETED, "{}", None)
    assert (await records.get("s")).setup is None


async def test_a_layer_is_stored_once(records: Records) -> None:
    assert await records.layer("k") is None
    first = layer("k", blob("1"), 10, 5, '{"r":1}')
    assert await records.put_layer(first) == first
    assert await records.put_layer(layer("k", blob("2"), 20, 6, "{}")) == first
    assert await records.layer("k") == first


async def test_only_layers_without_a_session_can_be_deleted(records: Records) -> None:
    for key in ("used", "free"):
        await records.put_layer(layer(key, blob(key), 1, 1, "{}"))
    uid = await make_setup(records, "s")
    await records.claim_setup()
    await records.finish_setup(uid, SetupStatus.COMPLETED, "{}", "used")
    assert await records.layer_keys(used=False) == {"used", "free"}
    assert await records.layer_keys(used=True) == {"used"}
    assert await records.delete_layer("used") is None
    assert await records.delete_layer("unknown") is None
    deleted = await records.delete_layer("free")
    assert deleted is not None
    assert deleted.blob == blob("free")
    assert await records.layer("free") is None
    await records.duplicate("s", "t", 1, data=None, include_files=None)
    await records.delete("s")
    assert await records.delete_layer("used") is None
    await records.delete("t")
    assert await records.delete_layer("used") is not None
    assert await records.layer_keys(used=False) == frozenset()
