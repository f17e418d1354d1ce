"""A client of the service in a process of its own: `python -m bench.load PORT CPUFILE GROUP`.

Reads orders as lines of JSON, sends requests over kept connections, answers with latencies.  Its own
CPU is told apart from the service's.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from typing import Any

from bench.machine import CpuFile, Meter, join


class Client:
    """One kept connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self._connection.request("GET", "/health")
        self._connection.getresponse().read()

    def close(self) -> None:
        """Let go of the connection; the server would, after some idle seconds."""
        self._connection.close()

    def run(self, path: str, body: dict[str, Any]) -> tuple[int, float]:
        """One request; its latency in nanoseconds, and the run's own CPU in milliseconds."""
        text = json.dumps(body).encode()
        begin = time.perf_counter_ns()
        self._connection.request("POST", path, text, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        data = response.read()
        taken = time.perf_counter_ns() - begin
        answer = json.loads(data)
        if response.status != 200 or answer["exit_code"] != 0:
            raise RuntimeError(f"{response.status}: {data[:500]!r}")
        return taken, answer["usage"]["cpu_ms"]


def fresh(body: dict[str, Any], marker: str) -> dict[str, Any]:
    """The body with code that was never sent before, where `marker` says how to write a comment."""
    if not marker:
        return body
    return {**body, "code": f"{body['code']}{marker} {time.monotonic_ns()}\n"}


def spaced(order: dict[str, Any], client: Client, meter: Meter) -> list[tuple[int, float]]:
    """Runs one after the other, idle in between."""
    found: list[tuple[int, float]] = []
    deadline = time.monotonic() + order["seconds"]
    while len(found) < order["count"] and time.monotonic() < deadline:
        meter.settle()
        found.append(client.run(order["path"], fresh(order["body"], order["marker"])))
    return found


def crowded(order: dict[str, Any], clients: list[Client]) -> list[tuple[int, float]]:
    """Runs by several clients at once."""
    found: list[tuple[int, float]] = []
    deadline = time.monotonic() + order["seconds"]

    def loop(client: Client) -> None:
        while time.monotonic() < deadline:
            found.append(client.run(order["path"], fresh(order["body"], order["marker"])))

    threads = [threading.Thread(target=loop, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def main(port: int, cpu_file: str, group: str) -> None:
    """Until the input ends.  CPUFILE tells when the service is idle, GROUP is joined."""
    if group:
        join(group)
    meter = Meter(CpuFile(path=cpu_file) if cpu_file else None)
    for line in sys.stdin:
        order = json.loads(line)
        clients = [Client(port) for _ in range(max(1, order["clients"]))]
        cpu = time.process_time_ns()
        found = crowded(order, clients) if order["clients"] else spaced(order, clients[0], meter)
        own = time.process_time_ns() - cpu
        for client in clients:
            client.close()
        print(json.dumps({"runs": found, "own_cpu_ns": own}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
