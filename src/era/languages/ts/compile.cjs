'use strict';
// One TypeScript file to JavaScript for node: types taken out by node's own transform, then what a
// single-file transform cannot know is mended: imports of types, `require` in ES modules.

const vm = require('node:vm');
const { pathToFileURL } = require('node:url');
const { stripTypeScriptTypes } = require('node:module');
const { tokenize, blank } = require('./tokens.cjs');
const {
  declarations, exportLists, hasModuleSyntax, imports, isSign, isWord, typeExports,
} = require('./syntax.cjs');

const SCOPE = Symbol.for('era.typescript.scope');
const SCOPE_NAMES = ['require', 'module', 'exports', '__filename', '__dirname'];

/** Run `work` without the notice that node's transform is experimental: it is ours, not the user's. */
function quietly(work) {
  const emit = process.emitWarning;
  process.emitWarning = () => {};
  try {
    return work();
  } finally {
    process.emitWarning = emit;
  }
}

/** The JavaScript of `source`, and whether every token stands where it stood in the source. */
function strip(source, path) {
  const sourceUrl = pathToFileURL(path).href;
  try {
    return { code: quietly(() => stripTypeScriptTypes(source, { mode: 'strip' })), inPlace: true };
  } catch (error) {
    if (error.code !== 'ERR_UNSUPPORTED_TYPESCRIPT_SYNTAX' && error.code !== 'ERR_INVALID_TYPESCRIPT_SYNTAX') throw error;
  }
  // Enums, namespaces, parameter properties, casts in angle brackets: code is generated, so traces
  // need a map.  A real syntax error is thrown from here, with the file's name and line.
  process.setSourceMapsEnabled(true);
  const options = { mode: 'transform', sourceMap: true, sourceUrl };
  return { code: quietly(() => stripTypeScriptTypes(source, options)), inPlace: false };
}

/** Fail as node does for a syntax error, but saying what is not supported. */
function refuse(source, path, offset, message) {
  const line = source.slice(0, offset).split('\n').length;
  const start = source.lastIndexOf('\n', offset - 1) + 1;
  const text = source.slice(start).split('\n', 1)[0];
  const error = new SyntaxError(message);
  error.stack = `${path}:${line}\n${text}\n${' '.repeat(offset - start)}^\n\nSyntaxError: ${message}`;
  throw error;
}

/** Whether the name at `i` stands for a binding: not a property, not the key of a literal. */
function isReference(tokens, i) {
  if (tokens[i].kind !== 'name') return false;
  const before = tokens[i - 1];
  if (isSign(before, '.') || isSign(before, '?.')) return false;
  return !(isSign(tokens[i + 1], ':') && (isSign(before, '{') || isSign(before, ',')));
}

/** How often each name is referred to, outside the statements whose token ranges are given. */
function references(tokens, skipped) {
  const counts = new Map();
  let range = 0;
  for (let i = 0; i < tokens.length; i += 1) {
    if (range < skipped.length && i === skipped[range][0]) {
      i = skipped[range][1] - 1;
      range += 1;
    } else if (isReference(tokens, i)) counts.set(tokens[i].text, (counts.get(tokens[i].text) ?? 0) + 1);
  }
  return counts;
}

/** The ranges of `entry` to blank when only the bindings in `kept` are wanted. */
function importCuts(entry, kept) {
  const wanted = (token) => token !== undefined && kept.has(token.text);
  const named = entry.named.filter((one) => kept.has(one.as));
  const main = wanted(entry.main);
  if (!main && !wanted(entry.space) && named.length === 0) return [[entry.start, entry.end]];
  const cuts = entry.named.filter((one) => !kept.has(one.as)).map((one) => [one.start, one.end]);
  if (entry.main && !main) cuts.push([entry.main.start, entry.comma.end]);
  if (entry.comma && entry.space && !wanted(entry.space)) cuts.push([entry.comma.start, entry.space.end]);
  if (entry.comma && entry.braces && named.length === 0) cuts.push([entry.comma.start, entry.braces[1]]);
  return cuts;
}

/**
 * The ranges to blank so that no type is imported or exported as a value, as TypeScript elides
 * them: a binding that no value uses goes, and with the last one the import.
 */
function elisions(tokens, file) {
  const declared = imports(tokens).filter((entry) => entry.main || entry.space || entry.braces);
  const lists = exportLists(tokens).filter((list) => !list.all);
  const skipped = [...declared, ...lists].map((entry) => entry.indices).sort((a, b) => a[0] - b[0]);
  const used = references(tokens, skipped);
  const types = new Set();
  for (const entry of declared) {
    const behind = lists.length > 0 && /^\.{0,2}\//.test(entry.from) ? typeExports(file.open(entry.from)) : new Set();
    for (const one of entry.named) if (behind.has(one.name)) types.add(one.as);
    if (entry.main && behind.has('default')) types.add(entry.main.text);
  }
  const imported = new Set(declared.flatMap((entry) => bindings(entry)));
  const reexported = new Set();
  const cuts = [];
  for (const list of lists) {
    const behind = list.from === undefined ? undefined : typeExports(file.open(list.from));
    for (const one of list.specifiers) {
      const unknown = !imported.has(one.name) && !used.has(one.name);
      const drop = behind ? behind.has(one.name) : unknown || (types.has(one.name) && !used.has(one.name));
      if (drop) cuts.push([one.start, one.end]);
      else if (!behind) reexported.add(one.name);
    }
  }
  for (const entry of declared) {
    if (entry.braces && entry.named.length === 0 && !entry.main) continue; // import {} from: kept
    const kept = new Set(bindings(entry).filter((name) => used.has(name) || reexported.has(name)));
    if (kept.size < bindings(entry).length) cuts.push(...importCuts(entry, kept));
  }
  return cuts;
}

const bindings = (entry) =>
  [entry.main?.text, entry.space?.text, ...entry.named.map((one) => one.as)].filter((name) => name !== undefined);

/** Names of CommonJS that an ES module uses and does not declare. */
function missingScope(tokens) {
  const imported = new Set(imports(tokens).flatMap(bindings));
  const { values } = declarations(tokens);
  const free = new Set();
  tokens.forEach((token, i) => {
    if (SCOPE_NAMES.includes(token.text) && isReference(tokens, i)) free.add(token.text);
  });
  return SCOPE_NAMES.filter((name) => free.has(name) && !values.has(name) && !imported.has(name));
}

/** Give an ES module the names of CommonJS that it uses, on its first line, so that lines stay. */
function addScope(code, tokens) {
  const names = missingScope(tokens);
  if (names.length === 0) return code;
  const assigns = tokens.some((token, i) =>
    (isWord(token, 'module') && isSign(tokens[i + 1], '.') && isWord(tokens[i + 2], 'exports')) ||
    (isWord(token, 'exports') && isSign(tokens[i + 1], '.')));
  const byDefault = tokens.some((token, i) => isWord(token, 'export') && isWord(tokens[i + 1], 'default'));
  if (assigns && !names.includes('module')) names.push('module');
  const head = `const {${names.join(',')}}=globalThis[Symbol.for(${JSON.stringify(SCOPE.description)})](import.meta);`;
  const exported = `\nconst __era=module.exports;export{${byDefault ? '' : '__era as default,'}__era as "module.exports"};`;
  const at = code.startsWith('#!') ? code.indexOf('\n') + 1 : 0;
  return code.slice(0, at) + head + code.slice(at) + (assigns && names.includes('module') ? exported : '');
}

/** Whether code without import or export can only be a module: it awaits at its top level. */
function needsModule(code, tokens) {
  if (!tokens.some((token) => isWord(token, 'await'))) return false;
  try {
    vm.compileFunction(code, SCOPE_NAMES);
    return false;
  } catch {
    return true;
  }
}

/**
 * Compile one file.  `file` is `{path, text, open(specifier)}`; `open` gives the file a relative
 * specifier leads to, or undefined; `scope` is `module`, `commonjs` or undefined, as the file's
 * extension or the nearest package.json says.
 *
 * An import or export makes a module whatever package.json says, since TypeScript allows both.
 */
function compile(file, scope) {
  const written = tokenize(file.text);
  const decorator = written.find((token) => isSign(token, '@'));
  if (decorator) refuse(file.text, file.path, decorator.start, 'Decorators are not supported');
  const { code, inPlace } = strip(file.text, file.path);
  const tokens = inPlace ? written.filter((token) => code[token.start] === file.text[token.start]) : tokenize(code);
  const esm = hasModuleSyntax(written);
  if (!esm && scope !== 'module' && !needsModule(code, tokens)) return { format: 'commonjs', source: code };
  if (scope === 'commonjs' && !esm) return { format: 'commonjs', source: code };
  return { format: 'module', source: addScope(esm ? blank(code, elisions(tokens, file)) : code, tokens) };
}

module.exports = { compile, SCOPE };
