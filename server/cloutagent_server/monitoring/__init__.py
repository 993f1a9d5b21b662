"""How operators see the server from outside: metrics, liveness, readiness."""
