-- Stands for lua-resty-http, which comes with Kong and not with Debian: what
-- the plugin uses of it, on nginx's own sockets. Answers have a length.
local Client = {}
Client.__index = Client

-- headers answer to their names in any case, as lua-resty-http's do.
local function headers()
  return setmetatable({}, { __index = function(all, wanted)
    for name, value in pairs(all) do
      if name:lower() == wanted:lower() then
        return value
      end
    end
  end })
end

local function read(socket)
  local line, err = socket:receive("*l")
  if not line then
    return nil, err
  end
  local response = { status = tonumber(line:match("^HTTP/1%.1 (%d%d%d)")), headers = headers() }
  while true do
    line, err = socket:receive("*l")
    if not line then
      return nil, err
    elseif line == "" then
      break
    end
    local name, value = line:match("^([^:]+):%s*(.-)%s*$")
    local before = response.headers[name]
    if type(before) == "table" then
      before[#before + 1] = value
    else
      response.headers[name] = before and { before, value } or value
    end
  end
  local length = tonumber(response.headers["Content-Length"])
  if not length then
    return nil, "an answer without a length"
  end
  response.body = ""
  if length > 0 then
    response.body, err = socket:receive(length)
  end
  return response.body and response, err
end

function Client:set_timeouts(connect, send, receive)
  self.socket:settimeouts(connect, send, receive)
end

function Client:request_uri(uri, params)
  local host, port, path = uri:match("^http://([^:/]+):(%d+)(/.*)$")
  local ok, err = self.socket:connect(host, tonumber(port))
  if not ok then
    return nil, err
  end
  local lines = { params.method .. " " .. path .. " HTTP/1.1", "Host: " .. host .. ":" .. port }
  if params.body then
    lines[#lines + 1] = "Content-Length: " .. #params.body
  end
  for name, value in pairs(params.headers) do
    for _, one in ipairs(type(value) == "table" and value or { value }) do
      lines[#lines + 1] = name .. ": " .. one
    end
  end
  ok, err = self.socket:send(table.concat(lines, "\r\n") .. "\r\n\r\n" .. (params.body or ""))
  if not ok then
    return nil, err
  end
  local response
  response, err = read(self.socket)
  if not response then
    self.socket:close()
    return nil, err
  end
  if response.headers["Connection"] == "close" then
    self.socket:close()
  else
    self.socket:setkeepalive(params.keepalive_timeout, params.keepalive_pool)
  end
  return response
end

return { new = function() return setmetatable({ socket = ngx.socket.tcp() }, Client) end }
