import { field } from '../answer.js';
import { UsageFollowing } from '../following.js';
import { path, queryOf } from '../request.js';
import type { Transport } from '../transport.js';
import type { ProjectCallOptions, UsageReport } from '../types.js';
import { Watch } from '../watch.js';

/** Which days: those of UTC, at most 366; by default the last 30. */
export interface UsageOptions extends ProjectCallOptions {
  /** The first day, `YYYY-MM-DD`. Default: 29 days before the last. */
  from?: string | undefined;
  /** The last day, itself included, `YYYY-MM-DD`. Default: today, also when that changes during a watch. */
  to?: string | undefined;
}

/** How many tokens to ask the price of. */
export interface TokenCounts {
  /** Input tokens. */
  promptTokens: number;
  /** Output tokens. Default 0. */
  completionTokens?: number | undefined;
}

/** What a project uses, and what it would cost. */
export class UsageReports {
  readonly #transport: Transport;

  /** @internal */
  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** Usage by day and model, the sum, and how the budgets stand. */
  get({ from, to, ...options }: UsageOptions = {}): Promise<UsageReport> {
    return this.#transport.inProject('/usage', field<UsageReport>('report', 'object'), options, {
      query: { from, to },
    });
  }

  /**
   * What `get` returns: at once, and again whenever it has changed, at most once a second. It has no end of its own:
   * leave it, or have it throw DeadlineExceededError after `timeout`, which is that of the whole watch.
   */
  watch({ from, to, projectId, ...options }: UsageOptions = {}): Watch<UsageReport> {
    const following = new UsageFollowing(async (ends) => {
      const id = await this.#transport.project(projectId, ends);
      return path`/api/v1/projects/${id}/usage/stream` + queryOf({ from, to });
    });
    return new Watch(this.#transport, following, options);
  }

  /** US dollars that so many tokens cost with the project's model at list price. */
  estimate(tokens: TokenCounts, options?: ProjectCallOptions): Promise<number> {
    const call = { method: 'POST', body: tokens, repeatable: true } as const;
    return this.#transport.inProject('/estimate', field<number>('estimatedCost', 'number'), options, call);
  }
}
