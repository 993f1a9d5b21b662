"""One way to speak to the API at several depths: in process, over gRPC, through Envoy."""

from tests.support.api.driver import Api, TextAnswer
from tests.support.api.failure import ApiFailure, failing
from tests.support.api.json_form import Json

__all__ = ["Api", "ApiFailure", "Json", "TextAnswer", "failing"]
