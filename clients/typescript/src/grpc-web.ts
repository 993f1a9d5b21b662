/** gRPC-Web for those who want the generated stubs of `cloutagent/v1` in place of the client. */
import type { Transport } from '@connectrpc/connect';
import { createGrpcWebTransport } from '@connectrpc/connect-web';
import { endpointOf } from './address.js';
import { type Confidential, Credentials } from './credentials.js';

// Methods that send or are answered what nobody on the way may read, also where no key goes with them.
const CONFIDENTIAL: Readonly<Record<string, Confidential | undefined>> = {
  CreateProject: 'API key',
  CreateApiKey: 'API key',
  RotateApiKey: 'API key',
  SetSecret: 'secret',
  GetSecret: 'secret',
  Encrypt: 'secret',
  Decrypt: 'secret',
};

/** How a transport is made. */
export interface TransportOptions {
  /** As that of CloutAgentClient. Default: the same. */
  baseURL?: string | undefined;
  /** The API key, or what returns it for each call. Default: as of CloutAgentClient. */
  apiKey?: string | (() => string) | undefined;
  /** Milliseconds that a call may take unless it says otherwise. Default: as long as it takes, which a watch needs. */
  timeout?: number | undefined;
  /** What is called in place of the global `fetch`. Default: that. */
  fetch?: typeof fetch | undefined;
  /** As that of CloutAgentClient. Default: false. */
  allowPlaintextKey?: boolean | undefined;
}

/**
 * A transport for clients that `createClient` of `@connectrpc/connect` makes. Each call carries the key. It tries
 * nothing again, and a watch ends with its connection: `after_sequence` goes on.
 *
 * @throws ConfigurationError if the address is malformed, or the key would go to another machine in plain text.
 */
export function createTransport(options: TransportOptions = {}): Transport {
  const { apiKey, timeout, allowPlaintextKey = false } = options;
  const endpoint = endpointOf(options.baseURL);
  const keyed = (key: string | undefined, storage?: null) => {
    const credentials = new Credentials(endpoint, key, storage, allowPlaintextKey);
    return { credentials, headers: credentials.headers() };
  };
  // A fixed key is looked at now, so that a faulty one is told at once.
  const current = typeof apiKey === 'function' ? () => keyed(apiKey(), null) : always(keyed(apiKey));
  return createGrpcWebTransport({
    baseUrl: endpoint.root,
    ...(timeout !== undefined && { defaultTimeoutMs: timeout }),
    fetch: (input, init) =>
      (options.fetch ?? globalThis.fetch)(input, { ...init, redirect: 'error', credentials: 'omit' }),
    interceptors: [
      (next) => (request) => {
        const { credentials, headers } = current();
        const confidential = CONFIDENTIAL[request.method.name];
        if (confidential !== undefined) {
          credentials.requireConfidential(confidential);
        }
        for (const [name, value] of Object.entries(headers)) {
          request.header.set(name, value);
        }
        return next(request);
      },
    ],
  });
}

function always<T>(value: T): () => T {
  return () => value;
}
