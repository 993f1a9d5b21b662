import { ConfigurationError, InvalidArgumentError } from './errors.js';

/** What goes behind `?`. Lists are repeated, absent values left out. */
export type Query = Readonly<Record<string, string | number | readonly string[] | undefined>>;

/** A path from parts, each of which is one segment whatever is in it. Throws CloutAgentError for what can be none. */
export function path(strings: TemplateStringsArray, ...parts: string[]): string {
  return strings.reduce((made, text, index) => made + segment(parts[index - 1] ?? '') + text);
}

/** A query with its `?`; empty if there is nothing to ask. */
export function queryOf(query: Query = {}): string {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== undefined) {
        parameters.append(name, String(one));
      }
    }
  }
  const text = parameters.toString();
  return text && `?${text}`;
}

/** A body as JSON. Throws ConfigurationError for what has none, such as a bigint or a circle. */
export function jsonOf(body: unknown): string {
  return sendable('the request is no JSON', () => JSON.stringify(body));
}

/** A time as the API takes it. Throws ConfigurationError for `new Date(NaN)`. */
export function timeOf(time: Date | undefined): string | undefined {
  return sendable('a time is none', () => time?.toISOString());
}

/** An id for one call and all its attempts. `randomUUID` is missing in pages that came in plain text. */
export function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

function segment(part: string): string {
  // URLs drop these, and `%2e` for them, so that the path would be another one.
  if (part === '' || part === '.' || part === '..') {
    throw new ConfigurationError('an id or name is empty, or no name');
  }
  // Envoy refuses them in a path, and so that no page can read why.
  if (/[/\\]/.test(part)) {
    throw new InvalidArgumentError(0, 'no id or name has a slash', { code: 'INVALID_ARGUMENT' });
  }
  return sendable('an id or name is no text', () => encodeURIComponent(part));
}

function sendable<T>(otherwise: string, made: () => T): T {
  try {
    return made();
  } catch (cause) {
    throw new ConfigurationError(otherwise, { cause });
  }
}
