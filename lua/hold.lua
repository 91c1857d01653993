-- hold: set credits aside for one inference call before it runs.
--
-- KEYS as in prelude.lua
-- ARGV[1] epoch          integer  see prelude.lua
-- ARGV[2] id             text     the caller's id of the hold
-- ARGV[3] fingerprint    text     of the request, to tell a repeat from another request
-- ARGV[4] amount         integer  microcredits, 0 .. 2^53-1
-- ARGV[5] ttl_ms         integer  how long it lives
-- ARGV[6] partial        0 or 1   take what is available if it is less
-- ARGV[7] price_version  text     the price book that priced it; empty when the caller gave an amount
-- ARGV[8] context        text     JSON that goes into the usage events of the hold
--
-- Returns {status, ...}, the first status that applies:
--   held          replayed 1: the same hold was made before; its first answer; nothing changed
--   conflict      the id was used for another request; nothing changed
--   suspended     reason; the account may not spend; nothing changed
--   closed        reason; the account may not spend; nothing changed
--   insufficient  available, overdraft; amount > available + overdraft; nothing changed
--   out_of_range  held would pass 2^53-1; nothing changed
--   held          replayed 0, amount, available, expires_at_ms, partial, price_version

local id, fingerprint, price_version, context = ARGV[2], ARGV[3], ARGV[7], ARGV[8]
local amount, ttl_ms, partial = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6] == '1'

local refusal = begin()
if refusal then
  return refusal
end
local known = find(id)
if known then
  if known[KIND] ~= 'hold' or known[FINGERPRINT] ~= fingerprint then
    return finish({ 'conflict' })
  end
  local first = known[ANSWER]
  return finish({ 'held', 1, first[1], first[2], first[3], first[4], known[PRICE_VERSION] })
end
if not may_spend() then
  return finish(spending_refused())
end
local shrunk = partial and amount > account.available
if (shrunk and account.available <= 0) or (not shrunk and amount - account.overdraft > account.available) then
  return finish({ 'insufficient', account.available, account.overdraft })
end

if shrunk then
  amount = account.available
end
if account.held + amount > MAX_AMOUNT then
  return finish({ 'out_of_range' })
end

local held = burn(amount)
account.held = account.held + amount
account.pool_held = account.pool_held + pool_part(held)
local expires = now_ms + ttl_ms
schedule('h:' .. id, expires)
local answer = { amount, account.available, expires, shrunk and 1 or 0 }
call('HSET', holds_key, id, cmsgpack.pack({
  'hold', 'held', fingerprint, answer, 0, 0, {}, context,
  amount, held, expires, price_version, '', {}, now_ms,
}))
return finish({ 'held', 0, amount, account.available, expires, shrunk and 1 or 0, price_version })
