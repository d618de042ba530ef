-- What the plugin promises, on a stub of nginx and Kong. What needs a real
-- introspectd and real sockets is in cmd/introspectd/kong_test.go.

local cjson = require "cjson.safe"

-- The world of one spec: a request, introspectd's answer, what came of them.
local world

package.preload["resty.http"] = function()
  return { new = function()
    return {
      set_timeouts = function(_, ...) world.timeouts = { ... } end,
      request_uri = function(_, uri, params)
        world.asked[#world.asked + 1] = { uri = uri, params = params }
        return world.answer, not world.answer and "timeout" or nil
      end,
    }
  end }
end

package.preload["resty.sha256"] = function() -- shows what is digested
  local Digest = {}
  Digest.__index = Digest
  function Digest.new() return setmetatable({ text = "" }, Digest) end
  function Digest:update(part) self.text = self.text .. part end
  function Digest:final() return self.text end
  return Digest
end

_G.ngx = {
  ERR = "error", null = cjson.null, var = {}, ctx = {}, header = {},
  log = function(_, ...) world.log = world.log .. table.concat({ ... }) end,
  now = function() return world.now end,
  print = function(body) world.body = body end,
  exit = function(status) world.exit = status end,
  encode_base64 = function(s) return "base64(" .. s .. ")" end,
  escape_uri = function(s) return (s:gsub("[^%w]", function(c) return ("%%%02X"):format(c:byte()) end)) end,
  req = {
    get_method = function() return "GET" end,
    get_headers = function(limit)
      assert(limit == 0, "a limit hides headers")
      local copy = {}
      for name, value in pairs(world.headers) do copy[name] = value end
      return copy
    end,
    set_header = function(name, value) world.headers[name:lower()] = value end,
    clear_header = function(name) world.headers[name:lower()] = nil end,
  },
}
_G.kong = require("pdk")({})

local configure = require "configure"
local handler = require "kong.plugins.introspectd.handler"

local function plugin(settings)
  settings.url = settings.url or "https://introspectd.example"
  if settings.ask ~= "claims" and settings.ask ~= "nothing" then
    settings.policy = settings.policy or "default"
  end
  return assert(configure(settings))
end

local function claims_plugin(settings)
  settings.ask, settings.caller_id, settings.caller_secret = "claims", "kong", "s:%"
  return plugin(settings)
end

-- request sends one through the plugin.
local function request(conf, headers)
  ngx.header, ngx.ctx = {}, { authenticated_credential = world.earlier, workspace = "w" }
  ngx.var = { request_uri = "/orders?x=1", scheme = "https", host = "api.example", remote_addr = "10.0.0.1" }
  world.headers, world.exit, world.body = headers, nil, nil
  handler:access(conf)
  return world.exit or 200
end

local function yes(more)
  local answer = { status = 200, body = "", headers = {
    ["X-Auth-Subject"] = "u-1", ["X-Auth-Issuer"] = "https://idp.example", ["X-Auth-Client-Id"] = "shop", ["X-Auth-Username"] = "", ["X-Auth-Scope"] = "read",
    ["Cache-Control"] = "no-store",
  } }
  for name, value in pairs(more or {}) do answer.headers[name] = value end
  return answer
end

local function says(claims)
  return { status = 200, body = type(claims) == "string" and claims or cjson.encode(claims), headers = {} }
end

local function token(t) return { authorization = "Bearer " .. (t or "a.b.c") } end

before_each(function()
  world = { asked = {}, answer = yes(), now = 1000, log = "", consumers = {} }
  _G.kong = require("pdk")({})
  package.loaded["kong.plugins.introspectd.handler"] = nil
  handler = require "kong.plugins.introspectd.handler"
end)

describe("the question", function()
  it("goes to the policy with a time limit and over a kept connection", function()
    assert.equal(200, request(plugin {}, token()))
    local asked = world.asked[1]
    assert.equal("https://introspectd.example/ext-authz/default/", asked.uri)
    assert.same({ 500, 2000, 2000 }, world.timeouts)
    assert.is_true(asked.params.ssl_verify)
    assert.equal(60000, asked.params.keepalive_timeout)
    assert.equal("default", asked.params.headers["X-Introspectd-Policy"])
    assert.is_nil(asked.params.headers["X-Introspectd-Caller"])
  end)

  it("carries both lines of a credential that was sent twice", function()
    world.answer = { status = 400, headers = { ["WWW-Authenticate"] = 'Bearer realm="r", error="invalid_request"' }, body = '{"error":"invalid_request"}' }
    assert.equal(400, request(plugin { cache_ttl = 10 }, { authorization = { "Bearer a", "Bearer b" } }))
    assert.same({ "Bearer a", "Bearer b" }, world.asked[1].params.headers["Authorization"])
    assert.same({}, kong.cache.kept)
  end)

  it("spells the caller by RFC 6749", function()
    world.answer = says { active = true, sub = "u", iss = "i" }
    request(claims_plugin {}, token("x/y+z="))
    assert.equal("Basic base64(kong:s%3A%25)", world.asked[1].params.headers["Authorization"])
    assert.equal("token=x%2Fy%2Bz%3D", world.asked[1].params.body)
  end)

  it("is not asked about two credentials, for claims", function()
    assert.equal(400, request(claims_plugin {}, { authorization = { "Bearer a", "Bearer b" } }))
    assert.same({}, world.asked)
  end)
end)

describe("the answer", function()
  it("passes on every challenge", function()
    local both = { 'Bearer realm="r", error="invalid_token"', 'DPoP algs="ES256"' }
    world.answer = { status = 401, headers = { ["www-authenticate"] = both }, body = '{"error":"invalid_token"}' }
    assert.equal(401, request(plugin {}, token()))
    assert.same(both, ngx.header["WWW-Authenticate"])
    assert.equal("no-store", ngx.header["Cache-Control"])
    assert.equal('{"error":"invalid_token"}', world.body)
  end)

  it("tells the service who it is, and nothing that the client made up", function()
    local headers = token()
    headers["x-auth-username"], headers["x_auth-subject"], headers["x-auth_client_id"] = "root", "root", "root"
    headers["connection"] = "X-Auth-Subject"
    assert.equal(200, request(plugin {}, headers))
    assert.same({
      authorization = "Bearer a.b.c", ["x-auth-subject"] = "u-1", ["x-auth-issuer"] = "https://idp.example",
      ["x-auth-client-id"] = "shop", ["x-auth-scope"] = "read",
    }, world.headers)
    assert.equal("https://idp.example u-1", kong.client.get_credential().id)
  end)

  it("of nobody is a 503 that the client can't make a pass of", function()
    world.answer = nil
    for _, conf in ipairs { plugin {}, plugin { anonymous = "guest" }, plugin { cache_ttl = 10 } } do
      assert.equal(503, request(conf, token()))
      assert.equal("1", ngx.header["Retry-After"])
      assert.equal('{"error":"temporarily_unavailable"}', world.body)
    end
    assert.match("timeout", world.log)
    assert.not_match("a.b.c", world.log, 1, true)
  end)

  it("must be exactly true to be active", function()
    for _, active in ipairs { '"true"', "1", "null", "{}" } do
      world.answer = says('{"active":' .. active .. ',"sub":"u","iss":"i"}')
      assert.equal(503, request(claims_plugin {}, token()))
    end
    world.answer = says '{"active":false}'
    assert.equal(401, request(claims_plugin {}, token()))
  end)

  it("about a bound token is a refusal, whatever cnf is", function()
    for _, cnf in ipairs { '{"jkt":"x"}', "null", "{}" } do
      world.answer = says('{"active":true,"sub":"u","iss":"i","cnf":' .. cnf .. "}")
      assert.equal(401, request(claims_plugin {}, token()))
    end
  end)

  it("of claims is not a list", function()
    world.answer = says '[{"active":true}]'
    assert.equal(503, request(claims_plugin {}, token()))
  end)
end)

describe("a claim in a header", function()
  local function render(json) return handler.render(cjson.decode("[" .. json .. "]")[1]) end

  it("has one spelling", function()
    assert.equal("a b", render '"a b"')
    assert.equal("%20a b%20", render '" a b "')
    assert.equal("%20", render '" "')
    assert.equal("100%25", render '"100%"')
    assert.equal("Zo%C3%AB", render '"Zoë"')
    assert.equal("true", render "true")
    assert.equal("9007199254740991", render "9007199254740991")
    assert.equal("-7", render "-7")
    assert.equal("a b", render '["a","b"]')
    assert.equal("", render "[]")
    assert.equal("", render "null")
  end)

  it("has none where it would be another", function()
    for _, json in ipairs { '"a\\nb"', '"a\\u0000b"', '"a\\u007f"', '["a b"]', '["a",1]', '[""]', '["a",null]', '{"a":1}', "9007199254740993", "1.5" } do
      assert.is_nil(render(json), json)
    end
  end)
end)

describe("the cache", function()
  it("is not used unless asked for", function()
    request(plugin {}, token())
    request(plugin {}, token())
    assert.equal(2, #world.asked)
    assert.same({}, kong.cache.kept)
  end)

  it("keeps a verdict for the answer's time, or the operator's where that is shorter", function()
    for control, seconds in pairs { ["private, max-age=3"] = 3, ["private, max-age=60"] = 10 } do
      world.answer = yes { ["Cache-Control"] = control }
      local conf = plugin { cache_ttl = 10, policy = (control:gsub("[^%w]", "")) }
      request(conf, token())
      world.answer, world.now = nil, world.now + seconds - 0.1
      assert.equal(200, request(conf, token()), control)
      world.now = world.now + 0.2
      assert.equal(503, request(conf, token()), control)
    end
  end)

  it("keeps nothing that may not be kept at all", function()
    for _, control in ipairs { "no-store", "private, max-age=0", "no-store, max-age=5", "max-age=x" } do
      world.answer = yes { ["Cache-Control"] = control }
      assert.equal(200, request(plugin { cache_ttl = 10 }, token()))
    end
    for _, exp in ipairs { 1000, 999, "2000" } do -- 999: within the leeway
      world.answer = says { active = true, sub = "u", iss = "i", exp = exp }
      assert.equal(200, request(claims_plugin { cache_ttl = 10 }, token()))
    end
    assert.same({}, kong.cache.kept)
  end)

  it("keeps claims until exp at most", function()
    world.answer = says { active = true, sub = "u", iss = "i", exp = 1005 }
    local conf = claims_plugin { cache_ttl = 60 }
    request(conf, token())
    world.answer, world.now = nil, 1004.9
    assert.equal(200, request(conf, token()))
    world.now = 1005
    assert.equal(503, request(conf, token()))
  end)

  it("keeps no refusal and no failure", function()
    for _, answer in ipairs { { status = 401, headers = { ["www-authenticate"] = "Bearer" } }, { status = 503, headers = {} }, false } do
      world.answer = answer or nil
      request(plugin { cache_ttl = 10 }, token())
      request(claims_plugin { cache_ttl = 10 }, token())
    end
    assert.same({}, kong.cache.kept)
  end)

  it("does not let an expired answer back in", function()
    local level
    local answer = { status = 200, headers = {} }
    for name, value in pairs(yes().headers) do answer.headers[name:lower()] = value end
    kong.cache.get = function(_, _, options)
      assert.is_true(options.resurrect_ttl > 0 and options.resurrect_ttl < 0.01) -- 0 would be for ever
      return answer, nil, level
    end
    for status, hit in pairs { [200] = 2, [503] = 4 } do
      level = hit
      assert.equal(status, request(plugin { cache_ttl = 10 }, token()))
    end
  end)

  it("tells credentials, policies, callers, times and trust apart, by a digest", function()
    world.answer = yes { ["Cache-Control"] = "private, max-age=10" }
    local settings = {
      {}, { policy = "reports" }, { url = "https://other.example" }, { cache_ttl = 20 }, { ssl_verify = false },
      { caller_id = "kong", caller_secret = "a" }, { caller_id = "kong", caller_secret = "b" },
    }
    for _, more in ipairs(settings) do
      more.cache_ttl = more.cache_ttl or 10
      for _, t in ipairs { "a.b.c", "a.b.d" } do
        request(plugin(more), token(t))
      end
    end
    local names = 0
    for name in pairs(kong.cache.kept) do
      names = names + 1
      assert.match("^introspectd:%x+$", name)
    end
    assert.equal(2 * #settings, names)
  end)

  it("keeps no verdict to which a proof of possession belongs", function()
    local headers = { authorization = "DPoP a.b.c", dpop = "proof" }
    request(plugin { cache_ttl = 10 }, headers)
    assert.equal("proof", world.asked[1].params.headers["DPoP"])
    assert.same({}, kong.cache.kept)
  end)
end)

describe("with other plugins of authentication", function()
  before_each(function() world.earlier = { id = "key" } end)

  it("one is enough where anonymous is set, but identity is cleared all the same", function()
    local headers = { ["x-auth-subject"] = "root", ["x_consumer_id"] = "root", ["x-consumer-groups"] = "root", ["x-consumer-id"] = "c-9" }
    assert.equal(200, request(plugin { anonymous = "guest" }, headers))
    assert.same({ ["x-consumer-id"] = "c-9" }, world.headers)
    assert.same({}, world.asked)
  end)

  it("both are needed where it is not, and the other's consumer stays", function()
    world.answer = { status = 401, headers = { ["www-authenticate"] = 'Bearer realm="r"' } }
    assert.equal(401, request(plugin {}, { ["x-consumer-id"] = "c-9" }))
    world.answer = yes()
    assert.equal(200, request(plugin {}, { authorization = "Bearer a", ["x-consumer-id"] = "c-9" }))
    assert.equal("c-9", world.headers["x-consumer-id"])
    assert.equal("key", kong.client.get_credential().id)
  end)
end)

describe("a consumer", function()
  it("that can't be looked up is a 503", function()
    kong.db.consumers.select_by_custom_id = function() return nil, "no connection" end
    assert.equal(503, request(plugin { consumer_issuers = { "https://idp.example" } }, token()))
    assert.equal(200, request(plugin {}, token()))
  end)
end)

describe("the settings", function()
  local claims = { ask = "claims", url = "https://i.example", caller_id = "a", caller_secret = "b" }
  local function both(more)
    local all = {}
    for name, value in pairs(claims) do all[name] = value end
    for name, value in pairs(more) do all[name] = value end
    return all
  end

  it("are safe where nothing is written", function()
    local conf = assert(configure { url = "https://i.example", policy = "default" })
    assert.same({ "verdict", true, 0, false, true }, { conf.ask, conf.ssl_verify, conf.cache_ttl, conf.consumer_required, conf.refuse_ambiguous_paths })
    assert.is_nil(conf.anonymous)
  end)

  it("that would weaken it are refused", function()
    for why, settings in pairs {
      ["where introspectd listens"] = { policy = "default" },
      ["in the clear"] = { url = "http://introspectd.example:8080", policy = "default" },
      ["in the clear "] = { url = "http://127.0.0.1.evil.example", policy = "default" },
      ["without a path"] = { url = "https://i.example/auth", policy = "default" },
      ["without a path "] = { url = "https://user@i.example", policy = "default" },
      ["the policy to ask by"] = { url = "https://i.example" },
      ["policy: does not match"] = { url = "https://i.example", policy = "a/../b" },
      ["the policy says what is demanded"] = { url = "https://i.example", policy = "default", scopes = { "read" } },
      ["cache_ttl: out of bounds"] = both { cache_ttl = 301 },
      ["both or none"] = { url = "https://i.example", policy = "default", caller_id = "a" },
      ["answers callers alone"] = { ask = "claims", url = "https://i.example" },
      ["unique to its issuer"] = both { headers = { ["X-User"] = "sub" } },
      ["letters, digits and hyphens"] = both { headers = { ["X_User"] = "sub", ["X-Issuer"] = "iss" } },
      ["a meaning of its own"] = both { headers = { ["Authorization"] = "sub", ["X-Issuer"] = "iss" } },
      ["client_id has to be there"] = both { headers = { ["X-User"] = "sub", ["X-Issuer"] = "iss" }, consumer_issuers = { "i" } },
      ["whose clients are consumers"] = both { consumer_required = true },
      ["scopes: does not match"] = both { scopes = { 'a"b' } },
      ["scopes: does not match "] = both { scopes = { "a b" } },
      ["realm: does not match"] = both { realm = 'a", error="x' },
      ["timeout: out of bounds"] = both { timeout = 0 },
      ["keepalive_timeout: out of bounds"] = both { keepalive_timeout = 90000 },
      ["not one of them"] = both { ask = "everybody" },
      ["unknown field"] = both { fail_open = true },
    } do
      local conf, err = configure(settings)
      assert.is_falsy(conf, why)
      assert.match(why:gsub(" $", ""), err, 1, true)
    end
  end)

  it("that make sense are taken", function()
    for _, settings in ipairs {
      both {}, both { scopes = { "reports:read", "a[b]^_`{}~!#" }, realm = "our API" }, { ask = "nothing" },
      { url = "http://127.0.0.1:8080", policy = "a-b_C1" }, { url = "http://localhost", policy = "a" },
      { url = "http://introspectd.svc:8080", policy = "a", allow_http = true }, both { caller_secret = "{vault://env/secret}" },
    } do
      assert.truthy(configure(settings))
    end
  end)

  it("hold secrets that vaults and keyrings may keep", function()
    for _, entry in ipairs(require("kong.plugins.introspectd.schema").fields[3].config.fields) do
      local name, field = next(entry)
      if name == "caller_secret" then
        assert.is_true(field.referenceable and field.encrypted)
      end
    end
  end)
end)
