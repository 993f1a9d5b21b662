import { type Call, path, type Transport } from '../transport.js';
import type { ProjectCallOptions, SecretMetadata, SecretVersion, StoredSecret } from '../types.js';

/** Secrets of a project, filled into prompts as `{{secret:NAME}}`. */
export class Secrets {
  readonly #transport: Transport;

  /** @internal */
  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** Store a secret as its next version. `expectedVersion` is what it must be at now; 0: it must not exist. */
  set(
    name: string,
    value: string,
    { expectedVersion, ...options }: ProjectCallOptions & { expectedVersion?: number | undefined } = {},
  ): Promise<StoredSecret> {
    return this.#call(path`/secrets/${name}`, options, { method: 'PUT', body: { value, expectedVersion } });
  }

  /** The plain value, of the current version or of an earlier one. */
  async get(
    name: string,
    { version, ...options }: ProjectCallOptions & { version?: number | undefined } = {},
  ): Promise<string> {
    return (await this.#call<{ value: string }>(path`/secrets/${name}`, options, { query: { version } })).value;
  }

  /** The names in alphabetical order. */
  async list(options?: ProjectCallOptions): Promise<string[]> {
    return (await this.#call<{ names: string[] }>('/secrets', options)).names;
  }

  /** What is known of a secret, never its value. */
  metadata(name: string, options?: ProjectCallOptions): Promise<SecretMetadata> {
    return this.#call(path`/secrets/${name}/metadata`, options);
  }

  /** The versions that are kept, newest first, never their values. */
  async versions(name: string, options?: ProjectCallOptions): Promise<SecretVersion[]> {
    return (await this.#call<{ versions: SecretVersion[] }>(path`/secrets/${name}/versions`, options)).versions;
  }

  /** Make the value of a version the current one again, as a new version. */
  restore(name: string, version: number, options?: ProjectCallOptions): Promise<StoredSecret> {
    return this.#call(path`/secrets/${name}:restore`, options, { method: 'POST', body: { version } });
  }

  /** Delete a secret with all its versions. */
  delete(name: string, options?: ProjectCallOptions): Promise<void> {
    return this.#call(path`/secrets/${name}`, options, { method: 'DELETE' });
  }

  /** Seal a value for the project without storing it. */
  async encrypt(plaintext: string, options?: ProjectCallOptions): Promise<string> {
    const call: Call = { method: 'POST', body: { plaintext }, repeatable: true };
    return (await this.#call<{ ciphertext: string }>('/secrets:encrypt', options, call)).ciphertext;
  }

  /** Open what `encrypt` sealed for the same project. */
  async decrypt(ciphertext: string, options?: ProjectCallOptions): Promise<string> {
    const call: Call = { method: 'POST', body: { ciphertext }, repeatable: true };
    return (await this.#call<{ plaintext: string }>('/secrets:decrypt', options, call)).plaintext;
  }

  async #call<Answer>(rest: string, { projectId, ...options }: ProjectCallOptions = {}, call?: Call): Promise<Answer> {
    const id = await this.#transport.project(projectId, options);
    return this.#transport.call(path`/api/v1/projects/${id}` + rest, options, call);
  }
}
