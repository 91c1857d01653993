-- Redis runs Lua 5.1. The prelude stands before each script, so its names are theirs.
std = "lua51"
max_line_length = 110
read_globals = { "KEYS", "ARGV", "redis", "cmsgpack" }

files["lua/prelude.lua"].ignore = { "211", "221" } -- what it defines, others use

local prelude = {}
for line in io.lines("lua/prelude.lua") do
  local names = line:match("^local function ([%w_]+)") or line:match("^local ([%w_, ]+) =")
  for name in (names or ""):gmatch("[%w_]+") do
    prelude[#prelude + 1] = name
  end
end
local verbs = {
  "balance", "debit", "expire", "extend", "grant", "hold", "open", "refund", "release", "restore",
  "roll", "settle", "status", "take",
}
for _, verb in ipairs(verbs) do
  files["lua/" .. verb .. ".lua"].globals = prelude
end
