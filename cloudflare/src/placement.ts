import { hash } from "./session";

/** The container everything goes to that belongs to no session. */
export const PRIMARY = "primary";
const SESSION = /^\/(?:api\/sessions|proxy)\/([A-Za-z0-9_-]{1,128})(?:\/|$)/;

/** Which container a session belongs to; the same id always to the same one. */
export function containerOf(placement: string | undefined, id: string): string {
  if (placement === "session") return `session-${id}`;
  const count = Number(/^hash:(\d+)$/.exec(placement ?? "")?.[1] ?? 0);
  return count > 0 ? `node-${hash(id) % count}` : PRIMARY;
}

export const sessionIn = (path: string): string | undefined => SESSION.exec(path)?.[1];

/** An id as the service makes them. */
export const newId = () => `sess_${Date.now()}_${crypto.randomUUID().replaceAll("-", "").slice(0, 9)}`;
