-- configure(given) is what Kong makes of a plugin's settings: the fields of
-- schema.lua checked and filled with their defaults, or nil and what is wrong.
-- It knows the words that schema.lua uses, and fails on any other.
local schema = require "kong.plugins.introspectd.schema"

local check

local function each(values, field, kind)
  for key, value in pairs(values) do
    local ok, err = check(kind == "keys" and key or value, field)
    if not ok then
      return nil, err
    end
  end
  return true
end

local types = {
  string = function(v) return type(v) == "string" end,
  boolean = function(v) return type(v) == "boolean" end,
  number = function(v) return type(v) == "number" end,
  integer = function(v) return type(v) == "number" and v % 1 == 0 end,
  array = function(v) return type(v) == "table" and (next(v) == nil or #v > 0) end,
  map = function(v) return type(v) == "table" and #v == 0 end,
}

local rules = {
  type = function(v, kind) return types[kind](v), "expected a " .. kind end,
  one_of = function(v, allowed) return table.concat(allowed, " "):find(v, 1, true), "not one of them" end,
  match = function(v, pattern) return v:match(pattern), "does not match " .. pattern end,
  between = function(v, limits) return v >= limits[1] and v <= limits[2], "out of bounds" end,
  len_min = function(v, least) return (type(v) == "string" and #v or type(v) == "table" and (next(v) and 1 or 0)) >= least, "too short" end,
  custom_validator = function(v, validator) return validator(v) end,
  elements = function(v, field) return each(v, field) end,
  keys = function(v, field) return each(v, field, "keys") end,
  values = function(v, field) return each(v, field) end,
  required = function() return true end, default = function() return true end,
  referenceable = function() return true end, encrypted = function() return true end,
}

function check(value, field)
  local ok, err = rules.type(value, field.type)
  if not ok then
    return nil, err
  end
  for rule, argument in pairs(field) do
    ok, err = assert(rules[rule], "schema.lua uses a word that this stand-in doesn't know: " .. rule)(value, argument)
    if not ok then
      return nil, err or rule
    end
  end
  return true
end

local record
for _, field in ipairs(schema.fields) do
  record = field.config or record
end

return function(given)
  local config, known = {}, {}
  for _, entry in ipairs(record.fields) do
    local name, field = next(entry)
    known[name] = true
    local value = given[name]
    if value == nil then
      value = field.default
    end
    if value == nil and field.required then
      return nil, name .. ": required"
    end
    if value ~= nil then
      local ok, err = check(value, field)
      if not ok then
        return nil, name .. ": " .. err
      end
    end
    config[name] = value
  end
  for name in pairs(given) do
    if not known[name] then
      return nil, name .. ": unknown field"
    end
  end
  local ok, err = record.custom_validator(config)
  return ok and config, err
end
