import { path, type Transport } from '../transport.js';
import type { ApiKey, CreatedApiKey, ProjectCallOptions } from '../types.js';

/** API keys of a project, 20 at most. */
export class Keys {
  readonly #transport: Transport;

  /** @internal */
  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** Create a further key. Without `expiresAt` it does not expire. */
  async create(
    { name, expiresAt }: { name: string; expiresAt?: Date | undefined },
    { projectId, ...options }: ProjectCallOptions = {},
  ): Promise<CreatedApiKey> {
    const id = await this.#transport.project(projectId, options);
    const body = { name, expiresAt: expiresAt?.toISOString() };
    return this.#transport.call(path`/api/v1/projects/${id}/keys`, options, { method: 'POST', body });
  }

  /** The keys that work, the default key first. Never a key itself. */
  async list({ projectId, ...options }: ProjectCallOptions = {}): Promise<ApiKey[]> {
    const id = await this.#transport.project(projectId, options);
    return (await this.#transport.call<{ keys: ApiKey[] }>(path`/api/v1/projects/${id}/keys`, options)).keys;
  }

  /**
   * Replace a key, by default the one that the client uses, which goes on working for `gracePeriod` milliseconds (0).
   * The client goes on with the old key: give it the new one by `setAPIKey`.
   */
  async rotate(
    { keyId, gracePeriod }: { keyId?: string | undefined; gracePeriod?: number | undefined } = {},
    { projectId, ...options }: ProjectCallOptions = {},
  ): Promise<CreatedApiKey> {
    const id = await this.#transport.project(projectId, options);
    const body = { keyId, gracePeriod };
    return this.#transport.call(path`/api/v1/projects/${id}/rotate-key`, options, { method: 'POST', body });
  }

  /** End a key at once. */
  async revoke(keyId: string, { projectId, ...options }: ProjectCallOptions = {}): Promise<void> {
    const id = await this.#transport.project(projectId, options);
    await this.#transport.call(path`/api/v1/projects/${id}/keys/${keyId}`, options, { method: 'DELETE' });
  }
}
