// What makes the pages live: output while it comes, how a setup goes on, a question before a deletion.
// Everything works without it.  Texts of programs are only ever set as text.
"use strict";

const token = document.body.dataset.token;
const CONTROLS = /[\u0000-\u0008\u000b-\u001f]/g;
const UNSEEN = /[\u0080-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

// Nothing hidden is left in what is shown: as the pages themselves are made.
function visible(text) {
  return text
    .replace(/\r\n/g, "\n")
    .replace(CONTROLS, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)))
    .replace(/\u007f/g, "\u2421")
    .replace(UNSEEN, (c) => `\u27e8U+${c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}\u27e9`);
}

function call(address, options = {}) {
  return fetch(address, {
    credentials: "same-origin",
    ...options,
    headers: { "X-Era-Token": token, ...options.headers },
  });
}

// The events of a stream, each as [name, data].
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const found = /^event: (.*)\ndata: (.*)$/.exec(block);
      if (found) yield [found[1], JSON.parse(found[2])];
    }
  }
}

function part(element, name) {
  return element.querySelector(`[data-part="${name}"]`);
}

// One run on its way: where it is shown, and how.
class Shown {
  constructor(element) {
    this.element = element;
    this.output = part(element, "output");
    this.output.replaceChildren();
    part(element, "notes").replaceChildren();
    part(element, "about").textContent = "";
    element.hidden = false;
    this.state("running", "run");
    this.left = { stdout: "", stderr: "" };
  }

  state(words, kind) {
    const state = part(this.element, "state");
    state.textContent = visible(words);
    state.className = `state ${kind}`;
  }

  note(words, kind) {
    const item = document.createElement("li");
    item.textContent = visible(words);
    if (kind) item.className = `note ${kind}`;
    part(this.element, "notes").append(item);
  }

  print(stream, text) {
    // A line's end may come in two pieces.
    text = this.left[stream] + text;
    this.left[stream] = text.endsWith("\r") ? "\r" : "";
    if (this.left[stream]) text = text.slice(0, -1);
    const kind = stream === "stderr" ? "err" : "";
    const atEnd = this.output.scrollTop + this.output.clientHeight >= this.output.scrollHeight - 8;
    let last = this.output.lastElementChild;
    if (!last || last.className !== kind) {
      last = document.createElement("span");
      last.className = kind;
      this.output.append(last);
    }
    last.append(visible(text));
    if (atEnd) this.output.scrollTop = this.output.scrollHeight;
  }

  end(result) {
    for (const stream of ["stdout", "stderr"]) {
      if (this.left[stream]) this.print(stream, "\n");
    }
    this.state(result.outcome, result.exit_code === 0 ? "ok" : "bad");
    const about = [`exit code ${result.exit_code}`, `${result.execution_time_ms} ms`];
    if (result.usage.peak_memory_bytes !== null) {
      about.push(`${(result.usage.peak_memory_bytes / 1048576).toFixed(1)} MiB`);
    }
    part(this.element, "about").textContent = [...about, result.isolation].join(" · ");
    if (!this.output.hasChildNodes()) this.note("It printed nothing.");
    if (result.stdout_truncated || result.stderr_truncated) {
      this.note("Some of the output was cut off.", "warn");
    }
    if (result.data_error) this.note(`The session's data was not changed: ${result.data_error}`, "bad");
    if (result.files_error) this.note(`Files were not kept: ${result.files_error}`, "bad");
    for (const skipped of (result.files_skipped ?? []).slice(0, 20)) {
      this.note(`Not kept: ${skipped.path} (${skipped.reason})`, "warn");
    }
    for (const warning of result.warnings ?? []) this.note(warning, "warn");
    this.paths("Changed", result.files_modified);
    this.paths("Removed", result.files_deleted);
  }

  paths(word, paths) {
    if (paths?.length) this.note(`${word}: ${paths.slice(0, 20).join(", ")}`);
  }

  refused(error) {
    this.state("not run", "bad");
    this.note(error.message ? `${error.error}: ${error.message}` : error.error, "bad");
    if (error.hint) this.note(error.hint);
  }

  broken(words) {
    this.state("unknown", "warn");
    this.note(words, "warn");
  }
}

async function follow(answer, shown) {
  if (!answer.ok) {
    shown.refused(await answer.json());
    return;
  }
  for await (const [name, data] of events(answer)) {
    if (name === "done") return shown.end(data);
    if (name === "error") return shown.refused(data);
    shown.print(name, data.content);
  }
  shown.broken("The connection ended before the run did; what came of it is not known here.");
}

function makeLive(form) {
  const [button, stop] = [form.querySelector("button.main"), form.querySelector("[data-cancel]")];
  let gone = null;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (gone) return;
    gone = new AbortController();
    document.getElementById("result")?.remove();
    const shown = new Shown(document.getElementById("live"));
    [button.disabled, stop.hidden] = [true, false];
    try {
      const body = new URLSearchParams(new FormData(form));
      await follow(await call(form.dataset.live, { method: "POST", body, signal: gone.signal }), shown);
    } catch (error) {
      if (error.name === "AbortError") shown.state("cancelled", "bad");
      else shown.broken("The server could not be reached.");
    }
    gone = null;
    [button.disabled, stop.hidden, stop.disabled] = [false, true, false];
    await refresh();
  });
  stop.addEventListener("click", async () => {
    // A run that has not begun is dropped when its client leaves; one in a session is told to end.
    if (!form.dataset.stop) return gone?.abort();
    stop.disabled = true;
    const answer = await call(form.dataset.stop, { method: "POST" }).catch(() => null);
    const told = answer?.ok && (await answer.json());
    if (!told || !told.cancelled) gone?.abort();
  });
  form.querySelector("textarea.code").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
}

// The parts of a session's page that a run may have changed, and one more.  What is typed stays.
async function refresh(other) {
  const session = document.querySelector("[data-session]");
  if (!session) return;
  const answer = await call(session.dataset.session + location.search).catch(() => null);
  if (!answer?.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  const stale = [...document.querySelectorAll("[data-fresh]"), ...(other ? [other] : [])];
  for (const old of stale) {
    const now = fresh.getElementById(old.id);
    if (now) old.replaceWith(document.adoptNode(now));
  }
}

async function followSetup(element) {
  for (;;) {
    const answer = await call(element.dataset.setup).catch(() => null);
    if (answer && !answer.ok) return;
    const setup = answer ? await answer.json() : {};
    if (["completed", "failed"].includes(setup.setup_status)) return refresh(element);
    if (setup.setup_status) part(element, "status").textContent = setup.setup_status;
    const progress = setup.setup_progress;
    if (progress) {
      const step = `step ${progress.step_index} of ${progress.steps_total}: ${progress.step}`;
      part(element, "step").textContent = visible(step);
      part(element, "line").textContent = visible(progress.last_line);
      Object.assign(part(element, "bar"), { max: progress.steps_total, value: progress.step_index - 1 });
    }
    await new Promise((resolve) => setTimeout(resolve, 700));
  }
}

document.querySelectorAll("form[data-live]").forEach(makeLive);
document.querySelectorAll("[data-setup]").forEach(followSetup);
document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
});
