#!/usr/bin/env bash
# {{GENERATED}}
# Check a running service: /health and one execution.
# usage: test-docker.sh [URL]   default ERA_API_URL, else http://127.0.0.1:{{PORT}}; key in ERA_API_KEY
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}
command -v docker >/dev/null || fail "Docker is not installed" "  see https://docs.docker.com/engine/install/"
docker info >/dev/null 2>&1 || fail "Docker is not running" "  start it, and check with: docker info"
command -v curl >/dev/null || fail "curl is not installed"

url="${1:-${ERA_API_URL:-http://127.0.0.1:{{PORT}}}}"
key=(-H "Authorization: Bearer ${ERA_API_KEY:-none}")

health="$(curl -sS -m 30 "$url/health")" || fail "no answer from $url/health"
[[ $health == *'"status":"healthy"'* ]] || fail "not healthy: $health"
echo "healthy: $health"

answer="$(curl -sS -m 60 "${key[@]}" "$url/api/execute" \
    -d '{"language":"python","code":"print(6 * 7)"}')" || fail "no answer from $url/api/execute"
[[ $answer == *'"stdout":"42\n"'* && $answer == *'"exit_code":0'* ]] || fail "execution failed: $answer"
echo "executed: $answer"
