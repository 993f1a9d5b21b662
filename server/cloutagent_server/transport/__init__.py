"""gRPC: servicers, codecs between protobuf and domain, the guard, the error catalogue."""
