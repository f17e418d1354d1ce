"""The same five-line program in each of the five languages, one shot each.

python examples/five_languages.py [--url URL]
"""

from __future__ import annotations

from api import Api, check, say, url_option
from local_server import local_server

PROGRAMS = {
    "python": """\
import os
total = 0
for number in range(1, 101):
    total += number * number
print(f"hello {os.environ['NAME']}: {total}")
""",
    "node": """\
let total = 0
for (let number = 1; number <= 100; number++) {
  total += number * number
}
console.log(`hello ${process.env.NAME}: ${total}`)
""",
    "typescript": """\
let total: number = 0
for (let number: number = 1; number <= 100; number++) {
  total += number * number
}
console.log(`hello ${process.env.NAME as string}: ${total}`)
""",
    "go": """\
package main
import ("fmt"; "os")
var total int
func init() { for number := 1; number <= 100; number++ { total += number * number } }
func main() { fmt.Printf("hello %s: %d\\n", os.Getenv("NAME"), total) }
""",
    "deno": """\
let total: number = 0
for (let number: number = 1; number <= 100; number++) {
  total += number * number
}
console.log(`hello ${Deno.env.get("NAME")}: ${total}`)
""",
}
EXPECTED = "hello Ada: 338350\n"


def run_all(api: Api) -> None:
    """Each program gives the same line."""
    for language, code in PROGRAMS.items():
        result = api.call("POST", "/api/execute", language=language, code=code, env={"NAME": "Ada"})
        check(f"{language}: exit code", result["exit_code"], 0, result["stderr"])
        check(f"{language}: output", result["stdout"], EXPECTED, result["stderr"])
        say(f"{language:<12}{result['stdout'].strip():<24}{result['duration']}")
    say("OK")


def main() -> None:
    """Run against `--url`, or against a server of our own."""
    url = url_option(__doc__).parse_args().url
    if url:
        run_all(Api(url))
        return
    with local_server() as server:
        run_all(Api(server.url))


if __name__ == "__main__":
    main()
