-- Answers requests that the server is not asked: which methods a path has, and why a request is refused.
--
-- The route that leads here says in its metadata what there is to say: `allow`, the methods that its path takes, where
-- the method was another one; else `status` and `message`. A direct response of the route would do the same, but the
-- cors filter passes it over, so that web pages could not read it.

function envoy_on_request(handle)
  local answer = handle:metadata()
  local allow = answer:get("allow")
  if allow == nil then
    handle:respond({[":status"] = answer:get("status")}, answer:get("message"))
  elseif handle:headers():get(":method") == "OPTIONS" then
    handle:respond({[":status"] = "204", ["allow"] = allow}, "")
  else
    handle:respond({[":status"] = "405", ["allow"] = allow}, "the path takes " .. allow)
  end
end
