export { EraAgent } from "./agent";
import type { Bindings } from "./env";
import { problem, requestId } from "./errors";
import { PRIMARY, containerOf, newId, sessionIn } from "./placement";
import { list } from "./session";
import { STATE_PREFIX, state } from "./state";


export { SessionDO } from "./session";

const SESSIONS = "/api/sessions";

export default {
  async fetch(request: Request, env: Bindings): Promise<Response> {
    const url = new URL(request.url);
    if (url.pathname === STATE_PREFIX || url.pathname.startsWith(`${STATE_PREFIX}/`)) return state(request, env, url);
    if (!env.ERA_AGENT) return problem("container_binding_missing", request);
    if (!env.SESSIONS) return problem("durable_object_unavailable", request);
    if (!env.SESSIONS_BUCKET) return problem("bucket_unavailable", request);
    const path = url.pathname.replace(/\/$/, "");
    if (path === SESSIONS && request.method === "POST") return create(request, env, url);
    if (path === SESSIONS && request.method === "GET" && listsHere(request, env, url)) return listed(request, env, url);
    if (path === SESSIONS && request.method === "DELETE" && spread(env)) return deleteAll(request, env, url);
    const id = sessionIn(url.pathname);
    return pass(request, env, url, id ? containerOf(env.ERA_PLACEMENT, id) : elsewhere(env, path));
  },
} satisfies ExportedHandler<Bindings>;

const spread = (env: Bindings) => containerOf(env.ERA_PLACEMENT, "x") !== PRIMARY;

/** One-shot executions go wherever there is room; what is one for all, as VMs, has one place. */
function elsewhere(env: Bindings, path: string): string {
  return path === "/api/execute" && spread(env) ? containerOf(env.ERA_PLACEMENT, crypto.randomUUID()) : PRIMARY;
}

async function pass(request: Request, env: Bindings, url: URL, container: string, body?: string): Promise<Response> {
  const agents = env.ERA_AGENT;
  if (!agents) return problem("container_binding_missing", request);
  const headers = new Headers(request.headers);
  headers.set("X-Forwarded-Proto", url.protocol.slice(0, -1));
  headers.set("X-Forwarded-Host", url.host);
  const sent = new Request(request, body === undefined ? { headers } : { headers, body });
  try {
    return await agents.get(agents.idFromName(container)).fetch(sent);
  } catch (error) {
    return problem("container_lost", request, error);
  }
}

/** A session's id decides where it is, so one that the client leaves open is made here. */
async function create(request: Request, env: Bindings, url: URL): Promise<Response> {
  if (!spread(env)) return pass(request, env, url, PRIMARY);
  const text = await request.text();
  let given: unknown;
  try {
    const body = JSON.parse(text) as { id?: unknown; session_id?: unknown };
    given = body.id ?? body.session_id;
    if (given === undefined && text.trimStart().startsWith("{")) {
      const id = newId();
      const rest = text.trimStart().slice(1);
      const more = rest.trimStart().startsWith("}") ? "" : ",";
      return pass(request, env, url, containerOf(env.ERA_PLACEMENT, id), `{"id":"${id}"${more}${rest}`);
    }
  } catch { /* the service says what is wrong with it */ }
  return pass(request, env, url, typeof given === "string" ? containerOf(env.ERA_PLACEMENT, given) : PRIMARY, text);
}

// -- what is answered without waking a container ------------------------------------------------------

function authorized(request: Request, env: Bindings): boolean {
  const keys = (env.ERA_API_KEY ?? "").split(",").map((key) => key.trim()).filter(Boolean);
  const given = request.headers.get("Authorization");
  return keys.length === 0 || keys.some((key) => equal(given ?? "", `Bearer ${key}`));
}

/** Whether two texts are the same, in a time that does not tell where they differ. */
function equal(one: string, other: string): boolean {
  const [a, b] = [Buffer.from(one), Buffer.from(other)];
  return a.length === b.length && a.reduce((sum, byte, i) => sum | (byte ^ (b[i] ?? 0)), 0) === 0;
}

/** Anything unusual about a list goes to the service, which has the words for what is wrong. */
function listsHere(request: Request, env: Bindings, url: URL): boolean {
  const limit = url.searchParams.get("limit");
  const cursor = url.searchParams.get("cursor");
  return authorized(request, env)
    && (env.ERA_CORS_ORIGINS ?? "*") === "*"
    && (limit === null || (/^\d{1,4}$/.test(limit) && Number(limit) >= 1 && Number(limit) <= 1000))
    && (cursor === null || /^~\d{1,19}$/.test(cursor));
}

async function listed(request: Request, env: Bindings, url: URL): Promise<Response> {
  const limit = Number(url.searchParams.get("limit") ?? Number.MAX_SAFE_INTEGER - 1);
  const after = (url.searchParams.get("cursor") ?? "").slice(1);
  try {
    const page = await list(env, { prefix: url.searchParams.get("prefix") ?? "", after, limit });
    const last = page.items[page.items.length - 1];
    const next = page.more && last ? `,"next_cursor":"~${last.uid}"` : "";
    const items = page.items.map((item) => item.summary).join(",");
    const text = `{"sessions":[${items}],"count":${page.items.length},"total_count":${page.total}${next}}`;
    const headers = { "Content-Type": "application/json", "X-Request-Id": requestId(request), "Access-Control-Allow-Origin": "*" };
    return new Response(text, { headers });
  } catch (error) {
    return problem("durable_object_unavailable", request, error);
  }
}

/** Each session is deleted by the container that has it. */
async function deleteAll(request: Request, env: Bindings, url: URL): Promise<Response> {
  if (!authorized(request, env)) return pass(request, env, url, PRIMARY);
  const found = await list(env, { prefix: url.searchParams.get("prefix") ?? "", after: "", limit: Number.MAX_SAFE_INTEGER - 1 });
  const deleted: string[] = [];
  for (const { id } of found.items) {
    const one = new URL(`${SESSIONS}/${id}`, url);
    const answer = await pass(new Request(one, { method: "DELETE", headers: request.headers }), env, one, containerOf(env.ERA_PLACEMENT, id));
    await answer.body?.cancel();
    if (answer.ok) deleted.push(id);
    else if (answer.status !== 404) return problem("container_unavailable", request, `DELETE ${id}: ${answer.status}`);
  }
  return Response.json({ success: true, deleted_count: deleted.length, deleted_sessions: deleted, deleted_at: new Date().toISOString() },
    { headers: { "X-Request-Id": requestId(request), "Access-Control-Allow-Origin": "*" } });
}
