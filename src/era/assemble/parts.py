"""From settings to the arguments of each room: the only translation of one into the other."""

from __future__ import annotations

import ipaddress
import os
import time
from dataclasses import replace
from typing import Final

from era.assemble import mirrors
from era.assemble.statedir import StartError
from era.config import Settings
from era.egress.host_addresses import HostAddresses
from era.egress.policy import AddressRange, EgressPolicy, HostRule
from era.languages import given
from era.languages.table import (
    PYTHON_AHEAD,
    PYTHON_ENTRY,
    Tools,
    ahead_commands,
    base_environment,
)
from era.models import Network
from era.runtimes.packages import installed
from era.sandbox.base import Driver, Limits, Readiness, Warm
from era.sandbox.namespaces import native
from era.sandbox.namespaces.place import Place
from era.sandbox.namespaces.pool import ANY
from era.sandbox.probe import disk_scratch_available
from era.sandbox.refusing import RefusingDriver
from era.sessions.admission import Admission
from era.sessions.settings import ModuleLimits, QueueLimits, RunLimits, SessionLimits, SetupLimits
from era.storage.base import Quota

TIERS_HERE: Final = ("auto", "namespaces", "process")
_DATA_BOXES: Final = 2
"""Boxes kept ready with the packages that all have: each is some MiB of memory, and they are for
programs that take a while."""


def admission(settings: Settings, driver: Driver) -> Admission:
    """Whose code may run, in the tier of `driver`."""
    if isinstance(driver, RefusingDriver):
        return Admission(refused=(driver.reason, driver.remedy))
    alone = driver.tier == "process"
    return Admission(one_session=alone, cuts_off=not alone or settings.allow_unenforced_network)


def clock() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


def limits(settings: Settings) -> SessionLimits:
    """Every bound and default of the sessions room."""
    return SessionLimits(
        runs=_run_limits(settings),
        queues=QueueLimits(
            concurrent_runs=settings.max_concurrent_runs,
            waiting_runs=settings.global_queue,
            waiting_per_session=settings.session_queue,
        ),
        setups=_setup_limits(settings),
        modules=ModuleLimits(
            timeout_seconds=settings.resolve_timeout,
            any_host=bool(settings.deno_import_hosts),
            certificates=mirrors.find(settings).mirrors.certificates,
        ),
        quota=Quota(total_bytes=settings.max_session_bytes, count=settings.max_session_files),
        code_bytes=settings.max_code_bytes,
        data_bytes=settings.max_data_bytes,
        metadata_bytes=settings.max_metadata_bytes,
        file_bytes=settings.max_file_bytes,
        max_vms=settings.max_vms,
        default_internet_access=settings.default_internet_access,
        public_url=settings.public_url,
    )


def _run_limits(settings: Settings) -> RunLimits:
    return RunLimits(
        timeout_seconds=settings.default_timeout,
        max_timeout_seconds=settings.max_timeout,
        output_bytes=settings.max_output_bytes,
        memory_mib=settings.run_memory_mib,
        max_memory_mib=settings.max_memory_mib,
        cpus=settings.run_cpus,
        max_cpus=settings.max_cpus,
        pids=settings.run_pids,
        disk_bytes=settings.run_disk_bytes,
    )


def _setup_limits(settings: Settings) -> SetupLimits:
    return SetupLimits(
        concurrent=settings.max_concurrent_setups,
        timeout_seconds=settings.setup_timeout,
        wait_seconds=settings.setup_wait,
        memory_mib=settings.setup_memory_mib,
        cpus=settings.setup_cpus,
        layer_bytes=settings.layer_max_bytes,
        scratch_bytes=2 * settings.layer_max_bytes,
        layer_max_age_seconds=settings.layer_max_age,
        network=Network(settings.setup_network),
        mirrors=mirrors.find(settings).mirrors,
    )


def place(boxes_dir: str, native_dir: str, helper_python: str) -> Place:
    """Where the driver works: scratch on disk where the host can, else in memory."""
    return Place(
        base_dir=f"{boxes_dir}/base",
        scratch_dir=f"{boxes_dir}/scratch",
        images=f"{boxes_dir}/images" if disk_scratch_available() else None,
        helper_python=helper_python,
        native=native.built(native_dir),
    )


def box_limits(settings: Settings) -> Limits:
    """The limits of a run that asks for none."""
    return Limits(
        memory_bytes=settings.run_memory_mib << 20,
        cpus=settings.run_cpus,
        pids=settings.run_pids,
        disk_bytes=settings.run_disk_bytes,
    )


def python_packages(settings: Settings) -> tuple[str, ...]:
    """The distributions that every box gets.

    Raises:
        StartError: one of those named is not installed.
    """
    names = settings.python_packages
    if not names:
        return installed(given.USUAL)
    if names == ("none",):
        return ()
    missing = [name for name in names if name not in installed(names)]
    if missing:
        raise StartError(
            f"ERA_PYTHON_PACKAGES names {missing[0]}, which is not installed with the server",
            f"Install it into the server's own environment (pip install {missing[0]}), or take it"
            " out of ERA_PYTHON_PACKAGES.",
        )
    return names


def warm(settings: Settings, tools: Tools) -> tuple[Warm, ...]:
    """What to keep ready: boxes for any program, node waiting in its box, and Python standing."""
    count = settings.ready_boxes
    if not count:
        return ()
    env = base_environment(tools, has_layer=False)
    kept = [Warm(name=ANY, readiness=Readiness.BOX, count=count)]
    for name, (argv, ahead) in ahead_commands(tools).items():
        kept.append(
            Warm(name=name, readiness=Readiness.AHEAD, argv=argv, ahead=ahead, env=env, count=count)
        )
    # A standing interpreter is started on the host and must find its files at the same paths as in
    # a box, so it is one that boxes see where the host has it.
    if os.path.realpath(tools.python).startswith("/usr/") and not settings.runtime_root:
        python = Warm(
            name="python",
            readiness=Readiness.STANDING,
            argv=(tools.python, PYTHON_ENTRY),
            env=env,
            modules=PYTHON_AHEAD,
            count=count,
        )
        kept.append(python)
        if tools.packages_ahead:
            kept.append(
                replace(
                    python,
                    name=given.INTERPRETER,
                    modules=(*tools.packages_ahead, *PYTHON_AHEAD),
                    decided=given.DECIDED_AT_IMPORT,
                    count=min(_DATA_BOXES, count),
                )
            )
    return tuple(kept)


def policies(
    settings: Settings, port: int, registries: tuple[HostRule, ...]
) -> dict[Network, EgressPolicy]:
    """What boxes of each network may reach; `port` is the server's own."""
    own, exceptions = HostAddresses(), _networks(settings)
    return {
        network: EgressPolicy(
            network=network,
            allowed_hosts=registries if network is Network.REGISTRIES else (),
            allow_networks=exceptions,
            own_addresses=own,
            service_ports=frozenset({port}),
        )
        for network in (Network.REGISTRIES, Network.INTERNET)
    }


def _networks(settings: Settings) -> tuple[AddressRange, ...]:
    try:
        return tuple(ipaddress.ip_network(text) for text in settings.allow_networks)
    except ValueError as error:
        raise StartError(
            f"ERA_ALLOW_NETWORKS must be a list of networks in CIDR form: {error}",
            "Write networks as 10.1.0.0/16 or fd00:1::/32.",
        ) from None
