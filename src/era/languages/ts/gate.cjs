'use strict';
// Run by `node --require` in a box that was made ahead: waits for its program, then lets node go on
// to run it.  Descriptor 3 is the gate (a packet to come in, packets to go out), descriptor 4 a file
// that by then says what is to run.  Both are closed before anything of the program runs.

const fs = require('node:fs');
const Module = require('node:module');
const { isMainThread } = require('node:worker_threads');

const GATE = 3;
const START = 4;

function say(message) {
  fs.writeSync(GATE, JSON.stringify(message));
}

/** What nearly every program needs and node makes on first use. */
function warmUp(typescript) {
  Module.createRequire('/')('node:util').format('%s %o', '', {});
  for (const name of ['path', 'events', 'stream', 'buffer', 'url', 'assert', 'os', 'fs/promises', 'timers/promises']) {
    require(`node:${name}`);
  }
  if (typescript) {
    Module.stripTypeScriptTypes('enum E { A }\nclass C { constructor(private x: number) {} }', { mode: 'transform' });
  }
}

function takeOver(start) {
  process.chdir(start.cwd); // the session's files came to lie over the directory of before
  // By difference: taking TZ away, even for a moment, makes node search every time zone there is.
  const wanted = new Map(start.env);
  for (const name of Object.keys(process.env)) if (!wanted.has(name)) delete process.env[name];
  for (const [name, value] of wanted) if (process.env[name] !== value) process.env[name] = value;
  process.argv.push(...start.args);
  process.execArgv.splice(0, process.execArgv.length, ...start.exec);
}

function readStart() {
  const plan = JSON.parse(fs.readFileSync(`/proc/self/fd/${START}`, 'utf8'));
  const entry = plan.argv.indexOf(process.argv[1]);
  return { env: plan.env, cwd: plan.cwd, exec: plan.argv.slice(1, entry), args: plan.argv.slice(entry + 1) };
}

/** Wait for the program and become what it was asked for. */
function becomeProgram() {
  const emitWarning = process.emitWarning;
  process.emitWarning = () => {}; // of what is tried here; the program's own are shown
  warmUp(process.execArgv.some((option) => option.endsWith('register.cjs')));
  process.emitWarning = emitWarning;
  say({ event: 'ahead' });
  if (fs.readSync(GATE, Buffer.alloc(64)) === 0) process.exit(0);
  takeOver(readStart());
  say({ event: 'started', at_ns: Number(process.hrtime.bigint()) });
  fs.closeSync(GATE);
  fs.closeSync(START);
}

/** A worker of the program has node's first options, this file among them, and no gate. */
function beWorker() {
  const at = process.execArgv.indexOf(__filename);
  if (at > 0) process.execArgv.splice(at - 1, 2); // a fork from here would wait for a gate
}

if (isMainThread) becomeProgram();
else beWorker();
delete require.cache[__filename];
const children = module.parent?.children;
children?.splice(children.indexOf(module), 1);
