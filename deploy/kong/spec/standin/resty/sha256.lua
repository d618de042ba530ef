-- Stands for lua-resty-string's module, which comes with Kong and not with
-- Debian.
local ffi = require "ffi"
ffi.cdef [[unsigned char *SHA256(const unsigned char *d, size_t n, unsigned char *md);]]

local Digest = {}
Digest.__index = Digest

function Digest.new()
  return setmetatable({ text = "" }, Digest)
end

function Digest:update(part)
  self.text = self.text .. part
end

function Digest:final()
  local out = ffi.new("unsigned char[32]")
  ffi.C.SHA256(self.text, #self.text, out)
  return ffi.string(out, 32)
end

return Digest
