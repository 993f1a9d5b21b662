/** What the plan of the first phase asks of the client, with fakes of the global `fetch` and `localStorage`. */
import { beforeEach, describe, expect, test, vi } from 'vitest';
import { APIError, CloutAgentClient, CloutAgentError, type KeyStorage } from '../../src/index.js';

const AGENT = { name: 'helper', systemPrompt: 'You help.', model: 'claude-sonnet-4-5' };
const PROJECT = { id: 'p1', name: 'Support' };

class MemoryStorage {
  readonly items = new Map<string, string>();
  getItem = (name: string) => this.items.get(name) ?? null;
  setItem = (name: string, value: string) => void this.items.set(name, value);
  removeItem = (name: string) => void this.items.delete(name);
}

const storage = new MemoryStorage();
const fetched = vi.fn<typeof fetch>();

/** An answer as tests of other clients fake it: no more than what is looked at first. */
function answers(body: unknown, status = 200): void {
  fetched.mockResolvedValueOnce({ ok: status < 400, status, json: async () => body } as Response);
}

function sent(index = 0): { url: string; init: RequestInit; key: string | null } {
  const [url, init = {}] = fetched.mock.calls[index] ?? [''];
  return { url: String(url), init, key: new Headers(init.headers).get('x-api-key') };
}

beforeEach(() => {
  storage.items.clear();
  fetched.mockReset();
  vi.stubGlobal('localStorage', storage);
  vi.stubGlobal('fetch', fetched);
});

describe('the API key', () => {
  test('is kept in localStorage and sent in the header x-api-key', async () => {
    const client = new CloutAgentClient('http://127.0.0.1:3001');
    client.setAPIKey('cla_1');
    expect(storage.getItem('cloutagent_api_key')).toBe('cla_1');
    answers({ project: PROJECT });
    await client.getProject('p1');
    expect(sent()).toMatchObject({ url: 'http://127.0.0.1:3001/api/v1/projects/p1', key: 'cla_1' });
  });

  test('is restored by the constructor', async () => {
    new CloutAgentClient('http://127.0.0.1:3001').setAPIKey('cla_2');
    const client = new CloutAgentClient('http://127.0.0.1:3001/api/v1');
    answers({ projects: [] });
    await client.listProjects();
    expect(sent().key).toBe('cla_2');
  });

  test('that is none, and was kept all the same, is passed over', async () => {
    new CloutAgentClient('http://127.0.0.1:3001').setAPIKey('cla_1');
    storage.setItem('cloutagent_api_key', 'cla_é\n');
    const client = new CloutAgentClient('http://127.0.0.1:3001');
    answers({ status: 'ok', version: '1' });
    await client.healthCheck();
    expect(sent().key).toBeNull();
  });

  test('of one server is not sent to another one', async () => {
    new CloutAgentClient('https://one.example').setAPIKey('cla_1');
    const client = new CloutAgentClient('https://two.example');
    answers({ status: 'ok', version: '1' });
    await client.healthCheck();
    expect(sent().key).toBeNull();
  });

  test('of nobody knows which server is sent to none', async () => {
    storage.setItem('cloutagent_api_key', 'cla_1');
    const client = new CloutAgentClient('http://127.0.0.1:3001');
    answers({ status: 'ok', version: '1' });
    await client.healthCheck();
    expect(sent().key).toBeNull();
  });

  test.each(['cloutagent_api_key', 'cloutagent_api_server'])(
    'that cannot be kept leaves no other one behind: without room for %s',
    (full) => {
      new CloutAgentClient('https://one.example').setAPIKey('cla_old');
      const refusing: KeyStorage = {
        ...storage,
        setItem: (name, value) => {
          if (name === full) {
            throw new DOMException('quota', 'QuotaExceededError');
          }
          storage.setItem(name, value);
        },
      };
      new CloutAgentClient('https://two.example', { storage: refusing }).setAPIKey('cla_new');
      expect([...storage.items]).toEqual([]);
    },
  );

  test('is forgotten on request', async () => {
    const client = new CloutAgentClient('http://127.0.0.1:3001');
    client.setAPIKey('cla_1');
    client.clearAPIKey();
    expect(storage.items.size).toBe(0);
    answers({ status: 'ok', version: '1' });
    await client.healthCheck();
    expect(sent().key).toBeNull();
  });

  test('is used without a localStorage, and with one that refuses', async () => {
    vi.stubGlobal('localStorage', undefined);
    const none = new CloutAgentClient('http://127.0.0.1:3001');
    vi.stubGlobal('localStorage', {
      getItem: () => null,
      setItem: () => {
        throw new DOMException('quota', 'QuotaExceededError');
      },
    });
    const refused = new CloutAgentClient('http://127.0.0.1:3001');
    for (const [index, client] of [none, refused].entries()) {
      client.setAPIKey('cla_1');
      answers({ project: PROJECT });
      await client.getProject('p1');
      expect(sent(index).key).toBe('cla_1');
    }
  });
});

describe('projects', () => {
  test('createProject posts the project, and stores and uses the key of the answer', async () => {
    const client = new CloutAgentClient('http://127.0.0.1:3001');
    answers({ project: PROJECT, apiKey: 'cla_new' }, 201);
    const created = await client.createProject({ name: 'Support', agent: AGENT });
    expect(created).toEqual({ project: PROJECT, apiKey: 'cla_new' });
    const { url, init, key } = sent();
    expect([init.method, url, key]).toEqual(['POST', 'http://127.0.0.1:3001/api/v1/projects', null]);
    expect(JSON.parse(String(init.body))).toEqual({ name: 'Support', agent: AGENT });
    expect(new Headers(init.headers).get('content-type')).toBe('application/json');
    expect(storage.getItem('cloutagent_api_key')).toBe('cla_new');
    answers({ project: PROJECT });
    await client.getProject('p1');
    expect(sent(1).key).toBe('cla_new');
  });

  test('getProject unwraps the project', async () => {
    answers({ project: PROJECT });
    expect(await new CloutAgentClient('http://127.0.0.1:3001').getProject('p1')).toEqual(PROJECT);
  });

  test('listProjects returns the projects of all pages', async () => {
    answers({ projects: [{ id: 'p1' }], nextPageToken: 'next' });
    answers({ projects: [{ id: 'p2' }] });
    const found = await new CloutAgentClient('http://127.0.0.1:3001').listProjects();
    expect(found.map(({ id }) => id)).toEqual(['p1', 'p2']);
    expect(sent(1).url).toMatch(/\/projects\?pageToken=next$/);
  });
});

test('healthCheck asks /api/health', async () => {
  answers({ status: 'ok', version: '0.1.0' });
  const health = await new CloutAgentClient('http://127.0.0.1:3001').healthCheck();
  expect(health).toEqual({ status: 'ok', version: '0.1.0' });
  expect(sent().url).toBe('http://127.0.0.1:3001/api/health');
});

describe('errors', () => {
  test('are APIErrors with status and message', async () => {
    answers({ code: 5, message: 'there is no such project', details: [] }, 404);
    const error = await new CloutAgentClient('http://127.0.0.1:3001').getProject('p1').catch((raised) => raised);
    expect(error).toBeInstanceOf(APIError);
    expect(error).toBeInstanceOf(CloutAgentError);
    expect(error).toBeInstanceOf(Error);
    expect([error.status, error.message]).toEqual([404, 'there is no such project']);
  });

  test('can be made from status and message alone', () => {
    expect(new APIError(418, 'tea')).toMatchObject({ status: 418, message: 'tea', name: 'APIError', violations: [] });
  });
});
