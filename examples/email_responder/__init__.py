"""An e-mail responder that answers each mail once."""
