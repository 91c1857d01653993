-- restore: undo what a usage event had done that the ledger dropped as a duplicate, as a numbered
-- refill. The ledger has not counted it, so there is no event of it.
--
-- KEYS as in prelude.lua
-- ARGV[1] epoch        integer  see prelude.lua
-- ARGV[2] gen          integer  the generation that the ledger lent to
-- ARGV[3] refill_no    integer  its number in the generation
-- ARGV[4] allocations  msgpack  {grant_no, amount, ...} of the dropped event
--
-- Returns {status, ...}, the first status that applies:
--   stale     the account is of another generation; nothing changed
--   replayed  refill_no of the account; it has this one; nothing changed
--   gap       refill_no of the account; earlier ones are missing; nothing changed
--   applied   available += what they sum to; what a dropped refund gave back goes again, and what
--             of it was spent meanwhile moves from its grant to the overdraft by a `cover` event

local gen, refill_no = tonumber(ARGV[2]), tonumber(ARGV[3])
local allocations = cmsgpack.unpack(ARGV[4])

local function take_again(grant_no, amount)
  local lacking = amount
  if grant_no ~= 0 then
    lacking = amount - take_from_grant(grant_no, amount)
  end
  if grant_no ~= 0 and lacking > 0 then
    event('cover', '', 0, 0, 0, { grant_no, -lacking, 0, lacking }, '', '')
  end
  account.pool = account.pool - lacking
  account.available = account.available - amount
end

local refusal = begin_refill(gen, refill_no)
if refusal then
  return refusal
end
for i = 1, #allocations, 2 do
  local grant_no, amount = allocations[i], allocations[i + 1]
  if amount > 0 then
    give({ grant_no, amount })
  else
    take_again(grant_no, -amount)
  end
end
cover()
return finish({ 'applied' })
