import { UsageFollowing } from '../following.js';
import { path, type Transport } from '../transport.js';
import type { ProjectCallOptions, UsageReport } from '../types.js';
import { Watch } from '../watch.js';

/** Which days. They are those of UTC, `YYYY-MM-DD`, both included, at most 366; by default the last 30. */
export interface UsageOptions extends ProjectCallOptions {
  from?: string | undefined;
  to?: string | undefined;
}

/** What a project uses, and what it would cost. */
export class UsageReports {
  readonly #transport: Transport;

  /** @internal */
  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** Usage by day and model, the sum, and how the budgets stand. */
  async get({ from, to, projectId, ...options }: UsageOptions = {}): Promise<UsageReport> {
    const id = await this.#transport.project(projectId, options);
    const query = { from, to };
    const answer = this.#transport.call<{ report: UsageReport }>(path`/api/v1/projects/${id}/usage`, options, {
      query,
    });
    return (await answer).report;
  }

  /**
   * What `get` returns: at once, and again whenever it has changed. It has no end of its own: leave it, or have it
   * throw DeadlineExceededError after `timeout`.
   */
  watch({ from, to, projectId, ...options }: UsageOptions = {}): Watch<UsageReport> {
    const days = new URLSearchParams({ ...(from && { from }), ...(to && { to }) }).toString();
    const following = new UsageFollowing(async () => {
      const id = await this.#transport.project(projectId, { signal: options.signal });
      return path`/api/v1/projects/${id}/usage/stream` + (days && `?${days}`);
    });
    return new Watch(this.#transport, following, options);
  }

  /** US dollars that so many tokens cost with the project's model at list price. */
  async estimate(
    tokens: { promptTokens: number; completionTokens?: number | undefined },
    { projectId, ...options }: ProjectCallOptions = {},
  ): Promise<number> {
    const id = await this.#transport.project(projectId, options);
    const answer = this.#transport.call<{ estimatedCost: number }>(path`/api/v1/projects/${id}/estimate`, options, {
      method: 'POST',
      body: tokens,
      repeatable: true,
    });
    return (await answer).estimatedCost;
  }
}
