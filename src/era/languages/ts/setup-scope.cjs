'use strict';
// Run by `node --require` before a program.  Node's search for the package.json that says what form
// .js files have stops short of the root directory, where a setup's lies: this looks there, for files
// of the workspace without a nearer one.  Most programs have no setup, so little happens without.

const fs = require('node:fs');

function lookThere() {
  const Module = require('node:module');
  const { fileURLToPath } = require('node:url');
  const { packageMember, scopeOf } = require('./resolve.cjs');

  function load(url, context, nextLoad) {
    if (url.startsWith('file:///workspace/') && url.endsWith('.js') && !url.includes('/node_modules/')) {
      const file = fileURLToPath(url);
      if (scopeOf(file) === 'module') {
        return { format: 'module', source: fs.readFileSync(file), shortCircuit: true };
      }
    }
    return nextLoad(url, context);
  }

  if (packageMember('/package.json', 'type') === 'module') Module.registerHooks({ load });
}

if (fs.existsSync('/package.json')) lookThere();
