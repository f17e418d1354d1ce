/** The answers that the Worker gives itself, in the shape of the service's errors. */

interface Problem { status: number; error: string; hint: string; retry?: number }

const PROBLEMS = {
  container_binding_missing: {
    status: 503,
    error: "Container binding not found",
    hint: "Check [[containers]] and [[durable_objects.bindings]] in wrangler.toml, and deploy again.",
  },
  container_unavailable: {
    status: 503,
    error: "Container not responding",
    hint: "Look at `npx wrangler tail`; the service must listen on port 8787. Try it locally: ./agent serve, then /health.",
    retry: 5,
  },
  container_lost: {
    status: 502,
    error: "The container went away during the request",
    hint: "The request may have run: look before you send it again. `npx wrangler tail` shows why it went.",
  },
  durable_object_unavailable: {
    status: 503,
    error: "Cannot connect to Durable Object",
    hint: "Check that [[migrations]] are in wrangler.toml, and that class and binding names match.",
  },
  bucket_unavailable: {
    status: 503,
    error: "R2 bucket not available",
    hint: "Create it: npx wrangler r2 bucket create era-sessions",
  },
} satisfies Record<string, Problem>;

export type Code = keyof typeof PROBLEMS;

/** An error answer; `cause` goes to the log with the id of the request, and not to the client. */
export function problem(code: Code, request: Request, cause?: unknown): Response {
  const { status, error, hint, retry }: Problem = PROBLEMS[code];
  const id = requestId(request);
  console.error(JSON.stringify({ event: code, request_id: id, cause: cause === undefined ? undefined : String(cause) }));
  const headers: Record<string, string> = { "X-Request-Id": id, "Access-Control-Allow-Origin": "*" };
  if (retry) headers["Retry-After"] = String(retry);
  return Response.json({ error, code, hint }, { status, headers });
}

/** The client's id of the request where it is a sane one, else a new one. */
export function requestId(request: Request): string {
  const given = request.headers.get("X-Request-Id") ?? "";
  return /^[\w.-]{1,128}$/.test(given) ? given : crypto.randomUUID();
}

export const notFound = () => Response.json({ error: "Not found", code: "not_found" }, { status: 404 });
