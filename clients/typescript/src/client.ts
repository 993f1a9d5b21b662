import { endpointOf, environment } from './address.js';
import { Credentials, type KeyStorage } from './credentials.js';
import { ConfigurationError } from './errors.js';
import { Executions, type WatchOptions } from './resources/executions.js';
import { Keys } from './resources/keys.js';
import { type NewProject, Projects } from './resources/projects.js';
import { Secrets } from './resources/secrets.js';
import { System } from './resources/system.js';
import { UsageReports } from './resources/usage.js';
import { type RetryPolicy, retryPolicy } from './retry.js';
import { Transport } from './transport.js';
import type { CallOptions, CreatedProject, Health, Project, ProjectSummary } from './types.js';
import type { EventWatch } from './watch.js';

const DEFAULT_TIMEOUT = 30_000;

/** How a client is made. All of it may be left out. */
export interface ClientOptions {
  /** The API key: a project's, or the admin's. Default: the one that was kept, else `CLOUTAGENT_API_KEY`. */
  apiKey?: string | undefined;
  /** The project of calls that name none. Default: `CLOUTAGENT_PROJECT_ID`, else the one that the key belongs to. */
  projectId?: string | undefined;
  /** Milliseconds that a call may take, with its retries, unless it says otherwise. Default 30,000. */
  timeout?: number | undefined;
  /** How patient the client is. Default: see RetryPolicy. */
  retry?: Partial<RetryPolicy> | undefined;
  /** What is called in place of the global `fetch`. Default: that. */
  fetch?: typeof fetch | undefined;
  /** Where `setAPIKey` keeps the key. Default: a page's `localStorage`; null: nowhere. */
  storage?: KeyStorage | null | undefined;
  /**
   * Whether keys, and the values of secrets, may go to another machine without TLS, and come from there. Default: they
   * may not, and such a call throws ConfigurationError before anything is sent.
   */
  allowPlaintextKey?: boolean | undefined;
}

/**
 * A client of a CloutAgent server, over REST.
 *
 * Reads, and starts of executions, are made again when they fail for a moment. Other writes never are, since they may
 * have been done. Every call has a deadline, which holds for its attempts together.
 *
 * Every call rejects with an APIError if it fails: with InvalidArgumentError if the request breaks a rule,
 * AuthenticationError without a valid key, PermissionDeniedError if the key may not do it, NotFoundError if there is no
 * such project, UnavailableError or DeadlineExceededError if there is no answer in time. What cannot be sent at all is a
 * ConfigurationError. The calls tell what else they throw.
 */
export class CloutAgentClient {
  /** Projects: an agent's configuration, its limits and its budget. */
  readonly projects: Projects;
  /** API keys of a project. */
  readonly keys: Keys;
  /** Secrets of a project, filled into prompts. */
  readonly secrets: Secrets;
  /** Executions: runs of a project's agent. */
  readonly executions: Executions;
  /** What a project uses, and what it would cost. */
  readonly usage: UsageReports;
  /** The server itself. */
  readonly system: System;

  readonly #credentials: Credentials;
  readonly #transport: Transport;

  /**
   * Does not connect yet. `baseURL` is `https://host[:port]`, or a path of the page's own server; `/api/v1` at its end
   * may be left out. Default: the page's server, else `CLOUTAGENT_ADDRESS`, else `http://127.0.0.1:3001`.
   *
   * @throws ConfigurationError if the address is malformed, or the key would go to another machine in plain text.
   */
  constructor(baseURL?: string, options: ClientOptions = {}) {
    const { timeout = DEFAULT_TIMEOUT, projectId = environment('CLOUTAGENT_PROJECT_ID') } = options;
    if (!(timeout > 0)) {
      throw new ConfigurationError('the timeout must be more than 0 milliseconds');
    }
    const endpoint = endpointOf(baseURL);
    this.#credentials = new Credentials(endpoint, options.apiKey, options.storage, options.allowPlaintextKey ?? false);
    this.#transport = new Transport(endpoint, this.#credentials, {
      timeout,
      retry: retryPolicy(options.retry),
      projectId,
      fetch: options.fetch,
    });
    this.projects = new Projects(this.#transport);
    this.keys = new Keys(this.#transport);
    this.secrets = new Secrets(this.#transport);
    this.executions = new Executions(this.#transport);
    this.usage = new UsageReports(this.#transport);
    this.system = new System(this.#transport);
  }

  /**
   * Use this key from now on, and keep it in the page's `localStorage` for its next client, or in the given `storage`.
   *
   * @throws ConfigurationError if no key has such characters, or it would go to another machine in plain text. Then the
   *   key that was used stays.
   */
  setAPIKey(key: string): void {
    this.#credentials.keep(key);
    this.#transport.keyChanged();
  }

  /** Forget the key, also where it was kept. The client goes on without one. */
  clearAPIKey(): void {
    this.#credentials.forget();
    this.#transport.keyChanged();
  }

  /** Create a project, and go on with its key, as by `setAPIKey`; see `projects.create`. */
  async createProject(project: NewProject, options?: CallOptions): Promise<CreatedProject> {
    const created = await this.projects.create(project, options);
    this.setAPIKey(created.apiKey);
    return created;
  }

  /** One project; see `projects.get`. */
  getProject(projectId: string, options?: CallOptions): Promise<Project> {
    return this.projects.get(projectId, options);
  }

  /** All projects that the key may see, oldest first, in one list; see `projects.list`. */
  async listProjects(options?: CallOptions): Promise<ProjectSummary[]> {
    const found: ProjectSummary[] = [];
    for await (const project of this.projects.list(options)) {
      found.push(project);
    }
    return found;
  }

  /** That the server is up, and its version. Needs no key. */
  healthCheck(options?: CallOptions): Promise<Health> {
    return this.system.health(options);
  }

  /** The events of an execution from the first to the last; see `executions.watch`. */
  watchExecution(executionId: string, options?: WatchOptions): EventWatch {
    return this.executions.watch(executionId, options);
  }
}
