-- The way of a request through Kong as far as it matters to the plugin: in
-- nginx, with the plugin's own files.
local cjson = require "cjson.safe"

local gate = { routes = {} }

-- load reads a file with {"consumers": [], "routes": {name: settings}}. A
-- route has the plugin's settings, or under `functions` a serverless function.
function gate.load(path)
  local file = assert(io.open(path))
  local given = assert(cjson.decode(file:read("*a")))
  file:close()
  kong = require("pdk")(given.consumers) -- luacheck: globals kong
  local configure, handler = require "configure", require "kong.plugins.introspectd.handler"
  for name, settings in pairs(given.routes) do
    if settings.functions then
      gate.routes[name] = assert(loadstring(settings.functions))
    else
      local conf = assert(configure(settings))
      gate.routes[name] = function() handler:access(conf) end
    end
  end
end

-- access is what Kong's access phase does: what it takes from the request, the
-- plugin, and after it the hop-by-hop headers.
function gate.access(name)
  local upgrade = ngx.var.http_upgrade
  if upgrade and upgrade:lower() == "websocket" then
    ngx.var.upstream_connection, ngx.var.upstream_upgrade = "keep-alive, Upgrade", "websocket"
  else
    ngx.var.upstream_connection = "keep-alive"
  end
  gate.routes[name]()
  for header in (ngx.var.http_connection or ""):lower():gmatch("[^,%s]+") do
    if header ~= "upgrade" then
      ngx.req.clear_header(header)
    end
  end
end

return gate
