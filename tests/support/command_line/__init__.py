"""What tests of the command line stand on."""
