import type { Execution } from './types.js';

/** The base of all errors of this package. */
export class CloutAgentError extends Error {
  override name = 'CloutAgentError';
  /** The execution that the error is about, where there is one: `executions.watch` follows it on. */
  executionId: string | undefined;
}

/** The client cannot do this as it was made: a malformed address, a key in plain text, no project. Nothing was sent. */
export class ConfigurationError extends CloutAgentError {
  override name = 'ConfigurationError';
}

/** A field of a request that is wrong. */
export interface Violation {
  /** Its path in the JSON of the API, such as `agent.maxTokens`; empty for the whole request. */
  readonly field: string;
  /** What is wrong with it, for people. */
  readonly description: string;
}

/** What is known of a failure beside its status and message. All of it may be left out. */
export interface ErrorDetails {
  /** Name of the status code. Default `UNKNOWN`. */
  readonly code?: string | undefined;
  /** Name of the ErrorReason. */
  readonly reason?: string | undefined;
  /** What the reason names. Default: nothing. */
  readonly metadata?: Readonly<Record<string, string>> | undefined;
  /** The faulty fields. Default: none. */
  readonly violations?: readonly Violation[] | undefined;
  /** The id of the call. */
  readonly requestId?: string | undefined;
  /** In how many milliseconds it may be tried again. */
  readonly retryAfter?: number | undefined;
  /** The error that it came of. */
  readonly cause?: unknown;
}

/** A call failed. The classes below it tell why. */
export class APIError extends CloutAgentError {
  override name = 'APIError';
  /** Name of the status code, such as `NOT_FOUND`. */
  readonly code: string;
  /** Name of the ErrorReason; undefined if it was not the server that answered, but the network or a proxy. */
  readonly reason: string | undefined;
  /** What the reason names, such as `project_id`. */
  readonly metadata: Readonly<Record<string, string>>;
  /** The faulty fields, at most ten; empty if the request could not be read, and for other errors. */
  readonly violations: readonly Violation[];
  /** The id of the call, which the server's log has too. */
  readonly requestId: string | undefined;
  /** In how many milliseconds the server says that it may be tried again; undefined if it does not say. */
  readonly retryAfter: number | undefined;
  /** What the start that failed was sent with: a start that is repeated with it is no second run. */
  idempotencyKey: string | undefined;

  constructor(
    /** Status of HTTP; 0 if there was no answer. */
    readonly status: number,
    message: string,
    details: ErrorDetails = {},
  ) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = details.code ?? 'UNKNOWN';
    this.reason = details.reason;
    this.metadata = details.metadata ?? {};
    this.violations = details.violations ?? [];
    this.requestId = details.requestId;
    this.retryAfter = details.retryAfter;
    this.executionId = this.metadata.execution_id;
  }
}

/** The request breaks a rule; `violations` says which. */
export class InvalidArgumentError extends APIError {
  override name = 'InvalidArgumentError';
}

/** There is no API key, or it is not valid. */
export class AuthenticationError extends APIError {
  override name = 'AuthenticationError';
}

/** The key may not do this. */
export class PermissionDeniedError extends APIError {
  override name = 'PermissionDeniedError';
}

/** There is no such project, execution, secret, version or API key. */
export class NotFoundError extends APIError {
  override name = 'NotFoundError';
}

/** The idempotency key was used for another request; `executionId` is what that one started. */
export class AlreadyExistsError extends APIError {
  override name = 'AlreadyExistsError';
}

/** Somebody else changed it at the same time, or a secret is not at the version that was expected. */
export class ConflictError extends APIError {
  override name = 'ConflictError';
}

/** The state does not allow it: an execution that has not ended, the last API key. */
export class FailedPreconditionError extends APIError {
  override name = 'FailedPreconditionError';
}

/** The cursor lies outside the events that exist: they were trimmed, or it is behind the last one. */
export class OutOfRangeError extends APIError {
  override name = 'OutOfRangeError';

  /** Number of the first event that can still be read. */
  get firstSequence(): number | undefined {
    return numberIn(this.metadata.first_sequence);
  }

  /** Number of the last event. */
  get lastSequence(): number | undefined {
    return numberIn(this.metadata.last_sequence);
  }
}

/** There is no room, or a message is too large. */
export class ResourceExhaustedError extends APIError {
  override name = 'ResourceExhaustedError';
}

/** The queue of the server or of the project is full. */
export class QueueFullError extends ResourceExhaustedError {
  override name = 'QueueFullError';
}

/** Too many calls, or too many wrong keys, came from here; `retryAfter` tells when to come again. */
export class RateLimitedError extends ResourceExhaustedError {
  override name = 'RateLimitedError';
}

/** The server cannot be reached, is stopping, or its storage takes no writes now. */
export class UnavailableError extends APIError {
  override name = 'UnavailableError';
}

/** There was no answer in time. What the call asked for may have happened all the same. */
export class DeadlineExceededError extends APIError {
  override name = 'DeadlineExceededError';
}

/** The call was ended from the other side. */
export class CallCancelledError extends APIError {
  override name = 'CallCancelledError';
}

/** What is stored is damaged. */
export class DataLossError extends APIError {
  override name = 'DataLossError';
}

/** The server does not know this call: it is older than the client. */
export class UnimplementedError extends APIError {
  override name = 'UnimplementedError';
}

/** A fault of the server, or an answer that makes no sense. */
export class InternalError extends APIError {
  override name = 'InternalError';
}

/** Nothing is left of a budget of the project, so nothing was started. Its fields are those of BudgetExceededError. */
export class BudgetUsedUpError extends FailedPreconditionError {
  override name = 'BudgetUsedUpError';
  readonly scope: string | undefined = this.metadata.scope;
  readonly exceeded: string | undefined = this.metadata.exceeded;
  readonly limit: number | undefined = numberIn(this.metadata.limit);
  readonly used: number | undefined = numberIn(this.metadata.used);
  readonly left: number | undefined = numberIn(this.metadata.left);
}

/** An execution ended without success. */
export class ExecutionFailedError extends CloutAgentError {
  override name = 'ExecutionFailedError';
  /** Why, such as `model_error`. */
  readonly failureReason: string;

  constructor(
    message: string,
    /** The execution as it ended, with its usage. */
    readonly execution: Execution,
  ) {
    super(message);
    this.executionId = execution.id;
    this.failureReason = execution.failure?.reason ?? 'unspecified';
  }
}

/** A limit on tokens or cost ended the execution. It has the fields of BudgetExceededError, too. */
export class LimitExceededError extends ExecutionFailedError {
  override name = 'LimitExceededError';
  readonly scope: string | undefined = this.execution.failure?.budget?.scope;
  readonly exceeded: string | undefined = this.execution.failure?.exceeded;
  readonly limit: number | undefined = this.execution.failure?.budget?.limit;
  readonly used: number | undefined = this.execution.failure?.budget?.used;
  readonly left: number | undefined = this.execution.failure?.budget?.left;
}

/** The execution took longer than its limit on time allows. */
export class ExecutionTimedOutError extends ExecutionFailedError {
  override name = 'ExecutionTimedOutError';
}

/** An execution was cancelled. */
export class ExecutionCancelledError extends CloutAgentError {
  override name = 'ExecutionCancelledError';

  constructor(
    message: string,
    /** The execution as it ended, with its usage. */
    readonly execution: Execution,
  ) {
    super(message);
    this.executionId = execution.id;
  }
}

/**
 * A limit on tokens or cost left no room: for a start (BudgetUsedUpError) or in a run (LimitExceededError). Only asked
 * for by `instanceof`, which is true for both.
 */
export abstract class BudgetExceededError extends CloutAgentError {
  /** What the limit holds for: `execution`, `daily`, `monthly` or `total`. */
  abstract readonly scope: string | undefined;
  /** What it limits: `tokens` or `cost`. */
  abstract readonly exceeded: string | undefined;
  /** The limit, in tokens or US dollars. */
  abstract readonly limit: number | undefined;
  /** What was used of it. */
  abstract readonly used: number | undefined;
  /** What was left of it. */
  abstract readonly left: number | undefined;

  static override [Symbol.hasInstance](value: unknown): value is BudgetUsedUpError | LimitExceededError {
    return value instanceof BudgetUsedUpError || value instanceof LimitExceededError;
  }
}

function numberIn(text: string | undefined): number | undefined {
  return text === undefined || text === '' || !Number.isFinite(Number(text)) ? undefined : Number(text);
}
