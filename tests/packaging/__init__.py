"""What a release publishes: built, looked into, installed, run."""
