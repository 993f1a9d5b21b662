/** The generated messages and services of the API, for those who call it by gRPC-Web or Connect. */
export * from './gen/cloutagent/v1/access_pb.js';
export * from './gen/cloutagent/v1/audit_pb.js';
export * from './gen/cloutagent/v1/cost_pb.js';
export * from './gen/cloutagent/v1/error_reason_pb.js';
export * from './gen/cloutagent/v1/execution_pb.js';
export * from './gen/cloutagent/v1/project_pb.js';
export * from './gen/cloutagent/v1/secret_pb.js';
export * from './gen/cloutagent/v1/system_pb.js';
export * from './gen/google/rpc/error_details_pb.js';
