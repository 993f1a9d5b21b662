"""What the fault suite is made of."""
