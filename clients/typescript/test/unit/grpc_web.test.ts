import { createClient, type Transport } from '@connectrpc/connect';
import { describe, expect, test } from 'vitest';
import { createTransport, type TransportOptions } from '../../src/grpc-web.js';
import { ConfigurationError } from '../../src/index.js';
import { ProjectService, SecretService, SystemService } from '../../src/v1.js';
import { FakeServer } from './fake_server.js';

const refused = () =>
  new Response(null, { headers: { 'content-type': 'application/grpc-web+proto', 'grpc-status': '16' } });

/** What a call is sent with; it ends as one that was refused. */
async function asked(options: TransportOptions) {
  const server = new FakeServer(refused);
  const transport = createTransport({ baseURL: 'https://api.example/api/v1', fetch: server.fetch, ...options });
  await expect(createClient(SystemService, transport).getHealth({})).rejects.toMatchObject({ code: 16 });
  const [found] = server.asked;
  return { url: found?.url, key: found?.headers.get('x-api-key'), init: found?.init };
}

describe('a transport of gRPC-Web', () => {
  test('sends the key with each call, to its server alone', async () => {
    const { url, key, init } = await asked({ apiKey: 'cla_1' });
    expect([url, key]).toEqual(['https://api.example/cloutagent.v1.SystemService/GetHealth', 'cla_1']);
    expect(init).toMatchObject({ redirect: 'error', credentials: 'omit' });
  });

  test('asks for the key anew', async () => {
    let key = 'cla_1';
    const options = { apiKey: () => key };
    expect((await asked(options)).key).toBe('cla_1');
    key = 'cla_2';
    expect((await asked(options)).key).toBe('cla_2');
  });

  test('gives calls a deadline', async () => {
    const { init } = await asked({ timeout: 1500 });
    expect(new Headers(init?.headers).get('grpc-timeout')).toBe('1500m');
  });

  test('sends no key in plain text', () => {
    const baseURL = 'http://10.0.0.1:3001';
    expect(() => createTransport({ baseURL, apiKey: 'cla_1' })).toThrow(ConfigurationError);
    expect(() => createTransport({ baseURL, apiKey: 'cla_1', allowPlaintextKey: true })).not.toThrow();
  });

  test.each<[string, (transport: Transport) => Promise<unknown>]>([
    ['SetSecret', (transport) => createClient(SecretService, transport).setSecret({ value: 's3cret' })],
    ['Encrypt', (transport) => createClient(SecretService, transport).encrypt({ plaintext: 's3cret' })],
    ['GetSecret', (transport) => createClient(SecretService, transport).getSecret({})],
    ['Decrypt', (transport) => createClient(SecretService, transport).decrypt({})],
    ['CreateProject', (transport) => createClient(ProjectService, transport).createProject({})],
    ['CreateApiKey', (transport) => createClient(ProjectService, transport).createApiKey({})],
    ['RotateApiKey', (transport) => createClient(ProjectService, transport).rotateApiKey({})],
  ])('sends and gets no secret and no key in plain text without a key: %s', async (_, use) => {
    const server = new FakeServer(refused);
    const options = { baseURL: 'http://10.0.0.1:3001', fetch: server.fetch };
    await expect(use(createTransport(options))).rejects.toThrow(ConfigurationError);
    expect(server.asked).toEqual([]);
    await expect(use(createTransport({ ...options, allowPlaintextKey: true }))).rejects.toMatchObject({ code: 16 });
    expect(server.asked.length).toBe(1);
  });
});
