"""What keeps an agent's process away from the server, the other runs and the network, and within its limits."""
