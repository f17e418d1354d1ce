import type { EraAgent } from "./agent";
import type { SessionDO } from "./session";

/** What wrangler.toml binds.  Any may be missing where the file was changed; then the answer says which. */
export interface Bindings {
  ERA_AGENT?: DurableObjectNamespace<EraAgent>;
  SESSIONS?: DurableObjectNamespace<SessionDO>;
  SESSIONS_BUCKET?: R2Bucket;
  ERA_PLACEMENT?: string;
  ERA_SLEEP_AFTER?: string;
  ERA_START_SECONDS?: string;
  ERA_API_KEY?: string;
  ERA_CORS_ORIGINS?: string;
  ERA_STATE_URL?: string;
  /** Made by the Worker itself unless these are given. */
  ERA_STATE_TOKEN?: string;
  ERA_SECRET_KEY?: string;
  /** Where no container engine is (wrangler dev --enable-containers=false): a running `era serve`. */
  ERA_ENGINE_URL?: string;
}

/** Every text among the bindings: the variables and the secrets. */
export function texts(env: Bindings): Record<string, string> {
  const found = Object.entries(env).filter((entry): entry is [string, string] => typeof entry[1] === "string");
  return Object.fromEntries(found);
}
