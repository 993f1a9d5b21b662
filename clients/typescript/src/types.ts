/**
 * What calls take and return: the messages of the API in its JSON, whose fields document themselves. Times are texts as
 * in RFC 3339, values of enums are their names, and an absent field is `undefined`. A newer server may send names and
 * fields that are not here.
 */
import type * as cost from './gen/cloutagent/v1/cost_pb.js';
import type * as execution from './gen/cloutagent/v1/execution_pb.js';
import type * as project from './gen/cloutagent/v1/project_pb.js';
import type * as secret from './gen/cloutagent/v1/secret_pb.js';
import type * as system from './gen/cloutagent/v1/system_pb.js';
import type { Printed } from './printed.js';

/** A project: one agent, its limits and its budget. */
export type Project = Printed<project.Project, project.ProjectJson>;
/** A project as it stands in a list. */
export type ProjectSummary = Printed<project.ProjectSummary, project.ProjectSummaryJson>;
/** How an agent behaves. */
export type AgentConfig = project.AgentConfigJson;
/** What one execution may use at most. */
export type Limits = project.LimitsJson;
/** What all executions of a project may use together. */
export type Budget = project.BudgetJson;
/** A server of tools. */
export type McpServer = project.McpServerJson;
/** An API key of a project, without the key itself. */
export type ApiKey = Printed<project.ApiKey, project.ApiKeyJson>;
/** A project that was created, and its first API key, which nobody can read again. */
export interface CreatedProject {
  /** What is stored of it. */
  project: Project;
  /** Its first API key. */
  apiKey: string;
}
/** An API key that was created: what is stored of it, and the key itself, which nobody can read again. */
export interface CreatedApiKey {
  /** What is stored of it. */
  key: ApiKey;
  /** The key itself. */
  apiKey: string;
}
/** Whose key the caller used. */
export interface CurrentProject {
  /** The project whose key it is. Absent for the admin's. */
  project?: Project;
  /** Whether it is the admin's. */
  admin: boolean;
}

/** An execution: one run of a project's agent. */
export type Execution = Printed<execution.Execution, execution.ExecutionJson>;
/** Where an execution stands. */
export type ExecutionStatus = execution.Execution_StatusJson;
/** Why an execution failed. */
export type Failure = Printed<execution.Failure, execution.FailureJson>;
/** What an execution would be like. */
export type ExecutionEstimate = Printed<execution.ExecutionEstimate, execution.ExecutionEstimateJson>;
/** What an execution has used, and how that stands against limits. */
export type ExecutionCostReport = Printed<execution.GetExecutionCostResponse, execution.GetExecutionCostResponseJson>;
/** What an execution used, call by call. */
export type Receipt = Printed<execution.Receipt, execution.ReceiptJson>;

/** What the model calls of one execution have used. */
export type Usage = Printed<cost.Usage, cost.UsageJson>;
/** How a usage stands against limits. */
export type LimitCheckResult = Printed<cost.LimitCheckResult, cost.LimitCheckResultJson>;
/** Limits to check a usage against. */
export type CostLimits = cost.CostLimitsJson;
/** A model and its list price. */
export type Model = Printed<cost.Model, cost.ModelJson>;
/** What a project used by day (UTC) and model, from the day `from` to the day `to`, and how its budgets stand. */
export type UsageReport = Printed<cost.UsageReport, cost.UsageReportJson> & { from: string; to: string };

/** A secret that was stored. */
export type StoredSecret = Printed<secret.SetSecretResponse, secret.SetSecretResponseJson>;
/** What is known of a secret, never its value. */
export type SecretMetadata = Printed<secret.GetSecretMetadataResponse, secret.GetSecretMetadataResponseJson>;
/** One version of a secret. */
export type SecretVersion = Printed<secret.SecretVersion, secret.SecretVersionJson>;

/** That the server is up, and its version. */
export type Health = Printed<system.GetHealthResponse, system.GetHealthResponseJson>;

/** What a call may be given beside its arguments. */
export interface CallOptions {
  /** Milliseconds that the call may take, with its retries and pauses. Default: the client's. */
  timeout?: number | undefined;
  /** Ends the call: it rejects with the signal's reason. What the call asked for may happen all the same. */
  signal?: AbortSignal | undefined;
}

/** The same for calls that are about a project. */
export interface ProjectCallOptions extends CallOptions {
  /** The project. Default: the client's, else the one that the key belongs to, which is asked for once. */
  projectId?: string | undefined;
}
