"""What stays in a program's interpreter, first part: the modules that it may come to know.

Modules imported ahead are not in `sys.modules`.  An import asks for a known one here, after Python has
found that it is not loaded and where it would go and look for it; only when everything is as it was at
the start, so that looking would find the very file that the known module came from, it is handed out,
with all that its first import would have brought.  In every other case the import goes its usual way.

Packages (of the directory that boxes have beside the standard library) are another matter: compiled
parts of many can be loaded once in a process, and that has happened.  So where a program has modules
of its own that come before anything a package asks for, it gets an interpreter of its own before it
begins (`hides_packages`); from then on a package is known whenever looking leads to its very file.
"""

from __future__ import annotations

import atexit
import builtins
import gc
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from era.sandbox.namespaces.child.standby.resident.beginning import keep_path_of_boxes

bootstrap: Any = sys.modules["_frozen_importlib"]
external: Any = sys.modules["_frozen_importlib_external"]
_warnings: Any = __import__("_warnings")

at_start: set[str] = set()
"""Names of the modules that an interpreter has before a program."""
known: dict[str, Any] = {}
"""Every module there is here, those of the start too."""
brings: dict[str, tuple[str, ...]] = {}
"""What the first import of a known module brings, in order, itself among it."""
fresh: set[str] = set()
"""Known modules that nothing has imported yet."""
_looked_for: dict[str, tuple[str, ...]] = {}
_exits: dict[str, list[tuple[Any, ...]]] = {}
_forks: dict[str, list[dict[str, Any]]] = {}
_specs: dict[str, Any] = {}
_paths: dict[str, list[str]] = {}
_apart: set[str] = set()
_library: list[str] = []
_of_packages: set[str] = set()
"""Known modules of packages, and those whose import brings one."""
_asked_by_packages: set[str] = set()
"""Names of files and directories that would come before something they ask for."""
customized: list[bool] = []
"""Not empty where the host's own places have a `sitecustomize`; boxes may have it, or not."""
_lists: dict[str, list[tuple[str, list[Any]]]] = {}
_finders: list[Any] = []
_hooks: list[Any] = []
_cache: dict[str, Any] = {}
_usual_import = builtins.__import__
_usual_find = bootstrap._find_spec
_usual_code = bootstrap._find_and_load_unlocked.__code__
_FIND = "_find_known"
_our_code = _usual_code.replace(
    co_names=tuple(_FIND if name == "_find_spec" else name for name in _usual_code.co_names)
)
MISSING = object()


def remember(
    before: dict[str, ModuleType],
    asked: dict[str, tuple[str, ...]],
    exits: dict[str, list[tuple[Any, ...]]],
    forks: dict[str, list[dict[str, Any]]],
    lists: dict[str, list[tuple[str, list[Any]]]],
) -> None:
    """What `ahead.prepare` found: the modules of the start; what the import of each other one asks
    for, itself last; what modules register for the end and for forks, and put into lists."""
    at_start.update(before)
    known.update(before)
    known.update({name: sys.modules[name] for name in asked})
    _exits.update(exits)
    _forks.update(forks)
    _lists.update(lists)
    _library.extend(_places())
    _hooks.extend(sys.path_hooks)
    _finders.extend(sys.meta_path)
    for name in asked:
        _specs[name] = getattr(known[name], "__spec__", None)
        _paths[name] = list(getattr(known[name], "__path__", ()))
    for name, names in asked.items():
        brings[name] = tuple(need for need in names if need in known)
        if all(map(_is_standard, brings[name])):
            _looked_for[name] = tuple(_file_names(names))
        else:
            _of_packages.add(name)
            _asked_by_packages.update(_file_names(names))
    fresh.update(_looked_for, _of_packages)


def _places() -> list[str]:
    """The part of `sys.path` where the standard library is found."""
    library = os.path.dirname(os.__file__)
    first = sys.path.index(library)
    rest = [path for path in sys.path[first + 1 :] if path.startswith(f"{library}/lib-dynload")]
    return [library, *rest]


def _is_standard(name: str) -> bool:
    """Whether looking for the module leads to the standard library alone."""
    spec = _specs.get(name)
    if spec is None or not spec.has_location:
        return True
    place = os.path.dirname(spec.origin)
    if "/site-packages" in place or "/dist-packages" in place:
        return False
    return any(place.startswith(directory) for directory in _library)


def _file_names(names: tuple[str, ...]) -> Iterator[str]:
    """Names that, in a directory searched before the standard library, would come first."""
    suffixes = ["", *external.EXTENSION_SUFFIXES]
    suffixes += [*external.SOURCE_SUFFIXES, *external.BYTECODE_SUFFIXES]
    for name in names:
        spec = _specs.get(name)
        searched = name not in known or (spec is not None and spec.has_location)
        if searched and "." not in name:
            yield from (name + suffix for suffix in suffixes)


def forget(package: str) -> None:
    """Leave nothing of `package`: its functions go with its modules' names, the rest is collected."""
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        vars(sys.modules.pop(name)).clear()
    gc.collect()


def hide(searched: Mapping[str, Any]) -> None:
    """Take every module that an interpreter does not have at its start out of sight; `searched` is
    where it has looked for modules by then."""
    hide_others()
    keep_path_of_boxes()
    for name in brings:
        parent, _, child = name.rpartition(".")
        if parent not in known or name in brings.get(parent, ()):
            continue  # part of its package from the package's own import on
        if vars(known[parent]).get(child) is known[name]:
            delattr(known[parent], child)
            _apart.add(name)
    places = {place for paths in _paths.values() for place in paths}
    _cache.update({at: finder for at, finder in sys.path_importer_cache.items() if at in places})
    sys.path_importer_cache.clear()
    sys.path_importer_cache.update(searched)
    if find_customization():  # so it has looked in every place
        customized.append(True)


def hide_others() -> None:
    """Take modules that are not of the start out of `sys.modules`; what is not known is held by who
    uses it only."""
    for name in [name for name in sys.modules if name not in at_start and name != "sitecustomize"]:
        del sys.modules[name]


def find_customization() -> bool:
    """Whether there is a `sitecustomize` on `sys.path`."""
    return external.PathFinder.find_spec("sitecustomize") is not None


def _find_known(name: str, path: Any, target: Any = None) -> Any:
    """What import asks instead of its own search: how to hand out a known module, or where it is."""
    if name in _of_packages and name in fresh:
        spec = _usual_find(name, path, target)
        if spec is None or spec.origin != _specs[name].origin:
            return spec
        return bootstrap.ModuleSpec(name, _loader)
    if name in fresh and _all_is_as_at_start(name, path):
        return bootstrap.ModuleSpec(name, _loader)
    return _usual_find(name, path, target)


def _all_is_as_at_start(name: str, path: Any) -> bool:
    if builtins.__import__ is not _usual_import or sys.gettrace() or sys.getprofile():
        return False  # who watches imports sees them all
    if sys.meta_path != _finders or sys.path_hooks != _hooks:
        return False
    parent = name.rpartition(".")[0]
    if parent and path != _paths.get(parent, MISSING):
        return False
    for need in brings[name]:
        there = sys.modules.get(need, MISSING)
        if there is not known[need] and (there is not MISSING or need not in fresh):
            return False
    return not _others_come_first(_looked_for[name])


def hides_packages(places: Iterable[str]) -> bool:
    """Whether one of `places`, which come before all others, has something that a known package asks
    for by its name."""
    for place in places if _of_packages else ():
        try:
            names = os.listdir(place)
        except OSError:
            continue
        if not _asked_by_packages.isdisjoint(names):
            return True
    return False


def _others_come_first(names: tuple[str, ...]) -> bool:
    """Whether anything that is searched before the standard library has, or may have, one of `names`."""
    for index, place in enumerate(sys.path):
        if place == _library[0]:
            return sys.path[index : index + len(_library)] != _library
        finder = external.PathFinder._path_importer_cache(place)
        if finder is None:
            continue
        if type(finder) is not external.FileFinder:
            return True
        entries = _entries(finder)
        if any(name in entries for name in names):
            return True
    return True


def _entries(finder: Any) -> Any:
    """Names in a directory, as the finder itself would come to know them."""
    try:
        changed = os.stat(finder.path or os.getcwd()).st_mtime
    except OSError:
        changed = -1
    if changed != finder._path_mtime:
        finder._fill_cache()
        finder._path_mtime = changed
    return finder._path_cache


def _hand_out(module: ModuleType) -> None:
    """Puts a module and all that its import brings where a program finds them."""
    spec: Any = module.__spec__
    name = spec.name
    module.__spec__ = _specs[name]
    for need in brings[name]:
        if need == name or (need in fresh and need not in sys.modules):
            sys.modules[need] = known[need]
            _make_seen(need)


def _make_seen(name: str) -> None:
    fresh.discard(name)
    parent, _, child = name.rpartition(".")
    if name in _apart:
        setattr(known[parent], child, known[name])
    for place in _paths.get(parent, ()):
        if place in _cache:
            sys.path_importer_cache.setdefault(place, _cache[place])
    for call, names in _exits.get(name, ()):
        atexit.register(*call, **names)
    for functions in _forks.get(name, ()):
        os.register_at_fork(**functions)
        if "after_in_child" in functions:
            functions["after_in_child"]()  # there was a fork since: this process is one
    for kind, items in _lists.get(name, ()):
        _put_into_list(kind, items)
    if name == "numpy.random.mtrand":
        known[name].seed()  # the one for all, which every fork has
    if name == "threading":
        known[name].main_thread()._set_native_id()


def _put_into_list(kind: str, items: list[Any]) -> None:
    """What a module would put into a list of the interpreter: finders at its end, filters first."""
    if kind == "finders":
        sys.meta_path.extend(items)
        _finders.extend(items)
        return
    _warnings.filters[:0] = items
    for name in ("_filters_mutated", "_filters_mutated_lock_held"):
        if hasattr(_warnings, name):
            getattr(_warnings, name)()


_loader: Any = SimpleNamespace(create_module=lambda spec: known[spec.name], exec_module=_hand_out)


def import_from_here() -> None:
    """Lets the import statement ask `_find_known` where it asked `_find_spec`; whoever else asks for
    a spec (importlib.util, reload) gets the usual one.  No frame is added to any import."""
    setattr(bootstrap, _FIND, _find_known)
    bootstrap._find_and_load_unlocked.__code__ = _our_code


def import_as_usual() -> None:
    """Import again as if there was nothing here, and hold no module any more."""
    bootstrap._find_and_load_unlocked.__code__ = _usual_code
    delattr(bootstrap, _FIND)
    for names in (known, _specs, _exits, _forks, _cache):
        names.clear()
