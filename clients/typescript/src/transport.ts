import type { Endpoint } from './address.js';
import type { Credentials } from './credentials.js';
import { APIError, ConfigurationError } from './errors.js';
import { failureOf, incomplete, lost, tooLate, unreachable, unreadable } from './failures.js';
import { Attempts, type RetryPolicy } from './retry.js';
import { pause, Scope } from './scope.js';
import { messagesOf, type StreamMessage } from './stream.js';
import type { CallOptions, CurrentProject } from './types.js';

/** One request. */
export interface Call {
  readonly method?: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  /** What goes behind `?`. Lists are repeated, absent values left out. */
  readonly query?: Readonly<Record<string, string | number | readonly string[] | undefined>>;
  /** What goes as JSON. */
  readonly body?: unknown;
  /** Whether making the call twice does no more than making it once. Default: of a GET it does not. */
  readonly repeatable?: boolean;
  /** It is made again until its time is up. */
  readonly patient?: boolean;
}

// A stream that is alive brings something every 15 seconds.
const SILENCE = 40_000;

/** Makes the calls of one client. */
export class Transport {
  readonly retry: RetryPolicy;
  readonly timeout: number;
  readonly #endpoint: Endpoint;
  readonly #credentials: Credentials;
  readonly #fetch: typeof fetch | undefined;
  readonly #projectId: string | undefined;
  #ownProject: string | undefined;
  // How many keys there were before this one.
  #keys = 0;

  constructor(
    endpoint: Endpoint,
    credentials: Credentials,
    settings: { timeout: number; retry: RetryPolicy; projectId: string | undefined; fetch: typeof fetch | undefined },
  ) {
    this.#endpoint = endpoint;
    this.#credentials = credentials;
    this.timeout = settings.timeout;
    this.retry = settings.retry;
    this.#projectId = settings.projectId;
    this.#fetch = settings.fetch;
  }

  /** Make a call, and again if it may be and fails for a moment. Throws APIError. */
  async call<Answer>(path: string, options: CallOptions = {}, call: Call = {}): Promise<Answer> {
    const repeatable = call.repeatable ?? (call.method ?? 'GET') === 'GET';
    const attempts = new Attempts(this.retry, options.timeout ?? this.timeout, {
      repeatable,
      patient: call.patient ?? false,
    });
    const requestId = newId();
    for (;;) {
      try {
        return (await this.#once(path, call, requestId, attempts.left(), options.signal)) as Answer;
      } catch (failure) {
        if (!(failure instanceof APIError)) {
          throw failure;
        }
        await pause(attempts.pause(failure), options.signal);
      }
    }
  }

  /**
   * The messages of a text stream, those that came together at a time, until the server ends it; undefined if it says
   * that there will be none. Throws APIError, also for a stream that brings nothing for 40 seconds.
   */
  async *stream(
    path: string,
    lastEventId: string | undefined,
    timeout: number | undefined,
    ...signals: (AbortSignal | undefined)[]
  ): AsyncGenerator<readonly StreamMessage[] | undefined, void, undefined> {
    const scope = new Scope(timeout, ...signals);
    const requestId = newId();
    const headers = { accept: 'text/event-stream', ...(lastEventId && { 'last-event-id': lastEventId }) };
    try {
      const response = await scope.within(SILENCE, this.#fetched(path, { headers }, requestId, scope));
      if (response.status === 204) {
        yield undefined;
        return;
      }
      if (!response.body || !response.headers.get('content-type')?.startsWith('text/event-stream')) {
        throw unreadable(response.status, requestId);
      }
      yield* messagesOf(response.body, (chunk) => scope.within(SILENCE, chunk));
    } catch (error) {
      throw this.#explained(error, scope, requestId, 'the stream was cut');
    } finally {
      scope.abort();
      scope.close();
    }
  }

  /** The project that a call is about: the one it names, the client's, or the one that the key belongs to. */
  async project(given: string | undefined, options: CallOptions = {}): Promise<string> {
    const known = given ?? this.#projectId ?? this.#ownProject;
    if (known !== undefined) {
      return known;
    }
    const keys = this.#keys;
    const { project } = await this.call<CurrentProject>('/api/v1/me', options);
    if (project === undefined) {
      throw new ConfigurationError('the admin key belongs to no project: name one by projectId');
    }
    if (keys === this.#keys) {
      this.#ownProject = project.id;
    }
    return project.id;
  }

  /** The key is another one from now on. */
  keyChanged(): void {
    this.#keys += 1;
    this.#ownProject = undefined;
  }

  async #once(path: string, call: Call, requestId: string, timeout: number, signal: AbortSignal | undefined) {
    const scope = new Scope(timeout, signal);
    const init: RequestInit = { method: call.method ?? 'GET' };
    if (call.body !== undefined) {
      init.body = JSON.stringify(call.body);
      init.headers = { 'content-type': 'application/json' };
    }
    try {
      const response = await this.#fetched(path + queryOf(call.query), init, requestId, scope);
      return response.status === 204 ? undefined : await contentOf(response, requestId);
    } catch (error) {
      // Of an answer that was read there is nothing to end, and an abort makes an error with its stack.
      scope.abort();
      throw this.#explained(error, scope, requestId, 'the answer was cut');
    } finally {
      scope.close();
    }
  }

  /** An answer of success. */
  async #fetched(path: string, init: RequestInit, requestId: string, scope: Scope): Promise<Response> {
    scope.throwIfAborted();
    const headers = { ...init.headers, ...this.#credentials.headers(), 'x-request-id': requestId };
    const send = this.#fetch ?? globalThis.fetch;
    let response: Response;
    try {
      response = await send(this.#endpoint.root + path, {
        ...init,
        headers,
        signal: scope.signal,
        cache: 'no-store',
        credentials: 'omit',
        // Another address is not the one that the key is for.
        redirect: 'manual',
      });
    } catch (error) {
      throw unreachable(requestId, error);
    }
    if (response.type === 'opaqueredirect' || (response.status >= 300 && response.status < 400)) {
      void response.body?.cancel().catch(() => undefined);
      throw new APIError(response.status, 'the server redirects, which is not followed: is this its address?', {
        requestId,
      });
    }
    if (!response.ok) {
      throw await failureOf(response, requestId);
    }
    return response;
  }

  /** What an error of fetch stands for, by what has ended it. */
  #explained(error: unknown, scope: Scope, requestId: string, how: string): unknown {
    scope.throwIfAborted();
    if (scope.timedOut) {
      return tooLate(requestId);
    }
    if (scope.silent) {
      return lost(requestId, 'the connection fell silent');
    }
    return error instanceof APIError || error instanceof ConfigurationError ? error : lost(requestId, how, error);
  }
}

async function contentOf(response: Response, requestId: string): Promise<unknown> {
  try {
    return await response.json();
  } catch (error) {
    if (!(error instanceof SyntaxError)) {
      throw error;
    }
    const isJson = response.headers?.get('content-type')?.startsWith('application/json');
    throw (isJson ? incomplete : unreadable)(response.status, requestId, error);
  }
}

/** A path from parts, each of which is one segment whatever is in it. */
export function path(strings: TemplateStringsArray, ...parts: string[]): string {
  return strings.reduce((made, text, index) => made + segment(parts[index - 1] ?? '') + text);
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
  return encodeURIComponent(part);
}

function queryOf(query: Call['query'] = {}): string {
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
