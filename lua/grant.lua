-- grant: add the credits of one grant to an account, as a numbered refill.
--
-- KEYS as in prelude.lua
-- ARGV[1] epoch      integer  see prelude.lua
-- ARGV[2] gen        integer  the generation that the ledger lent to
-- ARGV[3] refill_no  integer  its number in the generation
-- ARGV[4] grant_no   integer  the ledger's number of the grant
-- ARGV[5] amount     integer  microcredits, 0 .. 2^53-1
-- ARGV[6] order      text     34 digits: its place in the burn order
-- ARGV[7] id         text     the grant's id, for people
--
-- Returns {status, ...}, the first status that applies:
--   stale         the account is of another generation; nothing changed
--   replayed      refill_no of the account; it has this one; nothing changed
--   gap           refill_no of the account; earlier ones are missing; nothing changed
--   out_of_range  available would pass 2^53-1; nothing changed
--   applied       available += amount

local gen, refill_no, grant_no = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local amount, order, id = tonumber(ARGV[5]), ARGV[6], ARGV[7]

local refusal = begin_refill(gen, refill_no)
if refusal then
  return refusal
end
if account.available + amount > MAX_AMOUNT then
  return refuse_refill({ 'out_of_range' })
end

call('HSET', grants_key, int(grant_no), order .. ' ' .. id, left_field(grant_no), 0)
if amount > 0 then
  give({ grant_no, amount })
end
if expiry_of(order) < NEVER then
  schedule('g:' .. int(grant_no), expiry_of(order))
end
-- First what is due: credits that have expired pay nothing.
expire_due()
cover()
return finish({ 'applied' })
