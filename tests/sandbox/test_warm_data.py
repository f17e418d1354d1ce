"""Packages that every box has: imported ahead, and no program can tell; the random state of each fork."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from era.languages import given
from era.languages.environment import LAYER_PYTHON
from era.languages.table import PYTHON_ENTRY
from era.runtimes import Runtimes
from era.sandbox.base import Bind, BoxSpec
from tests.contracts.driver import fill
from tests.languages.boxes import place
from tests.sandbox.corpus import Case, data_programs
from tests.sandbox.standing import LIMITS, Standing, outcome, python_program, standing_driver

ROOT = os.geteuid() == 0
PROGRAMS = [case for number, case in enumerate(data_programs()) if ROOT or number % 8 == 0]
"""An ordinary user's boxes are made by the same code: every eighth program is enough of them."""
SPEC = BoxSpec(limits=LIMITS, interpreter=given.INTERPRETER)
Ready = tuple[Standing, Runtimes]


@pytest.fixture(scope="module")
async def ready(anyio_backend: str) -> AsyncIterator[Ready]:
    with tempfile.TemporaryDirectory(prefix="era-data-") as directory:
        async with standing_driver(directory, packages=given.USUAL) as made:
            yield made


@pytest.mark.anyio
@pytest.mark.parametrize("case", PROGRAMS, ids=lambda case: case.name)
async def test_warm_and_cold_are_the_same(ready: Ready, case: Case) -> None:
    driver, runtimes = ready
    cold = await outcome(driver, runtimes, case, warm=False)
    warm = await outcome(driver, runtimes, case, warm=True)
    assert warm == cold


async def _said(ready: Ready, code: str, spec: BoxSpec = SPEC, **more: object) -> str:
    driver, runtimes = ready
    await driver.fill()
    async with driver.box(spec) as box:
        place(box, {os.path.basename(PYTHON_ENTRY): code.encode()})
        ended = await box.run(python_program(runtimes, **more))  # type: ignore[arg-type]
    assert (ended.exit_code, ended.stderr) == (0, b"")
    return ended.stdout.decode()


LOADS = """
import sys
loads = []
sys.addaudithook(lambda event, args: loads.append(args[0]) if event == "open" else None)
import numpy, pandas, numpy.random, PIL.Image
print([name for name in loads if str(name).endswith((".pyc", ".py", ".so"))])
"""


@pytest.mark.anyio
async def test_what_is_imported_ahead_is_not_loaded_again(ready: Ready) -> None:
    assert await _said(ready, LOADS) == "[]\n"
    assert (await _said(ready, LOADS, replace(SPEC, interpreter=""))).count(".pyc") > 50


FRESH = """
import random
import numpy as np
print(np.random.rand(), np.random.get_state()[1][:9].tolist(), np.random.randint(1 << 62), sep="\\n")
print(np.random.default_rng().random(), np.random.RandomState().rand(), random.random(), sep="\\n")
"""


@pytest.mark.anyio
async def test_what_must_be_random_is(ready: Ready) -> None:
    rows = [(await _said(ready, FRESH)).splitlines() for _ in range(4)]
    for values in zip(*rows, strict=True):
        assert len(set(values)) == len(rows)


@pytest.mark.anyio
async def test_what_one_program_spoils_the_next_does_not_find(ready: Ready) -> None:
    spoil = "import numpy as np, pandas as pd\nnp.mine = pd.mine = 1\nnp.seterr(all='raise')\n"
    await _said(ready, spoil + "pd.set_option('display.max_rows', 3)\nnp.random.seed(1)")
    look = "import numpy as np, pandas as pd\nprint(hasattr(np, 'mine'), hasattr(pd, 'mine'))\n"
    look += "print(np.geterr()['divide'], pd.get_option('display.max_rows'))"
    assert await _said(ready, look) == "False False\nwarn 60\n"


@pytest.mark.anyio
async def test_a_session_has_its_own_version_of_a_package(
    ready: Ready, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """From its setup's layer; what the others import is not in its process."""
    layer = fill(
        str(tmp_path_factory.mktemp("layer")),
        {"python/pandas/__init__.py": "__version__ = '0.1'\nimport sys, numpy\n"},
    )
    spec = replace(SPEC, binds=(Bind(source=layer, target="/opt/era/layer"),))
    code = "import pandas, numpy\nprint(pandas.__version__, pandas.__file__, numpy.arange(3).sum())"
    said = await _said(ready, code, spec, env={"PYTHONPATH": LAYER_PYTHON})
    assert said == f"0.1 {LAYER_PYTHON}/pandas/__init__.py 3\n"
    assert (await _said(ready, code)).split()[1].startswith("/usr/")


@pytest.mark.anyio
async def test_boxes_see_the_packages_and_nothing_else_of_the_service(ready: Ready) -> None:
    code = (
        "import sys, os, importlib.util, numpy\n"
        "place = os.path.dirname(os.path.dirname(numpy.__file__))\n"
        "print(*sorted(os.listdir(place)))\n"
        "print([importlib.util.find_spec(name) for name in ('era', 'pip', 'fastapi', 'pytest')])\n"
        "print(os.access(place, os.W_OK), os.access(numpy.__file__, os.W_OK))\n"
        "print([name for name in os.listdir(place) if name.endswith('.pth')])\n"
    )
    names, others, writable, paths = (await _said(ready, code)).splitlines()
    assert {"numpy", "pandas", "matplotlib", "dateutil", "numpy.libs"} <= set(names.split())
    assert not {"fastapi", "starlette", "sqlalchemy", "pytest", "cryptography"} & set(names.split())
    assert others == "[None, None, None, None]"
    assert (writable, paths) == ("False False", "[]")


@pytest.mark.anyio
async def test_the_standing_process_has_one_thread_and_no_secret(ready: Ready) -> None:
    code = "import os, numpy\nprint(len(os.listdir('/proc/self/task')), sorted(os.environ))"
    threads, names = (await _said(ready, code)).split(" ", 1)
    assert threads == "1"
    assert "OPENBLAS_NUM_THREADS" in names
    assert "ERA_" not in names


PLOT = """
import matplotlib
import matplotlib.pyplot as plt
plt.plot([1, 2, 3], [1, 4, 9])
plt.savefig("plot.png")
print(open("plot.png", "rb").read(8), matplotlib.get_backend())
"""


@pytest.mark.anyio
async def test_a_plot_is_saved(ready: Ready) -> None:
    assert await _said(ready, PLOT) == "b'\\x89PNG\\r\\n\\x1a\\n' agg\n"
