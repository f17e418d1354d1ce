'use strict';
// What the tokens of a TypeScript file say about its module form, its imports and its exports.

const { tokenize } = require('./tokens.cjs');

const DECLARES_VALUE = new Set(
  ['class', 'function', 'enum', 'namespace', 'module', 'const', 'let', 'var'],
);

const isWord = (token, text) => token !== undefined && token.kind === 'name' && token.text === text;
const isSign = (token, text) => token !== undefined && token.kind === 'operator' && token.text === text;
const unquote = (token) => token.text.slice(1, -1);

/** Whether the `import` at `i` is a declaration, not `import()`, `import.meta`, a key or a property. */
function isImport(tokens, i) {
  const next = tokens[i + 1];
  if (!isWord(tokens[i], 'import') || tokens[i].depth !== 0 || next === undefined) return false;
  if (isSign(tokens[i - 1], '.') || isWord(tokens[i - 1], 'export')) return false;
  return next.kind === 'name' || next.kind === 'string' || isSign(next, '{') || isSign(next, '*');
}

/** `import a = require('b')`, `import type a = ...`, `import a = B.c`: no ES syntax. */
function isImportEquals(tokens, i) {
  return isSign(tokens[i + 2], '=') || (isWord(tokens[i + 1], 'type') && isSign(tokens[i + 3], '='));
}

function isExport(tokens, i) {
  const next = tokens[i + 1];
  return (
    isWord(tokens[i], 'export') && tokens[i].depth === 0 && next !== undefined &&
    !isSign(tokens[i - 1], '.') && (next.kind === 'name' || isSign(next, '{') || isSign(next, '*'))
  );
}

/** Whether a TypeScript text is an ES module by its syntax: import, export or import.meta. */
function hasModuleSyntax(tokens) {
  return tokens.some((token, i) => {
    if (token.kind !== 'name') return false;
    if (token.text === 'import') {
      if (isSign(tokens[i + 1], '.') && isWord(tokens[i + 2], 'meta')) return true;
      return isImport(tokens, i) && !isImportEquals(tokens, i);
    }
    if (!isExport(tokens, i)) return false;
    return !isWord(tokens[i + 1], 'import') || !isSign(tokens[i + 3], '=');
  });
}

/** The specifiers of the braces that open at `i`: `[{name, as, type, first, last}]`, and what follows. */
function readBraces(tokens, i) {
  const specifiers = [];
  i += 1;
  while (i < tokens.length && !isSign(tokens[i], '}')) {
    const first = tokens[i];
    const words = [];
    while (i < tokens.length && !isSign(tokens[i], ',') && !isSign(tokens[i], '}')) words.push(tokens[i++]);
    const comma = isSign(tokens[i], ',') ? tokens[i++] : undefined;
    if (first === undefined || words.length === 0) continue;
    const type = words.length > 1 && isWord(words[0], 'type') && !isWord(words[1], 'as');
    const named = type ? words.slice(1) : words;
    const last = named.at(-1);
    specifiers.push({
      name: named[0].text, as: last.text, token: named[0], type, start: first.start,
      end: (comma ?? words.at(-1)).end,
    });
  }
  return { specifiers, next: i + 1 };
}

/** `from 'x'` at `i`: the specifier and the end of the statement, attributes and semicolon included. */
function readFrom(tokens, i) {
  if (!isWord(tokens[i], 'from') || tokens[i + 1]?.kind !== 'string') return { from: undefined, next: i };
  const from = unquote(tokens[i + 1]);
  i += 2;
  if ((isWord(tokens[i], 'with') || isWord(tokens[i], 'assert')) && isSign(tokens[i + 1], '{')) {
    while (i < tokens.length && !isSign(tokens[i], '}')) i += 1;
    i += 1;
  }
  return { from, next: i };
}

/** Whether the word at `i`, after `import`, is the modifier `type` and not a binding of that name. */
function isTypeImport(tokens, i) {
  const next = tokens[i + 1];
  if (!isWord(tokens[i], 'type') || next === undefined || isSign(next, ',')) return false;
  return !isWord(next, 'from') || isWord(tokens[i + 2], 'from');
}

/**
 * The import declarations of a JavaScript text:
 * `{start, end, from, main, space, named, brace}`; `main` is the default binding's token, `space`
 * that of `* as x`, `named` the specifiers.
 */
function imports(tokens) {
  const found = [];
  for (let i = 0; i < tokens.length; i += 1) {
    if (!isImport(tokens, i)) continue;
    const entry = { start: tokens[i].start, named: [], type: isTypeImport(tokens, i + 1) };
    let at = entry.type ? i + 2 : i + 1;
    if (tokens[at].kind === 'name') entry.main = tokens[at++];
    if (entry.main && isSign(tokens[at], ',')) entry.comma = tokens[at++];
    if (isSign(tokens[at], '*')) {
      entry.star = tokens[at];
      entry.space = tokens[at + 2];
      at += 3;
    } else if (isSign(tokens[at], '{')) {
      const braces = readBraces(tokens, at);
      entry.named = braces.specifiers;
      entry.braces = [tokens[at].start, tokens[braces.next - 1]?.end];
      at = braces.next;
    }
    const { from, next } = readFrom(tokens, at);
    if (from === undefined) continue;
    entry.from = from;
    entry.end = tokens[next - 1].end;
    entry.indices = [i, next];
    found.push(entry);
    i = next - 1;
  }
  return found;
}

/** The export lists of a text: `{type, specifiers, from, indices}` for `export {..}`, `export * from`. */
function exportLists(tokens) {
  const found = [];
  for (let i = 0; i < tokens.length; i += 1) {
    if (!isExport(tokens, i)) continue;
    const type = isWord(tokens[i + 1], 'type') && (isSign(tokens[i + 2], '{') || isSign(tokens[i + 2], '*'));
    let at = i + (type ? 2 : 1);
    if (isSign(tokens[at], '{')) {
      const braces = readBraces(tokens, at);
      const { from, next } = readFrom(tokens, braces.next);
      found.push({ type, specifiers: braces.specifiers, from, indices: [i, next] });
    } else if (isSign(tokens[at], '*')) {
      at += 1;
      const as = isWord(tokens[at], 'as') ? tokens[at + 1] : undefined;
      const { from } = readFrom(tokens, as ? at + 2 : at);
      found.push({ type, all: true, as: as?.text, specifiers: [], from, indices: [i, i] });
    }
  }
  return found;
}

/** Names that a TypeScript text declares at its top level: `{types, values}`. */
function declarations(tokens) {
  const types = new Set();
  const values = new Set();
  tokens.forEach((token, i) => {
    const name = tokens[i + 1];
    if (token.kind !== 'name' || token.depth !== 0 || name?.kind !== 'name') return;
    if (isSign(tokens[i - 1], '.')) return;
    if (token.text === 'interface') types.add(name.text);
    else if (token.text === 'type' && (isSign(tokens[i + 2], '=') || isSign(tokens[i + 2], '<'))) types.add(name.text);
    else if (DECLARES_VALUE.has(token.text)) {
      const ambient = isWord(tokens[i - 1], 'declare') || (isWord(tokens[i - 1], 'abstract') && isWord(tokens[i - 2], 'declare'));
      (ambient ? types : values).add(name.text);
    }
  });
  return { types, values };
}

/**
 * The names that a TypeScript file exports only as types.  `read(from)` gives the text and its own
 * `read` for a file that it re-exports from, or undefined; `seen` holds the texts being read.
 */
function typeExports(file, seen = new Set()) {
  if (file === undefined || seen.has(file.path)) return new Set();
  seen.add(file.path);
  const tokens = tokenize(file.text);
  const { types, values } = declarations(tokens);
  const names = new Set();
  tokens.forEach((token, i) => {
    if (!isExport(tokens, i)) return;
    let at = i + 1;
    const byDefault = isWord(tokens[at], 'default');
    if (byDefault) at += 1;
    if (isWord(tokens[at], 'declare')) at += 1;
    const name = tokens[at + 1]?.text;
    if (!isWord(tokens[at], 'interface') && !types.has(name)) return;
    if (byDefault) names.add('default');
    else if (!values.has(name)) names.add(name);
  });
  const imported = importedTypes(tokens, file, seen);
  for (const list of exportLists(tokens)) {
    const behind = list.from === undefined ? undefined : typeExports(file.open(list.from), seen);
    if (list.all && list.as === undefined && behind) behind.forEach((name) => names.add(name));
    for (const one of list.specifiers) {
      const local = (types.has(one.name) && !values.has(one.name)) || imported.has(one.name);
      if (list.type || one.type || (behind ? behind.has(one.name) : local)) names.add(one.as);
    }
  }
  return names;
}

/** Local names that a file imports and that are types where they come from. */
function importedTypes(tokens, file, seen) {
  const names = new Set();
  for (const entry of imports(tokens)) {
    const behind = typeExports(file.open(entry.from), seen);
    for (const one of entry.named) if (entry.type || one.type || behind.has(one.name)) names.add(one.as);
    if (entry.main && (entry.type || behind.has('default'))) names.add(entry.main.text);
  }
  return names;
}

module.exports = {
  declarations, exportLists, hasModuleSyntax, imports, isSign, isWord, typeExports,
};
