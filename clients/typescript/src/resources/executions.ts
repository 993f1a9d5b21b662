import { field, message, nothing, type Reading } from '../answer.js';
import { APIError, CloutAgentError } from '../errors.js';
import { completed, hasEnded } from '../outcome.js';
import { newId, path, timeOf } from '../request.js';
import type { Transport } from '../transport.js';
import type {
  CallOptions,
  CostLimits,
  Execution,
  ExecutionCostReport,
  ExecutionEstimate,
  ExecutionStatus,
  ProjectCallOptions,
  Receipt,
} from '../types.js';
import { EventWatch } from '../watch.js';

// Cancelling answers within 30 seconds however long the end takes.
const CANCEL_TIMEOUT = 45_000;

const EXECUTION = field<Execution>('execution', 'object');
const PAGE = message<{ executions: Execution[]; nextPageToken?: string }>({ executions: 'list' });

/** How one execution departs from its project's configuration. */
export interface StartOptions extends ProjectCallOptions {
  /** Values for `{{name}}` in the prompts, taken as they are, at most 256. Default: none. */
  variables?: Readonly<Record<string, string>> | undefined;
  /** Limit on prompt and completion tokens, at most the project's. Default: the project's. */
  maxTokens?: number | undefined;
  /** Limit on cost in US dollars, at most the project's. Default: the project's. */
  maxCost?: number | undefined;
  /**
   * Limit on the run's time in milliseconds, from its start and not from its place in the queue; at least 1,000 and at
   * most the project's. Default: the project's.
   */
  maxDuration?: number | undefined;
  /** Labels to find the execution by, at most 32; no place for secrets. Default: none. */
  labels?: Readonly<Record<string, string>> | undefined;
  /**
   * Makes a start that the caller repeats safe, also from another process: the same key with the same request is the
   * same execution. 1 to 255 characters. The client makes one for each start by itself, so that its own retries are.
   */
  idempotencyKey?: string | undefined;
}

/** The same for a run that is waited for. */
export interface RunOptions extends StartOptions {
  /**
   * Called once, when the execution has been started. Who stops waiting by a signal, whose reason tells no id, knows by
   * this which execution goes on. What it throws is thrown by `run`.
   */
  onStarted?: ((execution: Execution) => void) | undefined;
}

/** Which executions to list. They pass all of the filters. */
export interface ListOptions extends ProjectCallOptions {
  /** In one of these states. Default: in any. */
  statuses?: readonly ExecutionStatus[] | undefined;
  /** With all of these labels. Default: with any or none. */
  labels?: Readonly<Record<string, string>> | undefined;
  /** Created then or later. */
  createdAfter?: Date | undefined;
  /** Created before that. */
  createdBefore?: Date | undefined;
  /** How many each call returns at most, 1 to 1,000. Default 100. */
  pageSize?: number | undefined;
}

/** From where on to watch. */
export interface WatchOptions extends CallOptions {
  /** Number of the last event that is known already. Default 0. */
  afterSequence?: number | undefined;
}

/** What to hold the usage of an execution against. */
export interface CostOptions extends CallOptions {
  /** Limits on tokens and US dollars. Default: the execution's own. */
  limits?: CostLimits | undefined;
}

/** Executions: runs of a project's agent. A prompt is a template, in which `{{name}}` and `{{secret:NAME}}` are filled. */
export class Executions {
  readonly #transport: Transport;

  /** @internal */
  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /**
   * Run the agent and return the completed execution, whose `result` is the agent's final text.
   *
   * However often the connection breaks, the prompt is run once. Whoever stops waiting (`timeout`, `signal`) ends
   * nothing: the execution goes on until it is cancelled. `timeout` is that of all of it; by default the start may take
   * as long as any call, and the wait for the end as long as it takes. The limit of the run itself is `maxDuration`.
   * Who may stop waiting by a signal gives `onStarted`, which tells the execution, and an `idempotencyKey`: if it was
   * the start that was stopped, a start with the same key is no second run.
   *
   * @throws LimitExceededError, ExecutionTimedOutError, ExecutionFailedError if it failed.
   * @throws ExecutionCancelledError if it was cancelled.
   * @throws APIError if a call failed. If the execution was started, `executionId` says which it is; if the start
   *   failed, it may have been all the same, and only a start with the error's `idempotencyKey` is no second run.
   */
  async run(prompt: string, { onStarted, ...options }: RunOptions = {}): Promise<Execution> {
    const end = options.timeout === undefined ? undefined : performance.now() + options.timeout;
    const atOnce = Math.min(options.timeout ?? this.#transport.timeout, this.#transport.timeout);
    let execution = await this.start(prompt, { ...options, timeout: atOnce });
    onStarted?.(execution);
    try {
      if (!hasEnded(execution)) {
        execution = await this.#ended(execution, end, options.signal);
      }
    } catch (error) {
      if (error instanceof CloutAgentError) {
        error.executionId = execution.id;
      }
      throw error;
    }
    return completed(execution);
  }

  /**
   * Queue a run and return at once.
   *
   * @throws InvalidArgumentError for a variable or secret that is unknown, and for limits above the project's.
   * @throws BudgetUsedUpError if nothing is left of a budget of the project.
   * @throws AlreadyExistsError if the idempotency key was used for another request.
   * @throws QueueFullError if the queue stayed full, UnavailableError if the server stayed away, DeadlineExceededError if
   *   there was no answer in time. The run may have begun all the same: only a start with the error's `idempotencyKey` is
   *   no second one.
   */
  async start(prompt: string, options: StartOptions = {}): Promise<Execution> {
    const body = { ...bodyOf(prompt, options), idempotencyKey: options.idempotencyKey ?? newId() };
    try {
      return await this.#start(body, EXECUTION, options);
    } catch (error) {
      if (error instanceof APIError) {
        error.idempotencyKey = body.idempotencyKey;
      }
      throw error;
    }
  }

  /** Check all that `start` checks but the queue, and estimate the cost. Nothing is created, and no model called. */
  async estimate(prompt: string, options: StartOptions = {}): Promise<ExecutionEstimate> {
    const body = { ...bodyOf(prompt, options), validateOnly: true };
    return this.#start(body, field<ExecutionEstimate>('estimate', 'object'), options);
  }

  /**
   * The events of an execution from the first to the last, those that were and then those that happen.
   *
   * Each event comes once and in order: after a lost connection the watch goes on by itself where it was. `timeout` is
   * that of the whole watch, by default as long as the execution takes.
   *
   * What it throws comes of the iterator, not of this call.
   *
   * @throws NotFoundError if there is no such execution.
   * @throws OutOfRangeError if the next event was trimmed, or `afterSequence` is behind the last one.
   * @throws DeadlineExceededError if the execution did not end in time.
   * @throws UnavailableError if the server could not be reached for too long; see RetryPolicy.
   */
  watch(executionId: string, { afterSequence = 0, ...options }: WatchOptions = {}): EventWatch {
    return new EventWatch(this.#transport, executionId, afterSequence, options);
  }

  /**
   * One execution as it stands.
   *
   * @throws NotFoundError if there is none with this id.
   */
  async get(executionId: string, options?: CallOptions): Promise<Execution> {
    return this.#transport.call(pathOf(executionId), EXECUTION, options);
  }

  /** The project's executions, newest first, page after page as they are asked for. `timeout` is that of each page. */
  async *list(filters: ListOptions = {}): AsyncGenerator<Execution, undefined, undefined> {
    const id = await this.#transport.project(filters.projectId, filters);
    let pageToken: string | undefined;
    do {
      const query = {
        statuses: filters.statuses,
        labels: Object.entries(filters.labels ?? {}).map(([name, value]) => `${name}=${value}`),
        createdAfter: timeOf(filters.createdAfter),
        createdBefore: timeOf(filters.createdBefore),
        pageSize: filters.pageSize,
        pageToken,
      };
      const page = await this.#transport.call(path`/api/v1/projects/${id}/executions`, PAGE, filters, { query });
      yield* page.executions;
      pageToken = page.nextPageToken;
    } while (pageToken);
  }

  /**
   * End an execution, and return it with its final usage. One that has ended stays as it is. By default it may take
   * 45,000 milliseconds, or the client's `timeout` if that is longer.
   *
   * @throws NotFoundError if there is none with this id.
   */
  async cancel(executionId: string, options: CallOptions = {}): Promise<Execution> {
    const timeout = options.timeout ?? Math.max(this.#transport.timeout, CANCEL_TIMEOUT);
    const call = { method: 'POST', body: {}, repeatable: true } as const;
    return this.#transport.call(`${pathOf(executionId)}/cancel`, EXECUTION, { ...options, timeout }, call);
  }

  /**
   * Delete an execution that has ended, and its events.
   *
   * @throws NotFoundError if there is none with this id.
   * @throws FailedPreconditionError while it is queued or running.
   */
  async delete(executionId: string, options?: CallOptions): Promise<void> {
    return this.#transport.call(pathOf(executionId), nothing, options, { method: 'DELETE' });
  }

  /**
   * What an execution has used, and how that stands against limits.
   *
   * @throws NotFoundError if there is none with this id.
   */
  async cost(executionId: string, { limits, ...options }: CostOptions = {}): Promise<ExecutionCostReport> {
    const query = { 'limits.maxTokens': limits?.maxTokens, 'limits.maxCost': limits?.maxCost };
    const read = message<ExecutionCostReport>({ currentCost: 'number' });
    return this.#transport.call(`${pathOf(executionId)}/cost`, read, options, { query });
  }

  /**
   * The receipt of an execution that has ended: its model calls, their prices, a digest of its events.
   *
   * @throws NotFoundError if there is none with this id.
   * @throws FailedPreconditionError while it is queued or running.
   */
  async receipt(executionId: string, options?: CallOptions): Promise<Receipt> {
    return this.#transport.call(`${pathOf(executionId)}/receipt`, field<Receipt>('receipt', 'object'), options);
  }

  /** Asks for a run; the request has an idempotency key, or creates nothing. */
  #start<Answer>(body: object, read: Reading<Answer>, { projectId, timeout, signal }: StartOptions): Promise<Answer> {
    const call = { method: 'POST', body, repeatable: true } as const;
    return this.#transport.inProject('/executions', read, { projectId, timeout, signal }, call);
  }

  /** An execution after its end. The server has just answered: now it is worth the patience of a watch. */
  async #ended(execution: Execution, end: number | undefined, signal: AbortSignal | undefined): Promise<Execution> {
    const left = () => (end === undefined ? undefined : Math.max(0, end - performance.now()));
    const options = { timeout: left(), signal };
    for await (const _ of new EventWatch(this.#transport, execution.id, execution.lastSequence, options, true)) {
    }
    const timeout = left() ?? Math.max(this.#transport.retry.outage, this.#transport.timeout);
    return this.#transport.call(pathOf(execution.id), EXECUTION, { timeout, signal }, { patient: true });
  }
}

function pathOf(executionId: string): string {
  return path`/api/v1/executions/${executionId}`;
}

function bodyOf(prompt: string, { variables, maxTokens, maxCost, maxDuration, labels }: StartOptions) {
  return { prompt, options: { variables, maxTokens, maxCost, timeout: maxDuration }, labels };
}
