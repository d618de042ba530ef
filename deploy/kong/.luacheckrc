std = "ngx_lua"
read_globals = { "kong" }
max_line_length = 160
files["spec"] = { std = "ngx_lua+busted", globals = { "kong", "ngx" } }
files["*.rockspec"] = { std = "rockspec" }
