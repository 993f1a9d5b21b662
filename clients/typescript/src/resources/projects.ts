import { field, message, nothing } from '../answer.js';
import { path } from '../request.js';
import { CURRENT, type Transport } from '../transport.js';
import type {
  AgentConfig,
  Budget,
  CallOptions,
  CreatedProject,
  CurrentProject,
  Limits,
  Project,
  ProjectCallOptions,
  ProjectSummary,
} from '../types.js';

/** A project to create. */
export interface NewProject {
  /** Name for people, 1 to 100 characters. */
  name: string;
  /** The agent; it needs a name, a system prompt and a model. */
  agent: AgentConfig & Required<Pick<AgentConfig, 'name' | 'systemPrompt' | 'model'>>;
  /** What the project is for, up to 1,000 characters. Default: absent. */
  description?: string | undefined;
  /** What one execution may use at most. Default: 100,000 tokens, 10 US dollars, 300,000 milliseconds. */
  limits?: Limits | undefined;
  /** What all executions of the project may use together. Default: not limited. */
  budget?: Budget | undefined;
}

/** What is to change of a project. */
export interface ProjectChanges {
  /** Name for people, 1 to 100 characters. */
  name?: string | undefined;
  /** What the project is for, up to 1,000 characters. */
  description?: string | undefined;
  /** Fields of the agent that change. */
  agent?: AgentConfig | undefined;
  /** Fields of the limits that change. */
  limits?: Limits | undefined;
  /** Fields of the budget that change, for running executions too. */
  budget?: Budget | undefined;
  /**
   * Paths such as `description` or `agent.enabledTools`, at most 64: they change and nothing else does, and a path whose
   * field is not given is reset. Default: what is given changes.
   */
  updateMask?: readonly string[] | undefined;
}

/** How to list projects. */
export interface ProjectListOptions extends CallOptions {
  /** How many each call returns at most, 1 to 1,000. Default 1,000. */
  pageSize?: number | undefined;
}

const PROJECT = field<Project>('project', 'object');
const CREATED = message<CreatedProject>({ project: 'object', apiKey: 'string' });
const PAGE = message<{ projects: ProjectSummary[]; nextPageToken?: string }>({ projects: 'list' });

/** Projects: an agent's configuration, its limits and its budget. */
export class Projects {
  readonly #transport: Transport;

  /** @internal */
  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** Create a project and its API key, which nobody can read again. The client goes on with the key that it has. */
  create(project: NewProject, options?: CallOptions): Promise<CreatedProject> {
    const call = { method: 'POST', body: project, confidential: 'API key' } as const;
    return this.#transport.call('/api/v1/projects', CREATED, options, call);
  }

  /**
   * One project, by default the client's own.
   *
   * @throws NotFoundError if there is none with this id.
   */
  get(projectId?: string, options?: CallOptions): Promise<Project> {
    return this.#transport.inProject('', PROJECT, { ...options, projectId });
  }

  /**
   * All projects that the key may see, oldest first, page after page as they are asked for. `timeout` is that of each
   * page.
   */
  async *list({ pageSize, ...options }: ProjectListOptions = {}): AsyncGenerator<ProjectSummary, undefined, undefined> {
    let pageToken: string | undefined;
    do {
      const query = { pageSize, pageToken };
      const page = await this.#transport.call('/api/v1/projects', PAGE, options, { query });
      yield* page.projects;
      pageToken = page.nextPageToken;
    } while (pageToken);
  }

  /**
   * Change what is given, down to single fields of `agent`, `limits` and `budget`. Running executions keep the
   * configuration that they started with.
   *
   * @throws InvalidArgumentError also for a path in the mask that is none.
   */
  update(changes: ProjectChanges, options?: ProjectCallOptions): Promise<Project> {
    const { updateMask, ...body } = changes;
    const query = { updateMask: updateMask?.join(',') };
    return this.#transport.inProject('', PROJECT, options, { method: 'PATCH', query, body });
  }

  /**
   * Delete a project with its secrets and executions, after cancelling those that run. Its keys stop working at once.
   *
   * @throws NotFoundError if there is none with this id.
   */
  async delete(projectId: string, options?: CallOptions): Promise<void> {
    return this.#transport.call(path`/api/v1/projects/${projectId}`, nothing, options, { method: 'DELETE' });
  }

  /** Whether there is a project with this id. */
  async exists(projectId: string, options?: CallOptions): Promise<boolean> {
    const read = field<boolean>('exists', 'boolean');
    return this.#transport.call(path`/api/v1/projects/${projectId}/exists`, read, options);
  }

  /** The project that the client's key belongs to, or that it is the admin's. */
  current(options?: CallOptions): Promise<CurrentProject> {
    return this.#transport.call(CURRENT.path, CURRENT.read, options);
  }
}
