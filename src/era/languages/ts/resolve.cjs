'use strict';
// Where a TypeScript import leads: `./file` with or without its extension, `./file.js` that means
// file.ts, and directories.

const fs = require('node:fs');
const path = require('node:path');

// In TypeScript's own order; what is compiled beside a source never hides the source.
const EXTENSIONS = ['.ts', '.tsx', '.mts', '.cts', '.js', '.mjs', '.cjs', '.json'];
const SOURCE_OF = new Map([['.js', ['.ts', '.tsx']], ['.mjs', ['.mts']], ['.cjs', ['.cts']], ['.jsx', ['.tsx']]]);

function kindOf(name) {
  const stat = fs.statSync(name, { throwIfNoEntry: false });
  if (stat === undefined) return '';
  return stat.isDirectory() ? 'directory' : 'file';
}

const firstFile = (names) => names.find((name) => kindOf(name) === 'file');

/** The file that a path without `?` or `#` leads to, or undefined. */
function resolvePath(name) {
  const kind = name.endsWith('/') ? 'directory' : kindOf(name);
  if (kind === 'file') return name;
  const extension = path.extname(name);
  const stem = name.slice(0, name.length - extension.length);
  const beside = [
    ...(SOURCE_OF.get(extension) ?? []).map((other) => stem + other),
    ...(name.endsWith('/') ? [] : EXTENSIONS.map((other) => name + other)),
  ];
  const found = firstFile(beside);
  if (found !== undefined || kind !== 'directory') return found;
  return resolveDirectory(name);
}

function resolveDirectory(name) {
  const main = packageMember(path.join(name, 'package.json'), 'main');
  if (typeof main === 'string') {
    const target = path.join(name, main);
    const found = target === name ? undefined : resolvePath(target);
    if (found !== undefined) return found;
  }
  return firstFile(EXTENSIONS.map((extension) => path.join(name, `index${extension}`)));
}

function packageMember(file, member) {
  try {
    return JSON.parse(fs.readFileSync(file, 'utf8'))?.[member];
  } catch {
    return undefined;
  }
}

/** `module` or `commonjs` as the extension or the nearest package.json says, else undefined. */
function scopeOf(file) {
  if (file.endsWith('.mts')) return 'module';
  if (file.endsWith('.cts')) return 'commonjs';
  for (let folder = path.dirname(file); ; folder = path.dirname(folder)) {
    const manifest = path.join(folder, 'package.json');
    if (kindOf(manifest) === 'file') return packageMember(manifest, 'type');
    if (folder === path.dirname(folder) || path.basename(folder) === 'node_modules') return undefined;
  }
}

/** A file as the compiler reads it, able to open the files it names. */
function openFile(name) {
  return {
    path: name,
    text: fs.readFileSync(name, 'utf8').replace(/^\ufeff/, ''),
    open(specifier) {
      if (!/^\.{0,2}\//.test(specifier)) return undefined;
      const target = resolvePath(path.resolve(path.dirname(name), specifier));
      return target !== undefined && /\.[mc]?ts$/.test(target) ? openFile(target) : undefined;
    },
  };
}

module.exports = { openFile, packageMember, resolvePath, scopeOf };
