import { timingSafeEqual } from "node:crypto";
import type { Bindings } from "./env";
import { notFound, problem } from "./errors";
import { PRIMARY, containerOf } from "./placement";
import { type Change, type Listed, blobPrefix, keeper, list, sessionOf } from "./session";

export const STATE_PREFIX = "/_state";
const ID = /^(vm:)?[A-Za-z0-9_-]{1,128}$/;
const SHA = /^[0-9a-f]{64}$/;
const UID = /^[0-9]{1,20}$/;
const MAX_ROWS = 2000;
const MAX_LISTED = 1000;
/** Bytes of one commit: what is passed to a Durable Object at once may have 32 MiB. */
const MAX_CHANGE = 30 << 20;

const random = () => Buffer.from(crypto.getRandomValues(new Uint8Array(32))).toString("base64url");

/** What a container is told so that it can reach this, and seal what it stores: made once, kept by a
 * Durable Object, the same for every container. */
export async function shared(env: Bindings): Promise<{ token: string; secretKey: string }> {
  const kept = keeper(env);
  return {
    token: env.ERA_STATE_TOKEN ?? (await kept.keep("token", random())),
    secretKey: env.ERA_SECRET_KEY ?? (await kept.keep("secret-key", random())),
  };
}

let known: string | undefined;

async function authorized(env: Bindings, request: Request): Promise<boolean> {
  const given = Buffer.from(request.headers.get("Authorization") ?? "");
  if (!given.toString().startsWith("Bearer ")) return false;
  known ??= (await shared(env)).token;
  const wanted = Buffer.from(`Bearer ${known}`);
  return given.length === wanted.length && timingSafeEqual(given, wanted);
}

/** The state of sessions, for the service in the containers alone: to anyone else there is nothing here. */
export async function state(request: Request, env: Bindings, url: URL): Promise<Response> {
  if (!env.SESSIONS) return problem("durable_object_unavailable", request);
  if (!env.SESSIONS_BUCKET) return problem("bucket_unavailable", request);
  try {
    if (!(await authorized(env, request))) return notFound();
    // /_state/at/<container>/sessions/...: what a container asks for; without it, everything.
    const parts = url.pathname.slice(STATE_PREFIX.length + 1).split("/").map(decodeURIComponent);
    const container = parts[0] === "at" ? parts.splice(0, 2)[1] : undefined;
    const [kind, id, what, name, ...rest] = parts;
    if (kind !== "sessions" || rest.length) return notFound();
    if (id === undefined && request.method === "GET") return await listed(env, url, container);
    if (id === undefined || !ID.test(id)) return notFound();
    if (what === undefined) return await record(request, env, url, id);
    const uid = url.searchParams.get("uid") ?? "";
    if (what !== "blobs" || !name || !SHA.test(name) || !UID.test(uid)) return notFound();
    return await blob(request, env.SESSIONS_BUCKET, url, blobPrefix(id, uid) + name);
  } catch (error) {
    return problem(String(error).includes("R2") ? "bucket_unavailable" : "durable_object_unavailable", request, error);
  }
}

const isOf = (env: Bindings, { id, summary }: Listed, container: string) =>
  (summary ? containerOf(env.ERA_PLACEMENT, id) : PRIMARY) === container;

async function listed(env: Bindings, url: URL, container?: string): Promise<Response> {
  const after = url.searchParams.get("after") ?? "";
  const page = await list(env, { prefix: url.searchParams.get("prefix") ?? "", after, limit: MAX_LISTED, all: true });
  const last = page.items[page.items.length - 1];
  return Response.json({ sessions: page.items.filter((item) => container === undefined || isOf(env, item, container)).map(({ id, uid }) => ({ id, uid })), next: page.more && last ? last.uid : null });
}

function revision(request: Request): number {
  return Number((request.headers.get("If-Match") ?? "").replaceAll('"', "")) || 0;
}

async function record(request: Request, env: Bindings, url: URL, id: string): Promise<Response> {
  const session = sessionOf(env, id);
  if (request.method === "GET") {
    const part = await session.read(url.searchParams.get("after") ?? "", MAX_ROWS);
    return part ? Response.json(part, { headers: { ETag: `"${part.rev}"` } }) : notFound();
  }
  if (request.method === "PUT") {
    if (Number(request.headers.get("Content-Length")) > MAX_CHANGE) return tooLarge();
    const now = await session.write(id, revision(request), (await request.json()) as Change);
    return now === null ? conflict() : new Response(null, { status: 204, headers: { ETag: `"${now}"` } });
  }
  if (request.method === "DELETE") return (await session.erase(id, revision(request))) ? new Response(null, { status: 204 }) : conflict();
  return new Response(null, { status: 405 });
}

const tooLarge = () => Response.json({ error: "One commit is at most 30 MiB", code: "storage_full" }, { status: 413 });
const conflict = () => Response.json({ error: "Changed meanwhile", code: "conflict" }, { status: 412 });

async function blob(request: Request, bucket: R2Bucket, url: URL, key: string): Promise<Response> {
  if (request.method === "PUT") return putBlob(request, bucket, url, key);
  if (request.method === "HEAD") return new Response(null, { status: (await bucket.head(key)) ? 200 : 404 });
  if (request.method === "DELETE") {
    await bucket.delete(key);
    return new Response(null, { status: 204 });
  }
  const found = request.method === "GET" ? await bucket.get(key) : null;
  return found ? new Response(found.body, { headers: { "Content-Length": String(found.size) } }) : notFound();
}

/** Stores the body, or with `from` (session/uid) what that session has under the same hash. */
async function putBlob(request: Request, bucket: R2Bucket, url: URL, key: string): Promise<Response> {
  const [id = "", uid = ""] = (url.searchParams.get("from") ?? "").split("/");
  if (ID.test(id) && UID.test(uid)) {
    const source = await bucket.get(blobPrefix(id, uid) + key.slice(-64));
    if (!source) return notFound();
    await bucket.put(key, source.body);
    return new Response(null, { status: 204 });
  }
  const size = Number(request.headers.get("Content-Length") ?? NaN);
  if (!Number.isSafeInteger(size) || size < 0) return new Response(null, { status: 411 });
  const sha256 = key.slice(-64);                  // R2 refuses bytes that have another hash
  if (!size || !request.body) await bucket.put(key, new Uint8Array(0), { sha256 });
  else {
    const exact = new FixedLengthStream(size);
    const piped = request.body.pipeTo(exact.writable);
    await bucket.put(key, exact.readable, { sha256 });
    await piped;
  }
  return new Response(null, { status: 204 });
}
