"""One error of each kind that the server answers with."""

from __future__ import annotations

from decimal import Decimal

from cloutagent_server.domain import errors
from cloutagent_server.domain.cost import BudgetExceeded, BudgetScope, ExceededLimit
from cloutagent_server.domain.errors import CloutAgentError, InvalidRequest

EXAMPLES: tuple[CloutAgentError, ...] = (
    InvalidRequest.of("name", "is required"),
    errors.ApiKeyMissing(),
    errors.ApiKeyInvalid(),
    errors.AuthenticationRateLimited(7),
    errors.AccessDenied("not yours"),
    errors.ProjectNotFound("p"),
    errors.WatcherTooSlow(7),
    errors.ExecutionNotFound("e"),
    errors.SecretNotFound("TOKEN"),
    errors.ApiKeyNotFound("k"),
    errors.LastApiKey("k"),
    errors.ApiKeyLimitReached(20),
    errors.SecretLimitReached(1000, "names"),
    errors.SecretVersionNotFound("TOKEN", 3),
    errors.SecretVersionConflict("TOKEN", 3),
    errors.RevisionConflict("changed"),
    errors.IdempotencyKeyReused("e"),
    errors.ExecutionNotFinished("e"),
    errors.QueueFull(7),
    errors.BudgetUsedUp(BudgetExceeded(BudgetScope.DAILY, ExceededLimit.COST, Decimal("2.5"), Decimal("2.75"))),
    errors.CursorOutOfRange(1, 9),
    errors.StoredDataDamaged("/srv/projects/p", "not JSON"),
    errors.ServerUnavailable("stopping"),
    errors.StorageUnavailable("ENOSPC /srv"),
)
