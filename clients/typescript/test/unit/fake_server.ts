/** A server that answers `fetch` as it is told, and remembers what it was asked. */

export interface Asked {
  readonly method: string;
  readonly url: string;
  readonly headers: Headers;
  readonly body: unknown;
  readonly init: RequestInit;
}

export type Answer = (asked: Asked) => Response | Promise<Response>;

export class FakeServer {
  readonly asked: Asked[] = [];
  readonly #answers: Answer[];

  /** One answer for each request; the last one goes on. */
  constructor(...answers: Answer[]) {
    this.#answers = answers;
  }

  readonly fetch: typeof fetch = async (input, init = {}) => {
    init.signal?.throwIfAborted();
    const body = typeof init.body === 'string' ? JSON.parse(init.body) : undefined;
    const asked = { method: init.method ?? 'GET', url: String(input), headers: new Headers(init.headers), body, init };
    this.asked.push(asked);
    const answer = this.#answers[Math.min(this.asked.length, this.#answers.length) - 1];
    if (answer === undefined) {
      throw new Error('there is no answer');
    }
    return answer(asked);
  };

  /** The paths that were asked for, with their queries. */
  get paths(): string[] {
    return this.asked.map(({ url }) => url.replace(/^https?:\/\/[^/]+/, ''));
  }
}

export function json(body: unknown, status = 200, headers: Record<string, string> = {}): Answer {
  return () =>
    new Response(JSON.stringify(body), { status, headers: { 'content-type': 'application/json', ...headers } });
}

/** 204. */
export const empty: Answer = () => new Response(null, { status: 204 });

/** As if nobody listened. */
export const unreachable: Answer = () => {
  throw new TypeError('fetch failed');
};

/** No answer until the request is ended. */
export const silence: Answer = ({ init }) =>
  new Promise((_, reject) => init.signal?.addEventListener('abort', () => reject(init.signal?.reason)));

/** The same answer after so many milliseconds. */
export function later(delay: number, answer: Answer): Answer {
  return (asked) => new Promise((resolve) => setTimeout(() => resolve(answer(asked)), delay));
}

/** An error as the API answers it. */
export function failure(
  status: number,
  code: number,
  reason?: string,
  {
    metadata = {},
    retryDelay,
    headers = {},
  }: { metadata?: object; retryDelay?: string; headers?: Record<string, string> } = {},
): Answer {
  const type = 'type.googleapis.com/google.rpc.';
  const details = [
    ...(reason ? [{ '@type': `${type}ErrorInfo`, reason, domain: 'cloutagent', metadata }] : []),
    { '@type': `${type}RequestInfo`, requestId: 'r-1' },
    ...(retryDelay ? [{ '@type': `${type}RetryInfo`, retryDelay }] : []),
  ];
  return json({ code, message: 'as told', details }, status, headers);
}

/** A text stream of these chunks, which then ends, is cut, or falls silent. */
export function stream(end: 'ends' | 'is cut' | 'falls silent', ...chunks: (string | Uint8Array)[]): Answer {
  return ({ init }) => {
    const left = chunks.map((chunk) => (typeof chunk === 'string' ? new TextEncoder().encode(chunk) : chunk));
    const body = new ReadableStream<Uint8Array>({
      start(controller) {
        init.signal?.addEventListener('abort', () => controller.error(init.signal?.reason));
      },
      pull(controller) {
        const next = left.shift();
        if (next !== undefined) {
          controller.enqueue(next);
        } else if (end === 'ends') {
          controller.close();
        } else if (end === 'is cut') {
          controller.error(new TypeError('terminated'));
        } else {
          return new Promise(() => {});
        }
        return undefined;
      },
    });
    return new Response(body, { headers: { 'content-type': 'text/event-stream' } });
  };
}

/** The frame of an event, as the server writes it. */
export function frame(sequence: number, kind: string, payload: object = {}): string {
  const field = kind.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase());
  const event = { executionId: 'e1', sequence, time: '2026-01-31T00:00:00.000Z', kind, [field]: payload };
  return `event: ${kind}\ndata: ${JSON.stringify(event)}\nid: ${sequence}\n\n`;
}
