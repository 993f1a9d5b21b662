/**
 * Client for CloutAgent, a self-hosted control plane for Claude agents, for Node and browsers.
 *
 * @packageDocumentation
 */
export { type ClientOptions, CloutAgentClient } from './client.js';
export type { KeyStorage } from './credentials.js';
export * from './errors.js';
export type { ExecutionEvent, ExecutionEventKind } from './events.js';
export type { Executions, ListOptions, RunOptions, StartOptions, WatchOptions } from './resources/executions.js';
export type { Keys } from './resources/keys.js';
export type { NewProject, ProjectChanges, Projects } from './resources/projects.js';
export type { Secrets } from './resources/secrets.js';
export type { System } from './resources/system.js';
export type { UsageOptions, UsageReports } from './resources/usage.js';
export type { RetryPolicy } from './retry.js';
export type * from './types.js';
export type { EventWatch, Watch } from './watch.js';
