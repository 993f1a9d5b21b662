import { describe, expect, test } from 'vitest';
import { CloutAgentClient, ConfigurationError, InternalError, InvalidArgumentError } from '../../src/index.js';
import { type Answer, empty, FakeServer, json, silence } from './fake_server.js';

const PROJECT = '6d0f0000-0000-4000-8000-000000000001';

function made(...answers: Answer[]): { client: CloutAgentClient; server: FakeServer } {
  const server = new FakeServer(...answers);
  const options = { fetch: server.fetch, apiKey: 'cla_1', projectId: PROJECT, storage: null };
  return { client: new CloutAgentClient('https://api.example', options), server };
}

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const item of items) {
    found.push(item);
  }
  return found;
}

type Use = (client: CloutAgentClient) => Promise<unknown>;

const REQUESTS: readonly [string, Use, unknown, string, unknown?][] = [
  ['projects.get', (c) => c.projects.get(), { project: {} }, `GET /api/v1/projects/${PROJECT}`],
  [
    'projects.update',
    (c) => c.projects.update({ name: 'n', updateMask: ['name', 'agent.enabledTools'] }),
    { project: {} },
    `PATCH /api/v1/projects/${PROJECT}?updateMask=name%2Cagent.enabledTools`,
    { name: 'n' },
  ],
  ['projects.delete', (c) => c.projects.delete('p2'), undefined, 'DELETE /api/v1/projects/p2'],
  ['projects.exists', (c) => c.projects.exists('p2'), { exists: true }, 'GET /api/v1/projects/p2/exists'],
  ['projects.current', (c) => c.projects.current(), { admin: true }, 'GET /api/v1/me'],
  [
    'keys.create',
    (c) => c.keys.create({ name: 'ci', expiresAt: new Date(0) }),
    { key: {}, apiKey: 'cla_2' },
    `POST /api/v1/projects/${PROJECT}/keys`,
    { name: 'ci', expiresAt: '1970-01-01T00:00:00.000Z' },
  ],
  ['keys.list', (c) => c.keys.list({ projectId: 'p2' }), { keys: [] }, 'GET /api/v1/projects/p2/keys'],
  [
    'keys.rotate',
    (c) => c.keys.rotate({ keyId: 'k1', gracePeriod: 1000 }),
    { key: {}, apiKey: 'cla_2' },
    `POST /api/v1/projects/${PROJECT}/rotate-key`,
    { keyId: 'k1', gracePeriod: 1000 },
  ],
  ['keys.revoke', (c) => c.keys.revoke('k1'), undefined, `DELETE /api/v1/projects/${PROJECT}/keys/k1`],
  [
    'secrets.set',
    (c) => c.secrets.set('TOKEN', 's3cret', { expectedVersion: 0 }),
    { version: 1 },
    `PUT /api/v1/projects/${PROJECT}/secrets/TOKEN`,
    { value: 's3cret', expectedVersion: 0 },
  ],
  [
    'secrets.get',
    (c) => c.secrets.get('TOKEN', { version: 2 }),
    { value: 's3cret' },
    `GET /api/v1/projects/${PROJECT}/secrets/TOKEN?version=2`,
  ],
  ['secrets.list', (c) => c.secrets.list(), { names: [] }, `GET /api/v1/projects/${PROJECT}/secrets`],
  [
    'secrets.metadata',
    (c) => c.secrets.metadata('T'),
    { version: 1 },
    `GET /api/v1/projects/${PROJECT}/secrets/T/metadata`,
  ],
  [
    'secrets.versions',
    (c) => c.secrets.versions('T'),
    { versions: [] },
    `GET /api/v1/projects/${PROJECT}/secrets/T/versions`,
  ],
  [
    'secrets.restore',
    (c) => c.secrets.restore('T', 1),
    { version: 2 },
    `POST /api/v1/projects/${PROJECT}/secrets/T:restore`,
    { version: 1 },
  ],
  ['secrets.delete', (c) => c.secrets.delete('T'), undefined, `DELETE /api/v1/projects/${PROJECT}/secrets/T`],
  [
    'secrets.encrypt',
    (c) => c.secrets.encrypt('plain'),
    { ciphertext: 'x' },
    `POST /api/v1/projects/${PROJECT}/secrets:encrypt`,
    { plaintext: 'plain' },
  ],
  [
    'secrets.decrypt',
    (c) => c.secrets.decrypt('x'),
    { plaintext: 'plain' },
    `POST /api/v1/projects/${PROJECT}/secrets:decrypt`,
    { ciphertext: 'x' },
  ],
  [
    'executions.start',
    (c) =>
      c.executions.start('Hi', {
        variables: { a: 'b' },
        maxTokens: 5,
        maxCost: 0.5,
        maxDuration: 2000,
        labels: { team: 'x' },
        idempotencyKey: 'k',
      }),
    { execution: {} },
    `POST /api/v1/projects/${PROJECT}/executions`,
    {
      prompt: 'Hi',
      options: { variables: { a: 'b' }, maxTokens: 5, maxCost: 0.5, timeout: 2000 },
      labels: { team: 'x' },
      idempotencyKey: 'k',
    },
  ],
  [
    'executions.estimate',
    (c) => c.executions.estimate('Hi'),
    { estimate: {} },
    `POST /api/v1/projects/${PROJECT}/executions`,
    { prompt: 'Hi', options: {}, validateOnly: true },
  ],
  ['executions.get', (c) => c.executions.get('e1'), { execution: {} }, 'GET /api/v1/executions/e1'],
  [
    'executions.list',
    (c) =>
      all(
        c.executions.list({
          statuses: ['queued', 'running'],
          labels: { a: 'b', c: 'd=e' },
          createdAfter: new Date(0),
          pageSize: 2,
        }),
      ),
    { executions: [] },
    `GET /api/v1/projects/${PROJECT}/executions?statuses=queued&statuses=running&labels=a%3Db&labels=c%3Dd%3De&createdAfter=1970-01-01T00%3A00%3A00.000Z&pageSize=2`,
  ],
  ['executions.cancel', (c) => c.executions.cancel('e1'), { execution: {} }, 'POST /api/v1/executions/e1/cancel', {}],
  ['executions.delete', (c) => c.executions.delete('e1'), undefined, 'DELETE /api/v1/executions/e1'],
  [
    'executions.cost',
    (c) => c.executions.cost('e1', { limits: { maxTokens: 5 } }),
    { currentCost: 0 },
    'GET /api/v1/executions/e1/cost?limits.maxTokens=5',
  ],
  ['executions.receipt', (c) => c.executions.receipt('e1'), { receipt: {} }, 'GET /api/v1/executions/e1/receipt'],
  [
    'usage.get',
    (c) => c.usage.get({ from: '2026-01-01' }),
    { report: {} },
    `GET /api/v1/projects/${PROJECT}/usage?from=2026-01-01`,
  ],
  [
    'usage.estimate',
    (c) => c.usage.estimate({ promptTokens: 5 }),
    { estimatedCost: 1 },
    `POST /api/v1/projects/${PROJECT}/estimate`,
    { promptTokens: 5 },
  ],
  ['system.health', (c) => c.system.health(), { status: 'ok' }, 'GET /api/health'],
  ['system.models', (c) => c.system.models(), { models: [] }, 'GET /api/v1/models'],
];

test.each(REQUESTS)('%s asks for what it says', async (_, use, answer, request, body) => {
  const { client, server } = made(answer === undefined ? empty : json(answer));
  await use(client);
  expect(server.asked.map(({ method }) => `${method} ${server.paths[0]}`)).toEqual([request]);
  expect(server.asked[0]?.body).toEqual(body);
});

test('what calls return is unwrapped', async () => {
  const { client } = made(json({ names: ['A'] }), json({ ciphertext: 'x' }), json({ estimatedCost: 0.5 }), empty);
  expect(await client.secrets.list()).toEqual(['A']);
  expect(await client.secrets.encrypt('a')).toBe('x');
  expect(await client.usage.estimate({ promptTokens: 1 })).toBe(0.5);
  expect(await client.keys.revoke('k')).toBeUndefined();
});

test('a request carries the key, an id, no cookies, and follows nothing', async () => {
  const { client, server } = made(json({ models: [] }));
  await client.system.models();
  const [asked] = server.asked;
  expect(asked?.headers.get('x-api-key')).toBe('cla_1');
  expect(asked?.headers.get('x-request-id')).toMatch(/^[0-9a-f]{32}$/);
  expect(asked?.init).toMatchObject({ credentials: 'omit', redirect: 'manual', cache: 'no-store' });
});

test('a request is ended when its answer is of no use, and let be when it was read', async () => {
  const { client, server } = made(json({ models: [] }), () => new Response('<html>'));
  await client.system.models();
  await expect(client.system.models()).rejects.toThrow();
  expect(server.asked.map(({ init }) => init.signal?.aborted)).toEqual([false, true]);
});

describe('parts of a path', () => {
  test('are segments whatever is in them', async () => {
    const { client, server } = made(json({ execution: {} }));
    await client.executions.get('..projects?x=y#z');
    expect(server.paths).toEqual(['/api/v1/executions/..projects%3Fx%3Dy%23z']);
  });

  test.each(['', '.', '..'])('that would be lost are refused: "%s"', async (id) => {
    const { client, server } = made(json({}));
    await expect(client.executions.get(id)).rejects.toThrow(ConfigurationError);
    expect(server.asked).toEqual([]);
  });
});

describe('an id with a slash, which a proxy would refuse,', () => {
  test.each<[string, Use]>([
    ['an execution', (c) => c.executions.get('../projects')],
    ['a project', (c) => c.projects.exists('a\\b')],
    ['the project of a call', (c) => c.keys.list({ projectId: 'a/b' })],
    ['a key', (c) => c.keys.revoke('a/b')],
    ['a secret', (c) => c.secrets.set('a/b', 'c')],
    ['a watch', (c) => all(c.watchExecution('a/b'))],
  ])('is no id of %s', async (_, use) => {
    const { client, server } = made(json({}));
    await expect(use(client)).rejects.toBeInstanceOf(InvalidArgumentError);
    expect(server.asked).toEqual([]);
  });
});

describe('what cannot be sent is a ConfigurationError:', () => {
  const circle: Record<string, unknown> = {};
  circle.self = circle;
  test.each<[string, Use]>([
    ['half a character', (c) => c.executions.get('\ud800')],
    ['half a character, and no promise', (c) => c.secrets.delete('\ud800')],
    ['no time', (c) => c.keys.create({ name: 'ci', expiresAt: new Date(Number.NaN) })],
    ['no time of a list', (c) => all(c.executions.list({ createdAfter: new Date(Number.NaN) }))],
    ['no timeout', (c) => c.system.models({ timeout: Number.NaN })],
    ['a bigint', (c) => c.executions.start('Hi', { maxTokens: 5n as unknown as number })],
    ['a circle', (c) => c.projects.update(circle)],
  ])('%s', async (_, use) => {
    const { client, server } = made(json({}));
    await expect(use(client)).rejects.toBeInstanceOf(ConfigurationError);
    expect(server.asked).toEqual([]);
  });
});

const FOREIGN: readonly [string, Answer][] = [
  ['a list', json([])],
  ['null', json(null)],
  ['a number', json(7)],
  ['nothing in it', json({})],
  ['something else', json({ login: 1 })],
  ['no content', empty],
];

describe.each(FOREIGN)('JSON that is none of the API, %s,', (_, answer) => {
  test.each(REQUESTS.filter(([, , usual]) => usual !== undefined))('is an InternalError of %s', async (_, use) => {
    const { client } = made(answer);
    await expect(use(client)).rejects.toBeInstanceOf(InternalError);
  });
});

test.each([
  ['executions.list', { executions: 5 }, (c: CloutAgentClient) => all(c.executions.list())],
  ['projects.list', { projects: 'p' }, (c: CloutAgentClient) => all(c.projects.list())],
  ['the project of the key', { admin: false, project: 'p' }, (c: CloutAgentClient) => c.projects.current()],
  ['the project of the key', { admin: false, project: {} }, (c: CloutAgentClient) => c.projects.current()],
] as const)('fields of another kind are an InternalError: %s', async (_, answer, use) => {
  await expect(use(made(json(answer)).client)).rejects.toBeInstanceOf(InternalError);
});

describe('lists', () => {
  test('go over all pages, also over empty ones', async () => {
    const { client, server } = made(
      json({ executions: [{ id: 'e1' }], nextPageToken: 't1' }),
      json({ executions: [], nextPageToken: 't2' }),
      json({ executions: [{ id: 'e2' }] }),
    );
    expect((await all(client.executions.list())).map(({ id }) => id)).toEqual(['e1', 'e2']);
    expect(server.paths.map((path) => path.split('?')[1])).toEqual([undefined, 'pageToken=t1', 'pageToken=t2']);
  });

  test('that are left ask for no further page', async () => {
    const { client, server } = made(json({ projects: [{ id: 'p1' }], nextPageToken: 't1' }));
    for await (const _ of client.projects.list({ pageSize: 1 })) {
      break;
    }
    expect(server.paths).toEqual(['/api/v1/projects?pageSize=1']);
  });
});

describe('the project of the key', () => {
  const own = json({ project: { id: 'own' }, admin: false });
  const client = (server: FakeServer) =>
    new CloutAgentClient('https://api.example', { fetch: server.fetch, apiKey: 'cla_1', storage: null });

  test('is asked for once, and again for another key', async () => {
    const server = new FakeServer(own, json({ keys: [] }), json({ keys: [] }), own, json({ keys: [] }));
    const asking = client(server);
    await asking.keys.list();
    await asking.keys.list();
    asking.setAPIKey('cla_2');
    await asking.keys.list();
    const keys = '/api/v1/projects/own/keys';
    expect(server.paths).toEqual(['/api/v1/me', keys, keys, '/api/v1/me', keys]);
  });

  test('is not that of a key which was changed meanwhile', async () => {
    const other = json({ project: { id: 'other' }, admin: false });
    const server = new FakeServer(own, json({ keys: [] }), other, json({ keys: [] }));
    const asking = client(server);
    const listing = asking.keys.list();
    asking.setAPIKey('cla_2');
    await listing;
    await asking.keys.list();
    expect(server.paths.at(-1)).toBe('/api/v1/projects/other/keys');
  });

  test('is asked for by each call with its own signal', async () => {
    const server = new FakeServer(silence, own, json({ keys: [] }));
    const asking = client(server);
    const controller = new AbortController();
    const ended = asking.keys.list({ signal: controller.signal });
    const listing = asking.keys.list();
    controller.abort(new Error('enough'));
    await expect(ended).rejects.toThrow('enough');
    expect(await listing).toEqual([]);
  });

  test('is none for the admin', async () => {
    await expect(client(new FakeServer(json({ admin: true }))).keys.list()).rejects.toThrow(ConfigurationError);
  });

  test('is asked for again after a failure', async () => {
    const server = new FakeServer(json({ code: 16 }, 401), own, json({ keys: [] }));
    const asking = client(server);
    await expect(asking.keys.list()).rejects.toMatchObject({ status: 401 });
    expect(await asking.keys.list()).toEqual([]);
  });
});
