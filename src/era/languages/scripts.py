"""Shell programs that run in a box where one argument list is not enough.

Each is given to `/bin/bash -c`; what varies reaches it as a positional parameter, never as text of
the program.  They use the shell's own commands where they can: a process costs a millisecond.
"""

from __future__ import annotations

from typing import Final

GO_BUILD: Final = r"""
go=$1 entry=$2 seen=$3 product=$4 release=$5 version=$6 layer=$7 alone=$8
base=
if [ -f go.mod ]; then
    base=.
elif [ -f "$layer/go.mod" ]; then
    base=$layer
fi
if [ -n "$alone" ] && [ -n "$ERA_PLAIN" ] && [ -z "$base" ] && [ ! -e default.pgo ] &&
    read -r tools <"$GOCACHE/era/tools"; then
    # What the go tool would do for such a program, without what it looks at before.
    object=/tmp/.era-go.a
    "$tools/compile" -o "$object" -trimpath "/workspace/$entry=>/workspace/$seen" -p main \
        "-lang=go$release" -complete "-goversion=go$version" -nolocalimports \
        -importcfg "$GOCACHE/era/compile" -pack "/workspace/$entry" &&
        GOROOT=${go%/bin/go} "$tools/link" -o "$product" -importcfg "$GOCACHE/era/link" \
            -buildmode=exe "-buildid=$alone" -s -w "$object" && exit
    # Why not is told by the go tool.
fi >/dev/null 2>&1
work=/tmp/.era-go
[ ! -e "$work" ] || rm -rf "$work"
mkdir -p "$work" || exit 1
replace="\"/workspace/$seen\":\"/workspace/$entry\""
[ "$base" = . ] || replace="$replace,\"/workspace/go.mod\":\"$work/go.mod\""
if [ -z "$base" ]; then
    printf 'module session\n\ngo %s\n' "$release" >"$work/go.mod"
else
    printf '%s\n' "$(<"$base/go.mod")" >"$work/go.mod"
    [ ! -f "$base/go.sum" ] || printf '%s\n' "$(<"$base/go.sum")" >"$work/go.sum"
fi
printf '{"Replace":{%s}}' "$replace" >"$work/overlay.json"
# The go.mod used is a copy: what the go tool adds to it is no change of the workspace.
flags=(-mod=mod "-modfile=$work/go.mod")
[ "$base" != . ] || [ ! -d vendor ] || flags=()
if [ -w "$GOCACHE" ]; then
    # Else the go tool walks the whole cache for old entries, in every box anew.
    printf '%(%s)T' -1 >"$GOCACHE/trim.txt"
else
    export GOCACHE=$work/cache
fi
# The tool takes only one -ldflags, and the command line's before that of GOFLAGS.
[[ ${GOFLAGS-} == *-ldflags* ]] || flags+=('-ldflags=-s -w')
rm -f "$product"
if ! "$go" build -buildvcs=false "${flags[@]}" \
    -overlay "$work/overlay.json" -o "$product" "$seen" >"$work/log" 2>&1; then
    cat "$work/log" >&2
    exit 1
fi
if [ ! -x "$product" ]; then
    printf '%s\n' 'the code is not of package main' >&2
    exit 1
fi
"""
"""Builds the entry file; runs nothing of it.

Parameters: the go tool, the entry file's name, the name the go tool sees it under (it overlooks
names that begin with a dot), the name of the program that is made, all at the workspace root; the
release of an implicit module, and the go version; the setup's module directory; and for a program
that imports nothing but the library, a name to build it by (`-buildid`), else nothing.
"""

GO_LIBRARY: Final = r"""
set -e
go=$1 release=$2
shift 2
export XDG_CONFIG_HOME=/opt/era/etc
"$go" build -- "$@"
# For programs that import nothing else: where the compiled packages are, and what the go tool puts
# into such a program of itself.
mkdir -p "$GOCACHE/era" /tmp/.era-go
list='{{if .Export}}packagefile {{.ImportPath}}={{.Export}}{{end}}'
"$go" list -export -deps -f "$list" -- "$@" >"$GOCACHE/era/all"
cd /tmp/.era-go
printf 'module session\n\ngo %s\n' "$release" >go.mod
printf 'package main\n\nfunc main() {}\n' >main.go
"$go" build -buildvcs=false '-ldflags=-s -w' -x main.go 2>log
mapfile -t info < <(grep '^modinfo ' log || true)
# Packages of the library that are not for programs are for the linker only.
grep -Ev ' (.*/)?(internal|vendor)(/.*)?=' "$GOCACHE/era/all" >"$GOCACHE/era/compile"
{ cat "$GOCACHE/era/all"; printf '%s\n' "${info[@]}"; } >"$GOCACHE/era/link"
[ ${#info[@]} != 1 ] || "$go" env GOTOOLDIR >"$GOCACHE/era/tools"
# An entry as old as its last use is renewed by each run, by a copy of it into the box; one of the
# far future is not.
find "$GOCACHE" -type f -exec touch -d 2100-01-01 {} +
"""
"""Compiles packages of Go's library into the build cache.

Parameters: the go tool, its release, the packages.
"""

_DENO_FLAGS: Final = r"""
deno=$1 entry=$2 lock=$3
shift 3
if [ -f deno.lock ]; then
    locked=()
elif [ -n "$lock" ]; then
    locked=("--lock=$lock" --frozen=false)
else
    locked=(--no-lock)
fi
installed() {
    [ -d node_modules ] || [ -d /node_modules ] || return
    local unlocked=(--no-lock)
    [ ! -f deno.lock ] || unlocked=()
    "$deno" cache --quiet --no-remote "${unlocked[@]}" --node-modules-dir=manual "$entry" 2>/dev/null
}
"""

DENO_RUN: Final = rf"""{_DENO_FLAGS}
modules=none
if installed; then
    modules=manual
    [ -f deno.lock ] || locked=(--no-lock)
fi
exec "$deno" run --quiet --allow-all --no-prompt --no-code-cache "${{locked[@]}}" \
    "--node-modules-dir=$modules" "$entry" "$@"
"""
"""Runs deno where a `node_modules` may be: from it when it has all that the code imports, else from
the cache.  Parameters: deno, the entry file, the lock file of the cache (or nothing); then the
arguments of the program."""

DENO_RESOLVE: Final = rf"""{_DENO_FLAGS}
installed && exit
exec "$deno" cache --quiet "${{locked[@]}}" --node-modules-dir=none "$@" "$entry"
"""
"""Brings everything the entry file imports into deno's cache, and the versions chosen into the lock
file; runs none of it.  Parameters: deno, the entry file, the lock file; then further options of
`deno cache`."""

DENO_KEEP: Final = r"""
set -e
cd "$DENO_DIR"
# What deno made of the program's own files is nobody else's business.
rm -rf gen/file
for name in npm remote gen era.lock; do
    [ ! -e "$name" ] || cp -a -t "$1" "$name"
done
du -sk "$1"
"""
"""Copies what `DENO_RESOLVE` has fetched to the directory that is the parameter; writes how many KiB
that are."""

GO_SETUP: Final = r"""
set -e
go=$1 mode=$2 modules=$3 builds=$4 cache=$5
shift 5
export GOMODCACHE=$modules GOFLAGS='-mod=mod -modcacherw -buildvcs=false' XDG_CONFIG_HOME=/opt/era/etc
export GOPATH=$cache/go
[ -w "$GOCACHE" ] || export GOCACHE=$builds
mkdir -p "$modules" "$builds" "$cache"
mark=$cache/mark
: >"$mark"
if [ "$mode" = get ]; then
    "$go" get -- "$@"
    "$go" mod download
    named=("$@")
else
    "$go" mod download all
    mapfile -t named < <("$go" list -m -f '{{if not (or .Main .Indirect)}}{{.Path}}{{end}}' all)
fi
echo 'compiling'
# Compiled ahead only to spare the runs: what does not build here fails, or not, in a run.
patterns=()
for module in "${named[@]}"; do
    [ -z "$module" ] || patterns+=("${module%@*}/...")
done
usable='{{if not (or .Error .DepsErrors)}}{{if ne .Name "main"}}{{.ImportPath}}{{end}}{{end}}'
if [ ${#patterns[@]} -gt 0 ]; then
    "$go" list -mod=readonly -e -f "$usable" -- "${patterns[@]}" >"$cache/packages" 2>/dev/null || true
    # The largest of modules have thousands of packages, of which a program uses a few.
    head -n 500 "$cache/packages" | xargs -r timeout 900 "$go" build -v -- 2>&1 || true
fi
if [ "$GOCACHE" != "$builds" ]; then
    cd "$GOCACHE"
    find . -type f -cnewer "$mark" ! -newermt 2099-01-01 -exec cp --parents -t "$builds" {} +
fi
# An entry as old as its last use is renewed by each run, by a copy of it into the box; one of the
# far future is not.
find "$builds" -type f -exec touch -d 2100-01-01 {} +
"""
"""Fetches Go modules and compiles them.

Parameters: the go tool, `get` or `download`, the module cache, the build cache to leave, a directory
for what need not be kept; then for `get` the modules.  Runs in the directory of the go.mod.
"""

NPM_SAMPLE: Final = r"""
const { execFileSync, spawn } = require('node:child_process')
const crypto = require('node:crypto'), fs = require('node:fs'), http = require('node:http')
const npm = process.argv[1], at = fs.mkdtempSync('/tmp/sample-')
fs.mkdirSync(at + '/one')
fs.writeFileSync(at + '/one/package.json', '{"name":"one","version":"1.0.0","bin":"one.js"}')
fs.writeFileSync(at + '/one/one.js', '#!/usr/bin/env node')
execFileSync(process.execPath, [npm, 'pack', '--silent', at + '/one'], { cwd: at })
const tarball = fs.readFileSync(at + '/one-1.0.0.tgz')
const integrity = 'sha512-' + crypto.createHash('sha512').update(tarball).digest('base64')
const server = http.createServer((request, answer) => {
  if (request.url.endsWith('.tgz')) return answer.end(tarball)
  const dist = { tarball: `http://127.0.0.1:${server.address().port}/one.tgz`, integrity }
  const versions = { '1.0.0': { name: 'one', version: '1.0.0', bin: { one: 'one.js' }, dist } }
  answer.setHeader('Content-Type', 'application/json')
  answer.end(JSON.stringify({ name: 'one', 'dist-tags': { latest: '1.0.0' }, versions }))
})
server.listen(0, '127.0.0.1', () => {
  const from = `--registry=http://127.0.0.1:${server.address().port}/`
  const flags = ['--no-audit', '--no-fund', '--prefer-offline', '--cache', at + '/cache', from]
  const env = { ...process.env, no_proxy: '127.0.0.1', NO_PROXY: '127.0.0.1' }
  const install = [npm, 'install', '--prefix', at + '/to', ...flags, 'one']
  spawn(process.execPath, install, { env, stdio: 'inherit' }).on('exit', code => process.exit(code))
})
"""
"""Has npm install a package that is made here, from a registry that is this program: so it loads what
it loads for any other.  Parameter: npm's program."""

OFFLINE_FIRST: Final = r"""
said=$(UV_OFFLINE=1 "$@" 2>&1) && { printf '%s\n' "$said" >&2; exit; }
exec "$@"
"""
"""Runs uv, the arguments: with what is in its cache, and where that does not do, as usual."""

COMPILE_PYTHON: Final = r"""
python=$1 layer=$2 into=$3
cd "$layer" || exit
# Python compares whole seconds: whoever changes a module from now on gives it another time.
sleep 1
: >/tmp/mark
# What does not compile fails, or not, in the program that imports it.
"$python" -I -m compileall -q python >/tmp/log 2>&1
set -eo pipefail
find python -type f -name '*.pyc' -cnewer /tmp/mark -print0 >/tmp/new
tar --create --null --no-recursion --files-from=/tmp/new | tar --extract --directory="$into"
"""
"""Compiles the Python modules of a layer and copies what is new to another directory, below the same
names.  Parameters: the interpreter, the layer, the other directory."""

PYTHON_FACTS: Final = r"""
uv=$1 python=$2
"$uv" --no-config --offline --quiet --cache-dir /tmp/facts \
    pip list --python "$python" --no-python-downloads --target /tmp/none >/dev/null || exit
cd /tmp/facts && exec tar -cf - interpreter-*
"""
"""Writes, as a tar, what uv notes of an interpreter in an empty cache.  Parameters: uv, the interpreter."""
