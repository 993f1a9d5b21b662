import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import {
  CloutAgentClient,
  DeadlineExceededError,
  type ExecutionEvent,
  InternalError,
  NotFoundError,
  OutOfRangeError,
  UnavailableError,
  type WatchOptions,
} from '../../src/index.js';
import {
  type Answer,
  empty,
  FakeServer,
  failure,
  frame,
  json,
  later,
  silence,
  stream,
  unreachable,
} from './fake_server.js';

const QUEUED = frame(1, 'queued', { position: 0 });
const STARTED = frame(2, 'started', { model: 'm' });
const TEXT = frame(3, 'text_delta', { text: 'hi' });
const COMPLETED = frame(4, 'completed', { result: 'hi', duration: 5 });

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

function made(...answers: Answer[]): { client: CloutAgentClient; server: FakeServer } {
  const server = new FakeServer(...answers);
  const options = { fetch: server.fetch, apiKey: 'cla_1', projectId: 'p1', storage: null };
  return { client: new CloutAgentClient('https://api.example', options), server };
}

interface Followed {
  sequences: number[];
  events: ExecutionEvent[];
  error?: unknown;
  took: number;
}

/** All that a watch tells until its end. */
async function followed(client: CloutAgentClient, options: WatchOptions = {}): Promise<Followed> {
  const start = performance.now();
  const told: Followed = { sequences: [], events: [], took: 0 };
  const following = (async () => {
    try {
      for await (const event of client.watchExecution('e1', options)) {
        told.sequences.push(event.sequence);
        told.events.push(event);
      }
    } catch (error) {
      told.error = error;
    }
    told.took = performance.now() - start;
  })();
  await vi.runAllTimersAsync();
  await following;
  return told;
}

/** What each request said that it has. */
function cursors(server: FakeServer): (string | null)[] {
  return server.asked.map(({ headers }) => headers.get('last-event-id'));
}

describe('a watch', () => {
  test('ends at the last event, and asks for nothing more', async () => {
    const { client, server } = made(stream('falls silent', QUEUED + STARTED, TEXT + COMPLETED));
    const { sequences, events, error } = await followed(client);
    expect([sequences, error]).toEqual([[1, 2, 3, 4], undefined]);
    expect(events[2]).toMatchObject({ kind: 'text_delta', executionId: 'e1', textDelta: { text: 'hi' } });
    expect(server.paths).toEqual(['/api/v1/executions/e1/stream']);
    expect(server.asked[0]?.headers.get('accept')).toBe('text/event-stream');
    expect(server.asked[0]?.init.signal?.aborted).toBe(true);
  });

  test.each(['failed', 'cancelled'])('ends at the event %s', async (kind) => {
    const { client } = made(stream('falls silent', frame(1, kind)));
    expect((await followed(client)).sequences).toEqual([1]);
  });

  test('goes on behind what it has, whatever becomes of the connection', async () => {
    const { client, server } = made(
      stream('is cut', QUEUED, STARTED.slice(0, 30)),
      unreachable,
      failure(503, 14, undefined, { headers: { 'retry-after': '1' } }),
      stream('ends', ': alive\n\n'),
      stream('ends', STARTED),
      stream('falls silent', TEXT),
      stream('ends', COMPLETED),
    );
    expect((await followed(client)).sequences).toEqual([1, 2, 3, 4]);
    expect(cursors(server)).toEqual([null, '1', '1', '1', '1', '2', '3']);
  });

  test('tells each event once, also if the server repeats some', async () => {
    const { client } = made(stream('is cut', QUEUED + STARTED), stream('ends', QUEUED + STARTED + TEXT + COMPLETED));
    expect((await followed(client)).sequences).toEqual([1, 2, 3, 4]);
  });

  test('begins behind an event', async () => {
    const { client, server } = made(stream('ends', COMPLETED));
    expect((await followed(client, { afterSequence: 3 })).sequences).toEqual([4]);
    expect(cursors(server)).toEqual(['3']);
  });

  test('of what has ended behind its last event is empty', async () => {
    const { client } = made(empty);
    const { sequences, error, took } = await followed(client, { afterSequence: 4 });
    expect([sequences, error, took]).toEqual([[], undefined, 0]);
  });

  test('passes over kinds, fields and heartbeats that it does not know, and ends behind them', async () => {
    const odd = frame(2, 'hologram', { depth: 3 });
    const heartbeat = frame(2, 'heartbeat');
    const { client, server } = made(
      stream('ends', QUEUED + odd + heartbeat + frame(3, 'text_delta', { text: 'a', tone: 'calm' })),
      stream('ends', frame(4, 'dissolved')),
      empty,
    );
    const { sequences, events } = await followed(client);
    expect(sequences).toEqual([1, 3]);
    expect(events[1]).toMatchObject({ textDelta: { text: 'a', tone: 'calm' } });
    expect(cursors(server)).toEqual([null, '3', '4']);
  });

  test('tells how far it has come', async () => {
    const { client } = made(stream('falls silent', QUEUED + STARTED));
    const watch = client.watchExecution('e1', { afterSequence: 0 });
    expect(watch.lastSequence).toBe(0);
    await watch.next();
    expect(watch.lastSequence).toBe(1);
    await watch.return();
  });
});

describe('a connection that falls silent', () => {
  test('is given up after 40 seconds, as a watch that waits for its first event', async () => {
    const { client } = made(stream('falls silent', QUEUED), stream('ends', STARTED + TEXT + COMPLETED));
    const { sequences, took } = await followed(client);
    expect(sequences).toEqual([1, 2, 3, 4]);
    expect(took).toBeGreaterThanOrEqual(40_000);
    expect(took).toBeLessThan(41_000);
  });

  test('is alive as long as a comment comes', async () => {
    let controller: ReadableStreamDefaultController<Uint8Array> | undefined;
    const body = new ReadableStream<Uint8Array>({
      start(given) {
        controller = given;
      },
    });
    const { client, server } = made(() => new Response(body, { headers: { 'content-type': 'text/event-stream' } }));
    const sequences: number[] = [];
    const following = (async () => {
      for await (const event of client.watchExecution('e1')) {
        sequences.push(event.sequence);
      }
    })();
    for (let beats = 0; beats < 20; beats += 1) {
      await vi.advanceTimersByTimeAsync(0);
      controller?.enqueue(new TextEncoder().encode(':\n'));
      await vi.advanceTimersByTimeAsync(15_000);
    }
    controller?.enqueue(new TextEncoder().encode(frame(1, 'completed')));
    await following;
    expect([sequences, server.asked.length]).toEqual([[1], 1]);
  });

  test('is not one that is read slowly', async () => {
    const { client, server } = made(stream('ends', QUEUED + STARTED, TEXT + COMPLETED));
    const watch = client.watchExecution('e1');
    await watch.next();
    await vi.advanceTimersByTimeAsync(600_000);
    const rest = [];
    for await (const event of watch) {
      rest.push(event.sequence);
    }
    expect([rest, server.asked.length]).toEqual([[2, 3, 4], 1]);
  });
});

describe('a watch fails', () => {
  test.each([
    ['for what is not there', failure(404, 5, 'EXECUTION_NOT_FOUND'), NotFoundError],
    ['for events that were trimmed', failure(400, 11, 'CURSOR_OUT_OF_RANGE'), OutOfRangeError],
    ['for what is no stream', json({ fine: true }), InternalError],
    ['for an event that makes no sense', stream('ends', 'event: message\ndata: {"a": \n\n'), InternalError],
    ['for an event that is none', stream('ends', 'event: message\ndata: 7\n\n'), InternalError],
  ] as const)('%s', async (_, answer, kind) => {
    const { client, server } = made(answer);
    const { error } = await followed(client);
    expect(error).toBeInstanceOf(kind);
    expect(server.asked.length).toBe(1);
  });

  test('with an error inside of the stream', async () => {
    const detail = { '@type': 'type.googleapis.com/google.rpc.ErrorInfo', domain: 'cloutagent', reason: 'GONE' };
    const data = JSON.stringify({ code: 5, message: 'it is gone', details: [detail] });
    const { client } = made(stream('ends', `${QUEUED}event: error\ndata: ${data}\n\n`));
    const { sequences, error } = await followed(client);
    expect(sequences).toEqual([1]);
    expect(error).toBeInstanceOf(NotFoundError);
    expect(error).toMatchObject({ status: 404, reason: 'GONE', message: 'it is gone' });
  });

  test('not for an error inside of the stream that passes by', async () => {
    const data = '{"code": 14, "message": "the server stops", "details": []}';
    const { client } = made(stream('ends', `event: error\ndata: ${data}\n\n`), stream('ends', COMPLETED));
    expect((await followed(client)).sequences).toEqual([4]);
  });

  test('after six attempts if it was never connected', async () => {
    const { client, server } = made(unreachable);
    expect((await followed(client)).error).toBeInstanceOf(UnavailableError);
    expect(server.asked.length).toBe(6);
  });

  test('after 5 minutes without an answer if it was connected', async () => {
    const { client, server } = made(stream('is cut', QUEUED), unreachable);
    const { error, took } = await followed(client);
    expect(error).toBeInstanceOf(UnavailableError);
    expect(took).toBeGreaterThan(299_000);
    expect(took).toBeLessThan(310_000);
    expect(server.asked.length).toBeGreaterThan(60);
  });

  test('after 5 minutes of answers that are none', async () => {
    const refusal = stream('ends', 'event: error\ndata: {"code": 14, "message": "the server stops"}\n\n');
    const { client, server } = made(stream('is cut', QUEUED), refusal);
    const { error, took } = await followed(client);
    expect(error).toMatchObject({ code: 'UNAVAILABLE', message: 'the server stops' });
    expect(took).toBeGreaterThan(299_000);
    expect(took).toBeLessThan(310_000);
    expect(server.asked.length).toBeLessThan(150);
  });

  test('not for connections that bring nothing new, if each of them lasts', async () => {
    const quiet: Answer = () => {
      const body = new ReadableStream<Uint8Array>({
        start(controller) {
          controller.enqueue(new TextEncoder().encode(':\n'));
          setTimeout(() => controller.error(new TypeError('terminated')), 10_000);
        },
      });
      return new Response(body, { headers: { 'content-type': 'text/event-stream' } });
    };
    const { client } = made(stream('is cut', QUEUED), ...Array(50).fill(quiet), stream('ends', COMPLETED));
    const { sequences, took } = await followed(client);
    expect(sequences).toEqual([1, 4]);
    expect(took).toBeGreaterThan(500_000);
    expect(took).toBeLessThan(510_000);
  });

  test('after six attempts if it was never connected, and no day’s pause that the server asks for', async () => {
    const { client, server } = made(failure(503, 14, undefined, { headers: { 'retry-after': '86400' } }));
    const { error, took } = await followed(client);
    expect(error).toBeInstanceOf(UnavailableError);
    expect(took).toBeLessThanOrEqual(300_000 + 5 * 5_000);
    expect(server.asked.length).toBe(6);
  });

  test('when its time is up, in a connection or a pause', async () => {
    const connected = await followed(made(stream('falls silent', QUEUED)).client, { timeout: 30_000 });
    expect(connected.error).toBeInstanceOf(DeadlineExceededError);
    expect([connected.sequences, connected.took]).toEqual([[1], 30_000]);
    const away = await followed(made(stream('is cut', QUEUED), unreachable).client, { timeout: 30_000 });
    expect(away.error).toBeInstanceOf(DeadlineExceededError);
    expect(away.took).toBeLessThanOrEqual(30_000);
  });
});

describe('leaving a watch', () => {
  test('ends its request', async () => {
    const { client, server } = made(stream('falls silent', QUEUED));
    for await (const _ of client.watchExecution('e1')) {
      break;
    }
    expect(server.asked[0]?.init.signal?.aborted).toBe(true);
  });

  test('ends the wait for the next event', async () => {
    const { client } = made(stream('falls silent', QUEUED));
    const watch = client.watchExecution('e1');
    await watch.next();
    const waiting = watch.next();
    await watch.return();
    expect(await waiting).toEqual({ value: undefined, done: true });
    expect(await watch.next()).toEqual({ value: undefined, done: true });
  });

  test('ends the pause before the next connection', async () => {
    const { client, server } = made(stream('is cut', QUEUED), unreachable);
    const watch = client.watchExecution('e1');
    await watch.next();
    const waiting = watch.next();
    await vi.advanceTimersByTimeAsync(1);
    await watch.return();
    expect((await waiting).done).toBe(true);
    const { length } = server.asked;
    await vi.runAllTimersAsync();
    expect(server.asked.length).toBe(length);
  });

  test('by a signal throws its reason', async () => {
    const { client } = made(stream('falls silent', QUEUED));
    const controller = new AbortController();
    const reason = new Error('enough');
    setTimeout(() => controller.abort(reason), 1000);
    expect(await followed(client, { signal: controller.signal })).toMatchObject({ error: reason, sequences: [1] });
  });
});

describe('a watch of usage', () => {
  const report = (cost: number) =>
    `event: usage\ndata: ${JSON.stringify({ time: '2026-01-31T00:00:00Z', report: { from: 'a', sum: { totalCost: cost } } })}\n\n`;

  test('tells each report once, over cuts', async () => {
    const { client, server } = made(
      stream('is cut', report(1), report(1)),
      stream('falls silent', report(1) + report(2)),
    );
    const costs: (number | undefined)[] = [];
    const following = (async () => {
      for await (const { sum } of client.usage.watch({ from: '2026-01-01' })) {
        costs.push(sum?.totalCost);
        if (costs.length === 2) {
          break;
        }
      }
    })();
    await vi.runAllTimersAsync();
    await following;
    expect(costs).toEqual([1, 2]);
    const asked = '/api/v1/projects/p1/usage/stream?from=2026-01-01';
    expect(server.paths).toEqual([asked, asked]);
  });
});

test('a watch of usage that is told of nothing is given up', async () => {
  const { client, server } = made(empty);
  const waiting = client.usage.watch().next();
  const refused = expect(waiting).rejects.toBeInstanceOf(UnavailableError);
  await vi.runAllTimersAsync();
  await refused;
  expect(server.asked.length).toBe(6);
});

describe('a watch of usage that has to ask for its project', () => {
  const asking = () => {
    const { fetch } = new FakeServer(silence);
    return new CloutAgentClient('https://api.example', { fetch, apiKey: 'cla_1', storage: null });
  };

  test('does so in its time', async () => {
    const waiting = asking().usage.watch({ timeout: 1000 }).next();
    const refused = expect(waiting).rejects.toBeInstanceOf(DeadlineExceededError);
    await vi.advanceTimersByTimeAsync(1000);
    await refused;
    expect(vi.getTimerCount()).toBe(0);
  });

  test('can be left meanwhile', async () => {
    const watch = asking().usage.watch();
    const waiting = watch.next();
    await vi.advanceTimersByTimeAsync(1);
    await watch.return();
    expect(await waiting).toEqual({ value: undefined, done: true });
    expect(vi.getTimerCount()).toBe(0);
  });
});

describe('a run', () => {
  const started = json({ execution: { id: 'e1', status: 'queued', lastSequence: 1 } }, 201);
  const done = json({ execution: { id: 'e1', status: 'completed', result: 'hi' } });

  test('is a start, a watch and a read', async () => {
    const { client, server } = made(started, stream('ends', STARTED + TEXT + COMPLETED), done);
    expect(await client.executions.run('Hi')).toMatchObject({ status: 'completed', result: 'hi' });
    expect(server.paths).toEqual([
      '/api/v1/projects/p1/executions',
      '/api/v1/executions/e1/stream',
      '/api/v1/executions/e1',
    ]);
    expect(cursors(server)).toEqual([null, '1', null]);
  });

  test.each([0, 1, 5])('is returned by who has no patience with outages: %i milliseconds', async (outage) => {
    const { fetch } = new FakeServer(started, stream('ends', STARTED + TEXT + COMPLETED), later(50, done));
    const client = new CloutAgentClient('https://api.example', { fetch, projectId: 'p1', retry: { outage } });
    const running = client.executions.run('Hi');
    await vi.advanceTimersByTimeAsync(50);
    expect(await running).toMatchObject({ status: 'completed' });
  });

  test('that had ended, as for an idempotency key, is returned at once', async () => {
    const { client, server } = made(done);
    expect(await client.executions.run('Hi', { idempotencyKey: 'k' })).toMatchObject({ result: 'hi' });
    expect(server.asked.length).toBe(1);
  });

  test('is told by its id when the wait for it fails', async () => {
    const { client } = made(started, failure(404, 5, 'EXECUTION_NOT_FOUND'));
    await expect(client.executions.run('Hi')).rejects.toMatchObject({ executionId: 'e1', status: 404 });
  });

  test('is told when it was started, so that a signal does not lose it', async () => {
    const { client } = made(started, stream('falls silent', STARTED));
    const controller = new AbortController();
    const told: string[] = [];
    const onStarted = ({ id }: { id: string }) => told.push(id);
    const running = client.executions.run('Hi', { onStarted, signal: controller.signal });
    const ended = expect(running).rejects.toBe('enough');
    await vi.advanceTimersByTimeAsync(1);
    expect(told).toEqual(['e1']);
    controller.abort('enough');
    await ended;
  });

  test('takes no longer than its timeout', async () => {
    const { client } = made(started, stream('falls silent', STARTED));
    const running = client.executions.run('Hi', { timeout: 5000 }).catch((error: unknown) => error);
    await vi.advanceTimersByTimeAsync(5001);
    expect(await running).toBeInstanceOf(DeadlineExceededError);
  });
});
