-- pdk(consumers) is what the plugin uses of Kong's PDK, cache and database, on
-- ngx alone: for the specs on a stub of it, for the tests in nginx on the real
-- one. As strict as Kong where Kong raises an error.
local cjson = require "cjson.safe"

-- cache keeps values as Kong's does, which is lua-resty-mlcache: a callback's
-- third result is the lifetime, below zero not at all, and zero for ever; after
-- an error an expired value comes back, at hit level 4.
local function cache()
  local kept = {}
  return {
    get = function(_, key, options, callback, ...)
      assert(type(key) == "string", "key must be a string")
      local entry = kept[key]
      if entry and (entry.dies == 0 or entry.dies > ngx.now()) then
        return entry.value, nil, 1
      end
      local ok, value, err, ttl = pcall(callback, ...)
      if not ok then
        return nil, "callback threw an error: " .. tostring(value)
      end
      if err then
        if not entry then
          return nil, err
        end
        entry.dies = ngx.now() + (options and options.resurrect_ttl or 30)
        return entry.value, nil, 4
      end
      if type(ttl) ~= "number" then
        ttl = options and options.ttl or 3600
      end
      if ttl >= 0 then
        kept[key] = { value = value, dies = ttl == 0 and 0 or ngx.now() + ttl }
      end
      return value, nil, 3
    end,
    kept = kept,
  }
end

return function(consumers)
  local function by(field)
    return function(_, wanted)
      for _, consumer in ipairs(consumers) do
        if consumer[field] == wanted then
          return consumer
        end
      end
    end
  end
  return {
    log = { err = function(...) ngx.log(ngx.ERR, ...) end },
    cache = cache(),
    db = { consumers = {
      select_by_custom_id = by("custom_id"), select_by_username = by("username"),
      cache_key = function(_, id) return "consumers:" .. id end,
    } },
    request = {
      get_method = function() return ngx.req.get_method() end,
      get_forwarded_scheme = function() return ngx.var.scheme end,
      get_forwarded_host = function() return ngx.var.host end,
      get_raw_path = function() return (ngx.var.request_uri:match("^[^?]*")) end,
    },
    client = {
      get_forwarded_ip = function() return ngx.var.remote_addr end,
      get_credential = function() return ngx.ctx.authenticated_credential end,
      authenticate = function(consumer, credential)
        assert(consumer or credential, "either credential or consumer must be provided")
        ngx.ctx.authenticated_consumer, ngx.ctx.authenticated_credential = consumer, credential
      end,
      load_consumer = function(name, by_username)
        return by("id")(nil, name) or by_username and by("username")(nil, name) or nil
      end,
    },
    service = { request = {
      set_header = function(name, value)
        assert(type(name) == "string" and type(value) == "string", "header and value must be strings")
        ngx.req.set_header(name, value)
      end,
      clear_header = function(name)
        assert(type(name) == "string", "header must be a string")
        ngx.req.clear_header(name)
      end,
    } },
    response = { exit = function(status, body, headers)
      assert(type(status) == "number" and status >= 100 and status <= 599, "status must be a number")
      ngx.status = status
      for name, value in pairs(headers or {}) do
        ngx.header[name] = value
      end
      ngx.header["Content-Type"] = "application/json; charset=utf-8"
      ngx.print(cjson.encode(body))
      return ngx.exit(status)
    end },
  }
end
