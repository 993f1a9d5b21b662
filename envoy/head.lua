-- HEAD: the server is asked as for GET, and of its answer the body is left out. The API's streams have no HEAD, since
-- their end would have to be waited for.

function envoy_on_request(handle)
  local headers = handle:headers()
  -- For the access log.
  handle:streamInfo():dynamicMetadata():set("cloutagent", "method", "HEAD")
  headers:replace("x-head", "1")
  headers:replace(":method", "GET")
end

function envoy_on_response(handle)
  -- Chunk by chunk, for a whole answer may be larger than what Envoy keeps.
  for chunk in handle:bodyChunks() do
    chunk:setBytes("")
  end
end
