import { describe, expect, test } from 'vitest';
import * as cloutagent from '../../src/index.js';
import { completed, hasEnded } from '../../src/outcome.js';
import type { Execution, Failure } from '../../src/types.js';
import { type Answer, FakeServer, failure, json, unreachable } from './fake_server.js';

const once = { attempts: 1 };

async function raised(answer: Answer): Promise<cloutagent.APIError> {
  const { fetch } = new FakeServer(answer);
  const client = new cloutagent.CloutAgentClient('http://127.0.0.1:3001', { fetch, retry: once, storage: null });
  const error = await client.getProject('p1').catch((found: unknown) => found);
  expect(error).toBeInstanceOf(cloutagent.APIError);
  return error as cloutagent.APIError;
}

describe('an error of the API', () => {
  test.each([
    [499, 1, 'CANCELLED', cloutagent.CallCancelledError],
    [500, 2, 'UNKNOWN', cloutagent.InternalError],
    [400, 3, 'INVALID_ARGUMENT', cloutagent.InvalidArgumentError],
    [504, 4, 'DEADLINE_EXCEEDED', cloutagent.DeadlineExceededError],
    [404, 5, 'NOT_FOUND', cloutagent.NotFoundError],
    [409, 6, 'ALREADY_EXISTS', cloutagent.AlreadyExistsError],
    [403, 7, 'PERMISSION_DENIED', cloutagent.PermissionDeniedError],
    [429, 8, 'RESOURCE_EXHAUSTED', cloutagent.ResourceExhaustedError],
    [400, 9, 'FAILED_PRECONDITION', cloutagent.FailedPreconditionError],
    [409, 10, 'ABORTED', cloutagent.ConflictError],
    [400, 11, 'OUT_OF_RANGE', cloutagent.OutOfRangeError],
    [501, 12, 'UNIMPLEMENTED', cloutagent.UnimplementedError],
    [500, 13, 'INTERNAL', cloutagent.InternalError],
    [503, 14, 'UNAVAILABLE', cloutagent.UnavailableError],
    [500, 15, 'DATA_LOSS', cloutagent.DataLossError],
    [401, 16, 'UNAUTHENTICATED', cloutagent.AuthenticationError],
  ] as const)('of status %i and code %i is %s', async (status, code, name, kind) => {
    const error = await raised(failure(status, code, 'A_REASON', { metadata: { execution_id: 'e1' } }));
    expect(error).toBeInstanceOf(kind);
    expect(error).toMatchObject({ status, code: name, reason: 'A_REASON', executionId: 'e1', requestId: 'r-1' });
    expect(error.name).toBe(kind.name);
  });

  test.each([
    ['QUEUE_FULL', 8, cloutagent.QueueFullError],
    ['RATE_LIMITED', 8, cloutagent.RateLimitedError],
    ['AUTHENTICATION_RATE_LIMITED', 8, cloutagent.RateLimitedError],
    ['BUDGET_EXCEEDED', 9, cloutagent.BudgetUsedUpError],
  ] as const)('with the reason %s has a class of its own', async (reason, code, kind) => {
    expect(await raised(failure(429, code, reason))).toBeInstanceOf(kind);
  });

  test('tells the faulty fields', async () => {
    const detail = {
      '@type': 'type.googleapis.com/google.rpc.BadRequest',
      fieldViolations: [{ field: 'agent.model', description: 'unknown model' }, 'nonsense'],
    };
    const error = await raised(json({ code: 3, message: 'wrong', details: [detail, null] }, 400));
    expect(error.violations).toEqual([
      { field: 'agent.model', description: 'unknown model' },
      { field: '', description: '' },
    ]);
  });

  test('tells when to come again, by its details or the header', async () => {
    const detailed = failure(429, 8, 'RATE_LIMITED', { retryDelay: '1.5s', headers: { 'retry-after': '9' } });
    expect((await raised(detailed)).retryAfter).toBe(1500);
    expect((await raised(json({}, 503, { 'retry-after': '2' }))).retryAfter).toBe(2000);
    const soon = new Date(Date.now() + 60_000).toUTCString();
    const { retryAfter = 0 } = await raised(json({}, 503, { 'retry-after': soon }));
    expect(retryAfter).toBeGreaterThan(50_000);
    expect((await raised(json({}, 503, { 'retry-after': 'soon' }))).retryAfter).toBeUndefined();
  });

  test('of a cursor tells what is there', async () => {
    const metadata = { first_sequence: '7', last_sequence: '9' };
    const error = await raised(failure(400, 11, 'CURSOR_OUT_OF_RANGE', { metadata }));
    expect(error).toMatchObject({ firstSequence: 7, lastSequence: 9 });
  });
});

describe('what is no error of the API', () => {
  test.each([
    [502, 'UNAVAILABLE'],
    [401, 'UNAUTHENTICATED'],
    [418, 'UNKNOWN'],
  ])('is told by its status %i', async (status, code) => {
    const page = () => new Response('<html>', { status, headers: { 'x-request-id': 'r-2' } });
    expect(await raised(page)).toMatchObject({ status, code, reason: undefined, requestId: 'r-2' });
  });

  test('has no reason of another domain', async () => {
    const detail = { '@type': 'type.googleapis.com/google.rpc.ErrorInfo', reason: 'X', domain: 'else', metadata: 3 };
    expect((await raised(json({ code: 5, details: [detail] }, 404))).reason).toBeUndefined();
  });

  test('is an InternalError if it says that all went well', async () => {
    const page = () => new Response('<html>', { headers: { 'content-type': 'text/html' } });
    expect(await raised(page)).toBeInstanceOf(cloutagent.InternalError);
  });

  test('is an UnavailableError with status 0 if there is none', async () => {
    const error = await raised(unreachable);
    expect(error).toBeInstanceOf(cloutagent.UnavailableError);
    expect([error.status, (error.cause as Error).message]).toEqual([0, 'fetch failed']);
  });

  test('is no redirect that is followed', async () => {
    const error = await raised(
      () => new Response(null, { status: 307, headers: { location: 'https://else.example' } }),
    );
    expect([error.status, error.code]).toEqual([307, 'UNKNOWN']);
  });
});

function ended(status: Execution['status'], failed?: Failure): Execution {
  return { id: 'e1', status, ...(failed && { failure: failed }) } as Execution;
}

function outcome(execution: Execution): unknown {
  try {
    return completed(execution);
  } catch (error) {
    return error;
  }
}

describe('how an execution ended', () => {
  test.each([
    ['timeout', cloutagent.ExecutionTimedOutError],
    ['model_error', cloutagent.ExecutionFailedError],
    ['limit_exceeded', cloutagent.LimitExceededError],
  ] as const)('is told by the reason %s', (reason, kind) => {
    const error = outcome(ended('failed', { reason, message: 'why' }));
    expect(error).toBeInstanceOf(kind);
    expect(error).toBeInstanceOf(cloutagent.ExecutionFailedError);
    expect(error).toMatchObject({ failureReason: reason, message: 'why', executionId: 'e1', name: kind.name });
  });

  test('is told for other ends', () => {
    const done = ended('completed');
    expect(outcome(done)).toBe(done);
    expect(outcome(ended('cancelled'))).toBeInstanceOf(cloutagent.ExecutionCancelledError);
    expect(outcome(ended('failed'))).toMatchObject({ failureReason: 'unspecified' });
    expect(['queued', 'running', 'failed'].map((status) => hasEnded(ended(status as Execution['status'])))).toEqual([
      false,
      false,
      true,
    ]);
  });
});

test('both kinds of a used-up limit are BudgetExceededErrors, and nothing else is', async () => {
  const metadata = { scope: 'daily', exceeded: 'cost', limit: '5', used: '4.5', left: '0.5' };
  const atTheStart = await raised(failure(400, 9, 'BUDGET_EXCEEDED', { metadata }));
  const budget = { scope: 'execution', exceeded: 'tokens', limit: 500, used: 480, left: 20 } as const;
  const inTheRun = outcome(ended('failed', { reason: 'limit_exceeded', message: '', exceeded: 'tokens', budget }));
  expect(atTheStart).toBeInstanceOf(cloutagent.BudgetExceededError);
  expect(inTheRun).toBeInstanceOf(cloutagent.BudgetExceededError);
  expect(atTheStart).toMatchObject({ scope: 'daily', exceeded: 'cost', limit: 5, used: 4.5, left: 0.5 });
  expect(inTheRun).toMatchObject(budget);
  expect(new cloutagent.APIError(400, '')).not.toBeInstanceOf(cloutagent.BudgetExceededError);
});
