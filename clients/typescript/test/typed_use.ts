/** How the types of the client are used, and what they refuse. Only the compiler reads this. */
import {
  APIError,
  BudgetExceededError,
  type CloutAgentClient,
  type Execution,
  type ExecutionEvent,
  type ExecutionEventKind,
  type Project,
  type UsageReport,
} from '../src/index.js';

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;

export const kinds: Same<
  ExecutionEventKind,
  | 'queued'
  | 'started'
  | 'text_delta'
  | 'message'
  | 'tool_use'
  | 'tool_result'
  | 'token_usage'
  | 'limit_warning'
  | 'completed'
  | 'failed'
  | 'cancelled'
> = true;

// What the server always prints is there, what may be absent may be undefined, and numbers are numbers.
export const printed: [
  Same<Execution['id'], string>,
  Same<Execution['status'], 'unspecified' | 'queued' | 'running' | 'completed' | 'failed' | 'cancelled'>,
  Same<Execution['result'], string | undefined>,
  Same<Execution['createdAt'], string | undefined>,
  Same<Execution['labels'], { [name: string]: string }>,
  Same<NonNullable<Execution['usage']>['totalCost'], number>,
  Same<NonNullable<NonNullable<Project['agent']>['mcpServers']>[string]['args'], string[]>,
  Same<UsageReport['from'], string>,
  Same<UsageReport['days'][number]['day'], string>,
] = [true, true, true, true, true, true, true, true, true];

export function told(event: ExecutionEvent): string | number | undefined {
  switch (event.kind) {
    case 'text_delta':
      return event.textDelta.text;
    case 'tool_use':
      return event.toolUse.name;
    case 'token_usage':
      return event.tokenUsage.usage?.totalCost;
    case 'failed':
      // @ts-expect-error another kind's field
      return event.completed;
    default:
      return event.sequence;
  }
}

export async function used(client: CloutAgentClient): Promise<void> {
  // @ts-expect-error an agent has a model
  await client.createProject({ name: 'n', agent: { name: 'a', systemPrompt: 'b' } });
  // @ts-expect-error there is no such option
  await client.executions.run('Hi', { maxToken: 5 });
  // @ts-expect-error there is no such state
  client.executions.list({ statuses: ['done'] });
  // @ts-expect-error a run is not watched by its prompt
  await client.watchExecution();
  try {
    await client.executions.run('Hi', { maxTokens: 5, signal: AbortSignal.timeout(1000) });
  } catch (error) {
    if (error instanceof BudgetExceededError) {
      const left: number | undefined = error.left;
      void left;
    } else if (error instanceof APIError) {
      const { status, code, violations } = error;
      void [status, code, violations[0]?.field];
    }
  }
}
