"""What runs an agent: the contracts in `base` and their implementation over claude-agent-sdk."""
