"""What calls take and return.

All but NewProject and NewApiKey are the messages of the API (`cloutagent.v1`), which document each of their fields. A
field that may be absent is asked for with `HasField`; times are `field.ToDatetime(tzinfo=UTC)`; the name of an enum's
value is, for example, `Execution.Status.Name(execution.status)`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cloutagent._requests import StartOptions
from cloutagent.v1.cost_pb2 import (
    BudgetExceeded,
    BudgetState,
    CostLimits,
    LimitCheckResult,
    Model,
    ModelUsage,
    Usage,
    UsageReport,
    UsageSum,
)
from cloutagent.v1.execution_pb2 import (
    Execution,
    ExecutionEstimate,
    ExecutionEvent,
    Failure,
    GetExecutionCostResponse,
    Receipt,
    SdkCost,
)
from cloutagent.v1.project_pb2 import (
    AgentConfig,
    ApiKey,
    Budget,
    BudgetLimit,
    GetCurrentProjectResponse,
    Limits,
    McpServer,
    Project,
    ProjectSummary,
)
from cloutagent.v1.secret_pb2 import (
    GetSecretMetadataResponse,
    RestoreSecretVersionResponse,
    SecretVersion,
    SetSecretResponse,
)
from cloutagent.v1.system_pb2 import GetHealthResponse

__all__ = [
    "AgentConfig",
    "ApiKey",
    "Budget",
    "BudgetExceeded",
    "BudgetLimit",
    "BudgetState",
    "CostLimits",
    "Execution",
    "ExecutionEstimate",
    "ExecutionEvent",
    "Failure",
    "GetCurrentProjectResponse",
    "GetExecutionCostResponse",
    "GetHealthResponse",
    "GetSecretMetadataResponse",
    "LimitCheckResult",
    "Limits",
    "McpServer",
    "Model",
    "ModelUsage",
    "NewApiKey",
    "NewProject",
    "Project",
    "ProjectSummary",
    "Receipt",
    "RestoreSecretVersionResponse",
    "SdkCost",
    "SecretVersion",
    "SetSecretResponse",
    "StartOptions",
    "Usage",
    "UsageReport",
    "UsageSum",
]


@dataclass(frozen=True, slots=True)
class NewProject:
    """A project that was created.

    Attributes:
        project: The project.
        api_key: Its first API key, which nobody can read again.
    """

    project: Project
    api_key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """An API key that was created.

    Attributes:
        key: What is stored of it.
        api_key: The key itself, which nobody can read again.
    """

    key: ApiKey
    api_key: str = field(repr=False)
