#!/usr/bin/env bash
# {{GENERATED}}
# Run the image in the foreground.  usage: run-docker.sh [TAG] [docker run argument ...]
# ERA_BIND is the address that listens (127.0.0.1); ERA_NAME the container's name (era-agent).
# docker-compose.yml says what each right is for.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}
command -v docker >/dev/null || fail "Docker is not installed" "  see https://docs.docker.com/engine/install/"
docker info >/dev/null 2>&1 || fail "Docker is not running" "  start it, and check with: docker info"

exec docker run --rm --name "${ERA_NAME:-era-agent}" \
    --publish "${ERA_BIND:-127.0.0.1}:{{PORT}}:{{PORT}}" \
    --env ERA_API_KEY --env AGENT_LOG_LEVEL \
    --volume era-state:/var/lib/era --volume /sys/fs/cgroup:/sys/fs/cgroup:rw --cgroupns host \
    --user 0:0 --cap-add SYS_ADMIN --cap-add NET_ADMIN --cap-add SYS_PTRACE \
    --security-opt seccomp=unconfined --security-opt apparmor=unconfined \
    --security-opt systempaths=unconfined \
    "${@:2}" "${1:-era-agent:latest}"
