import { field, message } from '../answer.js';
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
    return this.#transport.call('/api/health', message<Health>({ status: 'string' }), options);
  }

  /** The models that an agent may use, with their list prices. */
  models(options?: CallOptions): Promise<Model[]> {
    return this.#transport.call('/api/v1/models', field<Model[]>('models', 'list'), options);
  }
}
