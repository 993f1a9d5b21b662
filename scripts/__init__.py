"""Plain scripts of this repository; run them from its root with `python -m scripts.<name>`."""
