/** gRPC-Web for those who want the generated stubs of `cloutagent/v1` in place of the client. */
import type { Transport } from '@connectrpc/connect';
import { createGrpcWebTransport } from '@connectrpc/connect-web';
import { endpointOf } from './address.js';
import { Credentials } from './credentials.js';

/** How a transport is made. */
export interface TransportOptions {
  /** As that of CloutAgentClient. */
  baseURL?: string | undefined;
  /** The API key, or what returns it for each call. Default: as of CloutAgentClient. */
  apiKey?: string | (() => string) | undefined;
  /** Milliseconds that a call may take unless it says otherwise. Default: as long as it takes, which a watch needs. */
  timeout?: number | undefined;
  /** What is called in place of the global `fetch`. */
  fetch?: typeof fetch | undefined;
  /** Whether the key may go to another machine without TLS. Default: it may not. */
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
  const keyed = (key: string | undefined, storage?: null) =>
    new Credentials(endpoint, key, storage, allowPlaintextKey).headers();
  // A fixed key is looked at now, so that a faulty one is told at once.
  const headers = typeof apiKey === 'function' ? () => keyed(apiKey(), null) : always(keyed(apiKey));
  return createGrpcWebTransport({
    baseUrl: endpoint.root,
    ...(timeout !== undefined && { defaultTimeoutMs: timeout }),
    fetch: (input, init) =>
      (options.fetch ?? globalThis.fetch)(input, { ...init, redirect: 'error', credentials: 'omit' }),
    interceptors: [
      (next) => (request) => {
        for (const [name, value] of Object.entries(headers())) {
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
