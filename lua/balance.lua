-- balance: what an account has now.
--
-- KEYS as in prelude.lua
-- ARGV[1] epoch        integer  see prelude.lua
-- ARGV[2] with_grants  0 or 1   list the grants too, at most 1,000
--
-- Returns {status, ...}:
--   ok  account status, available, held, overdraft, gen, seq, refill_no, now_ms,
--       {grant_no, left, order, id, ...} in burn order, those that have something left

local with_grants = ARGV[2] == '1'

local refusal = begin()
if refusal then
  return refusal
end
local grants = {}
local function list(order, left)
  local known = call('HGET', grants_key, int(grant_of(order)))
  for _, value in ipairs({ grant_of(order), left, order, string.sub(known, 36) }) do
    grants[#grants + 1] = value
  end
end

if with_grants then
  if account.head_left > 0 then
    list(account.head, account.head_left)
  end
  for _, order in ipairs(call('ZRANGE', order_key, 0, 998)) do
    list(order, tonumber(call('HGET', grants_key, left_field(grant_of(order)))))
  end
end
return finish({
  'ok', account.status, account.available, account.held, account.overdraft, account.gen,
  account.seq, account.refill_no, now_ms, grants,
})
