"""API scenarios, written once and run at several depths."""
