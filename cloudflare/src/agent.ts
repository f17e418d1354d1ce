import { DurableObject } from "cloudflare:workers";
import { type Bindings, texts } from "./env";
import { problem } from "./errors";
import { elsewhere } from "./local";
import { PRIMARY } from "./placement";
import { STATE_PREFIX, shared } from "./state";

const PORT = 8787;
const START_SECONDS = 60;
const MIN_LOOK_MS = 1000;
const SIGTERM = 15;
const UNITS: Record<string, number> = { "": 1, s: 1, m: 60, h: 3600, d: 86400 };

/** Milliseconds of `30s`, `5m`, `1h`, or of seconds. */
export function milliseconds(text: string | undefined, otherwise: number): number {
  const [, number, unit = ""] = /^\s*(\d+(?:\.\d+)?)\s*([smhd]?)\s*$/.exec(text ?? "") ?? [];
  return number === undefined ? otherwise : Number(number) * (UNITS[unit] ?? 1) * 1000;
}

/** Whether the service answers requests: also where it must refuse to run code, and says why. */
async function served(answer: Response): Promise<boolean> {
  if (answer.ok) {
    await answer.body?.cancel();
    return true;
  }
  const health = (await answer.json().catch(() => ({}))) as { code?: string };
  return health.code === "isolation_unavailable";
}

/** Whether the request deletes the session that has its container to itself. */
const ends = (request: Request, url: URL, env: Bindings) =>
  env.ERA_PLACEMENT === "session" && request.method === "DELETE" && /^\/api\/sessions\/[^/]+\/?$/.test(url.pathname);

/** Owns one container that runs the service: starts it when it is asked for, lets it sleep when nothing goes on. */
export class EraAgent extends DurableObject<Bindings> {
  #ready: Promise<void> | undefined;
  #open = 0;
  #used = 0;

  get #container(): Container {
    const found = elsewhere(this.ctx, this.env) ?? this.ctx.container;
    if (!found) throw new Error("this Durable Object has no container: [[containers]] in wrangler.toml");
    return found;
  }

  get #sleepMs(): number {
    return milliseconds(this.env.ERA_SLEEP_AFTER, 300_000);
  }

  /** The service's environment: every variable and secret of the Worker, and where its state is. */
  async #environment(origin: string): Promise<Record<string, string>> {
    const { token, secretKey } = await shared(this.env);
    return {
      ...texts(this.env),
      ERA_SECRET_KEY: secretKey,
      PORT: String(PORT),
      ERA_HOST: "0.0.0.0",
      ERA_TRUST_PROXY: "1",
      ERA_STATE_DRIVER: "worker",
      ERA_STATE_URL: `${this.env.ERA_STATE_URL ?? origin + STATE_PREFIX}/at/${this.ctx.id.name ?? PRIMARY}`,
      ERA_STATE_TOKEN: token,
    };
  }

  async #start(origin: string): Promise<void> {
    const container = this.#container;
    if (!container.running) {
      console.log("container starts");
      container.start({ enableInternet: true, env: await this.#environment(origin) });
      const ended = container.monitor().catch((error: unknown) => console.error("container failed", String(error)));
      this.ctx.waitUntil(ended.then(() => { this.#ready = undefined; }));
    }
    await this.#answering(container);
    await this.ctx.storage.setAlarm(Date.now() + Math.max(this.#sleepMs, MIN_LOOK_MS));
  }

  /** Waits until the service is healthy: nothing is passed on before, so a failed start is safe to repeat. */
  async #answering(container: Container): Promise<void> {
    const deadline = Date.now() + milliseconds(this.env.ERA_START_SECONDS, START_SECONDS * 1000);
    for (let wait = 50; ; wait = Math.min(wait * 1.6, 1000)) {
      try {
        const answer = await container.getTcpPort(PORT).fetch("http://container/health", { signal: AbortSignal.timeout(5000) });
        if (await served(answer)) return;
      } catch (error) {
        if (!container.running) throw error;
      }
      if (Date.now() > deadline) throw new Error("the service was not ready in time");
      await scheduler.wait(wait);
    }
  }

  async #up(origin: string): Promise<void> {
    if (!this.#container.running) this.#ready = undefined;
    this.#ready ??= this.#start(origin);
    try {
      await this.#ready;
    } catch (error) {
      this.#ready = undefined;
      throw error;
    }
  }

  override async fetch(request: Request): Promise<Response> {
    this.#open++;
    try {
      await this.#up(new URL(request.url).origin);
    } catch (error) {
      this.#done();
      return problem("container_unavailable", request, error);
    }
    try {
      const url = new URL(request.url);
      url.protocol = "http:";
      const answer = await this.#container.getTcpPort(PORT).fetch(url.toString(), request);
      if (answer.ok && ends(request, url, this.env)) return this.#counted(await this.#last(answer));
      return this.#counted(answer);
    } catch (error) {
      this.#done();
      this.#ready = undefined;
      return problem("container_lost", request, error);
    }
  }

  /** The last answer of a container: no session after this one is to have its machine. */
  async #last(answer: Response): Promise<Response> {
    const body = await answer.arrayBuffer();
    console.log("container ends with its session");
    this.#ready = undefined;
    await this.#container.destroy();
    return new Response(body, answer);
  }

  /** The answer as it comes; it counts as use until its last byte. */
  #counted(answer: Response): Response {
    if (!answer.body || answer.webSocket) {
      this.#done();
      return answer;
    }
    const { readable, writable } = new IdentityTransformStream();
    this.ctx.waitUntil(answer.body.pipeTo(writable).catch(() => {}).finally(() => this.#done()));
    return new Response(readable, answer);
  }

  #done(): void {
    this.#open--;
    this.#used = Date.now();
  }

  /** Lets the container sleep when nobody used it for a while and the service says that nothing runs. */
  override async alarm(): Promise<void> {
    if (!this.#container.running) return;
    if (await this.#busy()) await this.ctx.storage.setAlarm(Date.now() + Math.max(this.#sleepMs, MIN_LOOK_MS));
    else {
      console.log("container sleeps: nothing goes on");
      this.#ready = undefined;
      this.#container.signal(SIGTERM);
    }
  }

  async #busy(): Promise<boolean> {
    if (this.#open > 0 || Date.now() - this.#used < this.#sleepMs) return true;
    try {
      const answer = await this.#container.getTcpPort(PORT).fetch("http://container/health", { signal: AbortSignal.timeout(5000) });
      const health = (await answer.json()) as { in_progress?: number };
      return (health.in_progress ?? 0) > 0;
    } catch {
      return false;            // what does not answer is let go; the next request starts it anew
    }
  }
}
