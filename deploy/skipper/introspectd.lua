-- What every route of skipper begins with (default-filters-prepend in skipper.yaml):
-- it refuses paths with more than one reading, and takes from the client's headers
-- what only skipper and introspectd may say. It asks nobody and judges no token; it
-- words the refusals of the filters that do.
--
-- Safety: skipper goes on with a request whose script failed. Nothing below can fail
-- on what a client sends, and a skipper whose Lua lacks `string` has no routes at all:
local find, gsub, lower, match = string.find, string.gsub, string.lower, string.match

-- Safety: skipper picks a route by the decoded and cleaned path, but passes on the
-- path as it was sent. Where the backend reads /public//../reports or /reports;x=1
-- differently, a request would be judged by one route and served as another.
local function ambiguous(path)
  return find(path, "//", 1, true) or find(path .. "/", "/%.%.?/") or find(path, "[;#\\]")
    or find(path, "%%2[3ef5]") or find(path, "%%3b") or find(path, "%%5c")
end

-- Safety: X_Auth_Subject, X.Auth.Subject and X-Auth-Subject are one variable to CGI,
-- WSGI and PHP, and so one name here.
local function ours(name)
  name = gsub(lower(name), "[^%a%d]", "-")
  return find(name, "^x%-auth%-") or find(name, "^x%-introspectd%-") or find(name, "^x%-forwarded") or name == "forwarded"
    or find(name, "^x%-original%-") or name == "x-rewrite-url" or name == "x-real-ip" or name == "x-client-cert"
end

function request(ctx)
  local headers = ctx.request.header
  for name in headers() do
    if ours(name) then
      headers[name] = nil
    end
  end
  -- Safety: WebSocket is the only upgrade that is passed on; after `Upgrade: h2c` the
  -- connection would carry requests that skipper never sees. And never the client's
  -- own Connection, which names headers for the next hop to remove.
  headers["HTTP2-Settings"] = nil
  if lower(headers["Upgrade"]) == "websocket" then
    headers["Upgrade"], headers["Connection"] = "websocket", "Upgrade"
  else
    headers["Upgrade"], headers["Connection"] = nil, nil
  end
  if ambiguous(lower(match(ctx.request.url, "^[^?]*"))) then
    ctx.serve({ status_code = 400 })
  end
end

-- The filters name the host that they asked where a challenge of RFC 6750 belongs, and
-- say 401 as well where it did not answer. Only those of introspect.eskip tell that
-- apart; without `error` a client need not throw its token away.
function response(ctx)
  local why, answer = ctx.state_bag["auth-reject-reason"], ctx.response
  if why == "auth-service-access" then
    answer.status_code = 503
    answer.header["WWW-Authenticate"] = nil
  elseif why and answer.status_code == 401 then
    answer.header["WWW-Authenticate"] = 'Bearer realm="introspectd"'
  elseif why and answer.status_code == 403 then
    answer.header["WWW-Authenticate"] = 'Bearer realm="introspectd", error="insufficient_scope"'
  end
end
