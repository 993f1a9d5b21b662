"""What the product is about, in plain values: projects, secrets, executions, events, cost. Standard library only."""
