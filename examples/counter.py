"""Ten parallel increments of a counter in one session give exactly ten.

    python examples/counter.py [--url URL]

Runs of one session wait for each other, so none of them works on stale data.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from api import Api, check, say, url_option
from local_server import local_server

INCREMENT = """
import json
data = json.load(open(".session_data.json"))
data["count"] += 1
json.dump(data, open(".session_data.json", "w"))
print(data["count"])
"""
TIMES = 10


def count(api: Api) -> None:
    """Increment in parallel, and look."""
    session = api.call("POST", "/api/sessions", language="python", data={"count": 0})["id"]
    with ThreadPoolExecutor(TIMES) as pool:
        results = list(pool.map(lambda _: api.run(session, INCREMENT), range(TIMES)))
    seen = sorted(int(result["stdout"]) for result in results)
    say(f"{TIMES} parallel runs saw {seen}")
    check("what the runs saw", seen, list(range(1, TIMES + 1)))
    data = api.call("GET", f"/api/sessions/{session}")["data"]
    check("the session's data", data, {"count": TIMES})
    api.call("DELETE", f"/api/sessions/{session}")
    say("OK")


def main() -> None:
    """Run against `--url`, or against a server of our own."""
    url = url_option(__doc__).parse_args().url
    if url:
        count(Api(url))
        return
    with local_server() as server:
        count(Api(server.url))


if __name__ == "__main__":
    main()
