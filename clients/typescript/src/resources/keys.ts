import { field, message, nothing } from '../answer.js';
import { path, timeOf } from '../request.js';
import type { Transport } from '../transport.js';
import type { ApiKey, CreatedApiKey, ProjectCallOptions } from '../types.js';

const CREATED = message<CreatedApiKey>({ key: 'object', apiKey: 'string' });

/** A key to create. */
export interface NewKey {
  /** Name for people, 1 to 100 characters. Need not be unique. */
  name: string;
  /** From when on the key shall not work, a time in the future. Default: it does not expire. */
  expiresAt?: Date | undefined;
}

/** Which key to replace, and how long the old one goes on working. */
export interface KeyRotation {
  /** Id of the key. Default: the key that the client uses, or with the admin's the default key of the project. */
  keyId?: string | undefined;
  /** Milliseconds that the old key goes on working, up to 604,800,000 (7 days). Default 0. */
  gracePeriod?: number | undefined;
}

/** API keys of a project, 20 at most. Nobody can read one again after it was created. */
export class Keys {
  readonly #transport: Transport;

  /** @internal */
  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /**
   * Create a further key.
   *
   * @throws FailedPreconditionError if the project has 20 keys.
   */
  async create(key: NewKey, options?: ProjectCallOptions): Promise<CreatedApiKey> {
    const body = { name: key.name, expiresAt: timeOf(key.expiresAt) };
    return this.#transport.inProject('/keys', CREATED, options, { method: 'POST', body, confidential: 'API key' });
  }

  /** The keys that work, the default key first. Never a key itself. */
  list(options?: ProjectCallOptions): Promise<ApiKey[]> {
    return this.#transport.inProject('/keys', field<ApiKey[]>('keys', 'list'), options);
  }

  /**
   * Replace a key by a new one of the same name and expiry. The client goes on with the old key, which stops working at
   * once or after `gracePeriod`: give it the new one by `setAPIKey`.
   *
   * @throws NotFoundError if the project has no such key.
   * @throws FailedPreconditionError if with the old key the project would have more than 20.
   */
  rotate(rotation: KeyRotation = {}, options?: ProjectCallOptions): Promise<CreatedApiKey> {
    const { keyId, gracePeriod } = rotation;
    const call = { method: 'POST', body: { keyId, gracePeriod }, confidential: 'API key' } as const;
    return this.#transport.inProject('/rotate-key', CREATED, options, call);
  }

  /**
   * End a key at once.
   *
   * @throws NotFoundError if the project has no such key.
   * @throws FailedPreconditionError for the last key of the project, which the admin alone may revoke.
   */
  async revoke(keyId: string, options?: ProjectCallOptions): Promise<void> {
    return this.#transport.inProject(path`/keys/${keyId}`, nothing, options, { method: 'DELETE' });
  }
}
