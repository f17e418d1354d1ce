"""Packages as users ask for them, from the real registries, and used offline by the runs after."""

from __future__ import annotations

from typing import Any

import pytest

from api import Api
from tests.e2e.harness import WatchedServer
from tests.e2e.test_setups import command, set_up, wait_for_bytecode

pytestmark = [pytest.mark.xdist_group("setups"), pytest.mark.timeout(900)]

GIN = """package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/gin-gonic/gin"
)

func main() {
	gin.SetMode(gin.ReleaseMode)
	router := gin.New()
	router.GET("/hello/:name", func(c *gin.Context) { c.String(200, "hello %s", c.Param("name")) })
	answer := httptest.NewRecorder()
	request, _ := http.NewRequest("GET", "/hello/world", nil)
	router.ServeHTTP(answer, request)
	fmt.Println(answer.Code, answer.Body.String())
}
"""
GO_MOD = """module shop

go 1.22

require (
	github.com/google/uuid v1.6.0
	golang.org/x/text v0.14.0
)
"""
USES_GO_MOD = """package main

import (
	"fmt"

	"github.com/google/uuid"
	"golang.org/x/text/cases"
	"golang.org/x/text/language"
)

func main() {
	fmt.Println(cases.Title(language.English).String("two words"), len(uuid.NewString()))
}
"""


@pytest.fixture(scope="module")
def client(server: WatchedServer) -> Api:
    return Api(server.url)


# --- Python -----------------------------------------------------------------------------------


def test_requests_and_pydantic(client: Api) -> None:
    result = set_up(client, "web", "python", pip=["requests", "pydantic>=2"])
    assert result["pip_packages"] == ["requests", "pydantic>=2"]
    named = [each.partition("==")[0] for each in result["installed"]["pip"]]
    assert {"requests", "pydantic", "pydantic_core", "urllib3"} <= set(named)
    code = (
        "import requests\nfrom pydantic import BaseModel\n"
        "class Point(BaseModel):\n    x: int\n"
        "print(Point(x='3').x, requests.Request('GET', 'http://h/', params={'a': 1}).prepare().url)"
    )
    assert client.run("web", code)["stdout"] == "3 http://h/?a=1\n"


def test_pandas_and_numpy(client: Api, server: WatchedServer) -> None:
    """Before and after its modules are compiled behind the setup."""
    requirements = "# numbers\npandas >= 2\nnumpy\n"
    set_up(client, "numbers", "python", pip={"requirements": requirements})
    code = "import numpy as np, pandas as pd; print(pd.DataFrame({'a': np.arange(4)})['a'].sum())"
    assert client.run("numbers", code)["stdout"] == "6\n"
    wait_for_bytecode(server)
    cached = "import pandas, os; print(os.path.exists(pandas.__cached__), 6)"
    assert client.run("numbers", cached)["stdout"] == "True 6\n"
    assert client.run("numbers", code)["stdout"] == "6\n"


def test_a_compiled_wheel_and_a_source_distribution(client: Api) -> None:
    """docopt is published as source alone, so it is built; its build may not write to the layer."""
    set_up(client, "built", "python", pip=["markupsafe", "docopt==0.6.2"])
    code = (
        "import markupsafe, markupsafe._speedups as s, docopt;"
        "print(markupsafe.escape('<a>'), s.__file__.endswith('.so'), docopt.__version__)"
    )
    assert client.run("built", code)["stdout"] == "&lt;a&gt; True 0.6.2\n"


def test_two_sessions_with_two_versions(client: Api) -> None:
    for version in ("1.15.0", "1.16.0"):
        set_up(client, f"six-{version[2:4]}", "python", pip=[f"six=={version}"])
    for version in ("1.15.0", "1.16.0"):
        code = "import six; print(six.__version__)"
        assert client.run(f"six-{version[2:4]}", code)["stdout"] == f"{version}\n"


def test_console_scripts_are_on_the_path(client: Api) -> None:
    set_up(client, "tools", "python", pip=["pygments"], npm=["semver"], commands=["pygmentize -V"])
    assert command(client, "tools", "pygmentize -V").startswith("Pygments version")
    assert command(client, "tools", "semver -r '>=2' 1.0.0 2.1.0") == "2.1.0\n"


# --- node -------------------------------------------------------------------------------------

WEB = ["axios", "cheerio", "moment@2"]
USES_WEB = (
    "console.log(cheerio.load('<p>hi</p>')('p').text(), typeof axios.get,"
    " moment.utc(0).format('YYYY'))"
)


@pytest.mark.parametrize("language", ["node", "typescript"])
def test_axios_cheerio_and_moment(client: Api, language: str) -> None:
    result = set_up(client, f"web-{language}", language, npm=WEB)
    assert result["npm_packages"] == WEB
    imports = "import axios from 'axios'; import * as cheerio from 'cheerio'; import moment from 'moment';"
    requires = (
        "const axios = require('axios'), cheerio = require('cheerio'), moment = require('moment');"
    )
    for given in (imports, requires):
        assert client.run(f"web-{language}", given + USES_WEB)["stdout"] == "hi function 1970\n"


def test_a_package_with_an_install_script(client: Api) -> None:
    """Its script puts the program of this platform in place."""
    set_up(client, "scripted", "node", npm=["esbuild@0.25.0"])
    code = "console.log(require('esbuild').transformSync('let x: number = 1', {loader: 'ts'}).code)"
    assert client.run("scripted", code)["stdout"] == "let x = 1;\n\n"
    assert command(client, "scripted", "esbuild --version") == "0.25.0\n"


def test_a_package_json(client: Api) -> None:
    """It brings packages and decides the type of modules."""
    manifest = {"type": "module", "dependencies": {"chalk": "^5", "ms": "2.1.3"}}
    set_up(client, "manifest", "node", npm={"packageJson": manifest})
    code = "import ms from 'ms'; console.log(ms('1h'), typeof (await import('chalk')).default)"
    assert client.run("manifest", code)["stdout"] == "3600000 function\n"


# --- Go ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["", "@v1.10.0"], ids=["newest", "named"])
def test_a_tree_of_modules(client: Api, version: str) -> None:
    session = f"gin{version.replace('.', '-').replace('@', '-')}"
    set_up(client, session, "go", go=[f"github.com/gin-gonic/gin{version}"])
    assert client.run(session, GIN)["stdout"] == "200 hello world\n"


def test_a_go_mod(client: Api) -> None:
    result = set_up(client, "shop", "go", go={"goMod": GO_MOD})
    assert "github.com/google/uuid@v1.6.0" in result["go_modules"]
    assert client.run("shop", USES_GO_MOD)["stdout"] == "Two Words 36\n"


# --- all together -----------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["python", "node", "deno"])
def test_every_kind_in_every_language(client: Api, language: str) -> None:
    """One recipe, so all but the first are there at once."""
    everything: dict[str, Any] = {
        "pip": ["six==1.16.0"],
        "npm": ["ms@2.1.3"],
        "go": ["github.com/google/uuid@v1.6.0"],
        "commands": [
            "python3 -c 'import six; print(six.__version__)' > seen.txt",
            "node -p \"require('ms')(1000)\" >> seen.txt && ls $GOMODCACHE/github.com/google >> seen.txt",
            'echo "$WORD" | tee -a seen.txt > /tmp/word && cp /tmp/word ~/word',
        ],
        "envs": {"WORD": "given"},
    }
    session = f"all-{language}"
    result = set_up(client, session, language, **everything)
    assert list(result)[:3] == ["success", "duration_ms", "cached"]
    assert (result["pip_packages"], result["npm_packages"]) == (["six==1.16.0"], ["ms@2.1.3"])
    assert result["go_modules"] == ["github.com/google/uuid@v1.6.0"]
    assert result["commands_run"] == everything["commands"]
    assert result["installed"] == {
        "pip": ["six==1.16.0"],
        "npm": ["ms==2.1.3"],
        "go": ["github.com/google/uuid==v1.6.0"],
    }
    seen = command(client, session, "cat seen.txt /tmp/word ~/word; echo [$WORD]")
    assert seen == "1.16.0\n1s\nuuid@v1.6.0\ngiven\ngiven\ngiven\n[]\n"
