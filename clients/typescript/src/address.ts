import { ConfigurationError } from './errors.js';

/** Where a server is. */
export interface Endpoint {
  /** What paths are put behind; has no slash at its end. */
  readonly root: string;
  /** Whether nobody on the way can read what goes there: TLS, or this machine. */
  readonly confidential: boolean;
}

const DEFAULT_ADDRESS = 'http://127.0.0.1:3001';

// URLs take it for a host without a scheme, whichever way the slashes lean, and drop the white space between them.
const ANOTHER_HOST = /^[/\\][\t\n\r]*[/\\]/;

/**
 * The endpoint of a base URL: `https://host[:port]`, or a path of the page's own server such as `/api/v1`. A path in front
 * of `/api` is kept; without a scheme it is plain on loopback and TLS elsewhere.
 *
 * @throws ConfigurationError if it is no such URL.
 */
export function endpointOf(baseURL: string | undefined): Endpoint {
  const page = pageOrigin();
  const given = (baseURL ?? page ?? environment('CLOUTAGENT_ADDRESS') ?? DEFAULT_ADDRESS).trim();
  if (ANOTHER_HOST.test(given)) {
    throw malformed('what begins with // is no path of the page’s own server');
  }
  const url = parsed(withScheme(given), page);
  if (url.protocol !== 'http:' && url.protocol !== 'https:') {
    throw malformed('it begins with https:// or http://, or is a path of the page’s own server');
  }
  if (url.username || url.password || url.search || url.hash) {
    throw malformed('it has no user, query or fragment; the API key is an option of its own');
  }
  const path = url.pathname.replace(/\/+$/, '').replace(/\/api(\/v1)?$/, '');
  return { root: url.origin + path, confidential: url.protocol === 'https:' || isLoopback(url.hostname) };
}

/** A variable of the environment, where there is one. */
export function environment(name: string): string | undefined {
  const { process } = globalThis as { process?: { env?: Record<string, string | undefined> } };
  return process?.env?.[name] || undefined;
}

function pageOrigin(): string | undefined {
  const { location } = globalThis as { location?: { origin?: string } };
  return location?.origin?.startsWith('http') ? location.origin : undefined;
}

function withScheme(address: string): string {
  if (address.startsWith('/') || /^[a-z][a-z0-9+.-]*:(?!\d)/i.test(address)) {
    return address;
  }
  const host = /^(\[[^\]]*\]|[^:/]*)/.exec(address)?.[0] ?? '';
  return `${isLoopback(host) ? 'http' : 'https'}://${address}`;
}

function parsed(address: string, page: string | undefined): URL {
  try {
    return new URL(address, page);
  } catch {
    throw malformed(address.startsWith('/') ? 'a path alone is enough only in a page' : 'it is no URL');
  }
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host.endsWith('.localhost') || host === '[::1]' || /^127(\.\d{1,3}){3}$/.test(host);
}

function malformed(why: string): ConfigurationError {
  return new ConfigurationError(`the base URL is malformed: ${why}`);
}
