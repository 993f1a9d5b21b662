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
    // What the types say is always there.
    equal([execution.labels, execution.secretNames, execution.agent?.mcpServers], [{}, [], {}]);
    const usages = events.flatMap((event) => (event.kind === 'token_usage' ? [event.tokenUsage.usage] : []));
    equal([usages[0]?.cacheReadTokens, execution.usage?.cacheWriteTokens], [0, 0]);
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

  'projects are changed field by field, and deleted': async (stage) => {
    const client = await projectClient(stage);
    const { id } = await client.projects.get();
    const changed = await client.projects.update({
      description: 'Answers customers',
      agent: { temperature: 0.2, enabledTools: ['Read'] },
      budget: { daily: { maxCost: 5 } },
    });
    equal([changed.agent?.temperature, changed.agent?.model], [0.2, AGENT.model]);
    equal([changed.description, changed.budget?.daily?.maxCost], ['Answers customers', 5]);
    const reset = await client.projects.update({ updateMask: ['description', 'agent.enabledTools'] });
    equal([reset.description, reset.agent?.enabledTools, reset.agent?.temperature], [undefined, [], 0.2]);
    equal(await client.projects.exists(id), true);
    equal((await client.projects.current()).admin, false);
    await client.projects.delete(id);
    const admin = new cloutagent.CloutAgentClient(stage.address, { apiKey: stage.adminKey, storage: null });
    equal(await admin.projects.exists(id), false);
    const names = [];
    for await (const project of admin.projects.list({ pageSize: 2 })) {
      names.push(project.id);
    }
    equal(new Set(names).size, names.length);
    equal(names.includes(id), false);
  },

  'keys are created, rotated and revoked': async (stage) => {
    const client = await projectClient(stage);
    const spare = await client.keys.create({ name: 'ci', expiresAt: new Date(Date.now() + 3_600_000) });
    const rotated = await client.keys.rotate({ keyId: spare.key.id, gracePeriod: 60_000 });
    equal((await client.keys.list()).map(({ name }) => name).sort(), ['ci', 'ci', 'default']);
    const other = new cloutagent.CloutAgentClient(stage.address, { apiKey: rotated.apiKey, storage: null });
    equal((await other.projects.get()).id, (await client.projects.get()).id);
    await client.keys.revoke(rotated.key.id);
    const refused = await rejection(other.projects.current(), cloutagent.AuthenticationError);
    equal([refused.status, refused.reason], [401, 'API_KEY_INVALID']);
  },

  'secrets have versions, and are sealed': async (stage) => {
    const { secrets } = await projectClient(stage);
    await secrets.set('CRM_TOKEN', 'öne', { expectedVersion: 0 });
    await rejection(secrets.set('CRM_TOKEN', 'x', { expectedVersion: 0 }), cloutagent.ConflictError);
    await secrets.set('CRM_TOKEN', 'two');
    equal([await secrets.get('CRM_TOKEN'), await secrets.get('CRM_TOKEN', { version: 1 })], ['two', 'öne']);
    equal((await secrets.restore('CRM_TOKEN', 1)).version, 3);
    equal([await secrets.get('CRM_TOKEN'), (await secrets.metadata('CRM_TOKEN')).version], ['öne', 3]);
    equal(
      (await secrets.versions('CRM_TOKEN')).map(({ version }) => version),
      [3, 2, 1],
    );
    equal(await secrets.decrypt(await secrets.encrypt('sealed')), 'sealed');
    await secrets.delete('CRM_TOKEN');
    equal(await secrets.list(), []);
    await rejection(secrets.get('no name'), cloutagent.InvalidArgumentError);
  },

  'executions are listed, cancelled, priced and deleted': async (stage) => {
    const { executions } = await projectClient(stage);
    const labels = { team: 'search & find', tier: 'a=b' };
    const estimate = await executions.estimate('hang', { maxTokens: 5_000, labels });
    holds((estimate.estimatedCost ?? 0) > 0, 'an estimate has a cost');
    const execution = await executions.start('hang', { maxTokens: 5_000, labels, idempotencyKey: 'k' });
    equal((await executions.start('hang', { maxTokens: 5_000, labels, idempotencyKey: 'k' })).id, execution.id);
    const reused = await rejection(executions.start('else', { idempotencyKey: 'k' }), cloutagent.AlreadyExistsError);
    equal([reused.executionId, reused.idempotencyKey], [execution.id, 'k']);
    for await (const event of executions.watch(execution.id)) {
      if (event.kind === 'token_usage') {
        break;
      }
    }
    const cancelled = await executions.cancel(execution.id);
    equal([cancelled.status, cancelled.usage?.promptTokens], ['cancelled', 100]);
    equal((await executions.cost(execution.id, { limits: { maxTokens: 10 } })).limitCheck?.exceeded, 'tokens');
    equal((await executions.receipt(execution.id)).calls.length, 1);
    for (const text of ['a', 'b', 'c']) {
      await executions.run(text, { labels: { team: text } });
    }
    const found = [];
    for await (const { prompt } of executions.list({ statuses: ['completed'], pageSize: 1 })) {
      found.push(prompt);
    }
    equal(found, ['c', 'b', 'a']);
    for await (const { id } of executions.list({ labels, createdAfter: new Date(0), createdBefore: new Date(4e12) })) {
      equal(id, execution.id);
      await executions.delete(id);
    }
    const gone = await rejection(executions.get(execution.id), cloutagent.NotFoundError);
    equal(gone.metadata.execution_id, execution.id);
  },

  'usage is told, watched and estimated': async (stage) => {
    const client = await projectClient(stage);
    await client.projects.update({ budget: { total: { maxTokens: 200 } } });
    const reports = client.usage.watch();
    equal((await reports.next()).value?.sum?.modelCalls, 0);
    await client.executions.run('one');
    let calls = 0;
    for await (const report of reports) {
      calls = report.sum?.modelCalls ?? 0;
      if (calls === 1) {
        break;
      }
    }
    const report = await client.usage.get();
    equal([report.from <= report.to, report.days[0]?.model, report.budgets[0]?.used], [true, AGENT.model, 120]);
    const cost = await client.usage.estimate({ promptTokens: 1_000 });
    const price = (await client.system.models()).find(({ id }) => id === AGENT.model)?.promptTokenPrice ?? 0;
    holds(price > 0 && Math.abs(cost - 1_000 * price) < 1e-9, 'a thousand tokens cost a thousand times their price');
  },

  'a run says how it ended': async (stage) => {
    const client = await projectClient(stage);
    const failed = await rejection(client.executions.run('fail'), cloutagent.ExecutionFailedError);
    equal([failed.failureReason, failed.message], ['model_error', 'the model is overloaded']);
    equal(failed.execution.usage?.modelCalls, 1);
    const running = client.executions.run('hang', { labels: { which: 'cancelled' } });
    const cancelling = (async () => {
      for (;;) {
        for await (const { id } of client.executions.list({ labels: { which: 'cancelled' } })) {
          await client.executions.cancel(id);
          return;
        }
      }
    })();
    await rejection(running, cloutagent.ExecutionCancelledError);
    await cancelling;
    const limited = await rejection(
      client.executions.run('three calls', { maxTokens: 250 }),
      cloutagent.BudgetExceededError,
    );
    equal([limited.scope, limited.exceeded, limited.limit], ['execution', 'tokens', 250]);
    await client.projects.update({ budget: { total: { maxTokens: 1 } } });
    const used = await rejection(client.executions.start('more'), cloutagent.BudgetUsedUpError);
    equal([used.scope, used.limit, used.status], ['total', 1, 400]);
  },

  'a signal ends a watch, and the run goes on': async (stage) => {
    const client = await projectClient(stage);
    const { id } = await client.executions.start('hang');
    const controller = new AbortController();
    const events = client.watchExecution(id, { signal: controller.signal });
    await events.next();
    controller.abort();
    const following = (async () => {
      for await (const _ of events) {
        // Events that had come already.
      }
    })();
    equal((await rejection(following, DOMException)).name, 'AbortError');
    const late = await rejection(client.executions.run('hang', { timeout: 300 }), cloutagent.DeadlineExceededError);
    equal((await client.executions.cancel(late.executionId ?? '')).status, 'cancelled');
    equal((await client.executions.cancel(id)).status, 'cancelled');
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
