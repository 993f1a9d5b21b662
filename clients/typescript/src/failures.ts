import * as errors from './errors.js';

type Kind = new (status: number, message: string, details: errors.ErrorDetails) => errors.APIError;

// By the number that google.rpc.Code gives them: name, error, and the status of HTTP.
const CODES: readonly (readonly [string, Kind, number])[] = [
  ['OK', errors.InternalError, 200],
  ['CANCELLED', errors.CallCancelledError, 499],
  ['UNKNOWN', errors.InternalError, 500],
  ['INVALID_ARGUMENT', errors.InvalidArgumentError, 400],
  ['DEADLINE_EXCEEDED', errors.DeadlineExceededError, 504],
  ['NOT_FOUND', errors.NotFoundError, 404],
  ['ALREADY_EXISTS', errors.AlreadyExistsError, 409],
  ['PERMISSION_DENIED', errors.PermissionDeniedError, 403],
  ['RESOURCE_EXHAUSTED', errors.ResourceExhaustedError, 429],
  ['FAILED_PRECONDITION', errors.FailedPreconditionError, 400],
  ['ABORTED', errors.ConflictError, 409],
  ['OUT_OF_RANGE', errors.OutOfRangeError, 400],
  ['UNIMPLEMENTED', errors.UnimplementedError, 501],
  ['INTERNAL', errors.InternalError, 500],
  ['UNAVAILABLE', errors.UnavailableError, 503],
  ['DATA_LOSS', errors.DataLossError, 500],
  ['UNAUTHENTICATED', errors.AuthenticationError, 401],
];

// What an answer means that is none of the API: a proxy's. Numbers of the codes above.
const BY_STATUS: Readonly<Record<number, number>> = {
  400: 3,
  401: 16,
  403: 7,
  404: 5,
  405: 12,
  409: 10,
  413: 8,
  429: 8,
  499: 1,
  500: 13,
  501: 12,
  502: 14,
  503: 14,
  504: 4,
};

// Reasons that have a class of their own, below that of their code.
const BY_REASON: ReadonlyMap<string | undefined, Kind> = new Map<string | undefined, Kind>([
  ['QUEUE_FULL', errors.QueueFullError],
  ['RATE_LIMITED', errors.RateLimitedError],
  ['AUTHENTICATION_RATE_LIMITED', errors.RateLimitedError],
  ['BUDGET_EXCEEDED', errors.BudgetUsedUpError],
]);

/** The error for an answer that is none of success. `requestId` is the one that the call was sent with. */
export async function failureOf(response: Response, requestId: string): Promise<errors.APIError> {
  let body: unknown;
  try {
    body = await response.json();
  } catch {
    body = undefined;
  }
  return failureIn(body, response.status, {
    requestId: response.headers?.get('x-request-id') ?? requestId,
    retryAfter: milliseconds(response.headers?.get('retry-after')),
  });
}

/**
 * The error that a google.rpc.Status in JSON stands for. What is malformed in it counts as absent. Without a `status`
 * it came inside of a stream.
 */
export function failureIn(body: unknown, status: number | undefined, known: errors.ErrorDetails = {}): errors.APIError {
  const error = record(body);
  const told = typeof error.code === 'number' ? CODES[error.code] : undefined;
  const [code, kind, usual] = told ?? CODES[BY_STATUS[status ?? 500] ?? 2] ?? ['UNKNOWN', errors.InternalError, 500];
  const details = (Array.isArray(error.details) ? error.details : []).map(record);
  const detail = (name: string) =>
    record(details.find((each) => each['@type'] === `type.googleapis.com/google.rpc.${name}`));
  const info = detail('ErrorInfo');
  const reason = info.domain === 'cloutagent' ? text(info.reason) : undefined;
  const faults = detail('BadRequest').fieldViolations;
  const delay = /^(\d+(?:\.\d+)?)s$/.exec(text(detail('RetryInfo').retryDelay) ?? '')?.[1];
  const message =
    text(error.message) ?? (status === undefined ? 'the stream failed' : `the call failed with status ${status}`);
  return new (BY_REASON.get(reason) ?? kind)(status ?? usual, message, {
    code,
    reason,
    metadata: Object.fromEntries(Object.entries(record(info.metadata)).map(([name, value]) => [name, String(value)])),
    violations: (Array.isArray(faults) ? faults : []).map(record).map(({ field, description }) => ({
      field: text(field) ?? '',
      description: text(description) ?? '',
    })),
    requestId: text(detail('RequestInfo').requestId) || known.requestId,
    retryAfter: delay === undefined ? known.retryAfter : Number(delay) * 1000,
  });
}

/** The error for a call that got no answer. */
export function unreachable(requestId: string, cause: unknown): errors.UnavailableError {
  const message = 'the server cannot be reached, or lets no page of this origin ask';
  return new errors.UnavailableError(0, message, { code: 'UNAVAILABLE', requestId, cause });
}

/** The error for a connection that is no longer one. */
export function lost(requestId: string | undefined, how: string, cause?: unknown): errors.UnavailableError {
  return new errors.UnavailableError(0, how, { code: 'UNAVAILABLE', requestId, cause });
}

/** The error for an answer that did not come in time. */
export function tooLate(
  requestId: string | undefined,
  message = 'there was no answer in time',
): errors.DeadlineExceededError {
  return new errors.DeadlineExceededError(0, message, { code: 'DEADLINE_EXCEEDED', requestId });
}

/** The error for an answer that is none of the API. The same request would be answered in the same way. */
export function unreadable(status: number, requestId?: string, cause?: unknown): errors.InternalError {
  const message = 'the answer makes no sense: is this the address of the API?';
  return new errors.InternalError(status, message, { requestId, cause });
}

/** The error for JSON that is none. Browsers do not always tell when an answer was cut. */
export function incomplete(status: number, requestId: string, cause: unknown): errors.InternalError {
  return new errors.InternalError(status, 'the answer is not whole', { code: 'INTERNAL', requestId, cause });
}

/** What a header Retry-After asks for: seconds, or a time. */
function milliseconds(header: string | null | undefined): number | undefined {
  if (!header) {
    return undefined;
  }
  const wait = /^\d+$/.test(header) ? Number(header) * 1000 : Date.parse(header) - Date.now();
  return Number.isNaN(wait) ? undefined : Math.max(0, wait);
}

function record(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
}

function text(value: unknown): string | undefined {
  return typeof value === 'string' ? value : undefined;
}
