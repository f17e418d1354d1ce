"""`era vm`: managed VMs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import App

from era.cli.common import (
    HERE,
    REFUSED,
    Common,
    Injected,
    Repeated,
    Server,
    Switch,
    UsageError,
    examples,
)
from era.cli.output import (
    moment,
    print_error,
    print_json,
    print_result,
    print_table,
    print_text,
    yes,
)
from era.cli.vm_shell import shell
from era.errors import EraError

if TYPE_CHECKING:
    from era.client import Era

Network = Literal["none", "allow_all", "bridge", "host", "full"]

vm = App(name="vm", help="VMs: a place for shell commands that stays until it is deleted.")
vm.command(shell, help_epilogue=examples('era vm shell --vm "$id"'))


@vm.command(help_epilogue=examples("id=$(era vm create --language python)"))
def create(
    *,
    language: str,
    image: str | None = None,
    cpu: int = 1,
    mem: int = 256,
    network: Network = "none",
    persist: Switch = False,
    server: Server = HERE,
    common: Injected,
) -> int:
    """Make a VM and print its id.

    Parameters
    ----------
    language
        python, node, typescript, go or deno.
    image
        A name that the operator has configured.
    cpu
        CPUs.
    mem
        Memory in MiB.
    network
        none, or allow_all for the internet.
    persist
        Its files can be kept when it is deleted.
    """
    body = {
        "language": language,
        "image": image or "",
        "cpu_count": cpu,
        "memory_mib": mem,
        "network_mode": network,
        "persist": persist,
    }
    with server.open() as era:
        made = era.request("POST", "/api/vm", body)
    if common.json:
        print_json(made)
    else:
        print(made["id"])
    return 0


@vm.command(help_epilogue=examples('era vm run --vm "$id" --cmd "python --version"'))
def run(*, vm: str, cmd: str, timeout: float = 30, server: Server = HERE, common: Injected) -> int:
    """Run a shell command in a VM; exit with its exit code.

    Parameters
    ----------
    vm
        Its id.
    cmd
        The command.
    timeout
        Seconds, fractions allowed.
    """
    with server.open() as era:
        return print_result(era.vm(vm).run(cmd, timeout=timeout), as_json=common.json)


@vm.command(name="exec", help_epilogue=examples("era vm exec --all --cmd hostname"))
def exec_(
    *,
    cmd: str,
    vm: Repeated = None,
    all: Switch = False,
    timeout: float = 30,
    server: Server = HERE,
    common: Injected,
) -> int:
    """Run a shell command in several VMs; exit with the first exit code that is not 0.

    Parameters
    ----------
    cmd
        The command.
    vm
        The id of a VM; may be given more than once.
    all
        All VMs that are running.
    timeout
        Seconds, fractions allowed.
    """
    with server.open() as era:
        ids = chosen(era, vm, all, "running")
        codes, answers = [], []
        for each in ids:
            if len(ids) > 1 and not common.json:
                print(f"== {each}", flush=True)
            try:
                result = era.vm(each).run(cmd, timeout=timeout)
            except EraError as error:  # the others have theirs all the same
                codes.append(REFUSED)
                answers.append({"vm_id": each, **error.body()})
                if not common.json:
                    print_error(error, as_json=False)
                continue
            answers.append(result.raw)
            codes.append(result.exit_code if common.json else print_result(result, as_json=False))
    if common.json:
        print_json(answers)
    return next((code for code in codes if code), 0)


def chosen(era: Era, ids: list[str] | None, all: bool, status: str | None = None) -> list[str]:
    """The VMs that a command is about.

    Raises:
        UsageError: none is named, or some and all.
    """
    if bool(ids) == all:
        raise UsageError("give --vm or --all")
    if ids:
        return ids
    return [found.id for found in era.list_vms() if status in (None, found.status)]


@vm.command(help_epilogue=examples('era vm temp --language node --cmd "node --version"'))
def temp(
    *,
    language: str = "python",
    cmd: str,
    timeout: float = 30,
    cpu: int = 1,
    mem: int = 256,
    network: Network = "none",
    image: str | None = None,
    server: Server = HERE,
    common: Injected,
) -> int:
    """Make a VM, run a shell command in it, and delete it; exit with the command's exit code.

    Parameters
    ----------
    language
        python, node, typescript, go or deno.
    cmd
        The command.
    timeout
        Seconds, fractions allowed.
    cpu
        CPUs.
    mem
        Memory in MiB.
    network
        none, or allow_all for the internet.
    image
        A name that the operator has configured.
    """
    with server.open() as era:
        made = era.create_vm(
            language, image=image, cpu_count=cpu, memory_mib=mem, network_mode=network
        )
        try:
            result = made.run(cmd, timeout=timeout)
        finally:
            made.delete()
    return print_result(result, as_json=common.json)


@vm.command(name="list", help_epilogue=examples("era vm list --all"))
def list_(
    *,
    status: Literal["running", "stopped"] | None = None,
    all: Switch = False,
    server: Server = HERE,
    common: Injected,
) -> int:
    """List the VMs that are running.

    Parameters
    ----------
    status
        Those with this status instead.
    all
        Stopped ones too.
    """
    wanted = status or (None if all else "running")
    with server.open() as era:
        found = [record.raw for record in era.list_vms() if wanted in (None, record.status)]
    if common.json:
        print_json({"count": len(found), "vms": found})
    elif not found:
        print("No VMs found.")
    else:
        headings = "ID,Language,Status,CPU,Mem(MiB),Persist,Created,Last Run".split(",")
        print_table(headings, [_row(record) for record in found])
        print(f"Total: {len(found)}")
    return 0


def _row(record: dict[str, Any]) -> tuple[str, ...]:
    return (
        record["id"],
        record["language"],
        record["status"],
        str(record["cpu_count"]),
        str(record["memory_mib"]),
        yes(record["persist"]),
        moment(record["created_at"]),
        moment(record["last_run_at"]),
    )


@vm.command(help_epilogue=examples('era vm stop --vm "$id"'))
def stop(
    *, vm: Repeated = None, all: Switch = False, server: Server = HERE, common: Injected
) -> int:
    """Stop VMs; their files stay readable.

    Parameters
    ----------
    vm
        The id of a VM; may be given more than once.
    all
        All VMs that are running.
    """
    with server.open() as era:
        ids = chosen(era, vm, all, "running")
        return _each(ids, lambda each: era.vm(each).stop(), "stopped", common)


@vm.command(help_epilogue=examples('era vm clean --vm "$id"'))
def clean(
    *,
    vm: Repeated = None,
    all: Switch = False,
    keep_persist: Switch = False,
    server: Server = HERE,
    common: Injected,
) -> int:
    """Delete VMs with all they hold.

    Parameters
    ----------
    vm
        The id of a VM; may be given more than once.
    all
        All VMs.
    keep_persist
        Keep the files of those made with --persist, for the operator.
    """
    with server.open() as era:
        ids = chosen(era, vm, all)
        return _each(
            ids, lambda each: era.vm(each).delete(keep_persist=keep_persist), "cleaned", common
        )


def _each(ids: list[str], act: Any, word: str, common: Common) -> int:
    """Do something to each; all are tried, and the first refusal is raised at the end.

    Raises:
        EraError: of the first that was refused.
    """
    done, refusals = [], []
    for each in ids:
        try:
            act(each)
        except EraError as error:
            refusals.append(error)
            continue
        done.append(each)
        if not common.json:
            print_text(sys.stdout, f"{each} {word}\n")
    if common.json:
        print_json({word: done})
    for refusal in refusals:
        raise refusal
    return 0
