import { DurableObject } from "cloudflare:workers";
import type { Bindings } from "./env";

/** One row of a session's record: table, key, and the row as JSON text that only the service reads. */
export type Row = [table: string, key: string, body: string];

/** What one commit changes. `uid` names this life of the session, `change` this commit. */
export interface Change {
  change: string;
  uid: string;
  summary: string;
  set: Row[];
  drop: [table: string, key: string][];
}
export interface Part { rev: number; uid: string; rows: Row[]; next: string | null }
export interface Listed { id: string; uid: string; summary: string }
type Meta = { rev: number; uid: string; change: string };

const LISTS = 8;
/** The list of sessions is spread over objects of the same class; no session can have such a name. */
const listName = (i: number) => `~list-${i}`;
const KEEPER = "~keeper";
/** What R2 deletes in one call. */
const R2_BATCH = 1000;
const RETRY_MS = 30_000;
/** Characters of a body in one value: SQLite takes 2 MB here, and a character is at most three bytes. */
const PIECE = 600_000;
/** Characters of bodies in one answer, which may have 32 MiB; at least one row is given. */
const PART = 4_000_000;

/** A text in parts of at most PIECE, no character cut in two. */
function pieces(text: string): string[] {
  const found: string[] = [];
  for (let at = 0; at < text.length; ) {
    let end = Math.min(at + PIECE, text.length);
    if (end < text.length && /[\ud800-\udbff]/.test(text[end - 1] ?? "")) end--;
    found.push(text.slice(at, end));
    at = end;
  }
  return found;
}

export function hash(text: string): number {
  let h = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193);
  h ^= h >>> 16;
  h = Math.imul(h, 0x85ebca6b);
  h ^= h >>> 13;
  return h >>> 0;
}

export const blobPrefix = (id: string, uid: string) => `sessions/${id}/${uid}/`;

type Stub = DurableObjectStub<SessionDO>;
function named(env: Bindings, name: string): Stub {
  const space = env.SESSIONS;
  if (!space) throw new Error("no binding SESSIONS");
  return space.get(space.idFromName(name));
}
export const sessionOf = (env: Bindings, id: string): Stub => named(env, id);
export const listOf = (env: Bindings, id: string): Stub => named(env, listName(hash(id) % LISTS));
export const keeper = (env: Bindings): Stub => named(env, KEEPER);

/** The whole list in order of creation, a page of it after `after`, and how many there are. */
export async function list(env: Bindings, ask: { prefix: string; after: string; limit: number; all?: boolean }) {
  const asked = Array.from({ length: LISTS }, (_, i) => named(env, listName(i)).page(ask.prefix, ask.after, ask.limit, ask.all ?? false));
  const pages = await Promise.all(asked);
  const items = pages.flatMap((page) => page.items).sort((a, b) => (a.uid.padStart(20, "0") < b.uid.padStart(20, "0") ? -1 : 1));
  return { items: items.slice(0, ask.limit), more: items.length > ask.limit, total: pages.reduce((sum, page) => sum + page.total, 0) };
}

/**
 * A session's record, changed by compare-and-swap only; or, under a name that no session has, a part of
 * the list of sessions, or the keeper of what all containers share.
 */
export class SessionDO extends DurableObject<Bindings> {
  constructor(ctx: DurableObjectState, env: Bindings) {
    super(ctx, env);
    this.#tables();
  }

  #tables(): void {
    this.ctx.storage.sql.exec(`
      CREATE TABLE IF NOT EXISTS meta (one INTEGER PRIMARY KEY CHECK (one = 0), rev INTEGER NOT NULL, uid TEXT NOT NULL, change TEXT NOT NULL);
      CREATE TABLE IF NOT EXISTS rows (tbl TEXT NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (tbl, key)) WITHOUT ROWID;
      CREATE TABLE IF NOT EXISTS pieces (tbl TEXT NOT NULL, key TEXT NOT NULL, n INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (tbl, key, n)) WITHOUT ROWID;
      CREATE TABLE IF NOT EXISTS todo (kind TEXT NOT NULL, id TEXT NOT NULL, uid TEXT NOT NULL, summary TEXT NOT NULL, PRIMARY KEY (kind, uid)) WITHOUT ROWID;
      CREATE TABLE IF NOT EXISTS listed (id TEXT PRIMARY KEY, uid TEXT NOT NULL, summary TEXT NOT NULL) WITHOUT ROWID;
      CREATE TABLE IF NOT EXISTS kept (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    `);
  }

  #meta(): Meta | null {
    return [...this.ctx.storage.sql.exec<Meta>("SELECT rev, uid, change FROM meta")][0] ?? null;
  }

  // -- a session --

  /** At most `limit` rows behind `after`; null when there is no session. */
  read(after: string, limit: number): Part | null {
    const meta = this.#meta();
    if (!meta) return null;
    const [table = "", key = ""] = after ? (JSON.parse(after) as [string, string]) : [];
    const sql = this.ctx.storage.sql;
    const behind = "FROM rows LEFT JOIN (SELECT tbl AS t, key AS k, sum(length(body)) AS more FROM pieces GROUP BY tbl, key) ON t = tbl AND k = key WHERE (tbl, key) > (?, ?) ORDER BY tbl, key LIMIT ?";
    const sizes = [...sql.exec<{ size: number }>(`SELECT length(body) + coalesce(more, 0) AS size ${behind}`, table, key, limit + 1)];
    let count = 0;
    for (let size = 0; count < Math.min(sizes.length, limit) && size <= PART; count++) size += sizes[count]?.size ?? 0;
    const found = [...sql.exec<{ tbl: string; key: string; body: string }>(`SELECT tbl, key, body ${behind}`, table, key, count)];
    const rows = found.map((row): Row => [row.tbl, row.key, row.body || this.#joined(row.tbl, row.key)]);
    const last = count < sizes.length ? found[found.length - 1] : undefined;
    return { rev: meta.rev, uid: meta.uid, rows, next: last ? JSON.stringify([last.tbl, last.key]) : null };
  }

  /** A body that one value could not hold; its row has an empty one. */
  #joined(table: string, key: string): string {
    return [...this.ctx.storage.sql.exec<{ body: string }>("SELECT body FROM pieces WHERE tbl = ? AND key = ? ORDER BY n", table, key)].map((row) => row.body).join("");
  }

  #drop(table: string, key: string): void {
    this.ctx.storage.sql.exec("DELETE FROM rows WHERE tbl = ? AND key = ?", table, key);
    this.ctx.storage.sql.exec("DELETE FROM pieces WHERE tbl = ? AND key = ?", table, key);
  }

  #set(table: string, key: string, body: string): void {
    const sql = this.ctx.storage.sql;
    this.#drop(table, key);
    const whole = body.length <= PIECE;
    sql.exec("INSERT INTO rows VALUES (?, ?, ?)", table, key, whole ? body : "");
    if (!whole) pieces(body).forEach((piece, n) => sql.exec("INSERT INTO pieces VALUES (?, ?, ?, ?)", table, key, n, piece));
  }

  /** The new revision; null when the record is not at `rev` (0: there must be none). A commit that came
   * twice, because its answer was lost, is done once. */
  async write(id: string, rev: number, change: Change): Promise<number | null> {
    const sql = this.ctx.storage.sql;
    const now = this.ctx.storage.transactionSync(() => {
      const meta = this.#meta();
      if (meta && meta.change === change.change) return meta.rev;
      if ((meta?.rev ?? 0) !== rev) return null;
      for (const [table, key] of change.drop) this.#drop(table, key);
      for (const row of change.set) this.#set(...row);
      sql.exec("INSERT OR REPLACE INTO meta VALUES (0, ?, ?, ?)", rev + 1, change.uid, change.change);
      sql.exec("INSERT OR REPLACE INTO todo VALUES ('list', ?, ?, ?)", id, change.uid, change.summary);
      return rev + 1;
    });
    if (now !== null) await this.#finish();
    return now;
  }

  /** Whether the session at `rev` is gone now, with everything it had; its name is free at once. */
  async erase(id: string, rev: number): Promise<boolean> {
    const sql = this.ctx.storage.sql;
    const gone = this.ctx.storage.transactionSync(() => {
      const meta = this.#meta();
      if (!meta) return true;
      if (meta.rev !== rev) return false;
      sql.exec("DELETE FROM todo WHERE kind = 'list'");
      sql.exec("INSERT OR REPLACE INTO todo VALUES ('erase', ?, ?, '')", id, meta.uid);
      sql.exec("DELETE FROM rows");
      sql.exec("DELETE FROM pieces");
      sql.exec("DELETE FROM meta");
      return true;
    });
    if (gone) await this.#finish();
    return gone;
  }

  /** What a commit leaves to do elsewhere: the list, and the files of what was deleted. It is written
   * down with the commit, so an alarm finishes it when this object ends in between. */
  async #finish(): Promise<void> {
    await this.ctx.storage.setAlarm(Date.now() + RETRY_MS);
    await this.#work();
    if (!this.#meta() && !this.#todo().length) {
      await this.ctx.storage.deleteAlarm();
      await this.ctx.storage.deleteAll();
      this.#tables();
    }
  }

  #todo() {
    return [...this.ctx.storage.sql.exec<{ kind: string; id: string; uid: string; summary: string }>("SELECT * FROM todo")];
  }

  async #work(): Promise<void> {
    for (const { kind, id, uid, summary } of this.#todo()) {
      if (kind === "list") await listOf(this.env, id).note(id, uid, summary);
      else {
        await listOf(this.env, id).forget(id, uid);
        await this.#emptyBucket(blobPrefix(id, uid));
      }
      this.ctx.storage.sql.exec("DELETE FROM todo WHERE kind = ? AND uid = ? AND summary = ?", kind, uid, summary);
    }
  }

  async #emptyBucket(prefix: string): Promise<void> {
    const bucket = this.env.SESSIONS_BUCKET as R2Bucket;
    for (;;) {
      const found = await bucket.list({ prefix, limit: R2_BATCH });
      if (found.objects.length) await bucket.delete(found.objects.map((object) => object.key));
      if (!found.truncated) return;
    }
  }

  override async alarm(): Promise<void> {
    if (this.#todo().length) await this.#finish();
  }

  // -- a part of the list --

  /** A session as the list shows it. An older life of the id does not replace a newer one. */
  note(id: string, uid: string, summary: string): void {
    this.ctx.storage.sql.exec(
      `INSERT INTO listed VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET uid = excluded.uid, summary = excluded.summary
       WHERE CAST(excluded.uid AS INTEGER) >= CAST(listed.uid AS INTEGER)`, id, uid, summary);
  }
  forget(id: string, uid: string): void {
    this.ctx.storage.sql.exec("DELETE FROM listed WHERE id = ? AND uid = ?", id, uid);
  }
  /** Sessions whose ids begin with `prefix`, oldest first, behind the uid `after`, one more than `limit`;
   * without `all` only those with a summary (managed VMs have none). */
  page(prefix: string, after: string, limit: number, all: boolean): { items: Listed[]; total: number } {
    const sql = this.ctx.storage.sql;
    const where = "substr(id, 1, ?) = ? AND (? OR summary != '')";
    const given = [prefix.length, prefix, Number(all)] as const;
    const items = [...sql.exec<{ id: string; uid: string; summary: string }>(
      `SELECT id, uid, summary FROM listed WHERE ${where} AND CAST(uid AS INTEGER) > CAST(? AS INTEGER) ORDER BY CAST(uid AS INTEGER) LIMIT ?`,
      ...given, after || "0", limit + 1)];
    const total = sql.exec<{ n: number }>(`SELECT count(*) AS n FROM listed WHERE ${where}`, ...given).one().n;
    return { items, total };
  }

  // -- what all containers share --

  /** The text kept under `name`: `value`, unless there was one before. */
  keep(name: string, value: string): string {
    this.ctx.storage.sql.exec("INSERT OR IGNORE INTO kept VALUES (?, ?)", name, value);
    return this.ctx.storage.sql.exec<{ value: string }>("SELECT value FROM kept WHERE name = ?", name).one().value;
  }
}
