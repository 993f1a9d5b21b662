import type { Transport } from '../transport.js';
import type { CallOptions, Health, Model } from '../types.js';

/** The server itself. */
export class System {
  readonly #transport: Transport;

  /** @internal */
  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** That the server is up, and its version. Needs no key. */
  health(options?: CallOptions): Promise<Health> {
    return this.#transport.call('/api/health', options);
  }

  /** The models that an agent may use, with their list prices. */
  async models(options?: CallOptions): Promise<Model[]> {
    return (await this.#transport.call<{ models: Model[] }>('/api/v1/models', options)).models;
  }
}
