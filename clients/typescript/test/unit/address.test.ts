import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { endpointOf } from '../../src/address.js';
import { CloutAgentClient, ConfigurationError, type ProjectCallOptions } from '../../src/index.js';
import { FakeServer, json } from './fake_server.js';

const PROJECT = { name: 'n', agent: { name: 'helper', systemPrompt: 'You help.', model: 'claude-sonnet-4-5' } };

afterEach(() => vi.unstubAllEnvs());

test.each([
  ['https://api.example', 'https://api.example', true],
  ['https://api.example:8443/', 'https://api.example:8443', true],
  ['http://127.0.0.1:3001/api/v1/', 'http://127.0.0.1:3001', true],
  ['http://[::1]:3001/api', 'http://[::1]:3001', true],
  ['http://app.localhost', 'http://app.localhost', true],
  ['https://example.org/agents/api/v1', 'https://example.org/agents', true],
  ['http://10.0.0.1:3001', 'http://10.0.0.1:3001', false],
  ['http://127.0.0.1.example.org', 'http://127.0.0.1.example.org', false],
  ['localhost:3001', 'http://localhost:3001', true],
  ['api.example:8443', 'https://api.example:8443', true],
])('%s is %s', (given, root, confidential) => {
  expect(endpointOf(given)).toEqual({ root, confidential });
});

test.each([
  'ftp://api.example',
  'https://user@api.example',
  'https://api.example?a=b',
  'https://',
  '/api/v1',
  'unix:/x',
])('%s is refused', (given) => {
  expect(() => endpointOf(given)).toThrow(ConfigurationError);
});

describe('without a base URL', () => {
  test('it is the environment’s, else this machine', () => {
    expect(endpointOf(undefined).root).toBe('http://127.0.0.1:3001');
    vi.stubEnv('CLOUTAGENT_ADDRESS', 'https://api.example');
    expect(endpointOf(undefined).root).toBe('https://api.example');
  });

  test('it is that of the page', () => {
    vi.stubGlobal('location', { origin: 'https://page.example' });
    expect(endpointOf(undefined).root).toBe('https://page.example');
    expect(endpointOf('/api/v1').root).toBe('https://page.example');
    expect(endpointOf('/agents/api/v1').root).toBe('https://page.example/agents');
  });

  test.each(['//evil.example/x', '/\\evil.example', '\\\\evil.example', '/\t/evil.example'])(
    'no path of the page’s server is %j, which is another host',
    (given) => {
      vi.stubGlobal('location', { origin: 'https://page.example' });
      expect(() => endpointOf(given)).toThrow(ConfigurationError);
    },
  );
});

describe('the API key', () => {
  test('goes to no other machine in plain text', async () => {
    const plain = 'http://10.0.0.1:3001';
    const server = new FakeServer(json({ status: 'ok', version: '1' }));
    const { fetch } = server;
    expect(() => new CloutAgentClient(plain, { apiKey: 'cla_1', fetch })).toThrow(ConfigurationError);
    const client = new CloutAgentClient(plain, { fetch, storage: null });
    await client.healthCheck();
    expect(() => client.setAPIKey('cla_1')).toThrow(ConfigurationError);
    await client.healthCheck();
    expect(server.asked.map(({ headers }) => headers.get('x-api-key'))).toEqual([null, null]);
    const allowed = new CloutAgentClient(plain, { apiKey: 'cla_1', fetch, allowPlaintextKey: true, storage: null });
    await allowed.healthCheck();
    expect(server.asked[2]?.headers.get('x-api-key')).toBe('cla_1');
  });

  test.each<[string, (client: CloutAgentClient) => Promise<unknown>]>([
    ['createProject', (client) => client.createProject(PROJECT)],
    ['projects.create', (client) => client.projects.create(PROJECT)],
    ['keys.create', (client) => client.keys.create({ name: 'ci' }, { projectId: 'p1' })],
    ['keys.rotate', (client) => client.keys.rotate({}, { projectId: 'p1' })],
  ])('comes from no other machine in plain text: %s', async (_, use) => {
    const server = new FakeServer(json({ project: {}, key: {}, apiKey: 'cla_1' }, 201));
    const { fetch } = server;
    const plain = 'http://10.0.0.1:3001';
    await expect(use(new CloutAgentClient(plain, { fetch, storage: null }))).rejects.toThrow(ConfigurationError);
    expect(server.asked).toEqual([]);
    await use(new CloutAgentClient(plain, { fetch, storage: null, allowPlaintextKey: true }));
    expect(server.asked.length).toBe(1);
  });

  test('comes from no other machine in plain text, and nothing is asked before: whose key it is neither', async () => {
    const server = new FakeServer(json({ admin: true }));
    const client = new CloutAgentClient('http://10.0.0.1:3001', { fetch: server.fetch, storage: null });
    await expect(client.keys.rotate()).rejects.toThrow(/the API key .* allowPlaintextKey/);
    expect(server.asked).toEqual([]);
  });

  test('comes from the environment, too', async () => {
    vi.stubEnv('CLOUTAGENT_API_KEY', ' cla_env\n');
    const server = new FakeServer(json({ status: 'ok', version: '1' }));
    await new CloutAgentClient('https://api.example', { fetch: server.fetch }).healthCheck();
    expect(server.asked[0]?.headers.get('x-api-key')).toBe('cla_env');
  });

  describe('and the localStorage that Node has by itself', () => {
    const found = Object.getOwnPropertyDescriptor(globalThis, 'localStorage');
    const looked = vi.fn(() => ({ getItem: () => null, setItem: () => undefined, removeItem: () => undefined }));

    beforeEach(() => {
      looked.mockClear();
      Object.defineProperty(globalThis, 'localStorage', { get: looked, configurable: true });
    });
    afterEach(() => {
      Reflect.deleteProperty(globalThis, 'localStorage');
      Object.defineProperties(globalThis, found ? { localStorage: found } : {});
    });

    test('stay apart, for a look at it alone makes Node warn', () => {
      new CloutAgentClient('https://api.example').setAPIKey('cla_1');
      expect(looked).not.toHaveBeenCalled();
    });

    test('is a page’s where there is one', () => {
      vi.stubGlobal('location', { origin: 'https://page.example' });
      new CloutAgentClient('https://api.example').setAPIKey('cla_1');
      expect(looked).toHaveBeenCalled();
    });
  });

  test('is in no text of the client, and what is none is not repeated', () => {
    const client = new CloutAgentClient('https://api.example', { apiKey: 'cla_secret', storage: null });
    expect(JSON.stringify(client) + String(client)).not.toContain('cla_secret');
    const refused = () => client.setAPIKey('cla_sécret');
    expect(refused).toThrow(ConfigurationError);
    expect(refused).not.toThrow(/sécret/);
  });
});

describe('the value of a secret', () => {
  const plain = 'http://10.0.0.1:3001';

  test.each<[string, (client: CloutAgentClient, options?: ProjectCallOptions) => Promise<unknown>]>([
    ['set', (client, options) => client.secrets.set('TOKEN', 's3cret', options)],
    ['encrypt', (client, options) => client.secrets.encrypt('s3cret', options)],
    ['get', (client, options) => client.secrets.get('TOKEN', options)],
    ['decrypt', (client, options) => client.secrets.decrypt('x', options)],
  ])('goes to and comes from no other machine in plain text, with or without a key: %s', async (_, use) => {
    const server = new FakeServer(json({ version: 1, value: 's3cret', ciphertext: 'x', plaintext: 's3cret' }));
    const { fetch } = server;
    const client = new CloutAgentClient(plain, { fetch, storage: null });
    await expect(use(client, { projectId: 'p1' })).rejects.toThrow(ConfigurationError);
    await expect(use(client)).rejects.toThrow(/the secret .* allowPlaintextKey/);
    expect(server.asked).toEqual([]);
    await use(new CloutAgentClient(plain, { fetch, storage: null, allowPlaintextKey: true }), { projectId: 'p1' });
    expect(server.asked.length).toBe(1);
  });

  test('is in no request of the others, which go there as before', async () => {
    const server = new FakeServer(json({ names: [] }));
    const client = new CloutAgentClient(plain, { fetch: server.fetch, storage: null });
    expect(await client.secrets.list({ projectId: 'p1' })).toEqual([]);
  });
});
