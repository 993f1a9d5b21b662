"""What tests of the Python client stand on."""
