/**
 * The client, bare `fetch`, and stubs of Connect, in a process of their own, which `benchmarks/clients` starts. An order
 * comes as JSON on standard input, and what was measured is printed as JSON: see there.
 */
import { readFileSync } from 'node:fs';
import { createClient } from '@connectrpc/connect';
import { createTransport } from '../../src/grpc-web.js';
import { CloutAgentClient } from '../../src/index.js';
import { ExecutionService, ProjectService } from '../../src/v1.js';
import { Bare } from './bare.js';
import { inTurns, type Round } from './in_turns.js';

interface Order {
  host: string;
  api_key: string;
  project_id: string;
  execution_id: string;
  last: number;
  calls: number;
  rounds: number;
  replays: number;
}

const CLIENT = 'CloutAgentClient';
const FETCH = 'fetch';
const CONNECT = 'Connect, gRPC-Web';

const order = JSON.parse(readFileSync(0, 'utf8')) as Order;
const { api_key: apiKey, project_id: projectId, execution_id: executionId } = order;
const address = `http://${order.host}`;
const client = new CloutAgentClient(address, { apiKey, storage: null });
const bare = new Bare(address, apiKey);
const transport = createTransport({ baseURL: address, apiKey });
const projects = createClient(ProjectService, transport);
const executions = createClient(ExecutionService, transport);

const measured: Record<string, Record<string, Round[]>> = {};
measured['projects.get'] = await inTurns(
  {
    [CLIENT]: async () => void (await client.projects.get(projectId)),
    [FETCH]: async () => void (await bare.get(`/api/v1/projects/${projectId}`)),
    [CONNECT]: async () => void (await projects.getProject({ projectId })),
  },
  order,
);
measured['executions.get'] = await inTurns(
  {
    [CLIENT]: async () => void (await client.executions.get(executionId)),
    [FETCH]: async () => void (await bare.get(`/api/v1/executions/${executionId}`)),
    [CONNECT]: async () => void (await executions.getExecution({ executionId })),
  },
  order,
);
measured['an event'] = await inTurns(
  {
    [CLIENT]: async () => {
      let last = 0;
      for await (const { sequence } of client.watchExecution(executionId)) {
        last = sequence;
      }
      check(last);
    },
    [FETCH]: async () => {
      let last = 0;
      await bare.read(`/api/v1/executions/${executionId}/stream`, ({ sequence }) => {
        last = sequence;
      });
      check(last);
    },
    [CONNECT]: async () => {
      let last = 0;
      for await (const { events } of executions.watchExecution({ executionId })) {
        for (const { sequence } of events) {
          last = Number(sequence);
        }
      }
      check(last);
    },
  },
  { rounds: order.replays, calls: 1, units: order.last },
);
console.log(JSON.stringify(measured));

function check(last: number): void {
  if (last !== order.last) {
    throw new Error(`${last} of ${order.last} events came`);
  }
}
