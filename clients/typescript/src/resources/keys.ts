import { field, message, nothing } from '../answer.js';
import { path, timeOf } from '../request.js';
import type { Transport } from '../transport.js';
import type { ApiKey, CreatedApiKey, ProjectCallOptions } from '../types.js';

const CREATED = message<CreatedApiKey>({ key: 'object', apiKey: 'string' });

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
    options?: ProjectCallOptions,
  ): Promise<CreatedApiKey> {
    const body = { name, expiresAt: timeOf(expiresAt) };
    return this.#transport.inProject('/keys', CREATED, options, { method: 'POST', body, confidential: 'API key' });
  }

  /** The keys that work, the default key first. Never a key itself. */
  list(options?: ProjectCallOptions): Promise<ApiKey[]> {
    return this.#transport.inProject('/keys', field<ApiKey[]>('keys', 'list'), options);
  }

  /**
   * Replace a key, by default the one that the client uses, which goes on working for `gracePeriod` milliseconds (0).
   * The client goes on with the old key: give it the new one by `setAPIKey`.
   */
  rotate(
    { keyId, gracePeriod }: { keyId?: string | undefined; gracePeriod?: number | undefined } = {},
    options?: ProjectCallOptions,
  ): Promise<CreatedApiKey> {
    const call = { method: 'POST', body: { keyId, gracePeriod }, confidential: 'API key' } as const;
    return this.#transport.inProject('/rotate-key', CREATED, options, call);
  }

  /** End a key at once. */
  async revoke(keyId: string, options?: ProjectCallOptions): Promise<void> {
    return this.#transport.inProject(path`/keys/${keyId}`, nothing, options, { method: 'DELETE' });
  }
}
