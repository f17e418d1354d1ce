'use strict';
// The words of a JavaScript or TypeScript text: enough to see imports, exports and which names are
// used, no grammar.  Positions are UTF-16 offsets into the text.

const PLAIN_NAME = /[A-Za-z$_][\w$]*/y;
const ESCAPE = String.raw`\\u(?:[\da-fA-F]{4}|\{[\da-fA-F]+\})`;
const NAME = new RegExp(
  String.raw`(?:[\p{ID_Start}$_]|${ESCAPE})(?:[\p{ID_Continue}$\u200c\u200d]|${ESCAPE})*`, 'uy',
);
const NUMBER = /(?:0[xXbBoO][\da-fA-F_]+|\d[\d_]*(?:\.[\d_]*)?(?:[eE][+-]?\d+)?|\.\d[\d_]*(?:[eE][+-]?\d+)?)n?/y;
const STRING = /"(?:[^"\\\n]|\\[^])*"|'(?:[^'\\\n]|\\[^])*'/y;
const REGEX = /\/(?:[^/\\[\n]|\\.|\[(?:[^\]\\\n]|\\.)*\])+\/[\w$]*/y;
const SPACE = /(?:\s|\/\/[^\n]*|\/\*[^]*?\*\/)+/y;
const OPERATOR = /\?\.(?!\d)|\.\.\.|=>|[^]/y;
const TEMPLATE = /(?:[^`\\$]|\\[^]|\$(?!\{))*/y;

// After these words a slash begins a regular expression, after other words it divides.
const BEFORE_REGEX = new Set(
  ('return typeof case in of delete void throw new instanceof do else yield await extends').split(' '),
);
const CONDITION = new Set(['if', 'while', 'for', 'with']);

function match(pattern, text, at) {
  pattern.lastIndex = at;
  const found = pattern.exec(text);
  return found === null ? '' : found[0];
}

/** The identifier at `at`, or ''.  Nearly all are plain ASCII, for which a cheaper pattern does. */
function nameAt(text, at) {
  const word = match(PLAIN_NAME, text, at);
  const next = text.charCodeAt(at + word.length);
  return next > 127 || next === 92 ? match(NAME, text, at) || word : word;
}

/** Whether a slash after `last` begins a regular expression. */
function slashIsRegex(last, newline) {
  if (last === undefined) return true;
  if (last.kind === 'name') return BEFORE_REGEX.has(last.text);
  if (last.kind !== 'operator') return false;
  if (last.text === ')') return last.condition === true;
  if (last.text === '}') return newline;
  return last.text !== ']';
}

/**
 * Split `text` into tokens `{kind, text, start, end, depth}`; kind is `name`, `private`, `number`,
 * `string`, `template`, `regex` or `operator`; `depth` counts the brackets around the token.
 */
function tokenize(text) {
  const tokens = [];
  const open = []; // what each bracket still open was: '{', '(', '[', '${'
  let at = 0;

  function push(kind, word, extra) {
    const token = { kind, text: word, start: at, end: at + word.length, depth: open.length, ...extra };
    tokens.push(token);
    at = token.end;
    return token;
  }

  function template() {
    push('template', match(TEMPLATE, text, at));
    if (text[at] === '`') at += 1;
    else if (text.startsWith('${', at)) {
      at += 2;
      open.push({ text: '${' });
    }
  }

  function close(word) {
    const opened = open.pop();
    if (word === '}' && opened !== undefined && opened.text === '${') {
      at += 1;
      template();
    } else push('operator', word, { condition: opened !== undefined && opened.condition });
  }

  function operator() {
    const word = match(OPERATOR, text, at);
    const last = tokens.at(-1);
    if (word === '(' || word === '[' || word === '{') {
      push('operator', word);
      open.push({ text: word, condition: last !== undefined && CONDITION.has(last.text) });
    } else if (word === ')' || word === ']' || word === '}') close(word);
    else push('operator', word);
  }

  if (text.startsWith('#!')) at = match(/[^\n]*/y, text, 0).length;
  while (at < text.length) {
    const space = match(SPACE, text, at);
    at += space.length;
    if (at >= text.length) break;
    const char = text[at];
    let word;
    if (char === '"' || char === "'") {
      word = match(STRING, text, at);
      if (word) push('string', word);
      else at += 1;
    } else if (char === '`') {
      at += 1;
      template();
    } else if (char === '/' && slashIsRegex(tokens.at(-1), space.includes('\n')) && (word = match(REGEX, text, at))) {
      push('regex', word);
    } else if ((word = match(NUMBER, text, at))) push('number', word);
    else if (char === '#' && (word = nameAt(text, at + 1))) push('private', `#${word}`);
    else if ((word = nameAt(text, at))) push('name', word);
    else operator();
  }
  return tokens;
}

/** `text` with the ranges (pairs of offsets) turned to blanks; lines and columns stay. */
function blank(text, ranges) {
  let result = '';
  let at = 0;
  for (const [start, end] of ranges.toSorted((a, b) => a[0] - b[0])) {
    if (end <= at) continue;
    result += text.slice(at, Math.max(start, at));
    result += text.slice(Math.max(start, at), end).replace(/[^\r\n\u2028\u2029]/g, ' ');
    at = end;
  }
  return result + text.slice(at);
}

module.exports = { tokenize, blank };
