-- take: carry out a negative adjustment, as a numbered refill. It may go below zero.
--
-- KEYS as in prelude.lua
-- ARGV[1] epoch      integer  see prelude.lua
-- ARGV[2] gen        integer  the generation that the ledger lent to
-- ARGV[3] refill_no  integer  its number in the generation
-- ARGV[4] amount     integer  microcredits, 1 .. 2^53-1
-- ARGV[5] grant_no   integer  the grant to take from first; 0 for the burn order
--
-- Returns {status, ...}, the first status that applies:
--   stale         the account is of another generation; nothing changed
--   replayed      refill_no of the account; it has this one; nothing changed
--   gap           refill_no of the account; earlier ones are missing; nothing changed
--   out_of_range  available would pass -(2^53-1); nothing changed
--   applied       available -= amount, and an event says of which grants

local gen, refill_no = tonumber(ARGV[2]), tonumber(ARGV[3])
local amount, grant_no = tonumber(ARGV[4]), tonumber(ARGV[5])

local refusal = begin_refill(gen, refill_no)
if refusal then
  return refusal
end
if account.available - amount < -MAX_AMOUNT then
  return refuse_refill({ 'out_of_range' })
end

local taken, lacking = {}, amount
if grant_no ~= 0 then
  local part = take_from_grant(grant_no, amount)
  account.available = account.available - part
  lacking = lacking - part
  taken = merged({ grant_no, part }, {})
end
taken = merged(taken, burn(lacking))
event('take', 'refill:' .. int(refill_no), amount, 0, 0, taken, '', '')
return finish({ 'applied' })
