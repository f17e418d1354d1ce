#!/usr/bin/env bash
# Build the image and deploy the Worker; `era deploy` is the same.
# usage: build-and-deploy.sh [--yes] [--keep | --clean] [--skip-build] [--dry-run]
#   --yes         ask nothing
#   --keep        leave the generated Docker files; --clean removes them (the default)
#   --skip-build  do not build the image here first; wrangler builds it in any case
#   --dry-run     print the commands and run none of them
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/.." && pwd)"
agent="$root/era-agent"
compiler="$root/scripts/cloudflare-docker/docker-compiler.sh"
BUCKET=era-sessions
STEPS=9

usage() {
    printf 'build-and-deploy.sh: %s\n' "$1" >&2
    echo "usage: build-and-deploy.sh [--yes] [--keep | --clean] [--skip-build] [--dry-run]" >&2
    exit 2
}

yes='' clean='' skip='' dry=''
while (($#)); do
    case "$1" in
    --yes | -y) yes=1 ;;
    --keep) clean=no ;;
    --clean) clean=yes ;;
    --skip-build) skip=1 ;;
    --dry-run) dry=1 ;;
    -h | --help)
        echo "usage: build-and-deploy.sh [--yes] [--keep | --clean] [--skip-build] [--dry-run]"
        exit 0
        ;;
    *) usage "unknown argument: $1" ;;
    esac
    shift
done

number=0 began=0 deployed='' generated=''
step() { # WORDS
    took
    number=$((number + 1))
    began=$SECONDS
    echo "[$number/$STEPS] $1"
}
took() {
    if ((number)); then echo "      $((SECONDS - began)) s"; fi
}

fail() { # LINE...
    printf '%s\n' "$@" >&2
    if [[ -z $deployed && -z $dry ]]; then
        if [[ -n $generated ]]; then
            echo "Nothing was deployed. The generated Docker files are in era-agent/; remove them with" >&2
            echo "  $compiler --clean" >&2
        else
            echo "Nothing was deployed, and nothing was changed." >&2
        fi
    fi
    exit 1
}

run() { # COMMAND...
    if [[ -n $dry ]]; then
        echo "      + $*"
    else
        "$@"
    fi
}

ask() { # WORDS: true unless the answer is no; without a terminal, and with --yes, nobody is asked
    local answer
    if [[ -n $yes || ! -t 0 ]]; then return 0; fi
    read -r -p "$1 [Y/n] " answer
    [[ ! $answer =~ ^[nN] ]]
}

in_worker() { # COMMAND...
    (cd "$here" && "$@")
}

check_node() {
    command -v node >/dev/null || fail "Node is not installed" "  Node 18 or later: https://nodejs.org/"
    local version
    version="$(node --version)"
    version="${version#v}"
    [[ ${version%%.*} -ge 18 ]] || fail "Node $version is too old" "  Node 18 or later: https://nodejs.org/"
    command -v npm >/dev/null || fail "npm is not installed" "  it comes with Node: https://nodejs.org/"
}

check_docker() {
    command -v docker >/dev/null || fail "Docker is not installed" \
        "  wrangler builds the image with it: https://docs.docker.com/engine/install/"
    docker info >/dev/null 2>&1 || fail "Docker is not running" "  start it, and check with: docker info"
}

make_agent() {
    if [[ ! -x $agent/agent ]]; then
        echo "      agent binary not found in era-agent/: make agent"
        run make -C "$agent" agent || fail "agent binary not found in era-agent/" "  run: make agent"
        [[ -n $dry || -x $agent/agent ]] || fail "agent binary not found in era-agent/" "  run: make agent"
    fi
}

build_image() {
    local log
    log="$(mktemp)"
    if ! docker build -t era-agent:latest "$agent" >"$log" 2>&1; then
        local tail
        tail="$(tail -n 20 "$log")"
        rm -f "$log"
        fail "Docker build failed; its last lines:" "$tail" "" "Check:" \
            "  - Docker is running: docker info" \
            "  - the build by itself: cd era-agent && docker build -t test ." \
            "  - the Dockerfile: generate it again with scripts/cloudflare-docker/docker-compiler.sh" \
            "  - the agent binary: make agent"
    fi
    rm -f "$log"
}

login() {
    if in_worker npx wrangler whoami 2>/dev/null | grep -q 'You are logged in'; then return; fi
    if [[ ! -t 0 ]]; then
        fail "Not logged in to Cloudflare" "  npx wrangler login" \
            "  or set CLOUDFLARE_API_TOKEN, where there is no browser"
    fi
    ask "Not logged in to Cloudflare. Log in now (npx wrangler login)?" ||
        fail "Not logged in to Cloudflare" "  npx wrangler login"
    in_worker npx wrangler login || fail "Not logged in to Cloudflare" "  npx wrangler login"
}

bucket() {
    if in_worker npx wrangler r2 bucket list 2>/dev/null | grep -qE "name: *$BUCKET\$"; then return; fi
    in_worker npx wrangler r2 bucket create "$BUCKET" ||
        fail "R2 bucket $BUCKET is missing and cannot be created" \
            "  npx wrangler r2 bucket create $BUCKET"
}

url=''
deploy() {
    local log
    log="$(mktemp)"
    if ! in_worker npx wrangler deploy 2>&1 | tee "$log"; then
        rm -f "$log"
        fail "npx wrangler deploy failed" "  its words are above; npx wrangler whoami tells the account"
    fi
    deployed=1
    if [[ "$(cat "$log")" =~ https://[A-Za-z0-9.-]+\.workers\.dev ]]; then url="${BASH_REMATCH[0]}"; fi
    rm -f "$log"
}

health() {
    url="${ERA_API_URL:-$url}"
    if [[ -z $url ]]; then
        echo "      the address is not known (a custom domain): try /health there yourself"
        return
    fi
    local try
    for try in 1 2 3 4 5 6; do
        if curl -sf -m 70 "$url/health" >/dev/null 2>&1; then
            echo "      $url/health is healthy"
            return
        fi
        ((try == 6)) || sleep "${ERA_HEALTH_PAUSE:-10}"
    done
    fail "Container not responding at $url/health" \
        "  npx wrangler tail shows why; a first deployment may take some minutes to be everywhere"
}

clean_up() {
    if [[ $clean == no ]]; then
        echo "      the generated files stay in era-agent/"
    elif [[ $clean == yes ]] || ask "Remove the generated Docker files from era-agent/?"; then
        run "$compiler" --clean
    fi
}

step "Prerequisites: Node, npm, Docker, the agent"
if [[ -z $dry ]]; then
    check_node
    check_docker
fi
make_agent
step "Generate the Docker files"
run "$compiler" || fail "the Docker files cannot be generated"
generated=1
step "Build the image"
if [[ -n $skip ]]; then
    echo "      skipped"
elif [[ -n $dry ]]; then
    run docker build -t era-agent:latest "$agent"
else
    build_image
fi
step "Install the Worker's packages"
run in_worker npm install --no-audit --no-fund || fail "npm install failed" "  a package registry must be reachable"
step "Cloudflare login"
if [[ -n $dry ]]; then run npx wrangler whoami; else login; fi
step "R2 bucket $BUCKET"
if [[ -n $dry ]]; then run npx wrangler r2 bucket create "$BUCKET"; else bucket; fi
step "Deploy"
echo "      a first deployment takes 2-5 minutes, later ones 1-3; a smaller image is quicker:"
echo "      PACKAGES=serve and no EXTRA_PACKAGES in the Dockerfile"
if [[ -n $dry ]]; then run npx wrangler deploy; else deploy; fi
step "Health"
if [[ -n $dry ]]; then run curl -sf "${ERA_API_URL:-https://era-agent.<account>.workers.dev}/health"; else health; fi
step "Clean up"
clean_up
took
if [[ -z $dry ]]; then echo "Deployed${url:+: $url}"; fi
