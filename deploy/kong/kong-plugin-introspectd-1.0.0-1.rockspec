package = "kong-plugin-introspectd"
version = "1.0.0-1"

-- Built where it stands: `luarocks make` in this directory.
source = { url = "git+file://." }

description = {
  summary = "Asks introspectd whether a request may pass Kong, and tells the service who sent it.",
  license = "Apache-2.0",
}

-- cjson, resty.http and resty.sha256 come with Kong.
dependencies = { "lua >= 5.1" }

build = {
  type = "builtin",
  modules = {
    ["kong.plugins.introspectd.handler"] = "kong/plugins/introspectd/handler.lua",
    ["kong.plugins.introspectd.schema"] = "kong/plugins/introspectd/schema.lua",
  },
}
