import { ExecutionCancelledError, ExecutionFailedError, ExecutionTimedOutError, LimitExceededError } from './errors.js';
import type { Execution } from './types.js';

/** Whether nothing more happens to it. A state that only a newer server knows counts as an end. */
export function hasEnded(execution: Execution): boolean {
  return execution.status !== 'queued' && execution.status !== 'running';
}

/** The same execution, if it was completed. Throws ExecutionFailedError or ExecutionCancelledError otherwise. */
export function completed(execution: Execution): Execution {
  if (execution.status === 'completed') {
    return execution;
  }
  if (execution.status === 'cancelled') {
    throw new ExecutionCancelledError('the execution was cancelled', execution);
  }
  const message = execution.failure?.message || 'the execution ended without success';
  switch (execution.failure?.reason) {
    case 'timeout':
      throw new ExecutionTimedOutError(message, execution);
    case 'limit_exceeded':
      throw new LimitExceededError(message, execution);
    default:
      throw new ExecutionFailedError(message, execution);
  }
}
