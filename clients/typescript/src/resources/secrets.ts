import { field, message, nothing } from '../answer.js';
import { path } from '../request.js';
import type { Transport } from '../transport.js';
import type { ProjectCallOptions, SecretMetadata, SecretVersion, StoredSecret } from '../types.js';

const STORED = message<StoredSecret>({ version: 'number' });

/** Secrets of a project, filled into prompts as `{{secret:NAME}}`. */
export class Secrets {
  readonly #transport: Transport;

  /** @internal */
  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** Store a secret as its next version. `expectedVersion` is what it must be at now; 0: it must not exist. */
  async set(
    name: string,
    value: string,
    { expectedVersion, ...options }: ProjectCallOptions & { expectedVersion?: number | undefined } = {},
  ): Promise<StoredSecret> {
    const call = { method: 'PUT', body: { value, expectedVersion }, confidential: 'secret' } as const;
    return this.#transport.inProject(path`/secrets/${name}`, STORED, options, call);
  }

  /** The plain value, of the current version or of an earlier one. */
  async get(
    name: string,
    { version, ...options }: ProjectCallOptions & { version?: number | undefined } = {},
  ): Promise<string> {
    const call = { query: { version }, confidential: 'secret' } as const;
    return this.#transport.inProject(path`/secrets/${name}`, field<string>('value', 'string'), options, call);
  }

  /** The names in alphabetical order. */
  list(options?: ProjectCallOptions): Promise<string[]> {
    return this.#transport.inProject('/secrets', field<string[]>('names', 'list'), options);
  }

  /** What is known of a secret, never its value. */
  async metadata(name: string, options?: ProjectCallOptions): Promise<SecretMetadata> {
    const read = message<SecretMetadata>({ version: 'number' });
    return this.#transport.inProject(path`/secrets/${name}/metadata`, read, options);
  }

  /** The versions that are kept, newest first, never their values. */
  async versions(name: string, options?: ProjectCallOptions): Promise<SecretVersion[]> {
    const read = field<SecretVersion[]>('versions', 'list');
    return this.#transport.inProject(path`/secrets/${name}/versions`, read, options);
  }

  /** Make the value of a version the current one again, as a new version. */
  async restore(name: string, version: number, options?: ProjectCallOptions): Promise<StoredSecret> {
    const call = { method: 'POST', body: { version } } as const;
    return this.#transport.inProject(path`/secrets/${name}:restore`, STORED, options, call);
  }

  /** Delete a secret with all its versions. */
  async delete(name: string, options?: ProjectCallOptions): Promise<void> {
    return this.#transport.inProject(path`/secrets/${name}`, nothing, options, { method: 'DELETE' });
  }

  /** Seal a value for the project without storing it. */
  encrypt(plaintext: string, options?: ProjectCallOptions): Promise<string> {
    const call = { method: 'POST', body: { plaintext }, repeatable: true, confidential: 'secret' } as const;
    return this.#transport.inProject('/secrets:encrypt', field<string>('ciphertext', 'string'), options, call);
  }

  /** Open what `encrypt` sealed for the same project. */
  decrypt(ciphertext: string, options?: ProjectCallOptions): Promise<string> {
    const call = { method: 'POST', body: { ciphertext }, repeatable: true, confidential: 'secret' } as const;
    return this.#transport.inProject('/secrets:decrypt', field<string>('plaintext', 'string'), options, call);
  }
}
