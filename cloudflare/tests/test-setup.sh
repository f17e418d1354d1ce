#!/usr/bin/env bash
# Try setups of all five languages, and commands, against a running service.
# usage: test-setup.sh [URL]   default ERA_API_URL, else http://127.0.0.1:8787; key in ERA_API_KEY
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
url="${1:-${ERA_API_URL:-http://127.0.0.1:8787}}"
key=(-H "Authorization: Bearer ${ERA_API_KEY:-none}" -H 'Content-Type: application/json')
run_id="setup-test-$$"
failed=0

call() { # METHOD PATH [BODY]
    curl -sS -m 600 -X "$1" "${key[@]}" "$url$2" ${3:+-d "$3"}
}

try() { # NAME LANGUAGE SETUP CODE EXPECTED
    local id="$run_id-$1" answer deadline=$((SECONDS + 600))
    echo "-- $1"
    answer="$(call POST /api/sessions "{\"id\":\"$id\",\"language\":\"$2\",\"setup\":$3}")"
    if [[ $answer != *"\"id\":\"$id\""* ]]; then
        echo "   cannot be created: $answer" >&2
        failed=$((failed + 1))
        return
    fi
    while answer="$(call GET "/api/sessions/$id/setup")" &&
        [[ $answer == *'"setup_status":"pending"'* || $answer == *'"setup_status":"running"'* ]]; do
        if ((SECONDS > deadline)); then break; fi
        sleep 1
    done
    if [[ $answer != *'"setup_status":"completed"'* ]]; then
        echo "   setup: $answer" >&2
        failed=$((failed + 1))
    else
        answer="$(call POST "/api/sessions/$id/run" "{\"code\":\"$4\"}")"
        if [[ $answer == *'"exit_code":0'* && $answer == *"\"stdout\":\"$5\\n\""* ]]; then
            echo "   ok"
        else
            echo "   run: $answer" >&2
            failed=$((failed + 1))
        fi
    fi
    call DELETE "/api/sessions/$id" >/dev/null
}

call GET /health >/dev/null || {
    echo "no answer from $url/health" >&2
    exit 1
}
try python python '{"pip":["six"]}' \
    'import six; print(six.ensure_str(b\"ok\"))' ok
try node node '{"npm":["is-odd"]}' \
    'console.log(require(\"is-odd\")(3) ? \"ok\" : \"no\")' ok
try typescript typescript '{"npm":["is-odd"]}' \
    'const odd = require(\"is-odd\"); const answer: string = odd(3) ? \"ok\" : \"no\"; console.log(answer)' ok
try go go '{"go":["github.com/google/uuid@v1.6.0"]}' \
    'package main\nimport (\"fmt\"; \"github.com/google/uuid\")\nfunc main() { fmt.Println(len(uuid.NewString()) == 36) }' true
try deno deno '{"npm":["is-odd"]}' \
    'import odd from \"npm:is-odd\"; console.log(odd(3) ? \"ok\" : \"no\")' ok
try commands python '{"commands":["mkdir -p made && echo ok > made/by-command"]}' \
    'print(open(\"made/by-command\").read().strip())' ok

if ((failed)); then
    echo "$failed failed" >&2
    exit 1
fi
echo "all passed"
