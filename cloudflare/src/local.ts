/**
 * Where no container engine is (the tests, wrangler dev --enable-containers=false), ERA_ENGINE_URL
 * names a running `era serve`; this stands in for `ctx.container` in front of it.
 */
import type { Bindings } from "./env";

class Elsewhere {
  running = false;
  #ended: (() => void) | undefined;
  constructor(readonly base: string) {}

  start(): void {
    this.running = true;
  }
  monitor(): Promise<void> {
    return new Promise((resolve) => { this.#ended = resolve; });
  }
  #end(): void {
    this.running = false;
    this.#ended?.();
  }
  async destroy(): Promise<void> {
    this.#end();
  }
  signal(_number: number): void {
    this.#end();
  }
  getTcpPort(_port: number) {
    return {
      fetch: (input: string | Request, init?: RequestInit) => {
        const request = new Request(input, init);
        const { pathname, search } = new URL(request.url);
        return fetch(new Request(new URL(pathname + search, this.base), request));
      },
    };
  }
}

const made = new WeakMap<object, Elsewhere>();

export function elsewhere(ctx: object, env: Bindings): Container | undefined {
  if (!env.ERA_ENGINE_URL) return undefined;
  let found = made.get(ctx);
  if (!found) made.set(ctx, (found = new Elsewhere(env.ERA_ENGINE_URL)));
  return found as unknown as Container;
}
