-- Gives REST answers the HTTP status that gRPC has no word for: 201 for what was created, 204 for what was deleted.
--
-- The server asks for it with `x-http-code` in the initial metadata. The filter stands before the transcoder, so on the
-- way back it sees the finished REST answer. Only an answer with status 200 changes, to 201 only one with a JSON body:
-- an error keeps its own status even if it came after the initial metadata, and native gRPC stays as it is. The header
-- never leaves here.

function envoy_on_response(handle)
  local headers = handle:headers()
  local code = headers:get("x-http-code")
  if code == nil then
    return
  end
  headers:remove("x-http-code")
  local content_type = headers:get("content-type") or ""
  if headers:get(":status") ~= "200" or content_type:find("application/grpc", 1, true) == 1 then
    return
  end
  if code == "201" and content_type == "application/json" then
    headers:replace(":status", "201")
  elseif code == "204" then
    -- Also for a text stream that has nothing to tell: what it opens with is dropped as well.
    headers:replace(":status", "204")
    headers:remove("content-type")
    local body = handle:body()
    if body ~= nil then
      body:setBytes("")
    end
    -- The headers fetched above are no longer valid once the body was waited for.
    handle:headers():remove("content-length")
  end
end
