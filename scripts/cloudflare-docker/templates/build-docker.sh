#!/usr/bin/env bash
# {{GENERATED}}
# Build the image.  usage: build-docker.sh [TAG] [docker build argument ...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}
command -v docker >/dev/null || fail "Docker is not installed" "  see https://docs.docker.com/engine/install/"
docker info >/dev/null 2>&1 || fail "Docker is not running" "  start it, and check with: docker info"
[[ -x agent ]] || fail "agent binary not found in era-agent/" "  run: make agent"

tag="${1:-era-agent:latest}"
log="$(mktemp)"
trap 'rm -f "$log"' EXIT
if ! docker build -t "$tag" "${@:2}" . 2>&1 | tee "$log"; then
    fail "Docker build failed; its last lines:" "$(tail -n 20 "$log")" "" "Check:" \
        "  - Docker is running: docker info" \
        "  - the build by itself: cd era-agent && docker build -t test ." \
        "  - the Dockerfile: generate it again with scripts/cloudflare-docker/docker-compiler.sh" \
        "  - the agent binary: make agent"
fi
echo "built $tag"
