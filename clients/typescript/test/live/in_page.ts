/** What is bundled for the page: it runs scenarios by name. */
import { CloutAgentClient, UnavailableError } from '../../src/index.js';
import { equal, rejection } from './check.js';
import { scenarios } from './scenarios.js';
import type { Scenario, Stage } from './stage.js';

declare global {
  interface Window {
    /** Bound to the test by the browser. */
    control: Stage['control'];
    run(name: string, stage: Omit<Stage, 'control'>): Promise<void>;
  }
}

const PAGE_SCENARIOS: Readonly<Record<string, Scenario>> = {
  // Two halves: the page is loaded again between them.
  'a key is kept': async ({ address, adminKey }) => {
    const client = new CloutAgentClient(address);
    client.setAPIKey(adminKey);
    const { project, apiKey } = await client.createProject({
      name: 'kept',
      agent: { name: 'helper', systemPrompt: 'You help.', model: 'claude-sonnet-4-5' },
    });
    equal(localStorage.getItem('cloutagent_api_key'), apiKey);
    sessionStorage.setItem('project', project.id);
  },
  'a key is restored': async ({ address }) => {
    const client = new CloutAgentClient(address);
    const project = await client.getProject(sessionStorage.getItem('project') ?? '');
    equal((await client.projects.get()).id, project.id);
    client.clearAPIKey();
    equal(localStorage.length, 0);
  },
  // Two halves, too. What the page asks for as it goes outlasts it, if it says so.
  'a run is cancelled as its page goes': async ({ address, adminKey }) => {
    const keepalive: typeof fetch = (input, init) => fetch(input, { ...init, keepalive: true });
    const client = new CloutAgentClient(address, { fetch: keepalive });
    client.setAPIKey(adminKey);
    await client.createProject({
      name: 'left',
      agent: { name: 'helper', systemPrompt: 'You help.', model: 'claude-sonnet-4-5' },
    });
    const { id } = await client.executions.start('hang');
    sessionStorage.setItem('execution', id);
    addEventListener('pagehide', () => void client.executions.cancel(id).catch(() => undefined));
  },
  'a run was cancelled': async ({ address }) => {
    const client = new CloutAgentClient(address);
    const kinds: string[] = [];
    for await (const { kind } of client.watchExecution(sessionStorage.getItem('execution') ?? '', {
      timeout: 20_000,
    })) {
      kinds.push(kind);
    }
    equal(kinds.at(-1), 'cancelled');
    client.clearAPIKey();
  },
  'a page of another origin learns only that it cannot ask': async ({ address }) => {
    const client = new CloutAgentClient(address, { retry: { attempts: 1 } });
    const error = await rejection(client.healthCheck(), UnavailableError);
    equal([error.status, error.reason], [0, undefined]);
  },
};

window.run = async (name, stage) => {
  const scenario = scenarios[name] ?? PAGE_SCENARIOS[name];
  if (scenario === undefined) {
    throw new Error(`there is no scenario ${name}`);
  }
  await scenario({ ...stage, control: (command, argument = '') => window.control(command, argument) });
};
