import { field, message, nothing } from '../answer.js';
import { path } from '../request.js';
import type { Transport } from '../transport.js';
import type { ProjectCallOptions, SecretMetadata, SecretVersion, StoredSecret } from '../types.js';

const STORED = message<StoredSecret>({ version: 'number' });

/** Under which condition to store a secret. */
export interface SecretSetOptions extends ProjectCallOptions {
  /** The version that the secret must be at now; 0: it must not exist. Default: whatever stands is replaced. */
  expectedVersion?: number | undefined;
}

/** Which version of a secret to get. */
export interface SecretGetOptions extends ProjectCallOptions {
  /** Number of the version. Default: the current one. */
  version?: number | undefined;
}

/**
 * Secrets of a project, filled into prompts as `{{secret:NAME}}`. A name is a letter or underscore, then up to 127
 * letters, digits or underscores; a value has up to 65,536 bytes in UTF-8.
 */
export class Secrets {
  readonly #transport: Transport;

  /** @internal */
  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /**
   * Store a secret as its next version. The last 10 versions are kept.
   *
   * @throws ConflictError if it is not at the version that is expected.
   */
  async set(
    name: string,
    value: string,
    { expectedVersion, ...options }: SecretSetOptions = {},
  ): Promise<StoredSecret> {
    const call = { method: 'PUT', body: { value, expectedVersion }, confidential: 'secret' } as const;
    return this.#transport.inProject(path`/secrets/${name}`, STORED, options, call);
  }

  /**
   * The plain value, of the current version or of an earlier one.
   *
   * @throws NotFoundError if there is no such secret or version.
   * @throws DataLossError if what is stored cannot be opened, or is not what was set.
   */
  async get(name: string, { version, ...options }: SecretGetOptions = {}): Promise<string> {
    const call = { query: { version }, confidential: 'secret' } as const;
    return this.#transport.inProject(path`/secrets/${name}`, field<string>('value', 'string'), options, call);
  }

  /** The names in alphabetical order. */
  list(options?: ProjectCallOptions): Promise<string[]> {
    return this.#transport.inProject('/secrets', field<string[]>('names', 'list'), options);
  }

  /**
   * What is known of a secret, never its value.
   *
   * @throws NotFoundError if there is no such secret.
   */
  async metadata(name: string, options?: ProjectCallOptions): Promise<SecretMetadata> {
    const read = message<SecretMetadata>({ version: 'number' });
    return this.#transport.inProject(path`/secrets/${name}/metadata`, read, options);
  }

  /**
   * The versions that are kept, newest first, never their values.
   *
   * @throws NotFoundError if there is no such secret.
   */
  async versions(name: string, options?: ProjectCallOptions): Promise<SecretVersion[]> {
    const read = field<SecretVersion[]>('versions', 'list');
    return this.#transport.inProject(path`/secrets/${name}/versions`, read, options);
  }

  /**
   * Make the value of a version the current one again, as a new version.
   *
   * @throws NotFoundError if there is no such secret or version.
   */
  async restore(name: string, version: number, options?: ProjectCallOptions): Promise<StoredSecret> {
    const call = { method: 'POST', body: { version } } as const;
    return this.#transport.inProject(path`/secrets/${name}:restore`, STORED, options, call);
  }

  /**
   * Delete a secret with all its versions.
   *
   * @throws NotFoundError if there is no such secret.
   */
  async delete(name: string, options?: ProjectCallOptions): Promise<void> {
    return this.#transport.inProject(path`/secrets/${name}`, nothing, options, { method: 'DELETE' });
  }

  /** Seal a value without storing it. What is returned is bound to the project: no other can open it. */
  encrypt(plaintext: string, options?: ProjectCallOptions): Promise<string> {
    const call = { method: 'POST', body: { plaintext }, repeatable: true, confidential: 'secret' } as const;
    return this.#transport.inProject('/secrets:encrypt', field<string>('ciphertext', 'string'), options, call);
  }

  /**
   * Open what `encrypt` sealed for the same project.
   *
   * @throws InvalidArgumentError if it is malformed, altered, or sealed with another key or for another project.
   */
  decrypt(ciphertext: string, options?: ProjectCallOptions): Promise<string> {
    const call = { method: 'POST', body: { ciphertext }, repeatable: true, confidential: 'secret' } as const;
    return this.#transport.inProject('/secrets:decrypt', field<string>('plaintext', 'string'), options, call);
  }
}
