/**
 * Client for CloutAgent, a self-hosted control plane for Claude agents, for Node and browsers.
 *
 * @packageDocumentation
 */
export { type ClientOptions, CloutAgentClient } from './client.js';
export type { KeyStorage } from './credentials.js';
export * from './errors.js';
export type { ExecutionEvent, ExecutionEventBase, ExecutionEventKind } from './events.js';
export type {
  CostOptions,
  Executions,
  ListOptions,
  RunOptions,
  StartOptions,
  WatchOptions,
} from './resources/executions.js';
export type { KeyRotation, Keys, NewKey } from './resources/keys.js';
export type { NewProject, ProjectChanges, ProjectListOptions, Projects } from './resources/projects.js';
export type { SecretGetOptions, SecretSetOptions, Secrets } from './resources/secrets.js';
export type { System } from './resources/system.js';
export type { TokenCounts, UsageOptions, UsageReports } from './resources/usage.js';
export type { RetryPolicy } from './retry.js';
export type * from './types.js';
export type { EventWatch, Watch } from './watch.js';
