-- extend: make a running hold larger, or let it live longer.
--
-- KEYS as in prelude.lua
-- ARGV[1] epoch          integer  see prelude.lua
-- ARGV[2] id             text     the hold's id
-- ARGV[3] amount         integer  the new total of the hold in microcredits; 0 to leave it
-- ARGV[4] ttl_ms         integer  how long it lives from now on; 0 to leave it
--
-- Returns {status, ...}, the first status that applies:
--   hold_not_found  no hold of this id; nothing changed
--   conflict        the id is a debit's or refund's; nothing changed
--   hold_settled    it has ended; nothing changed
--   hold_released   it has ended; nothing changed
--   hold_expired    it has ended; nothing changed
--   held            replayed 1: it has that amount, and no ttl_ms was given; nothing changed
--   lowered         amount; the hold has more already; nothing changed
--   suspended       reason; the account may not spend; nothing changed
--   closed          reason; the account may not spend; nothing changed
--   insufficient    available, overdraft, required; what is lacking is not there; nothing changed
--   out_of_range    held would pass 2^53-1; nothing changed
--   held            replayed 0, amount, available, expires_at_ms, partial, price_version

local id = ARGV[2]
local amount, ttl_ms = tonumber(ARGV[3]), tonumber(ARGV[4])

local refusal = begin()
if refusal then
  return refusal
end
local hold = find(id)
if not hold then
  return finish({ 'hold_not_found' })
end
if hold[KIND] ~= 'hold' then
  return finish({ 'conflict' })
end
if hold[STATE] ~= 'held' then
  return finish({ 'hold_' .. hold[STATE] })
end
if amount == hold[AMOUNT] and ttl_ms == 0 then
  local available = hold[EXTENDED] or hold[ANSWER][2]
  return finish({ 'held', 1, amount, available, hold[EXPIRES], 0, hold[PRICE_VERSION] })
end
if amount == 0 then
  amount = hold[AMOUNT]
end
if amount < hold[AMOUNT] then
  return finish({ 'lowered', hold[AMOUNT] })
end
if not may_spend() then
  return finish(spending_refused())
end
-- A hold that was charged above its amount already has nothing left to set aside.
local more = math.max(0, amount - hold[CHARGED]) - total_of(hold[HELD])
if more > 0 and more - account.overdraft > account.available then
  return finish({ 'insufficient', account.available, account.overdraft, more })
end
if account.held + more > MAX_AMOUNT then
  return finish({ 'out_of_range' })
end

if more > 0 then
  local taken = burn(more)
  account.held = account.held + more
  account.pool_held = account.pool_held + pool_part(taken)
  hold[HELD] = merged(hold[HELD], taken)
end
hold[AMOUNT] = amount
if ttl_ms > 0 then
  hold[EXPIRES] = now_ms + ttl_ms
  schedule('h:' .. id, hold[EXPIRES])
end
hold[EXTENDED] = account.available
call('HSET', holds_key, id, cmsgpack.pack(hold))
return finish({ 'held', 0, amount, account.available, hold[EXPIRES], 0, hold[PRICE_VERSION] })
