-- The plugin `introspectd` asks introspectd about each request, and tells the
-- service behind Kong who sent it. It never looks inside a token.
--
-- # Decisions
--
-- Whatever is not a plain yes or a refusal with a challenge is a 503: no
-- answer, a late one, a 200 of somebody else, an error of ours in introspectd's
-- eyes. There is no setting that lets a request pass because nobody could tell.
--
-- What introspectd answered is what Kong's cache keeps, by the digest of the
-- question. It is held against the route's demands on each request.
--
-- A user is issuer and subject together, and a client is its issuer's: a
-- client_id finds a consumer only where the issuer is one that may name them.

local cjson = require "cjson.safe"
local http = require "resty.http"
local sha256 = require "resty.sha256"

local kong, ngx = kong, ngx
local find, gsub, lower, match = string.find, string.gsub, string.lower, string.match

-- PRIORITY lies among those of Kong's own authentication: access lists, rate
-- limits and transformers run after it.
local Introspectd = { PRIORITY = 1060, VERSION = "1.0.0" }

-- KONGS_OWN are the headers by which Kong's authentication tells services of
-- consumers.
local KONGS_OWN = {
  ["x-consumer-id"] = true, ["x-consumer-custom-id"] = true, ["x-consumer-username"] = true,
  ["x-credential-identifier"] = true, ["x-anonymous-consumer"] = true, ["x-authenticated-groups"] = true,
  ["x-authenticated-scope"] = true, ["x-authenticated-userid"] = true,
}

-- access decides about a request.
function Introspectd:access(conf) -- luacheck: no self
  if conf.refuse_ambiguous_paths and Introspectd.ambiguous(ngx.var.request_uri) then
    return kong.response.exit(400, { error = "invalid_request" })
  end
  local credential = Introspectd.clean(conf)
  if conf.ask == "nothing" then
    return
  end
  if conf.anonymous and kong.client.get_credential() then
    return -- Kong's convention: with `anonymous`, one of several plugins is enough
  end
  local decision = Introspectd.decide(conf, credential)
  if decision.status == 200 then
    decision = Introspectd.admit(conf, decision.identity) or decision
  elseif conf.anonymous and decision.no_token then
    decision = Introspectd.admit_anonymous(conf) or { status = 200 }
  end
  if decision.status ~= 200 then
    return kong.response.exit(decision.status, decision.body, decision.headers)
  end
  if conf.hide_credentials then
    kong.service.request.clear_header("Authorization")
    kong.service.request.clear_header("DPoP")
  end
end

-- ambiguous says whether a path has more than one reading. Kong chooses the
-- route, and so the policy, by a normalised path; a service that reads
-- /public/..%2freports or /reports;x/1 in its own way would serve what another
-- route guards.
function Introspectd.ambiguous(uri)
  local path = lower(match(uri, "^[^?]*"))
  return (find(path, "//", 1, true) or find(path, "[;#\\]") or find(path .. "/", "/%.%.?/")
    or find(path, "%%2[3ef5]") or find(path, "%%3b") or find(path, "%%5c")) ~= nil
end

-- one_spelling is what CGI, WSGI and PHP make of all spellings of a header:
-- X_Auth-Subject and X-Auth-Subject are one variable to them.
local function one_spelling(name)
  return (gsub(lower(name), "[^%w]", "-"))
end

-- KONG_FORWARDS are the headers, in Kong's own spelling, by which it tells
-- services of the request after the plugins.
local KONG_FORWARDS = {
  ["x-forwarded-for"] = true, ["x-forwarded-proto"] = true, ["x-forwarded-host"] = true, ["x-forwarded-port"] = true,
  ["x-forwarded-path"] = true, ["x-forwarded-prefix"] = true, ["x-real-ip"] = true,
}

-- forwards says whether a header tells of a request as a proxy would. Some
-- frameworks believe such ones over the path that was asked for.
local function forwards(plain)
  return plain == "forwarded" or find(plain, "^x%-forwarded") or find(plain, "^x%-original") or find(plain, "^x%-rewrite")
    or find(plain, "^x%-introspectd") or find(plain, "^x%-real%-ip") or find(plain, "^x%-client%-cert")
end

-- clean removes what the client says of itself, in every spelling, and returns
-- its credential: all Authorization and DPoP lines, nil, a text or a list each.
function Introspectd.clean(conf)
  local ours = { ["x-consumer-groups"] = true } -- set after us, by access lists
  for name in pairs(conf.headers) do
    ours[one_spelling(name)] = true
  end
  local known = kong.client.get_credential() ~= nil
  -- 0 is no limit: with one, what stands behind a hundred others would pass.
  local headers = ngx.req.get_headers(0)
  for name in pairs(headers) do
    local plain = one_spelling(name)
    -- Another plugin that has found a consumer has overwritten Kong's own
    -- headers, in Kong's own spelling.
    if ours[plain] or KONGS_OWN[plain] and not (known and name == plain)
      or forwards(plain) and not KONG_FORWARDS[name] then
      kong.service.request.clear_header(name)
    end
  end
  -- After the plugins Kong removes all headers that the client's Connection
  -- names: with `Connection: X-Auth-Subject` the service would get no subject.
  -- What Kong itself needs of it, upgrade and keep-alive, it has read before.
  kong.service.request.clear_header("Connection")
  return { authorization = headers["authorization"], dpop = headers["dpop"] }
end

-- unavailable is the decision where nobody could tell. why goes to the log.
local function unavailable(...)
  kong.log.err(...)
  return { status = 503, body = { error = "temporarily_unavailable" }, headers = { ["Retry-After"] = "1", ["Cache-Control"] = "no-store" } }
end

-- refusal is a decision with its challenges (RFC 6750 section 3), a text or a
-- list.
local function refusal(status, challenges, code)
  return {
    status = status, body = { error = code },
    headers = { ["WWW-Authenticate"] = challenges, ["Cache-Control"] = "no-store" },
    -- Who shows nothing is told of no error (RFC 6750 section 3.1). A bad token
    -- is not the same: who shows one means to be somebody.
    no_token = status == 401 and type(challenges) == "string" and not find(challenges, "error=", 1, true),
  }
end

-- decide returns status and, with 200, identity: a text for each header of
-- conf.headers, empty where there is nothing to say.
function Introspectd.decide(conf, credential)
  if conf.ask == "verdict" then
    return Introspectd.verdict(conf, Introspectd.answer(conf, Introspectd.verdict_question(conf, credential), credential.dpop))
  end
  local token, refused = Introspectd.bearer(conf, credential.authorization)
  if refused then
    return refused
  end
  return Introspectd.claims(conf, Introspectd.answer(conf, Introspectd.claims_question(conf, token)))
end

-- caller is the gateway's own credential: RFC 6749 section 2.3.1.
local function caller(conf)
  return conf.caller_id and "Basic " .. ngx.encode_base64(ngx.escape_uri(conf.caller_id) .. ":" .. ngx.escape_uri(conf.caller_secret))
end

-- verdict_question asks by a policy. Of the client's own request there is its
-- credential and nothing else: the policy is Kong's, the rest are facts.
function Introspectd.verdict_question(conf, credential)
  return {
    method = "GET", path = "/ext-authz/" .. conf.policy .. "/",
    headers = {
      ["Authorization"] = credential.authorization, ["DPoP"] = credential.dpop,
      ["X-Introspectd-Policy"] = conf.policy, ["X-Introspectd-Caller"] = caller(conf),
      ["X-Forwarded-Method"] = kong.request.get_method(), ["X-Forwarded-Uri"] = ngx.var.request_uri,
      ["X-Forwarded-Proto"] = kong.request.get_forwarded_scheme(), ["X-Forwarded-Host"] = kong.request.get_forwarded_host(),
      ["X-Forwarded-For"] = kong.client.get_forwarded_ip(),
    },
  }
end

-- claims_question asks for all that the token says (RFC 7662).
function Introspectd.claims_question(conf, token)
  return {
    method = "POST", path = "/introspect", body = "token=" .. ngx.escape_uri(token),
    headers = { ["Authorization"] = caller(conf), ["Content-Type"] = "application/x-www-form-urlencoded" },
  }
end

-- key names a question in the cache. The digest is of the whole credential:
-- no two tokens share an answer, and none can be read out of the cache's keys.
-- Routes that trust an answer for different times, or on different grounds,
-- share none either.
local function key(conf, question)
  local headers, digest = question.headers, sha256:new()
  local parts = {
    conf.url, tostring(conf.ssl_verify), tostring(conf.cache_ttl), question.path,
    headers["Authorization"] or "", headers["X-Introspectd-Caller"] or "", question.body or "",
  }
  for _, part in ipairs(parts) do
    digest:update(#part .. ":" .. part)
  end
  return "introspectd:" .. (gsub(digest:final(), ".", function(c) return string.format("%02x", string.byte(c)) end))
end

-- answer is what introspectd says: status, body, and headers by lower-case
-- name. It may come from the cache. A failure is one without a status.
function Introspectd.answer(conf, question, proof)
  if conf.cache_ttl == 0 or proof or type(question.headers["Authorization"]) == "table" then
    return (Introspectd.fetch(conf, question)) -- a proof of possession counts once
  end
  -- Hit level 4 is a value that has expired and that Kong's cache brings back
  -- because there is no fresh one: a token that may be revoked by now.
  local answer, err, level = kong.cache:get(key(conf, question), { resurrect_ttl = 0.001 }, Introspectd.fetch, conf, question)
  if not answer or level == 4 then
    return { failure = err or "the cache has only an expired answer" }
  end
  return answer
end

-- fetch asks introspectd. Its third result is for how many seconds the answer
-- may be kept, below zero for not at all. A failure is a value that is not
-- kept: after an error Kong's cache would bring back what has expired.
function Introspectd.fetch(conf, question)
  local client = http.new()
  client:set_timeouts(conf.connect_timeout, conf.timeout, conf.timeout)
  local response, err = client:request_uri(conf.url .. question.path, {
    method = question.method, headers = question.headers, body = question.body, ssl_verify = conf.ssl_verify,
    keepalive_timeout = conf.keepalive_timeout, keepalive_pool = conf.keepalive_pool,
  })
  if not response then
    return { failure = err or "no answer" }, nil, -1
  end
  local answer = { status = response.status, body = response.body, headers = {} }
  for name, value in pairs(response.headers) do
    answer.headers[lower(name)] = value
  end
  return answer, nil, Introspectd.keep(conf, question, answer)
end

-- keep is for how long an answer may be kept: a verdict for as long as it says
-- itself, claims until the token ends. Only a yes is: refusals, which anybody
-- can provoke, would drive Kong's own entries out.
function Introspectd.keep(conf, question, answer)
  local ttl = -1
  if conf.cache_ttl == 0 or answer.status ~= 200 then
    return -1
  elseif question.method == "GET" then
    local age = match(tostring(answer.headers["cache-control"]), "^private, max%-age=(%d+)$")
    ttl = math.min(conf.cache_ttl, tonumber(age) or -1)
  else
    local claims = cjson.decode(answer.body)
    if type(claims) == "table" and claims.active == true and type(claims.exp) == "number" then
      ttl = math.min(conf.cache_ttl, claims.exp - ngx.now())
    end
  end
  return ttl > 0 and ttl or -1 -- to the cache 0 is for ever
end

-- verdict reads the answer to verdict_question.
function Introspectd.verdict(conf, answer)
  local challenges = answer.headers and answer.headers["www-authenticate"]
  if challenges and (answer.status == 400 or answer.status == 401 or answer.status == 403) then
    local body = cjson.decode(answer.body or "")
    return refusal(answer.status, challenges, type(body) == "table" and body.error or "unauthorized")
  end
  if answer.status ~= 200 then
    -- A 403 without a challenge is meant for Kong: introspectd doesn't let it ask.
    return unavailable("no verdict of introspectd: ", answer.failure or answer.status)
  end
  local identity = {}
  for name in pairs(conf.headers) do
    identity[name] = answer.headers[lower(name)]
    if type(identity[name]) ~= "string" then
      return unavailable("the answer has not exactly one ", name, ": is this introspectd, and does the policy answer it?")
    end
  end
  return { status = 200, identity = identity }
end

-- bearer reads the token as RFC 6750 section 2.1 has it.
function Introspectd.bearer(conf, authorization)
  local realm = 'Bearer realm="' .. conf.realm .. '"'
  if type(authorization) == "table" then
    return nil, refusal(400, realm .. ', error="invalid_request"', "invalid_request")
  end
  local scheme, token = match(authorization or "", "^(%S+) *(.*)$")
  if not scheme or lower(scheme) ~= "bearer" then
    return nil, refusal(401, realm, "unauthorized")
  end
  if not match(token, "^[%w%-._~+/]+=*$") then
    return nil, refusal(400, realm .. ', error="invalid_request"', "invalid_request")
  end
  return token
end

-- header_text spells a claim for a header as introspectd does on its own: no
-- two texts alike. nil is a value that has no spelling.
local function header_text(claim)
  if claim == nil or claim == cjson.null then
    return ""
  elseif type(claim) == "boolean" then
    return tostring(claim)
  elseif type(claim) == "number" then
    return claim % 1 == 0 and math.abs(claim) < 2 ^ 53 and string.format("%d", claim) or nil
  elseif type(claim) ~= "string" or find(claim, "%c") then
    return nil
  end
  claim = gsub(claim, "[%%\128-\255]", function(c) return string.format("%%%02X", string.byte(c)) end)
  return (gsub(gsub(claim, "^ ", "%%20"), " $", "%%20"))
end

-- render is header_text, and lists of words with spaces between them.
function Introspectd.render(claim)
  if type(claim) ~= "table" then
    return header_text(claim)
  end
  local words = {}
  for n, word in ipairs(claim) do
    words[n] = type(word) == "string" and word ~= "" and not find(word, " ", 1, true) and header_text(word) or nil
    if not words[n] then
      return nil
    end
  end
  return (next(claim) == nil or #words > 0) and table.concat(words, " ") or nil
end

-- claims reads the answer to claims_question.
function Introspectd.claims(conf, answer)
  local claims = answer.status == 200 and cjson.decode(answer.body)
  if type(claims) ~= "table" or type(claims.active) ~= "boolean" then
    return unavailable("no claims of introspectd: ", answer.failure or answer.status)
  end
  local realm = 'Bearer realm="' .. conf.realm .. '"'
  local invalid = refusal(401, realm .. ', error="invalid_token", error_description="The access token is invalid"', "invalid_token")
  -- A token that is bound to a key is no bearer token, and possession is not
  -- shown here (RFC 9449 section 7.2, RFC 8705 section 3).
  if not claims.active or claims.cnf ~= nil then
    return invalid
  end
  local held = " " .. (type(claims.scope) == "string" and claims.scope or "") .. " "
  for _, scope in ipairs(conf.scopes) do
    if not find(held, " " .. scope .. " ", 1, true) then
      local needed = table.concat(conf.scopes, " ")
      return refusal(403, realm .. ', error="insufficient_scope", scope="' .. needed .. '"', "insufficient_scope")
    end
  end
  local identity = {}
  for name, claim in pairs(conf.headers) do
    local text = Introspectd.render(claims[claim])
    if not text and (claim == "sub" or claim == "iss") then
      return invalid -- a user that can't be named is none
    end
    identity[name] = text or ""
  end
  return { status = 200, identity = identity }
end

local function set_consumer(consumer, credential)
  kong.client.authenticate(consumer, credential)
  for name, value in pairs {
    ["X-Consumer-ID"] = consumer and consumer.id, ["X-Consumer-Custom-ID"] = consumer and consumer.custom_id,
    ["X-Consumer-Username"] = consumer and consumer.username, ["X-Anonymous-Consumer"] = not credential and "true" or nil,
  } do
    kong.service.request.set_header(name, value)
  end
end

local function by_custom_id(id)
  local consumer, err = kong.db.consumers:select_by_custom_id(id)
  return consumer, err
end

-- admit tells Kong and the service who it is. It returns a decision where it
-- can't.
function Introspectd.admit(conf, identity)
  local who = {}
  for name, claim in pairs(conf.headers) do
    who[claim] = identity[name]
    if identity[name] ~= "" then -- else it stays cleared
      kong.service.request.set_header(name, identity[name])
    end
  end
  local consumer, err
  for _, issuer in ipairs(conf.consumer_issuers) do
    if who.iss == issuer and who.client_id ~= "" then
      -- Never under the cache key of consumers' ids: a client may be called by one.
      local name = "introspectd:consumer:" .. tostring(ngx.ctx.workspace) .. ":" .. who.client_id
      consumer, err = kong.cache:get(name, { ttl = 60, neg_ttl = 60 }, by_custom_id, who.client_id)
    end
  end
  if err then
    return unavailable("looking for a consumer: ", err)
  end
  if not consumer and conf.consumer_required then
    return { status = 403, body = { error = "access_denied" }, headers = { ["Cache-Control"] = "no-store" } }
  end
  if consumer or not kong.client.get_credential() then
    set_consumer(consumer, { id = who.iss .. " " .. who.sub })
  end
end

-- admit_anonymous lets a request without a token pass as conf.anonymous.
function Introspectd.admit_anonymous(conf)
  local name = kong.db.consumers:cache_key(conf.anonymous)
  local consumer, err = kong.cache:get(name, nil, kong.client.load_consumer, conf.anonymous, true)
  if not consumer then
    return unavailable("there is no consumer ", conf.anonymous, " to be anonymous: ", err)
  end
  set_consumer(consumer, nil)
end

return Introspectd
