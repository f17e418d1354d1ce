"""Collecting what programs did in real overlays: the changes lead to what the program saw."""

from __future__ import annotations

import inspect
import json
import os
import random
import sys
import textwrap
from typing import Any, Literal

import pytest

from era.models import Changes
from era.workspace.collect import CollectContext, collect
from tests.workspace.keepers import MemoryBlobs
from tests.workspace.overlay import Overlay, opened
from tests.workspace.states import State, applied, state

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left_open")]

PYTHON = (sys.executable, "-Ic")
DUMP = "\n".join(
    [
        "from __future__ import annotations",
        textwrap.dedent(inspect.getsource(state)),
        "import json, sys",
        "print(json.dumps(state('.')), file=open('TO', 'w'))",
    ]
)


def fill(overlay: Overlay) -> None:
    """A small session below the overlay."""
    for path in ("a", "d/x", "d/y", "d/e/f/z", "s/keep"):
        full = f"{overlay.tree}/{path}"
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "w") as file:
            file.write(f"old {path}")
    os.mkdir(f"{overlay.tree}/empty")
    os.symlink("a", f"{overlay.tree}/l")
    os.symlink("d", f"{overlay.tree}/dl")
    os.makedirs(f"{overlay.layer}/built")
    with open(f"{overlay.layer}/built/lib", "w") as file:
        file.write("layer")
    for above, dirs, files in os.walk(overlay.tree):
        for name in dirs + files:
            os.utime(f"{above}/{name}", ns=(0, 10**18), follow_symlinks=False)


async def collected(overlay: Overlay) -> tuple[Changes, dict[str, bytes]]:
    blobs = MemoryBlobs()
    with opened(overlay.upper) as fd, opened(overlay.tree) as tree, opened(overlay.layer) as layer:
        prefix: Literal["trusted", "user"] = "user" if overlay.userxattr else "trusted"
        context = CollectContext(tree_fd=tree, layer_fd=layer, xattr_prefix=prefix)
        result = await collect(fd, blobs=blobs.as_blobs(), context=context)
    assert result.error is None
    return result.changes, blobs.kept


def seen(overlay: Overlay) -> State:
    """What a program in the overlay sees, without what the layer brought."""
    overlay.run(DUMP.replace("TO", f"{overlay.root}/seen"), program=PYTHON)
    with open(f"{overlay.root}/seen") as file:
        found: State = json.load(file)
    return {path: look for path, look in found.items() if path.split("/")[0] != "built"}


async def changes_lead_to_what_was_seen(overlay: Overlay) -> Changes:
    before = state(overlay.tree)
    changes, contents = await collected(overlay)
    assert applied(before, changes, contents) == seen(overlay)
    return changes


async def test_reading_changes_nothing(overlay: Overlay) -> None:
    fill(overlay)
    overlay.run("cat a d/x built/lib > /dev/null; ls -lR . > /dev/null")
    assert await changes_lead_to_what_was_seen(overlay) == Changes()


SCRIPTS = {
    "write": "echo new > a; echo new > n; echo more >> d/x",
    "remove": "rm a d/x l",
    "remove a directory": "rm -r d",
    "remove and make again": "rm -r d; mkdir d; echo new > d/x",
    "make again as it was": "rm -r d; mkdir -p d/e/f; touch -d @1000000000 d/e/f d/e d",
    "make again inside": "rm -r d/e; mkdir -p d/e/g; echo new > d/e/g/z",
    "again and again": "for i in 1 2 3; do rm -r d; mkdir -p d/e; echo $i > d/e/f; done",
    "rename a file": "mv a b; mv d/x d/e/x",
    "rename a directory": "mv d q",
    "rename a new directory": "mkdir n; echo x > n/x; mv n m; mv m d/m",
    "rename over": "mv a d/x; echo 1 > t; mv t d/y",
    "exchange": "mv d t; mv s d; mv t s",
    "modes": "chmod 700 d; chmod 755 a; chmod 0 d/x; chmod 4755 d/y; chmod 1777 empty",
    "times": "touch -d 2001-02-03 a d empty; touch -h -d 2001-02-03 l; touch -h s",
    "links": "ln -sf d/x l; ln -s /workspace/a m; ln -s nowhere n; rm dl; mkdir dl; touch dl/x",
    "a link for a directory": "rm -r d; ln -s s d; rm -r s; ln -s d s",
    "a file for a directory": "rm -r d; echo x > d",
    "a directory for a file": "rm a; mkdir -p a/b/c; touch a/b/c/d",
    "a directory for a link": "rm l; mkdir l; touch l/x",
    "hard links": "ln a b; ln d/x d/e/x; echo more >> b; ln n1 n2 2>/dev/null || true",
    "hard links of new files": "echo 1 > n1; ln n1 n2; ln n1 d/n3; rm n1",
    "empty": "mkdir -p n/e/e; rmdir empty; rm -r d/e/f/*",
    "nothing left": "rm -r a d s empty l dl",
    "odd names": "touch $'new\\nline' $'\\e[31m' 'a b' é; mkdir $'d\\n'; touch $'d\\n'/x",
    "truncate": ": > a; truncate -s 100000 d/x",
    "in place": "sed -i s/old/new/ a d/x; printf X | dd of=d/y conv=notrunc 2>/dev/null",
    "gone at once": "echo x > n; rm n; mkdir m; rmdir m; rm a; echo 'old a' > a",
}


@pytest.mark.parametrize("name", SCRIPTS)
async def test_what_a_script_did(overlay: Overlay, name: str) -> None:
    fill(overlay)
    overlay.run(SCRIPTS[name])
    changes = await changes_lead_to_what_was_seen(overlay)
    assert not changes.skipped


async def test_only_what_changed_is_in_it(overlay: Overlay) -> None:
    fill(overlay)
    overlay.run("echo new > n; rm d/x; chmod 700 s")
    changes, _ = await collected(overlay)
    assert [entry.path for entry in changes.written] == ["d", "n", "s"]
    assert changes.removed == ("d/x",)


async def test_the_layer_stays_out_of_it(overlay: Overlay) -> None:
    fill(overlay)
    overlay.run(
        "echo changed > built/lib; chmod 700 built; mkdir -p built/mine; touch built/mine/x"
    )
    changes, _ = await collected(overlay)
    assert [entry.path for entry in changes.written] == ["built/mine", "built/mine/x"]
    assert not changes.removed
    overlay.run("rm -r built")
    changes, _ = await collected(overlay)
    assert changes == Changes()


async def test_an_uploaded_secret_outlives_a_change_and_not_a_deletion(overlay: Overlay) -> None:
    fill(overlay)
    with open(f"{overlay.tree}/s/.env", "w") as file:
        file.write("uploaded")
    overlay.run("echo stolen > s/.env; touch s/keep")
    changes, contents = await collected(overlay)
    assert [entry.path for entry in changes.skipped] == ["s/.env"]
    assert b"stolen\n" not in contents.values()
    assert not changes.removed
    overlay.run("rm s/.env")
    changes, _ = await collected(overlay)
    assert changes.removed == ("s/.env",)


async def test_forged_attributes_do_not_count(overlay: Overlay) -> None:
    """Under the names that are in use they are stored escaped; the trusted ones are refused."""
    fill(overlay)
    names = ["user.overlay.opaque"] if overlay.userxattr else ["trusted.overlay.opaque"]
    names += [name.replace("opaque", "whiteout") for name in names]
    for name in names:
        overlay.run(f"import os; os.setxattr('d', {name!r}, b'y')", program=PYTHON)
        overlay.run(f"import os; os.setxattr('a', {name!r}, b'y')", program=PYTHON)
    overlay.run(": > a; touch d/new")
    await changes_lead_to_what_was_seen(overlay)


async def test_attributes_like_those_of_the_overlay_lose_nothing(overlay: Overlay) -> None:
    """Where the overlay uses `trusted` names, a program may set the `user` ones: they are kept by
    the kernel as they are, on what it changed and on what it made."""
    fill(overlay)
    overlay.run("touch n; mkdir new; touch new/x; touch d/e/more; : > s/keep")
    mark = """
import os
for path in ("n", "new", "new/x", "d", "d/e", "s", "s/keep", "a", "empty"):
    for name, value in (("opaque", b"y"), ("whiteout", b""), ("whiteout", b"y")):
        try:
            os.setxattr(path, f"user.overlay.{name}", value)
        except OSError:
            pass
"""
    overlay.run(mark, program=PYTHON)
    if not overlay.userxattr:
        assert "user.overlay.opaque" in os.listxattr(f"{overlay.upper}/d")
        assert "user.overlay.whiteout" in os.listxattr(f"{overlay.upper}/n")
    changes = await changes_lead_to_what_was_seen(overlay)
    assert changes.removed == ()


ACT = """
import json, os, random, shutil, sys
random.seed({seed})
names = ["a", "d", "d/x", "d/e", "d/e/f", "d/e/f/z", "s", "s/keep", "empty", "empty/n", "n", "n/m", "l"]
def write(path, other):
    with open(path, "a" if random.random() < 0.5 else "w") as file:
        file.write(other)
acts = [
    write,
    write,
    lambda path, other: os.unlink(path),
    lambda path, other: shutil.rmtree(path),
    lambda path, other: os.mkdir(path),
    lambda path, other: os.makedirs(path),
    lambda path, other: os.rename(path, other),
    lambda path, other: other.startswith(path) or shutil.move(path, other),
    lambda path, other: os.symlink("a", path),
    lambda path, other: os.link(path, other),
    lambda path, other: os.chmod(path, random.choice([0o700, 0o755, 0o644, 0o600])),
    lambda path, other: os.utime(path, ns=(0, random.randrange(10**18)), follow_symlinks=False),
]
for number in range(30):
    try:
        random.choice(acts)(random.choice(names), random.choice(names))
    except (OSError, shutil.Error):
        pass
"""


@pytest.mark.timeout(120)
async def test_whatever_programs_do(overlay: Overlay) -> None:
    fill(overlay)
    for _ in range(15):
        seed = random.randrange(10**9)
        overlay.run(ACT.format(seed=seed), program=PYTHON)
        try:
            await changes_lead_to_what_was_seen(overlay)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}") from error


def test_the_helper_sees_a_difference(overlay: Overlay) -> None:
    """The mirror of the tests above: without the changes, what is seen is not what was."""
    fill(overlay)
    overlay.run("echo new > a")
    before: dict[str, Any] = state(overlay.tree)
    assert applied(before, Changes(), {}) != seen(overlay)
