-- The settings of the plugin `introspectd`. deploy/README.md explains them.

local typedefs = require "kong.db.schema.typedefs"

local function written(value)
  return value ~= nil and value ~= ngx.null
end

-- url is scheme and authority alone: the paths are the plugin's.
local function check_url(url)
  if not string.match(url, "^https?://[%w.-]+$") and not string.match(url, "^https?://[%w.-]+:%d+$") then
    return nil, "expected http:// or https://, a host and perhaps a port, without a path"
  end
  return true
end

-- check_header allows what every server takes for a name, in the one spelling
-- that nobody takes for another.
local function check_header(name)
  if not string.match(name, "^[A-Za-z][A-Za-z0-9-]*$") then
    return nil, "expected letters, digits and hyphens"
  end
  if string.lower(name) == "authorization" or string.lower(name) == "connection" or string.lower(name) == "host" then
    return nil, "this header has a meaning of its own"
  end
  return true
end

local function has(map, wanted)
  for _, value in pairs(map) do
    if value == wanted then
      return true
    end
  end
  return false
end

-- check is what no field can say alone.
local function check(config)
  if config.ask == "nothing" then
    return true
  end
  if not written(config.url) then
    return nil, "url: where introspectd listens has to be written"
  end
  local host = string.match(config.url, "^http://([%w.-]+)")
  if host and not config.allow_http and host ~= "localhost" and not string.match(host, "^127%.%d+%.%d+%.%d+$") then
    return nil, "url: tokens would travel in the clear; use https, or set allow_http where the network encrypts"
  end
  if config.ask == "verdict" and not written(config.policy) then
    return nil, "policy: the policy to ask by has to be written"
  end
  if config.ask == "verdict" and #config.scopes > 0 then
    return nil, "scopes: the policy says what is demanded; they belong to ask: claims"
  end
  if written(config.caller_id) ~= written(config.caller_secret) then
    return nil, "caller_id, caller_secret: both or none"
  end
  if config.ask == "claims" and not written(config.caller_id) then
    return nil, "caller_id: /introspect answers callers alone"
  end
  if not has(config.headers, "sub") or not has(config.headers, "iss") then
    return nil, "headers: sub and iss have to be there; a subject is unique to its issuer only"
  end
  if #config.consumer_issuers > 0 and not has(config.headers, "client_id") then
    return nil, "headers: client_id has to be there, to find consumers by it"
  end
  if config.consumer_required and #config.consumer_issuers == 0 then
    return nil, "consumer_issuers: whose clients are consumers has to be written"
  end
  return true
end

local milliseconds = { 1, 60000 }

return {
  name = "introspectd",
  fields = {
    { consumer = typedefs.no_consumer }, -- who it is turns out here
    { protocols = typedefs.protocols_http },
    { config = {
      type = "record",
      custom_validator = check,
      fields = {
        { ask = { type = "string", required = true, default = "verdict", one_of = { "verdict", "claims", "nothing" } } },
        { url = { type = "string", custom_validator = check_url } },
        { allow_http = { type = "boolean", required = true, default = false } },
        { ssl_verify = { type = "boolean", required = true, default = true } },
        { policy = { type = "string", match = "^[%w_-]+$" } },
        { scopes = { type = "array", required = true, default = {}, elements = { type = "string", match = "^[]-~!#-[]+$" } } },
        { realm = { type = "string", required = true, default = "introspectd", match = "^[]-~ !#-[]+$" } },
        { caller_id = { type = "string", referenceable = true } },
        { caller_secret = { type = "string", referenceable = true, encrypted = true } },
        { connect_timeout = { type = "integer", required = true, default = 500, between = milliseconds } },
        { timeout = { type = "integer", required = true, default = 2000, between = milliseconds } },
        -- Below the 90 s after which introspectd closes an idle connection.
        { keepalive_timeout = { type = "integer", required = true, default = 60000, between = { 1, 80000 } } },
        { keepalive_pool = { type = "integer", required = true, default = 64, between = { 1, 10000 } } },
        { cache_ttl = { type = "number", required = true, default = 0, between = { 0, 300 } } },
        { headers = {
          type = "map", required = true, len_min = 1,
          keys = { type = "string", custom_validator = check_header },
          values = { type = "string", len_min = 1 },
          default = {
            ["X-Auth-Subject"] = "sub", ["X-Auth-Issuer"] = "iss", ["X-Auth-Client-Id"] = "client_id",
            ["X-Auth-Username"] = "username", ["X-Auth-Scope"] = "scope",
          },
        } },
        { hide_credentials = { type = "boolean", required = true, default = false } },
        { refuse_ambiguous_paths = { type = "boolean", required = true, default = true } },
        { anonymous = { type = "string", len_min = 1 } },
        { consumer_issuers = { type = "array", required = true, default = {}, elements = { type = "string", len_min = 1 } } },
        { consumer_required = { type = "boolean", required = true, default = false } },
      },
    } },
  },
}
