'use strict';
// Run by `node --require` before the program: teaches this node to load TypeScript.

const Module = require('node:module');
const path = require('node:path');
const { fileURLToPath, pathToFileURL } = require('node:url');
const { compile, SCOPE } = require('./compile.cjs');
const { openFile, resolvePath, scopeOf } = require('./resolve.cjs');

const SOURCE = /\.[mc]?ts$/;
const compiled = new Map(); // node may ask twice for one file: as CommonJS, then as a module

/** The file behind a relative, absolute or file: specifier, or undefined for anything else. */
function localPath(specifier, parentURL) {
  if (/^\.{1,2}(\/|$)/.test(specifier)) {
    if (!parentURL?.startsWith('file:')) return undefined;
    return fileURLToPath(new URL(specifier, parentURL));
  }
  if (specifier.startsWith('/')) return specifier;
  return specifier.startsWith('file:') ? fileURLToPath(specifier) : undefined;
}

function found(file, context) {
  const json = file.endsWith('.json') && context.importAttributes?.type === undefined;
  const attributes = json ? { ...context.importAttributes, type: 'json' } : context.importAttributes;
  return { url: pathToFileURL(file).href, importAttributes: attributes, shortCircuit: true };
}

function resolve(specifier, context, nextResolve) {
  if (specifier.includes('?') || specifier.includes('#')) return nextResolve(specifier, context);
  const local = localPath(specifier, context.parentURL);
  if (local !== undefined) {
    const file = resolvePath(local);
    // Where nothing is found node says so, in its own words.
    return file === undefined || file.endsWith('.node') ? nextResolve(specifier, context) : found(file, context);
  }
  try {
    return nextResolve(specifier, context);
  } catch (error) {
    // `import 'package/sub'` without an extension, as CommonJS output would allow.
    if (error.code !== 'ERR_MODULE_NOT_FOUND' && error.code !== 'ERR_UNSUPPORTED_DIR_IMPORT') throw error;
    try {
      return found(Module.createRequire(context.parentURL).resolve(specifier), context);
    } catch {
      throw error;
    }
  }
}

function load(url, context, nextLoad) {
  if (!url.startsWith('file:') || !SOURCE.test(url)) return nextLoad(url, context);
  let result = compiled.get(url);
  if (result === undefined) {
    const file = fileURLToPath(url);
    result = compile(openFile(file), scopeOf(file));
    compiled.set(url, result);
  }
  return { ...result, shortCircuit: true };
}

/** The names of CommonJS for an ES module that uses them; see compile.cjs. */
function scope(meta) {
  const filename = fileURLToPath(meta.url);
  const module = new Module(filename);
  module.filename = filename;
  module.paths = Module._nodeModulePaths(path.dirname(filename));
  const require = Module.createRequire(filename);
  if (meta.main) require.main = module;
  return { require, module, exports: module.exports, __filename: filename, __dirname: path.dirname(filename) };
}

Object.defineProperty(globalThis, SCOPE, { value: scope });
Module.registerHooks({ resolve, load });
