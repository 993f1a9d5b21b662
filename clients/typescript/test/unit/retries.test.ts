import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { CloutAgentClient, ConfigurationError, DeadlineExceededError, UnavailableError } from '../../src/index.js';
import { type Answer, FakeServer, failure, json, later, silence, unreachable } from './fake_server.js';

const AGENT = { name: 'helper', systemPrompt: 'You help.', model: 'claude-sonnet-4-5' };
const fine = json({ execution: { id: 'e1', status: 'queued' }, project: { id: 'p1' }, models: [] });

beforeEach(() => {
  vi.useFakeTimers();
  vi.spyOn(Math, 'random').mockReturnValue(1);
});
afterEach(() => {
  vi.useRealTimers();
});

function made(...answers: Answer[]): { client: CloutAgentClient; server: FakeServer } {
  const server = new FakeServer(...answers);
  const options = { fetch: server.fetch, apiKey: 'cla_1', projectId: 'p1', storage: null };
  return { client: new CloutAgentClient('https://api.example', options), server };
}

/** How a promise ends, once nothing is left to wait for. */
async function ended<T>(promise: Promise<T>): Promise<{ value?: T; error?: unknown; took: number }> {
  const start = performance.now();
  const settled = promise.then(
    (value) => ({ value, took: performance.now() - start }),
    (error: unknown) => ({ error, took: performance.now() - start }),
  );
  await vi.runAllTimersAsync();
  return settled;
}

describe('a read', () => {
  test('is made again, after pauses that double', async () => {
    const { client, server } = made(unreachable, failure(503, 14), fine);
    const { value, took } = await ended(client.system.models());
    expect(value).toEqual([]);
    expect(took).toBe(100 + 200);
    const ids = server.asked.map(({ headers }) => headers.get('x-request-id'));
    expect(new Set(ids).size).toBe(1);
  });

  test('is given up after six attempts', async () => {
    const { client, server } = made(unreachable);
    const { error, took } = await ended(client.system.models());
    expect(error).toBeInstanceOf(UnavailableError);
    expect([server.asked.length, took]).toEqual([6, 100 + 200 + 400 + 800 + 1600]);
  });

  test('waits as long as the server asks for', async () => {
    const { client } = made(failure(429, 8, 'RATE_LIMITED', { headers: { 'retry-after': '4' } }), fine);
    expect(await ended(client.system.models())).toMatchObject({ value: [], took: 5000 });
  });

  test.each([
    ['what was refused', failure(404, 5, 'PROJECT_NOT_FOUND')],
    ['a full queue without a time', failure(429, 8, 'QUEUE_FULL')],
    ['a fault of the server', failure(500, 13, 'INTERNAL_ERROR')],
    ['what is no API', () => new Response('<html>')],
  ])('is not made again for %s', async (_, answer) => {
    const { client, server } = made(answer);
    expect((await ended(client.system.models())).error).toBeDefined();
    expect(server.asked.length).toBe(1);
  });

  test('is made again if its answer is cut', async () => {
    const cut = () => new Response('{"models": [', { headers: { 'content-type': 'application/json' } });
    const { client, server } = made(cut, fine);
    expect((await ended(client.system.models())).value).toEqual([]);
    expect(server.asked.length).toBe(2);
  });

  test('begins no pause that its time is too short for', async () => {
    const { client, server } = made(failure(503, 14, 'SERVER_UNAVAILABLE', { retryDelay: '60s' }), fine);
    const { error, took } = await ended(client.system.models());
    expect(error).toBeInstanceOf(UnavailableError);
    expect([server.asked.length, took]).toEqual([1, 0]);
  });
});

describe('a write', () => {
  test.each<[string, (client: CloutAgentClient) => Promise<unknown>]>([
    ['createProject', (client) => client.createProject({ name: 'n', agent: AGENT })],
    ['projects.update', (client) => client.projects.update({ name: 'n' })],
    ['secrets.set', (client) => client.secrets.set('A', 'b')],
    ['keys.create', (client) => client.keys.create({ name: 'ci' })],
    ['executions.delete', (client) => client.executions.delete('e1')],
  ])('is made once: %s', async (_, use) => {
    const { client, server } = made(unreachable);
    expect((await ended(use(client))).error).toBeInstanceOf(UnavailableError);
    expect(server.asked.length).toBe(1);
  });

  test('that starts a run is repeated with the same key', async () => {
    const { client, server } = made(unreachable, unreachable, fine);
    expect((await ended(client.executions.start('Hi'))).value).toMatchObject({ id: 'e1' });
    const keys = server.asked.map(({ body }) => (body as { idempotencyKey: string }).idempotencyKey);
    expect([keys.length, new Set(keys).size]).toEqual([3, 1]);
    expect(keys[0]).toMatch(/^[0-9a-f]{32}$/);
  });

  test('that starts a run tells its key when it fails', async () => {
    const { client, server } = made(unreachable);
    const { error } = await ended(client.executions.start('Hi'));
    expect(error).toMatchObject({
      idempotencyKey: (server.asked[0]?.body as { idempotencyKey: string } | undefined)?.idempotencyKey,
    });
  });

  test('that cancels is repeated', async () => {
    const { client } = made(unreachable, fine);
    expect((await ended(client.executions.cancel('e1'))).value).toMatchObject({ id: 'e1' });
  });
});

describe('the time of a call', () => {
  test('is 30 seconds', async () => {
    const { client } = made(silence);
    const { error, took } = await ended(client.system.models());
    expect(error).toBeInstanceOf(DeadlineExceededError);
    expect([took, (error as DeadlineExceededError).code]).toEqual([30_000, 'DEADLINE_EXCEEDED']);
  });

  test('may be its own, and holds for its attempts together', async () => {
    const { client, server } = made(unreachable, silence);
    const { error, took } = await ended(client.system.models({ timeout: 1000 }));
    expect(error).toBeInstanceOf(DeadlineExceededError);
    expect([server.asked.length, took]).toEqual([2, 1000]);
  });

  test('may be the client’s', async () => {
    const { fetch } = new FakeServer(silence);
    const client = new CloutAgentClient('https://api.example', { fetch, timeout: 50, storage: null });
    expect((await ended(client.healthCheck())).took).toBe(50);
    expect(() => new CloutAgentClient('https://api.example', { timeout: 0 })).toThrow();
  });
});

describe('the time of a call that has to ask for its project is that of both', () => {
  test.each<[string, (client: CloutAgentClient) => Promise<unknown>]>([
    ['projects.get', (client) => client.projects.get(undefined, { timeout: 1000 })],
    ['projects.update', (client) => client.projects.update({ name: 'n' }, { timeout: 1000 })],
    ['keys.list', (client) => client.keys.list({ timeout: 1000 })],
    ['secrets.set', (client) => client.secrets.set('A', 'b', { timeout: 1000 })],
    ['usage.get', (client) => client.usage.get({ timeout: 1000 })],
    ['executions.start', (client) => client.executions.start('Hi', { timeout: 1000 })],
  ])('%s', async (_, use) => {
    const { fetch } = new FakeServer(later(700, json({ project: { id: 'own' }, admin: false })), silence);
    const { error, took } = await ended(use(new CloutAgentClient('https://api.example', { fetch, storage: null })));
    expect(error).toBeInstanceOf(DeadlineExceededError);
    expect(took).toBe(1000);
  });
});

describe('time', () => {
  const never = () => new Promise<Response>(() => {});

  test.each<[string, typeof fetch]>([
    ['a fetch', never],
    ['a body', async () => ({ ok: true, status: 200, json: never }) as unknown as Response],
  ])('ends %s that does not look at its signal', async (_, fetch) => {
    const client = new CloutAgentClient('https://api.example', { fetch, storage: null });
    const { error, took } = await ended(client.system.models({ timeout: 1000 }));
    expect(error).toBeInstanceOf(DeadlineExceededError);
    expect(took).toBe(1000);
  });

  test('may be longer than a timer takes', async () => {
    const day = 86_400_000;
    const { client } = made(failure(429, 8, 'RATE_LIMITED', { retryDelay: `${30 * 86_400}s` }), later(day, fine));
    expect(await ended(client.system.models({ timeout: 60 * day }))).toMatchObject({ took: 30 * day * 1.25 + day });
  });

  test('runs for nothing that cannot be sent', async () => {
    const { client } = made(fine);
    const signal = new AbortController().signal;
    const listening = vi.spyOn(signal, 'addEventListener');
    const body = { maxTokens: 5n as unknown as number, signal };
    await expect(client.executions.start('Hi', body)).rejects.toThrow(ConfigurationError);
    expect([vi.getTimerCount(), listening.mock.calls.length]).toEqual([0, 0]);
  });
});

describe('a signal', () => {
  test('of many calls has one listener, and ends all of them', async () => {
    const { client, server } = made(silence);
    const controller = new AbortController();
    const { signal } = controller;
    const listening = vi.spyOn(signal, 'addEventListener');
    const calls = Promise.allSettled(Array.from({ length: 30 }, () => client.system.models({ signal })));
    await vi.advanceTimersByTimeAsync(0);
    expect([server.asked.length, listening.mock.calls.length]).toEqual([30, 1]);
    controller.abort('enough');
    expect(await calls).toEqual(Array(30).fill({ status: 'rejected', reason: 'enough' }));
    expect(vi.getTimerCount()).toBe(0);
  });

  test.each<[string, Answer]>([
    ['a request', silence],
    ['a pause', unreachable],
  ])('ends %s, with its own reason', async (_, answer) => {
    const { client } = made(answer);
    const controller = new AbortController();
    const reason = new Error('enough');
    setTimeout(() => controller.abort(reason), 50);
    expect(await ended(client.system.models({ signal: controller.signal }))).toMatchObject({ error: reason, took: 50 });
  });

  test('that outlasts many calls is left alone by each', async () => {
    const { signal } = new AbortController();
    let listeners = 0;
    const { addEventListener, removeEventListener } = signal;
    vi.spyOn(signal, 'addEventListener').mockImplementation((...given: Parameters<typeof addEventListener>) => {
      listeners += 1;
      addEventListener.apply(signal, given);
    });
    vi.spyOn(signal, 'removeEventListener').mockImplementation((...given: Parameters<typeof removeEventListener>) => {
      listeners -= 1;
      removeEventListener.apply(signal, given);
    });
    const { client } = made(unreachable, fine);
    await ended(client.system.models({ signal }));
    expect(vi.mocked(signal.addEventListener)).toHaveBeenCalledTimes(3);
    expect(listeners).toBe(0);
  });

  test('that is aborted already lets nothing go out', async () => {
    const { client, server } = made(fine);
    const { error } = await ended(client.system.models({ signal: AbortSignal.abort() }));
    expect([(error as Error).name, server.asked.length]).toEqual(['AbortError', 0]);
  });
});

test('a policy that cannot be kept is refused', () => {
  for (const retry of [{ attempts: 0 }, { firstDelay: 0 }, { firstDelay: 10, longestDelay: 5 }, { outage: -1 }]) {
    expect(() => new CloutAgentClient('https://api.example', { retry })).toThrow(ConfigurationError);
  }
});
