"""Five agents, each a small program around the Python client. `README.md` tells what each one shows."""
