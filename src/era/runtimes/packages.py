"""Python packages for boxes: those of the service's environment that the operator names, laid out apart.

Boxes never see that environment.  The distributions named and what they require are linked (copied,
where that cannot be) into a directory of their own, once for each set of versions, and boxes see that
one in the place where their interpreter looks for packages.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from importlib.util import cache_from_source
from typing import Final

from era.languages import given

_FORMAT: Final = "1"
"""Of what is laid out; another one is laid out anew."""
_REQUIREMENT: Final = re.compile(
    r"\s*([A-Za-z0-9][\w.-]*)\s*(?:\[([^\]]*)\])?([^;]*)(?:;(.*))?", re.DOTALL
)
_EXTRA: Final = re.compile(r"""extra\s*==\s*["']([^"']+)["']""")
_READABLE: Final = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH
_COMPILE_SECONDS: Final = 600
_COMPILERS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Packages:
    """What boxes are given: a directory, what is in it in words, and names of modules.

    `modules` can be imported at the top level, `ahead` are those to import before a program does.
    """

    directory: str
    notes: tuple[str, ...]
    modules: tuple[str, ...]
    ahead: tuple[str, ...]


def installed(names: Iterable[str]) -> tuple[str, ...]:
    """Those of `names` that are distributions of the service's environment."""
    return tuple(name for name in names if _find(name) is not None)


def lay_out(directory: str, names: Sequence[str]) -> Packages:
    """Lay out the distributions `names`, all installed, and what they require, below `directory`.

    What was laid out there before and is not this goes.
    """
    found = _closure(names)
    target = os.path.join(directory, _key(found.values()))
    os.makedirs(directory, mode=0o755, exist_ok=True)
    for other in os.listdir(directory):
        if os.path.join(directory, other) != target:
            shutil.rmtree(os.path.join(directory, other))
    if not os.path.isdir(target):
        _fill(f"{target}.new", found.values())
        os.rename(f"{target}.new", target)
    modules = {name: tuple(sorted(set(_modules(it)))) for name, it in found.items()}
    # Those last that others need: an attribute that is a module once it is there (numpy.random) would
    # not tell who first asked for it.
    needs = [_closure([name]).keys() for name in names]
    named = [_normal(_parts(name)[0]) for name in names]
    named.sort(key=lambda name: sum(name in closure for closure in needs))
    return Packages(
        directory=target,
        notes=tuple(f"{it.metadata['Name']} {it.version}" for it in found.values()),
        modules=tuple(sorted({module for tops in modules.values() for module in tops})),
        ahead=tuple(
            dict.fromkeys(module for name in named for module in given.ahead(name, modules[name]))
        ),
    )


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _find(name: str) -> metadata.Distribution | None:
    try:
        return metadata.distribution(_parts(name)[0])
    except (metadata.PackageNotFoundError, ValueError):
        return None


def _parts(requirement: str) -> tuple[str, frozenset[str], str]:
    """The name, the extras asked for and the condition of a requirement."""
    match = _REQUIREMENT.match(requirement)
    if match is None:
        return requirement, frozenset(), ""
    extras = (extra.strip() for extra in (match[2] or "").split(","))
    return match[1], frozenset(filter(None, extras)), match[4] or ""


def _closure(names: Sequence[str]) -> dict[str, metadata.Distribution]:
    """By normal name.  A requirement that is not installed is one of other systems."""
    found: dict[str, metadata.Distribution] = {}
    done: set[str] = set()
    waiting = list(reversed(names))
    while waiting:
        requirement = waiting.pop()
        if requirement in done:
            continue
        done.add(requirement)
        name, extras, _ = _parts(requirement)
        distribution = _find(name)
        if distribution is not None:
            found.setdefault(_normal(name), distribution)
            waiting += [need for need in distribution.requires or () if _applies(need, extras)]
    return found


def _applies(requirement: str, extras: frozenset[str]) -> bool:
    condition = _parts(requirement)[2]
    named = _EXTRA.findall(condition)
    return not named or not extras.isdisjoint(named)


def _key(distributions: Iterable[metadata.Distribution]) -> str:
    """A name for exactly these contents: the records hold a digest of every file."""
    whole = hashlib.sha256(f"{_FORMAT} {sys.implementation.cache_tag}".encode())
    for it in distributions:
        text = f"{it.metadata['Name']} {it.version} {it.read_text('RECORD')}"
        whole.update(hashlib.sha256(text.encode()).digest())
    return whole.hexdigest()[:32]


def _files(distribution: metadata.Distribution) -> Iterator[metadata.PackagePath]:
    """What a distribution has among the packages.  No `.pth`: it would run at each start of Python."""
    for file in distribution.files or ():
        inside = not os.path.isabs(file) and ".." not in file.parts
        if inside and file.suffix != ".pth" and "__pycache__" not in file.parts:
            yield file


def _modules(distribution: metadata.Distribution) -> Iterator[str]:
    for file in _files(distribution):
        name = file.parts[0].partition(".")[0]
        if name.isidentifier() and file.suffix in (".py", ".so"):
            yield name


def _fill(target: str, distributions: Iterable[metadata.Distribution]) -> None:
    shutil.rmtree(target, ignore_errors=True)
    os.mkdir(target, 0o755)
    missing = []
    for distribution in distributions:
        for file in _files(distribution):
            source = os.path.realpath(str(distribution.locate_file(file)))
            shown = os.path.join(target, *file.parts)
            if os.path.isfile(source) and not _place(source, shown):
                missing.append(shown)
    if missing:
        _compile(missing)


def _place(source: str, target: str) -> bool:
    """Show a file and what Python has compiled it to; False when that is still to be done."""
    os.makedirs(os.path.dirname(target), mode=0o755, exist_ok=True)
    _link(source, target)
    if not source.endswith(".py"):
        return True
    compiled = cache_from_source(source)
    if not os.path.isfile(compiled):
        return "/tests/" in source
    cached = cache_from_source(target)
    os.makedirs(os.path.dirname(cached), mode=0o755, exist_ok=True)
    _link(compiled, cached)
    return True


def _link(source: str, target: str) -> None:
    """A hard link where every user may read the file, else a copy that every user may."""
    if os.path.lexists(target):
        return  # two distributions have it
    if os.stat(source).st_mode & _READABLE == _READABLE:
        with suppress(OSError):  # another file system, or another's file
            os.link(source, target)
            return
    shutil.copy2(source, target)
    os.chmod(target, 0o644)


def _compile(files: Sequence[str]) -> None:
    """Compile what an installer left to the first import, since boxes cannot keep it; on all
    processors, since the server waits for it at its first start."""
    count = min(len(os.sched_getaffinity(0)), _COMPILERS)
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(_compile_some, [files[number::count] for number in range(count)]))


def _compile_some(files: Sequence[str]) -> None:
    subprocess.run(
        (sys.executable, "-I", "-m", "compileall", "-q", "-i", "-"),
        check=False,  # a file for another version of Python is no reason to do without the others
        input="".join(f"{file}\n" for file in files).encode(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=_COMPILE_SECONDS,
    )
