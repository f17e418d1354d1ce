"""What the sessions room has to be told: every bound and default of runs, setups and sessions.

Plain values; `assemble` fills them from the settings.  The defaults are those of the service.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from era.languages.mirrors import Mirrors
from era.models import Network
from era.storage.base import Quota


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLimits:
    """What one run may use, and what a request may ask for."""

    timeout_seconds: float = 30.0
    """When neither the request nor the session names one."""
    max_timeout_seconds: float = 3600.0
    grace_seconds: float = 1.0
    """Between SIGTERM and SIGKILL."""
    output_bytes: int = 1 << 20
    memory_mib: int = 1024
    max_memory_mib: int = 8192
    cpus: float = 1.0
    max_cpus: int = 4
    pids: int = 512
    disk_bytes: int = 4 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLimits:
    """How many runs may execute and wait."""

    concurrent_runs: int = 4
    waiting_runs: int = 256
    """Waiting for anything, on the whole server."""
    waiting_per_session: int = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupLimits:
    """What setups may use."""

    concurrent: int = 2
    max_attempts: int = 3
    """Interrupted attempts after which a setup has failed."""
    timeout_seconds: float = 3600.0
    """For all steps together; 0 means none."""
    wait_seconds: float = 60.0
    """How long a run waits for the first setup of its session."""
    memory_mib: int = 2048
    cpus: float = 2.0
    pids: int = 1024
    layer_bytes: int = 4 << 30
    """Size of what a setup may leave."""
    scratch_bytes: int = 8 << 30
    """Disk of the setup's box: the layer, installers' caches and what they unpack."""
    layer_max_age_seconds: float = 7 * 86400.0
    network: Network = Network.INTERNET
    mirrors: Mirrors = field(default_factory=Mirrors)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleLimits:
    """What may be fetched before a deno program runs, and kept."""

    timeout_seconds: float = 120.0
    any_host: bool = False
    """Whether it is left to the network policy which hosts `https:` imports may name; else only
    those that deno itself trusts."""
    certificates: bytes | None = None
    """Of the operator's mirrors (PEM), beyond those that boxes trust."""
    memory_mib: int = 1024
    cpus: float = 2.0
    graph_bytes: int = 1 << 30
    """All modules of one program, as they are fetched."""
    cache_bytes: int = 4 << 30
    """Of all that is kept; what was used longest ago is removed first."""
    cache_graphs: int = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramLimits:
    """How many compiled programs are kept; what was used longest ago is removed first."""

    program_bytes: int = 1 << 30
    """Of one program; a larger one does not run."""
    session_bytes: int = 256 << 20
    session_programs: int = 64
    cache_bytes: int = 4 << 30
    """Of all sessions together."""
    cache_programs: int = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLimits:
    """Every bound and default of the room."""

    runs: RunLimits = RunLimits()
    queues: QueueLimits = QueueLimits()
    setups: SetupLimits = field(default_factory=SetupLimits)
    modules: ModuleLimits = ModuleLimits()
    programs: ProgramLimits = ProgramLimits()
    quota: Quota = Quota(total_bytes=10 << 30, count=100_000)
    code_bytes: int = 1 << 20
    data_bytes: int = 131_072
    metadata_bytes: int = 64 << 10
    file_bytes: int = 1 << 30
    max_vms: int = 256
    default_internet_access: bool = False
    public_url: str = ""
    """`<base>` for runs that no request of a client started; empty when unknown."""
    sweep_seconds: float = 600.0
    """Between two sweeps of the stores."""
    blob_grace_seconds: float = 3600.0
    """A blob without a reference is kept this long: its commit may still be under way."""

    @property
    def vm_quota(self) -> Quota:
        """What one managed VM may hold: workspace, HOME and /tmp together."""
        return Quota(total_bytes=self.runs.disk_bytes, count=self.quota.count)
