import type { Endpoint } from './address.js';
import { message, type Reading } from './answer.js';
import type { Confidential, Credentials } from './credentials.js';
import { APIError, ConfigurationError } from './errors.js';
import { failureOf, incomplete, lost, tooLate, unreachable, unreadable } from './failures.js';
import { jsonOf, newId, path, type Query, queryOf } from './request.js';
import { Attempts, type RetryPolicy } from './retry.js';
import { pause, Scope } from './scope.js';
import { messagesOf, type StreamMessage } from './stream.js';
import type { CallOptions, CurrentProject, Project, ProjectCallOptions } from './types.js';

/** One request. */
export interface Call {
  readonly method?: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  readonly query?: Query;
  /** What goes as JSON. */
  readonly body?: unknown;
  /** Whether making the call twice does no more than making it once. Default: of a GET it does not. */
  readonly repeatable?: boolean;
  /** It is made again until its time is up. */
  readonly patient?: boolean;
  /** What is in the request or its answer, beside the key that it is made with, and nobody on the way may read. */
  readonly confidential?: Confidential;
}

/** What ends a call: its options, and the end of a watch that it is made for. */
export interface Ends extends CallOptions {
  readonly ending?: AbortSignal | undefined;
}

/** Asks whose key it is. */
export const CURRENT = {
  path: '/api/v1/me',
  read(content: unknown): CurrentProject {
    const current = message<CurrentProject>({ admin: 'boolean' })(content);
    return 'project' in current
      ? { ...current, project: message<Project>({ id: 'string' })(current.project) }
      : current;
  },
};

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

  /** Make a call, and again if it may be and fails for a moment. Throws CloutAgentError. */
  async call<Answer>(path: string, read: Reading<Answer>, ends: Ends = {}, call: Call = {}): Promise<Answer> {
    const { method = 'GET', repeatable = method === 'GET', patient = false } = call;
    const attempts = new Attempts(this.retry, ends.timeout ?? this.timeout, { repeatable, patient });
    const requestId = newId();
    const signals = [ends.signal, ends.ending];
    const init: RequestInit = { method };
    if (call.body !== undefined) {
      init.body = jsonOf(call.body);
      init.headers = { 'content-type': 'application/json' };
    }
    this.#requireConfidential(call);
    for (;;) {
      try {
        const scope = new Scope(attempts.left(), ...signals);
        return await this.#once(path + queryOf(call.query), init, read, requestId, scope);
      } catch (failure) {
        if (!(failure instanceof APIError)) {
          throw failure;
        }
        await pause(attempts.pause(failure), ...signals);
      }
    }
  }

  /** Make a call below a project, the one that it is about as `project` says. Its time is that of both. */
  async inProject<Answer>(
    rest: string,
    read: Reading<Answer>,
    { projectId, ...options }: ProjectCallOptions = {},
    call: Call = {},
  ): Promise<Answer> {
    this.#requireConfidential(call);
    const end = performance.now() + (options.timeout ?? this.timeout);
    const id = await this.project(projectId, options);
    const timeout = Math.max(0, end - performance.now());
    return this.call(path`/api/v1/projects/${id}` + rest, read, { ...options, timeout }, call);
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
  async project(given: string | undefined, ends: Ends = {}): Promise<string> {
    const known = given ?? this.#projectId ?? this.#ownProject;
    if (known !== undefined) {
      return known;
    }
    const keys = this.#keys;
    const { project } = await this.call(CURRENT.path, CURRENT.read, ends);
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

  /** Before anything is sent. */
  #requireConfidential({ confidential }: Call): void {
    if (confidential !== undefined) {
      this.#credentials.requireConfidential(confidential);
    }
  }

  async #once<Answer>(
    path: string,
    init: RequestInit,
    read: Reading<Answer>,
    requestId: string,
    scope: Scope,
  ): Promise<Answer> {
    try {
      const response = await scope.until(this.#fetched(path, init, requestId, scope));
      const content = response.status === 204 ? undefined : await scope.until(contentOf(response, requestId));
      return readBy(read, content, response.status, requestId);
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

function readBy<Answer>(read: Reading<Answer>, content: unknown, status: number, requestId: string): Answer {
  try {
    return read(content);
  } catch (error) {
    throw unreadable(status, requestId, error);
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
