/** What the client promises, each against the running stack; in Node and in a page alike. */
import { createClient } from '@connectrpc/connect';
import { createTransport } from '../../src/grpc-web.js';
import * as cloutagent from '../../src/index.js';
import { ExecutionService, SystemService } from '../../src/v1.js';
import { equal, holds, rejection } from './check.js';
import type { Scenario, Stage } from './stage.js';

const AGENT = { name: 'helper', systemPrompt: 'You help.', model: 'claude-sonnet-4-5' };
const QUICK = { attempts: 30, firstDelay: 10, longestDelay: 100 };

/** A client with the key of a new project. */
async function projectClient(stage: Stage, address = stage.address): Promise<cloutagent.CloutAgentClient> {
  const admin = new cloutagent.CloutAgentClient(stage.address, { apiKey: stage.adminKey, storage: null, retry: QUICK });
  const { apiKey } = await admin.projects.create({ name: 'notes', agent: AGENT });
  return new cloutagent.CloutAgentClient(address, { apiKey, storage: null, retry: QUICK });
}

/** Follow a run to its end; `halfway` is called once its first text has come. */
async function followed(
  client: cloutagent.CloutAgentClient,
  executionId: string,
  halfway = async () => {},
): Promise<cloutagent.ExecutionEvent[]> {
  const events: cloutagent.ExecutionEvent[] = [];
  for await (const event of client.watchExecution(executionId)) {
    events.push(event);
    if (event.kind === 'text_delta' && events.filter(({ kind }) => kind === 'text_delta').length === 1) {
      await halfway();
    }
  }
  return events;
}

function isWhole(events: readonly cloutagent.ExecutionEvent[], execution: cloutagent.Execution): void {
  equal(
    events.map(({ sequence }) => sequence),
    Array.from({ length: execution.lastSequence }, (_, index) => index + 1),
  );
  equal(events.at(-1)?.kind, 'completed');
}

export const scenarios: Readonly<Record<string, Scenario>> = {
  'the server tells its health without a key': async ({ address }) => {
    const health = await new cloutagent.CloutAgentClient(address, { storage: null }).healthCheck();
    equal(health, { status: 'ok', version: '1.2.3' });
  },

  'a run is started, watched and returned': async (stage) => {
    const client = await projectClient(stage);
    const execution = await client.executions.run('Greet {{customer}}.', { variables: { customer: 'Ada' } });
    equal([execution.status, execution.result], ['completed', 'echo: Greet Ada.']);
    const events = await followed(client, execution.id);
    isWhole(events, execution);
  },

  'a stream goes on after a restart of the server and a drain of Envoy': async (stage) => {
    const client = await projectClient(stage);
    const prompt = `gated ${crypto.randomUUID()}`;
    const execution = await client.executions.start(prompt);
    const events = await followed(client, execution.id, async () => {
      await stage.control('restart');
      await stage.control('drain');
      await stage.control('release', prompt);
    });
    isWhole(events, await client.executions.get(execution.id));
    const text = events.map((event) => (event.kind === 'text_delta' ? event.textDelta.text : '')).join('');
    equal(text, 'é one 日 two');
  },

  'a stream that is cut again and again brings each event once': async (stage) => {
    const client = await projectClient(stage, stage.unsteadyAddress);
    const execution = await client.executions.run('long story');
    isWhole(await followed(client, execution.id), execution);
  },

  'stubs speak gRPC-Web': async (stage) => {
    const client = await projectClient(stage);
    const { id, lastSequence } = await client.executions.run('Greet Ada.');
    const transport = createTransport({ baseURL: stage.address, apiKey: () => stage.adminKey });
    const health = await createClient(SystemService, transport).getHealth({});
    equal(health.version, '1.2.3');
    const sequences: number[] = [];
    for await (const { events } of createClient(ExecutionService, transport).watchExecution({ executionId: id })) {
      sequences.push(...events.map(({ sequence }) => sequence));
    }
    equal(sequences.length, lastSequence);
  },

  'errors tell what is wrong': async (stage) => {
    const client = await projectClient(stage);
    const missing = await rejection(
      client.executions.get('00000000-0000-4000-8000-000000000000'),
      cloutagent.NotFoundError,
    );
    equal([missing.status, missing.code, missing.reason], [404, 'NOT_FOUND', 'EXECUTION_NOT_FOUND']);
    holds(missing.requestId !== undefined, 'it has the id of the request');
    const invalid = await rejection(client.executions.start('Greet {{nobody}}.'), cloutagent.InvalidArgumentError);
    holds(invalid.violations.length > 0, 'it names the fields');
  },
};
